"""Writes `mini:random-qwen2.5-omni`: the Thinker of Qwen2.5-Omni (text, images, videos, sound), 64 wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration, Qwen2Tokenizer

from x2i_platform.mini.processors import qwen_settings, write_settings
from x2i_platform.mini.random.weights import fill
from x2i_platform.mini.random.words import chat_template, decoder_settings, rope_axes, tokenizer

SEED = 2300
WIDTH, LAYERS, HEADS = 64, 3, 4
TOWER_WIDTH = 32
PATCH, MERGE = 14, 2
IMAGE_SIDE_LIMIT = 224
MELS, SECONDS = 32, 6
"""Bands of the spectrogram, and the length to which sound is padded. The released model has 128 bands and 300 s."""
TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
MARKS = {
    "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
    "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
    "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
}


def write(folder: Path, *, captions: Sequence[str]) -> None:
    """Build model, tokenizer and processor settings and save them under `folder`."""
    words = tokenizer(captions, template=chat_template(MARKS), tokens=TOKENS)
    model = Qwen2_5OmniThinkerForConditionalGeneration(_config(words)).eval()
    fill(model, seed=SEED)
    model.save_pretrained(folder, safe_serialization=True)
    words.save_pretrained(folder)
    image, video = qwen_settings(patch=PATCH, merge=MERGE, side_limit=IMAGE_SIDE_LIMIT)
    write_settings(
        folder,
        processor_class="Qwen2_5OmniProcessor",
        image_processor=image,
        video_processor={**video, "video_processor_type": "Qwen2VLVideoProcessor"},
        feature_extractor={
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": MELS,
            "chunk_length": SECONDS,
            "return_attention_mask": True,
        },
    )


def _config(words: Qwen2Tokenizer) -> Qwen2_5OmniThinkerConfig:
    text = decoder_settings(words, width=WIDTH, layers=LAYERS, heads=HEADS) | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": rope_axes(WIDTH // HEADS),
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": 2 * TOWER_WIDTH,
        "num_heads": 2,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": 4 * PATCH * MERGE,
        "fullatt_block_indexes": [1],
        "out_hidden_size": WIDTH,
    }
    audio = {
        "num_mel_bins": MELS,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 2 * TOWER_WIDTH,
        "d_model": TOWER_WIDTH,
        "max_source_positions": 50 * SECONDS,
        "n_window": 50,
        "output_dim": WIDTH,
    }

    def number(name: str) -> int:
        return int(words.convert_tokens_to_ids(TOKENS[name]))

    return Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        image_token_index=number("image_token"),
        video_token_index=number("video_token"),
        audio_token_index=number("audio_token"),
        audio_start_token_id=number("audio_bos_token"),
        audio_end_token_id=number("audio_eos_token"),
        vision_start_token_id=number("vision_bos_token"),
        vision_end_token_id=number("vision_eos_token"),
    )
