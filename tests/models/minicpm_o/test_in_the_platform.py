"""MiniCPM-o as the platform asks it; `test_families.py` has what holds for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from x2i_platform.config import MLLMConfig
from x2i_platform.media.clips import Audio, Video
from x2i_platform.models.catalog import MLLMS, mllm_dims
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.prompts import Prompt


def noise(width: int, height: int, *, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_states_are_those_of_a_forward(minicpm_folder: Path, body: Any, processor: Any) -> None:
    mllm = MLLM.load(MLLMConfig(model=str(minicpm_folder), dtype="float32"))
    sound = Audio(np.random.default_rng(0).standard_normal(30_000).astype(np.float32))
    frames = Video(tuple(noise(60, 40, seed=seed) for seed in range(3)), fps=1.0)
    prompt = Prompt.of("like", noise(90, 60, seed=1), "to this", sound, "and this", frames)
    inputs = processor.apply_chat_template(
        prompt.messages(), tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    assert sorted(set(inputs["mm_token_type_ids"][0].tolist())) == [0, 1, 2, 3]
    with torch.no_grad():
        expected_CSH = torch.cat(body(**inputs, output_hidden_states=True).hidden_states)
    (states_CSH,) = mllm.encode([prompt])
    torch.testing.assert_close(states_CSH, expected_CSH, rtol=1e-4, atol=1e-4)
    dims = mllm_dims(str(minicpm_folder))
    assert (dims.num_states, dims.hidden_size) == (mllm.num_layers_plus_one, mllm.hidden_size)


def test_the_released_one_is_priced_without_its_weights() -> None:
    released = MLLMS["openbmb/MiniCPM-o-2_6"]
    assert (released.dims.num_states, released.dims.hidden_size, released.fusion) == (29, 3584, "conv")
