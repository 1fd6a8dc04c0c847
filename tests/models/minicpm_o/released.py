"""The released config.json of MiniCPM-o 2.6, as far as it describes the network."""

from __future__ import annotations

from typing import Any


def released_config() -> dict[str, Any]:
    """A fresh copy, with the names as they are released."""
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
