"""A recipe: all settings of a run, as frozen values that can be printed, checked, costed and fingerprinted.

Invariants: nothing here touches models, weights or a cluster; a loaded recipe never changes; an unknown key is an
error. Sections that change numbers (`teacher`, `mllm`, `alignnet`, `targets`, `train`, `generate`) are separate from
`run`, which only says where and on how many workers the work runs and is in no fingerprint.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

REFERENCE_TEMPLATE = "{{'Text input': {caption!r}, 'Instruction editing description': 'no', 'image input': 'no'}}"
"""The user turn that X2I was trained with: the text of a Python dict with the caption."""

Dtype = Literal["float32", "bfloat16", "float16"]
Fusion = Literal["conv", "scale", "mean"]
Padding = Literal["zero", "reference", "none"]
States = Literal["prompt", "answer", "both"]
"""The hidden states of the MLLM that condition the DiT: of the prompt, of the MLLM's answer to it, or of the answer
after the prompt."""
Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Sigma = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """Base class of all sections: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class TeacherConfig(Frozen):
    """The text-to-image pipeline that is the teacher, and its canvas."""

    model: str
    """A pipeline of diffusers, FLUX.1 or Stable Diffusion 3.5: local folder, Hugging Face hub id, or `mini:flux`."""
    revision: str | None = None
    dtype: Dtype = "bfloat16"
    text_tokens: Count = 512
    """Number of text tokens that the DiT reads, padded without an attention mask, as it was trained. FLUX.1 reads T5's
    alone; Stable Diffusion 3.5 reads CLIP's `clip_tokens` first, so 333 of them are 77 and T5's 256."""
    clip_tokens: Count = 77
    resolution: Annotated[int, Field(ge=16, multiple_of=16)] = 1024
    """Side of the square noise canvas in pixels; 1024 gives 64 x 64 = 4096 image tokens."""
    guidance: float = 3.5
    """An input of FLUX.1-dev. Other DiTs don't see it: their targets have no guidance."""
    sigma: Sigma | Annotated[tuple[Sigma, ...], Field(min_length=1)] = 1.0
    """Noise level of the targets; 1.0 is pure noise (t = 1000). If there are several, each caption's id chooses one, so
    that AlignNet learns the effect of its pooled vector at other times too."""
    canvas: Literal["noise", "estimate"] = "noise"
    """What the DiT sees at noise levels below 1.0: `noise` is pure noise even then; `estimate` is the result of the
    teacher's own first step from it, and is stored with the targets."""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """All noise levels."""
        return self.sigma if isinstance(self.sigma, tuple) else (self.sigma,)


class MLLMConfig(Frozen):
    """The multimodal LLM whose hidden states replace the text encoders' outputs."""

    model: str
    revision: str | None = None
    dtype: Dtype = "bfloat16"
    max_tokens: Count = 512
    """Prompts with more text tokens than this are quarantined or refused, never cut. AlignNet learns only from captions
    of at most `teacher.text_tokens`, unless its padding is `none`."""
    max_media_tokens: Count = 4096
    """Maximum number of tokens of all images and videos of a prompt."""
    answer_tokens: Count = 256
    """Maximum length of an answer. AlignNet doesn't learn from answers that are cut off here."""
    states: Literal["prompt", "answer", "mixed"] = "prompt"
    """The states that AlignNet learns from. With `answer` the MLLM answers each caption, and the teacher reads that
    answer instead of the caption. `mixed` uses prompt states for half of the captions, answer states for the others."""
    template: str = REFERENCE_TEMPLATE
    """`str.format` template of the user turn. It must contain `{caption}` (or `{caption!r}`)."""

    @model_validator(mode="after")
    def _template_holds_the_caption(self) -> Self:
        caption = "two small green triangles above a red circle"
        try:
            filled = self.template.format(caption=caption)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"template {self.template!r} can't be filled: {error!r}; use {{caption}}") from error
        if caption not in filled:
            raise ValueError(f"template {self.template!r} must contain the whole {{caption}}")
        return self


