"""The untrained miniatures: reproducible builds, loadable folders, and weights that tell captions apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from x2i_platform.errors import WeightsError
from x2i_platform.mini.checkpoints import RANDOM, RANDOM_CAPTIONS, folder_of
from x2i_platform.models.weights import identity
from x2i_platform.torchvision_schemas import define_missing_schemas

define_missing_schemas()

CAPTIONS = ["A small red circle.", "Three green stars above a large blue square."]
BUILD_ALL = "from x2i_platform.mini.checkpoints import RANDOM, folder_of; [folder_of(name) for name in RANDOM]"


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Both miniatures, built by this process; the cache folder stays set for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("X2I_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {name: folder_of(name) for name in RANDOM}


@pytest.fixture(scope="module")
def pipeline(mini: dict[str, Path]) -> Any:
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(mini["random-flux"])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def encode(pipeline: Any, captions: list[str]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        prompt_embeds, pooled, _ = pipeline.encode_prompt(captions, None, max_sequence_length=32)
    return prompt_embeds, pooled


def relative_difference(states: Tensor) -> float:
    """RMS difference between the two items of a batch, in units of their spread."""
    return float((states[0] - states[1]).square().mean().sqrt() / states.std())


@pytest.mark.slow
def test_processes_building_at_once_agree_with_each_other_and_with_this_one(
    mini: dict[str, Path], tmp_path: Path
) -> None:
    environment = {**os.environ, "X2I_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    racers = [subprocess.Popen([sys.executable, "-c", BUILD_ALL], env=environment) for _ in range(2)]
    assert [racer.wait(timeout=200) for racer in racers] == [0, 0]
    for name, folder in mini.items():
        (theirs,) = tmp_path.glob(f"mini/*/{name}")
        assert identity(str(theirs)) == identity(str(folder))
    assert not list(tmp_path.glob("mini/*/.*")), "a temporary folder was left behind"


def test_build_again_returns_the_same_folder_untouched(mini: dict[str, Path]) -> None:
    before = (mini["random-flux"] / "model_index.json").stat()
    assert folder_of("random-flux") == mini["random-flux"]
    assert (mini["random-flux"] / "model_index.json").stat() == before


def test_unknown_name_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"'mini:flx'; there are mini:flux, .*, mini:random-qwen2.5-vl"):
        folder_of("flx")


def test_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("X2I_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"file/mini.*set X2I_CACHE"):
        folder_of("random-flux")


def test_captions_are_distinct_and_fit_the_text_encoders(pipeline: Any) -> None:
    captions = RANDOM_CAPTIONS.read_text("utf-8").splitlines()
    assert len(captions) == len(set(captions)) == 320
    assert max(len(pipeline.tokenizer_2(caption).input_ids) for caption in captions) <= 32
    assert max(len(pipeline.tokenizer(caption).input_ids) for caption in captions) <= 77


def test_captions_give_different_conditioning_and_attention(pipeline: Any) -> None:
    prompt_embeds, pooled = encode(pipeline, CAPTIONS)
    assert relative_difference(prompt_embeds) > 0.3
    assert relative_difference(pooled) > 0.3
    outputs: list[Tensor] = []
    blocks = [*pipeline.transformer.transformer_blocks, *pipeline.transformer.single_transformer_blocks]
    for block in blocks:
        block.attn.register_forward_hook(
            lambda _module, _args, out: outputs.extend([out] if torch.is_tensor(out) else out)
        )
    latents = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1)
    with torch.no_grad():
        pipeline.transformer(
            hidden_states=latents,
            timestep=torch.ones(2),
            guidance=torch.full((2,), 3.5),
            pooled_projections=pooled,
            encoder_hidden_states=prompt_embeds,
            txt_ids=torch.zeros(32, 3),
            img_ids=torch.zeros(16, 3),
        )
    assert len(outputs) == 2 * 2 + 3
    for output in outputs:
        assert 0.1 < output.std() < 10
        assert relative_difference(output) > 0.2


def test_images_vary_within_and_between_captions(pipeline: Any) -> None:
    images = []
    for caption in CAPTIONS:
        prompt_embeds, pooled = encode(pipeline, [caption])
        generator = torch.Generator().manual_seed(0)
        made = pipeline(
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled,
            height=64,
            width=64,
            num_inference_steps=2,
            generator=generator,
            output_type="pt",
        )
        images.append(made.images[0])
    assert images[0].shape == (3, 64, 64)
    assert all(image.std() > 0.05 for image in images)
    assert (images[0] - images[1]).abs().mean() > 0.02


def test_unseen_text_never_ends_the_clip_prompt_early(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    ids = tokenizer("Quixotic zebras, 漢字 and 🙂 jump!").input_ids
    assert tokenizer.eos_token_id not in ids[1:-1]


@pytest.mark.parametrize("text", ["Ein roter Kreis über dem Stern", "三つの緑の星 🟢", "مربع أزرق", "a\n\tb  {c: 'd'}"])
def test_qwen_tokenizer_keeps_any_text(mini: dict[str, Path], text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(mini["random-qwen2.5-vl"])
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_qwen_sees_text_image_and_video(mini: dict[str, Path]) -> None:
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(mini["random-qwen2.5-vl"])
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(mini["random-qwen2.5-vl"]).eval()
    parts = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": CAPTIONS[0]}]
    prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    assert prompt.startswith("<|im_start|>user\n")
    assert prompt.endswith(f"{CAPTIONS[0]}<|im_end|>\n<|im_start|>assistant\n")
    states = []
    for color in ("red", "blue"):
        image = Image.new("RGB", (64, 64), color)
        frames = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
        batch = processor(text=[prompt], images=[image], videos=[frames], return_tensors="pt")
        with torch.no_grad():
            states.append(model.model(**batch, output_hidden_states=True).hidden_states)
    assert len(states[0]) == 5
    last = torch.cat([states[0][-1][:, -1], states[1][-1][:, -1]])
    assert last.isfinite().all()
    assert relative_difference(last) > 0.01, "the image must reach the last prompt position"
