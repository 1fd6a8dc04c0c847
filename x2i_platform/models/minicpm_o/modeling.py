"""The model below its LM head, and with it: media are embedded and put where their placeholders are, then Qwen2 reads.

Shape suffixes: B batch, S tokens, H hidden width; R patches of all slices in a row, K numbers of a patch; M mel frames
of all pieces of sound in a row, A mel bins.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, Qwen2Model
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from x2i_platform.models.minicpm_o.audio import AudioProjection, AudioTower, num_tokens
from x2i_platform.models.minicpm_o.configuration import MiniCPMOConfig
from x2i_platform.models.minicpm_o.packing import run_alike
from x2i_platform.models.minicpm_o.resampler import Resampler
from x2i_platform.models.minicpm_o.vision import VisionTower

IMAGE, VIDEO, AUDIO = 1, 2, 3
"""Token types; text has 0."""
PIECES_TOGETHER = 8
"""Pieces of sound that go through the audio tower together: 30 s each take 1500 x 1500 attention scores a head."""
SPEECH = r"^tts\."
"""Weights that speak the answer. They are not used: no hidden state depends on them."""


class MiniCPMOPreTrainedModel(PreTrainedModel):
    """What the two models have in common for transformers."""

    config_class = MiniCPMOConfig
    base_model_prefix = "model"
    _no_split_modules = ["Qwen2DecoderLayer", "SiglipEncoderLayer", "WhisperEncoderLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = [SPEECH, r"^llm\.lm_head\."]  # noqa: RUF012


class MiniCPMOModel(MiniCPMOPreTrainedModel):
    """MiniCPM-o 2.6 below its LM head."""

    def __init__(self, config: MiniCPMOConfig) -> None:
        super().__init__(config)
        self.llm = nn.ModuleDict({"model": Qwen2Model(config)})
        self.vpm = VisionTower._from_config(config.vision_config)
        self.resampler = Resampler(
            config.query_num, patch_width=config.vision_config.hidden_size, hidden_size=config.hidden_size
        )
        self.apm = AudioTower._from_config(config.audio_config, chunk_s=float(config.audio_chunk_length))
        self.audio_projection_layer = AudioProjection(config.audio_config.d_model, config.hidden_size)
        self.post_init()

    @property
    def _qwen(self) -> Any:
        return self.llm["model"]

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        embedding: nn.Module = self._qwen.embed_tokens
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self._qwen.embed_tokens = value

    def image_tokens(self, patches_RK: Tensor, sizes: Tensor) -> Tensor:
        """Return the tokens of slices of sizes `(slices, 2)`, in patches down and across: `(slices * query_num, H)`."""
        grids = [(int(height), int(width)) for height, width in sizes.tolist()]
        slices = torch.split(patches_RK, [height * width for height, width in grids])
        pieces = [piece.view(*grid, -1) for piece, grid in zip(slices, grids, strict=True)]

        def tokens(patches_NhwK: Tensor) -> Tensor:
            _, height, width, _ = patches_NhwK.shape
            seen: Tensor = self.resampler(self.vpm(patches_NhwK), height=height, width=width)
            return seen

        return torch.cat(run_alike(pieces, tokens, limit=self.config.vision_batch_size))

    def audio_tokens(self, mels_MA: Tensor, lengths: Tensor) -> Tensor:
        """Return the tokens of pieces of sound of `lengths` mel frames, one after the other: `(tokens, H)`."""
        pool = self.config.audio_pool_step
        pieces = [piece for piece in torch.split(mels_MA, lengths.tolist()) if num_tokens(len(piece), pool=pool)]

        def tokens(mels_NMA: Tensor) -> Tensor:
            heard: Tensor = self.audio_projection_layer(self.apm(mels_NMA), pool=pool)
            return heard

        return torch.cat(run_alike(pieces, tokens, limit=PIECES_TOGETHER))

    def forward(  # noqa: PLR0913 - transformers passes them by name
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        target_sizes: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        target_sizes_videos: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_feature_lens: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Return Qwen2's output.

        Media of all prompts stand one after the other: images as `pixel_values` `(R, K)` with `target_sizes`
        `(slices, 2)`, videos likewise, sound as `audio_features` `(M, A)` with `audio_feature_lens` `(pieces,)`.
        `mm_token_type_ids` `(B, S)` say which tokens are placeholders of what. Raises ValueError if numbers differ.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        found: dict[int, Tensor] = {}
        if pixel_values is not None:
            found[IMAGE] = self.image_tokens(pixel_values, _with(target_sizes, "target_sizes"))
        if pixel_values_videos is not None:
            found[VIDEO] = self.image_tokens(pixel_values_videos, _with(target_sizes_videos, "target_sizes_videos"))
        if audio_features is not None:
            found[AUDIO] = self.audio_tokens(audio_features, _with(audio_feature_lens, "audio_feature_lens"))
        for kind, tokens in found.items():
            types = _with(mm_token_type_ids, "mm_token_type_ids")
            inputs_embeds = _placed(tokens, inputs_embeds, where_BS=types == kind)
        output: BaseModelOutputWithPast = self._qwen(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        return output


class MiniCPMOForConditionalGeneration(MiniCPMOPreTrainedModel, GenerationMixin):
    """MiniCPM-o 2.6 with its LM head, which lies in `llm` as in the released weights."""

    _keys_to_ignore_on_load_unexpected = [SPEECH]  # noqa: RUF012

    def __init__(self, config: MiniCPMOConfig) -> None:
        super().__init__(config)
        self.model = MiniCPMOModel(config)
        self.llm = nn.ModuleDict({"lm_head": nn.Linear(config.hidden_size, config.vocab_size, bias=False)})
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def get_output_embeddings(self) -> nn.Module:
        """Return the LM head."""
        return self.llm["lm_head"]

    def forward(  # noqa: PLR0913 - `generate` refuses arguments that aren't named here
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        target_sizes: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        target_sizes_videos: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_feature_lens: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return the logits of the last `logits_to_keep` tokens, of all for 0. Other arguments are the body's."""
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_token_type_ids=mm_token_type_ids,
            pixel_values=pixel_values,
            target_sizes=target_sizes,
            pixel_values_videos=pixel_values_videos,
            target_sizes_videos=target_sizes_videos,
            audio_features=audio_features,
            audio_feature_lens=audio_feature_lens,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(
            logits=self.llm["lm_head"](output.last_hidden_state[:, kept]),
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Return one step's inputs: media are in the cache after the first."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            return inputs
        return {name: value for name, value in inputs.items() if name not in MEDIA}


MEDIA = (
    *("mm_token_type_ids", "pixel_values", "target_sizes", "pixel_values_videos", "target_sizes_videos"),
    *("audio_features", "audio_feature_lens"),
)


def _with(value: Tensor | None, name: str) -> Tensor:
    """Return an argument that media need. Raises ValueError if it is missing."""
    if value is None:
        raise ValueError(f"media need {name} too")
    return value


def _placed(tokens: Tensor, embeds_BSH: Tensor, *, where_BS: Tensor) -> Tensor:
    """Put tokens where placeholders are, row by row. Raises ValueError if there are more or fewer of them."""
    if (count := int(where_BS.sum())) != len(tokens):
        raise ValueError(f"media of {len(tokens)} tokens, but {count} placeholders of their kind")
    return embeds_BSH.masked_scatter(where_BS[..., None].to(embeds_BSH.device), tokens.to(embeds_BSH))