class MediaConfig(Frozen):
    """How media of prompts are prepared for the MLLM. Captions have none, so no store depends on it."""

    image_side: Count | None = None
    """Images and frames are resized to a square of so many pixels, as X2I does with 128; None leaves it to the MLLM."""
    video_fps: Annotated[float, Field(gt=0, le=60)] = 1.0
    video_frames: Annotated[int, Field(ge=1, le=512)] = 64
    """A longer video is sampled over its length."""
    audio_sampling_rate: Annotated[int, Field(ge=8000, le=48_000)] = 16_000
    """Samples a second of sound, which becomes one channel; the MLLM's own rate."""


class AlignNetConfig(Frozen):
    """AlignNet's architecture. Sizes that follow from the two models (layers, widths) are read from them."""

    fusion: Fusion = "conv"
    t5_layers: Whole = 0
    """Layers of the optional gated-GELU T5 encoder stack before the fusion; 0 in every released checkpoint."""
    t5_heads: Count | None = None
    """Attention heads of that stack; None means the hidden width divided by `t5_head_dim`."""
    t5_head_dim: Count | None = None
    """Width of each head; None means 128, or with `t5_heads` the hidden width divided by it. The released code has
    28 × 128 for Qwen2.5-VL, also for the 3B with hidden width 2048, and 12 × 64 for InternVL2.5-1B (896)."""
    padding: Padding = "zero"
    """`zero`: pads with zero states to the teacher's text length; `reference`: pads with the MLLM's states at padded
    positions; `none`: only valid tokens condition the DiT."""
    init_seed: int = 0


class TargetsConfig(Frozen):
    """Which of the teacher's attention outputs are stored, and how they are encoded."""

    taps: Literal["all", "double", "single"] | tuple[str, ...] = "all"
    image_tokens: Count | Literal["all"] = 96
    """Image tokens kept per caption, drawn without replacement; all taps keep the same ones."""
    text_tokens: Count | Literal["all"] = 32
    codec: Literal["bf16", "int8"] = "int8"
    seed: int = 0
    """Seed of the noise canvas and of the drawn tokens, together with each caption's id."""


class StoreConfig(Frozen):
    """Shard size and limits of the feature store. In no fingerprint."""

    samples_per_shard: Count = 16
    byte_budget: Annotated[int, Field(ge=1)] = 4 * 1024**4
    """`precompute` refuses to start if it would write more bytes than this."""
    max_quarantine_share: Share = 0.05


class TrainConfig(Frozen):
    """Distillation of AlignNet."""

    steps: Count = 100_000
    batch_size: Count = 8
    """Samples per optimizer step, over all workers and accumulation steps."""
    accumulation: Count = 1
    lr: Annotated[float, Field(gt=0)] = 1e-4
    warmup_steps: Whole = 100
    """Warm-up steps of the learning rate, in the warm start and again in distillation."""
    warm_start_steps: Whole = 0
    """Steps before distillation in which AlignNet regresses onto T5's tokens and CLIP's vector, without the DiT. The
    reference has 0."""
    warm_start_lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    ema: Decay = 0.0
    """Decay of the exponential moving average of the weights; 0 keeps none."""
    temperature: Annotated[float, Field(gt=0)] = 3.0
    direction: Literal["student_teacher", "teacher_student"] = "student_teacher"
    """`student_teacher` is KL(student || teacher), as in the reference; `teacher_student` is the forward KL."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Autocast dtype of AlignNet's forward. Its weights and its optimizer stay float32."""
    gradient_checkpointing: bool = True
    """Recompute the DiT's blocks in the backward pass instead of keeping their activations."""
    seed: int = 0
    validation_share: Share = 0.02
    """Share of captions, chosen by their id, that are only used for validation."""


