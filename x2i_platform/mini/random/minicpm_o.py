"""Writes `mini:random-minicpm-o`: MiniCPM-o 2.6 (text, pictures, videos, sound), 256 wide, in the released form.

The form is that of the released folder: names and shapes of weights, two files and an index, weights of the speech
output, references to code that isn't there. The classes that read it are this platform's and stand above the
miniatures, so weights are made from their names and shapes here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2Tokenizer

from x2i_platform.config import REFERENCE_TEMPLATE
from x2i_platform.mini.vocabularies import qwen_tokenizer

SEED = 2500
WIDTH, LAYERS, HEADS, KV_HEADS = 256, 3, 4, 2
"""256 is two heads of the resampler, which are 128 wide."""
TOWER_WIDTH, TOWER_LAYERS, TOWER_INNER = 64, 2, 128
PATCH, SIDE = 14, 7
"""Pixels of a patch; rows of the table of positions."""
QUERIES, RESOLUTION = 4, 56
"""Tokens of an overview or slice, and its side in pixels."""
MELS, POSITIONS = 80, 1500

SYSTEM = "You are a helpful assistant."
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Like the released one it takes strings alone, and puts a system prompt first."""
TOKENS = (
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"),
    *("<|audio_start|>", "<|audio|>", "<|audio_end|>", "<|spk_bos|>", "<|spk|>", "<|spk_eos|>", "<|tts_bos|>"),
)
EMBEDDINGS = ("embed_tokens.weight", "position_embedding.weight", "embed_positions.weight")
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def write(folder: Path, *, captions: Sequence[str]) -> None:
    """Build model, tokenizer and processor settings and save them under `folder`; 2.7 million parameters."""
    words = _tokenizer(captions)
    words.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    code = {"AutoTokenizer": ["tokenization_minicpmo_fast.MiniCPMOTokenizerFast", None]}
    settings = json.loads(path.read_text("utf-8")) | {"tokenizer_class": "MiniCPMOTokenizerFast", "auto_map": code}
    for name, content in (
        (path.name, settings),
        ("config.json", _config(words)),
        ("preprocessor_config.json", _processor()),
    ):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _save(folder, _random([*_qwen(len(words)), *_siglip(), *_resampler(), *_whisper(), *_speech()]))


def _tokenizer(captions: Sequence[str]) -> Qwen2Tokenizer:
    """Like the released one it has `<unk>` among the learned pieces, before the special tokens."""
    prompts = [REFERENCE_TEMPLATE.format(caption=caption) for caption in captions]
    chat = [f"system\n{SYSTEM}\n", "user\n", "assistant\n"] * len(captions)
    learned = qwen_tokenizer([*captions, *prompts, *chat], chat_template=CHAT_TEMPLATE)
    model = json.loads(learned.backend_tokenizer.to_str())["model"]
    pieces = [piece for piece in sorted(model["vocab"], key=model["vocab"].get) if piece != "<|endoftext|>"]
    words = Qwen2Tokenizer(
        vocab={piece: place for place, piece in enumerate([*pieces, "<unk>", "<|endoftext|>"])},
        merges=[(left, right) for left, right in model["merges"]],
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(TOKENS),
        model_max_length=131_072,
    )
    words.chat_template = CHAT_TEMPLATE
    return words


def _config(words: Qwen2Tokenizer) -> dict[str, Any]:
    tower = {"hidden_size": TOWER_WIDTH, "num_hidden_layers": TOWER_LAYERS, "num_attention_heads": 2}
    return {
        "architectures": ["MiniCPMO"],
        "auto_map": {
            "AutoConfig": "configuration_minicpm.MiniCPMOConfig",
            "AutoModel": "modeling_minicpmo.MiniCPMO",
            "AutoModelForCausalLM": "modeling_minicpmo.MiniCPMO",
        },
        "model_type": "minicpmo",
        "version": 2.6,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": LAYERS,
        "vocab_size": len(words),
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "eos_token_id": words.eos_token_id,
        "image_token_id": words.convert_tokens_to_ids("<unk>"),
        "query_num": QUERIES,
        "vision_batch_size": 3,
        "vision_config": {
            **tower,
            "model_type": "siglip_vision_model",
            "image_size": SIDE * PATCH,
            "patch_size": PATCH,
            "intermediate_size": TOWER_INNER,
        },
        "audio_config": {
            "model_type": "whisper",
            "d_model": TOWER_WIDTH,
            "encoder_layers": TOWER_LAYERS,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": TOWER_INNER,
        },
        "audio_chunk_length": 1.0,
        "audio_pool_step": 2,
        "slice_config": {"max_slice_nums": 9, "model_type": "minicpmv"},
        "tts_config": {"model_type": "conditional_chattts", "llm_dim": WIDTH},
        "torch_dtype": "float32",
    }


def _processor() -> dict[str, Any]:
    return {
        "image_processor_type": "MiniCPMVImageProcessor",
        "auto_map": {
            "AutoProcessor": "processing_minicpmo.MiniCPMOProcessor",
            "AutoImageProcessor": "image_processing_minicpmv.MiniCPMVImageProcessor",
        },
        "processor_class": "MiniCPMOProcessor",
        "max_slice_nums": 9,
        "scale_resolution": RESOLUTION,
        "patch_size": PATCH,
        "use_image_id": True,
        "image_feature_size": QUERIES,
        "norm_mean": [0.5, 0.5, 0.5],
        "norm_std": [0.5, 0.5, 0.5],
        "version": 2.6,
    }


