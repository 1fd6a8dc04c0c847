"""Widens the miniature Qwen2.5-VL to a Qwen2.5-Omni Thinker: the same language model and eyes, and an untrained ear.

Invariant: text gets the same tokens and states as before. Of the new tokens, those around a sound begin as those around
a picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
)

from x2i_platform.mini import chat_template_path
from x2i_platform.mini.vocabularies import CHAT_TOKENS, OMNI_NAMES, SOUND_TOKENS, VISION_TOKENS

SEED = 16
EAR_WIDTH = 128
EAR_LAYERS = 4
MELS = 64
"""Bands of the spectrogram; the released model has 128."""
HOP = 320
"""Samples from frame to frame: 20 ms. The released model has 10, so its audio tokens are of 40 ms, not of 80. Fewer
tokens a word are nearer to the text that the language model has read, and cost half."""
CHUNK = 100
"""Half of the frames that attend to each other, as in the released model; here that is 4 s, longer than a caption."""
LONGEST_S = 10
"""Seconds of sound that the feature extractor takes; the released model's takes 30."""
POSITIONS_A_SECOND = 2
"""Temporal positions of a second of video. Qwen2.5-VL's miniature has 4, but counts on from the height of a video, not
from its end: 2 keep the text after it near enough, whether its processor knows the frame rate or guesses it."""
LIKE = {"<|audio_bos|>": "<|vision_start|>", "<|audio_eos|>": "<|vision_end|>", "<|AUDIO|>": "<|image_pad|>"}
"""The tokens whose weights the new tokens begin with."""


def widened(folder: Path) -> tuple[Any, Qwen2Tokenizer]:
    """Load a Qwen2.5-VL in full precision. Returns it as a Thinker with an untrained audio tower, and its tokenizer."""
    tokenizer = _tokenizer(folder)
    source = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(SEED)
    model = Qwen2_5OmniThinkerForConditionalGeneration(_config(source.config, tokenizer=tokenizer))
    weights = thinker_weights(source.state_dict())
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = _with_new_rows(weights[name], tokenizer=tokenizer)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.startswith("model.audio_tower.") for name in missing), (missing, unexpected)
    return model.requires_grad_(False), tokenizer


def thinker_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return Qwen2.5-VL's weights under the Thinker's names. Its vision tower has one matrix each for q, k and v."""
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".attn.qkv." in name:
            parts = zip("qkv", weight.chunk(3), strict=True)
            renamed |= {name.replace(".qkv.", f".{part}."): piece.clone() for part, piece in parts}
        else:
            renamed[name] = weight
    return renamed


def _tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Return Qwen2.5-VL's tokenizer with the tokens of sound after its own."""
    before = AutoTokenizer.from_pretrained(folder)
    learnt = json.loads(before.backend_tokenizer.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        eos_token=before.eos_token,
        extra_special_tokens={"chat_start_token": CHAT_TOKENS[0], **VISION_TOKENS, **SOUND_TOKENS, **OMNI_NAMES},
        model_max_length=before.model_max_length,
    )
    tokenizer.chat_template = chat_template_path("omni").read_text("utf-8")
    return tokenizer


def _with_new_rows(weight: Tensor, *, tokenizer: Any) -> Tensor:
    grown = torch.cat([weight, weight.new_zeros(len(tokenizer) - len(weight), weight.shape[1])])
    for new, old in LIKE.items():
        grown[tokenizer.convert_tokens_to_ids(new)] = weight[tokenizer.convert_tokens_to_ids(old)]
    return grown


def _config(source: Any, *, tokenizer: Any) -> Qwen2_5OmniThinkerConfig:
    text = {**source.text_config.to_dict(), "vocab_size": len(tokenizer), "tie_word_embeddings": False}
    vision = {**source.vision_config.to_dict()}
    audio = {
        "num_mel_bins": MELS,
        "d_model": EAR_WIDTH,
        "encoder_layers": EAR_LAYERS,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 2 * EAR_WIDTH,
        "n_window": CHUNK,
        "max_source_positions": 2 * CHUNK,
        "output_dim": source.text_config.hidden_size,
    }
    for part in (text, vision):
        del part["model_type"]
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SOUND_TOKENS.items()}
    return Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        position_id_per_seconds=POSITIONS_A_SECOND,
        image_token_index=source.image_token_id,
        video_token_index=source.video_token_id,
        audio_token_index=ids["audio_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=source.vision_start_token_id,
        vision_end_token_id=source.vision_end_token_id,
        user_token_id=tokenizer.convert_tokens_to_ids("user"),
        tie_word_embeddings=False,
    )