class AnswerConfig(Frozen):
    """How the MLLM's answer is chosen, where its states condition the DiT."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 takes the likeliest token each time; above it tokens are drawn, from the image's seed."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Tokens are drawn from the likeliest ones that have this probability together."""
    max_tokens: Count | None = None
    """Maximum length; None means `mllm.answer_tokens`."""


class GenerateConfig(Frozen):
    """Defaults of a generation request."""

    states: States = "prompt"
    answer: AnswerConfig = AnswerConfig()
    num_inference_steps: Count = 28
    guidance: float = 3.5
    """FLUX.1-dev takes it as an input. In Stable Diffusion 3.5 above 1 it is classifier-free guidance: a second forward
    a step, under the empty prompt. Others don't use it."""
    width: Annotated[int, Field(ge=16, multiple_of=16)] = 1024
    height: Annotated[int, Field(ge=16, multiple_of=16)] = 1024

    def identity(self) -> dict[str, Any]:
        """Return what decides an image. Greedy answers are left out: once there was no choice."""
        return self.model_dump(mode="json", exclude={"answer"} if self.answer == AnswerConfig() else None)


class StageResources(Frozen):
    """One pool of identical Ray actors or workers."""

    actors: Count = 1
    batch_size: Count = 8
    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] = 0.0


class TrainResources(Frozen):
    """Workers of the training, and how often it logs and saves."""

    workers: Count = 1
    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    strategy: Literal["ddp", "zero1", "zero2", "zero3"] = "zero1"
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 3
    log_every: Count = 10
    loader_workers: Whole = 0
    """Loader processes per worker; 0 reads in the worker itself."""
    max_failures: Whole = 3


class RunConfig(Frozen):
    """Where and on how many actors and workers the work runs. In no fingerprint."""

    text: StageResources = StageResources()
    mllm: StageResources = StageResources()
    targets: StageResources = StageResources()
    generate: StageResources = StageResources()
    train: TrainResources = TrainResources()


class Recipe(Frozen):
    """All settings of a run. Load one with `x2i_platform.recipes.load`."""

    name: str
    description: str = ""
    teacher: TeacherConfig
    mllm: MLLMConfig
    media: MediaConfig = MediaConfig()
    alignnet: AlignNetConfig = AlignNetConfig()
    targets: TargetsConfig = TargetsConfig()
    store: StoreConfig = StoreConfig()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _answers_fit_the_teacher(self) -> Self:
        """Refuse answers longer than the teacher's text. Longer prompts are allowed; precompute quarantines them."""
        padding, limit = self.alignnet.padding, self.mllm.answer_tokens
        if self.mllm.states != "prompt" and padding != "none" and limit > self.teacher.text_tokens:
            raise ValueError(
                f"mllm.answer_tokens = {limit} exceeds teacher.text_tokens = {self.teacher.text_tokens}, "
                f"to which alignnet.padding '{padding}' pads; lower it"
            )
        return self

    @model_validator(mode="after")
    def _reference_padding_is_of_prompts(self) -> Self:
        if self.alignnet.padding == "reference" and self.mllm.states != "prompt":
            raise ValueError(
                f"alignnet.padding 'reference' pads prompts; mllm.states '{self.mllm.states}' needs another"
            )
        return self

    @model_validator(mode="after")
    def _warm_start_matches_tokens(self) -> Self:
        if self.train.warm_start_steps and self.alignnet.padding == "none":
            raise ValueError(
                f"train.warm_start_steps = {self.train.warm_start_steps} needs the teacher's number of tokens, which "
                "alignnet.padding 'none' doesn't give; use 'zero', or train.warm_start_steps = 0"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        parts = self.run.train.workers * self.train.accumulation
        if self.train.batch_size % parts:
            raise ValueError(
                f"train.batch_size = {self.train.batch_size} must be a multiple of run.train.workers x "
                f"train.accumulation = {parts}"
            )
        return self
