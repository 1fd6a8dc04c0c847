"""A small MiniCPM-o 2.6 with random weights: a folder with the released file names, keys and references to code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import Qwen2Tokenizer

from x2i_platform.mini.random.weights import fill
from x2i_platform.models.minicpm_o.configuration import MiniCPMOConfig
from x2i_platform.models.minicpm_o.modeling import MiniCPMOForConditionalGeneration

WIDTH, LAYERS = 256, 3
"""Two heads of the resampler, whose heads are 128 wide."""
QUERIES = 4
RESOLUTION = 56
"""Side of an overview: 16 patches."""

SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
# Like the released template it takes strings alone, and puts this system prompt first.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"),
    *("<|audio_start|>", "<|audio|>", "<|audio_end|>", "<|spk_bos|>", "<|spk|>", "<|spk_eos|>", "<|tts_bos|>"),
)


def write(folder: Path) -> None:
    """Build model, tokenizer and processor settings and save them under `folder`; 5 million parameters."""
    words = _tokenizer()
    words.save_pretrained(folder)
    _declare_code(folder / "tokenizer_config.json")
    config = _config(words)
    model = MiniCPMOForConditionalGeneration(MiniCPMOConfig(**config)).eval()
    fill(model, seed=4000)
    _save_weights(folder, {name.removeprefix("model."): weight for name, weight in model.state_dict().items()})
    files: dict[str, dict[str, Any]] = {"config.json": config, "preprocessor_config.json": _processor()}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def released_config() -> dict[str, Any]:
    """What the released config.json holds, as far as it describes the network."""
    qwen = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 151700,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    }
    vision = {
        "hidden_size": 1152,
        "image_size": 980,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    }
    audio = {
        "d_model": 1024,
        "decoder_attention_heads": 16,
        "decoder_ffn_dim": 4096,
        "decoder_layers": 24,
        "encoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "encoder_layers": 24,
        "forced_decoder_ids": [[1, 50259], [2, 50359], [3, 50363]],
        "max_length": 448,
        "model_type": "whisper",
        "num_hidden_layers": 24,
        "suppress_tokens": [1, 2, 7],
        "torch_dtype": "float32",
    }
    return {
        "architectures": ["MiniCPMO"],
        "auto_map": {
            "AutoConfig": "configuration_minicpm.MiniCPMOConfig",
            "AutoModel": "modeling_minicpmo.MiniCPMO",
            "AutoModelForCausalLM": "modeling_minicpmo.MiniCPMO",
        },
        "model_type": "minicpmo",
        **qwen,
        "audio_chunk_length": 1.0,
        "audio_config": audio,
        "audio_pool_step": 2,
        "batch_vision_input": True,
        "chunk_input": True,
        "drop_vision_last_layer": False,
        "image_size": 448,
        "listen_speak_type": "asr",
        "patch_size": 14,
        "query_num": 64,
        "slice_config": {"max_slice_nums": 9, "model_type": "minicpmv"},
        "slice_mode": True,
        "torch_dtype": "bfloat16",
        "tts_config": {"model_type": "conditional_chattts", "llm_dim": 3584},
        "use_cache": True,
        "use_image_id": True,
        "version": 2.6,
        "vision_batch_size": 16,
        "vision_config": vision,
    }


def _config(words: Qwen2Tokenizer) -> dict[str, Any]:
    config = released_config()
    small = {"hidden_size": 64, "image_size": 98, "intermediate_size": 96, "num_attention_heads": 2}
    heard = {"d_model": 64, "encoder_attention_heads": 2, "encoder_ffn_dim": 128}
    return {
        **config,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": LAYERS,
        "vocab_size": len(words),
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "query_num": QUERIES,
        "vision_batch_size": 3,
        "vision_config": {**config["vision_config"], **small, "num_hidden_layers": 2},
        "audio_config": {**config["audio_config"], **heard, "encoder_layers": 2, "num_hidden_layers": 2},
        "image_token_id": words.convert_tokens_to_ids("<unk>"),
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
        "patch_size": 14,
        "use_image_id": True,
        "image_feature_size": QUERIES,
        "slice_mode": True,
        "norm_mean": [0.5, 0.5, 0.5],
        "norm_std": [0.5, 0.5, 0.5],
        "version": 2.6,
    }


def _tokenizer() -> Qwen2Tokenizer:
    """One token a byte, and like the released one `<unk>` among the learned pieces, before the special tokens."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<unk>", "<|endoftext|>"]
    words = Qwen2Tokenizer(
        vocab={piece: place for place, piece in enumerate(pieces)},
        merges=[],
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL),
        model_max_length=131072,
    )
    words.chat_template = CHAT_TEMPLATE
    return words


def _declare_code(path: Path) -> None:
    """Name the released class, whose code lies in the released folder."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "MiniCPMOTokenizerFast"
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_minicpmo_fast.MiniCPMOTokenizerFast", None]}
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _save_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Save two files and their index, with weights of the speech output that nothing here reads."""
    speech = {"tts.emb_text.weight": torch.ones(3, 2), "tts.dvae.coef": torch.ones(1, 4, 1)}
    llm = {name: weight for name, weight in weights.items() if name.startswith("llm.")}
    files = [llm, {**{name: weight for name, weight in weights.items() if name not in llm}, **speech}]
    index: dict[str, str] = {}
    for place, some in enumerate(files, start=1):
        name = f"model-{place:05}-of-{len(files):05}.safetensors"
        save_file({key: weight.contiguous() for key, weight in some.items()}, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(some, name)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