def _linear(name: str, wide: int, into: int, *, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (into, wide)
    if bias:
        yield f"{name}.bias", (into,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _qwen(vocabulary: int) -> Shapes:
    head = WIDTH // HEADS
    yield "llm.model.embed_tokens.weight", (vocabulary, WIDTH)
    yield "llm.lm_head.weight", (vocabulary, WIDTH)
    yield "llm.model.norm.weight", (WIDTH,)
    for name in (f"llm.model.layers.{layer}" for layer in range(LAYERS)):
        yield from _linear(f"{name}.self_attn.q_proj", WIDTH, WIDTH)
        yield from _linear(f"{name}.self_attn.k_proj", WIDTH, KV_HEADS * head)
        yield from _linear(f"{name}.self_attn.v_proj", WIDTH, KV_HEADS * head)
        yield from _linear(f"{name}.self_attn.o_proj", WIDTH, WIDTH, bias=False)
        yield from _linear(f"{name}.mlp.gate_proj", WIDTH, 2 * WIDTH, bias=False)
        yield from _linear(f"{name}.mlp.up_proj", WIDTH, 2 * WIDTH, bias=False)
        yield from _linear(f"{name}.mlp.down_proj", 2 * WIDTH, WIDTH, bias=False)
        yield f"{name}.input_layernorm.weight", (WIDTH,)
        yield f"{name}.post_attention_layernorm.weight", (WIDTH,)


def _siglip() -> Shapes:
    yield "vpm.embeddings.patch_embedding.weight", (TOWER_WIDTH, 3, PATCH, PATCH)
    yield "vpm.embeddings.patch_embedding.bias", (TOWER_WIDTH,)
    yield "vpm.embeddings.position_embedding.weight", (SIDE**2, TOWER_WIDTH)
    for name in (f"vpm.encoder.layers.{layer}" for layer in range(TOWER_LAYERS)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{name}.self_attn.{part}", TOWER_WIDTH, TOWER_WIDTH)
        yield from _linear(f"{name}.mlp.fc1", TOWER_WIDTH, TOWER_INNER)
        yield from _linear(f"{name}.mlp.fc2", TOWER_INNER, TOWER_WIDTH)
        yield from _norm(f"{name}.layer_norm1", TOWER_WIDTH)
        yield from _norm(f"{name}.layer_norm2", TOWER_WIDTH)
    yield from _norm("vpm.post_layernorm", TOWER_WIDTH)


def _resampler() -> Shapes:
    yield "resampler.query", (QUERIES, WIDTH)
    yield from _linear("resampler.kv_proj", TOWER_WIDTH, WIDTH, bias=False)
    yield "resampler.attn.in_proj_weight", (3 * WIDTH, WIDTH)
    yield "resampler.attn.in_proj_bias", (3 * WIDTH,)
    yield from _linear("resampler.attn.out_proj", WIDTH, WIDTH)
    for name in ("ln_q", "ln_kv", "ln_post"):
        yield from _norm(f"resampler.{name}", WIDTH)
    yield "resampler.proj", (WIDTH, WIDTH)


def _whisper() -> Shapes:
    for name, wide in (("conv1", MELS), ("conv2", TOWER_WIDTH)):
        yield f"apm.{name}.weight", (TOWER_WIDTH, wide, 3)
        yield f"apm.{name}.bias", (TOWER_WIDTH,)
    yield "apm.embed_positions.weight", (POSITIONS, TOWER_WIDTH)
    for name in (f"apm.layers.{layer}" for layer in range(TOWER_LAYERS)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{name}.self_attn.{part}", TOWER_WIDTH, TOWER_WIDTH, bias=part != "k_proj")
        yield from _linear(f"{name}.fc1", TOWER_WIDTH, TOWER_INNER)
        yield from _linear(f"{name}.fc2", TOWER_INNER, TOWER_WIDTH)
        yield from _norm(f"{name}.self_attn_layer_norm", TOWER_WIDTH)
        yield from _norm(f"{name}.final_layer_norm", TOWER_WIDTH)
    yield from _norm("apm.layer_norm", TOWER_WIDTH)
    yield from _linear("audio_projection_layer.linear1", TOWER_WIDTH, WIDTH)
    yield from _linear("audio_projection_layer.linear2", WIDTH, WIDTH)


def _speech() -> Shapes:
    yield "tts.emb_text.weight", (3, 2)
    yield "tts.dvae.coef", (1, 4, 1)


def _random(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Draw weights as `weights.fill` does: matrices of variance 1 / fan-in, embeddings of 1, norms about 1."""
    generator = torch.Generator().manual_seed(SEED)
    made = {}
    for name, shape in shapes:
        mean, std = (0.0, 0.05) if name.endswith("bias") else (1.0, 0.1)
        if len(shape) > 1:
            mean, std = 0.0, 1.0 if name.endswith(EMBEDDINGS) else torch.Size(shape[1:]).numel() ** -0.5
        made[name] = torch.randn(shape, generator=generator) * std + mean
    return made


def _save(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Save two files and their index, as the released four."""
    llm = {name: weight for name, weight in weights.items() if name.startswith("llm.")}
    others = {name: weight for name, weight in weights.items() if name not in llm}
    places: dict[str, str] = {}
    for number, some in enumerate((llm, others), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file(some, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(some, file)
    index = json.dumps({"metadata": {}, "weight_map": places}, indent=2, sort_keys=True)
    (folder / "model.safetensors.index.json").write_text(index + "\n", encoding="utf-8")
