from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, SiglipVisionConfig, WhisperConfig

from tests.models.minicpm_o.released import released_config
from x2i_platform.models.minicpm_o.configuration import MiniCPMOConfig


def test_the_released_config_is_read() -> None:
    config = MiniCPMOConfig(**released_config())
    text = config.get_text_config()
    assert (text.num_hidden_layers, text.hidden_size, text.num_key_value_heads) == (28, 3584, 4)
    assert text.rope_parameters["rope_theta"] == 1e6
    assert text.layer_types == ["full_attention"] * 28
    assert isinstance(config.vision_config, SiglipVisionConfig)
    assert (config.vision_config.hidden_size, config.vision_config.hidden_act) == (1152, "gelu_pytorch_tanh")
    assert isinstance(config.audio_config, WhisperConfig)
    assert (config.audio_config.encoder_layers, config.audio_config.num_mel_bins) == (24, 80)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": "4.5"}, r"MiniCPM-o 4\.5 isn't supported, only 2\.6"),
        ({"drop_vision_last_layer": True}, r"drop_vision_last_layer = true isn't supported"),
    ],
)
def test_another_model_of_the_same_name_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiniCPMOConfig(**{**released_config(), **changed})


def test_it_is_saved_and_read_again(minicpm_folder: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(minicpm_folder)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is MiniCPMOConfig
    assert again.to_diff_dict() == config.to_diff_dict()
