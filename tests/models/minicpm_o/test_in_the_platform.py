"""MiniCPM-o as the platform loads and asks any MLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from x2i_platform.config import MLLMConfig
from x2i_platform.media.clips import Video
from x2i_platform.models.catalog import MLLMS, mllm_dims
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.prompts import Prompt


def noise(width: int, height: int, *, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PROMPTS: list[str | Prompt] = [
    "a red circle",
    Prompt.of(noise(90, 60, seed=0)),
    Prompt.of("like <image> this", noise(50, 50, seed=1), "but green", noise(40, 80, seed=2)),
    Prompt.of(Video(tuple(noise(60, 40, seed=seed) for seed in range(3)), fps=1.0), "at night"),
]


@pytest.fixture(scope="module")
def mllm(minicpm_folder: Path) -> MLLM:
    return MLLM.load(MLLMConfig(model=str(minicpm_folder), dtype="float32", max_tokens=512, answer_tokens=6))


def test_states_are_those_of_a_forward(mllm: MLLM, body: Any, processor: Any) -> None:
    prompt = PROMPTS[2]
    assert isinstance(prompt, Prompt)
    inputs = processor.apply_chat_template(
        prompt.messages(),
        tokenize=True,
        add_generation_prompt=True,
        sanitize_control_tokens=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        expected_CSH = torch.cat(body(**inputs, output_hidden_states=True).hidden_states)
    (states_CSH,) = mllm.encode([prompt])
    torch.testing.assert_close(states_CSH, expected_CSH, rtol=1e-4, atol=1e-5)


def test_a_batch_gives_each_prompt_what_it_gets_alone(mllm: MLLM) -> None:
    for prompt, states_CSH in zip(PROMPTS, mllm.encode(PROMPTS), strict=True):
        (alone_CSH,) = mllm.encode([prompt])
        torch.testing.assert_close(states_CSH, alone_CSH, rtol=1e-4, atol=1e-4)


def test_it_answers(mllm: MLLM, whole: Any) -> None:
    answers = mllm.answers(PROMPTS)
    assert all(torch.isfinite(answer.states_CSH).all() for answer in answers)
    ids = mllm.tokenize(PROMPTS[:1])[0][None]
    made = whole.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    said = made[0, ids.shape[1] :]
    assert answers[0].text == mllm.tokenizer.decode(said, skip_special_tokens=True).strip()


def test_its_sizes_are_known(mllm: MLLM, minicpm_folder: Path) -> None:
    dims = mllm_dims(str(minicpm_folder))
    assert (dims.num_states, dims.hidden_size) == (mllm.num_layers_plus_one, mllm.hidden_size)
    released = MLLMS["openbmb/MiniCPM-o-2_6"]
    assert (released.dims.num_states, released.dims.hidden_size, released.fusion) == (29, 3584, "conv")
