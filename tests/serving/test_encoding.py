"""One replica's MLLM: what is kept, what is loaded beside it, and which version answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.media import hostile
from x2i_platform.config import AnswerConfig, GenerateConfig, Recipe
from x2i_platform.errors import InputError
from x2i_platform.generation.content import Message, parse_prompt
from x2i_platform.generation.encoder import Encoded, Encoder
from x2i_platform.recipes import override
from x2i_platform.serving import encoding
from x2i_platform.serving.encoding import Cache, PromptEncoder
from x2i_platform.serving.pinned import Pinned, pin_model
from x2i_platform.serving.travel import Wanted

SETTINGS = GenerateConfig(num_inference_steps=2, width=64, height=64)
DRAWN = SETTINGS.model_copy(update={"states": "answer", "answer": AnswerConfig(temperature=1.5, max_tokens=6)})


def pinned(folder: Path) -> Pinned:
    return pin_model(str(folder), tracking_uri="")[0]


@pytest.fixture(scope="module")
def prompts(model_folder: Path) -> PromptEncoder:
    return PromptEncoder(pinned(model_folder), tracking_uri="", device="cpu", max_batch=4)


def wanted(
    model: Pinned, content: str | tuple[Message, ...] = "a", *seeds: int, settings: GenerateConfig = SETTINGS
) -> Wanted:
    return Wanted(model, content, seeds or (1,), settings)


def shown(content: bytes) -> tuple[Message, ...]:
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return parse_prompt([{"type": "image", "image": url}, {"type": "text", "text": "in blue"}], folder=None)


async def test_a_prompt_is_read_once_whatever_its_seeds(prompts: PromptEncoder, model_folder: Path) -> None:
    model, cache = pinned(model_folder), prompts.cache
    hits, misses = cache.hits, cache.misses
    [first] = await prompts.encode(wanted(model, "a green ring", 1, 2, 3))
    [again] = await prompts.encode(wanted(model, "a green ring", 9))
    assert again is first
    assert (cache.hits - hits, cache.misses - misses) == (1, 1)
    [expected] = Encoder.load(model_folder).encode(["a green ring"], seeds=[1], settings=SETTINGS)
    torch.testing.assert_close(first.prompt_embeds_TE, expected.prompt_embeds_TE, atol=1e-4, rtol=1e-4)
    [other] = await prompts.encode(
        wanted(model, "a green ring", settings=SETTINGS.model_copy(update={"states": "both"}))
    )
    assert other is not first


async def test_pictures_are_known_by_their_bytes(prompts: PromptEncoder, model_folder: Path) -> None:
    model = pinned(model_folder)
    [first] = await prompts.encode(wanted(model, shown(hostile.picture())))
    assert (await prompts.encode(wanted(model, shown(hostile.picture()))))[0] is first
    assert (await prompts.encode(wanted(model, shown(hostile.picture() + b"\0"))))[0] is not first
    with pytest.raises(InputError, match="truncated"):
        await prompts.encode(wanted(model, shown(hostile.picture()[:200])))


async def test_a_drawn_answer_is_each_seeds_own(prompts: PromptEncoder, model_folder: Path) -> None:
    model = pinned(model_folder)
    found = await prompts.encode(wanted(model, "a", *range(6), settings=DRAWN))
    assert len(found) == 6
    assert len({each.answer for each in found}) > 1
    [again] = await prompts.encode(wanted(model, "a", 4, settings=DRAWN))
    assert again is found[4]


async def test_the_version_that_is_named_answers_and_the_least_used_goes(
    prompts: PromptEncoder, make_model: Callable[..., Path], mini_recipe: Recipe, model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(encoding, "MAX_ALIGNNETS", 2)
    base = pinned(model_folder)
    others = [pinned(make_model(override(mini_recipe, [f"alignnet.init_seed={seed}"]))) for seed in (7, 8)]
    made = await asyncio.gather(*(prompts.encode(wanted(model, "a cone")) for model in (base, *others)))
    pooled = [each[0].pooled_P for each in made]
    assert not torch.allclose(pooled[0], pooled[1])
    assert not torch.allclose(pooled[1], pooled[2])
    assert len(prompts._encoders) == 2
    prompts.cache = Cache(0)
    [again] = await prompts.encode(wanted(base, "a cone"))  # loaded anew
    torch.testing.assert_close(again.pooled_P, pooled[0])


def test_what_is_kept_is_bounded_in_bytes() -> None:
    def encoded() -> Encoded:
        return Encoded(torch.zeros(10, 10), torch.zeros(10))  # 440 bytes

    cache = Cache(1000)
    for key in "abc":
        cache.put(key, encoded())
        assert cache.get("a") if key == "a" else True
    assert cache.bytes == 880
    assert cache.get("a") is None
    assert cache.get("c") is not None
    cache.put("c", encoded())
    assert cache.bytes == 880, "a key is counted once"
