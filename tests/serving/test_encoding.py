"""Prompts become conditioning by the version that was asked for; what was read lately is not read again."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.media import hostile
from x2i_platform.config import GenerateConfig, Recipe
from x2i_platform.errors import InputError, WeightsError
from x2i_platform.generation.content import parse_prompt
from x2i_platform.generation.encoder import Encoded, Encoder
from x2i_platform.models.alignnet import AlignNet
from x2i_platform.models.model_folder import load_alignnet, read_recipe, save_alignnet
from x2i_platform.recipes import override
from x2i_platform.serving import encoding as module
from x2i_platform.serving import pinned
from x2i_platform.serving.encoding import Cache, PromptEncoder
from x2i_platform.serving.pinned import Pinned, pin_model
from x2i_platform.serving.travel import Wanted

PICTURE = hostile.picture()


@pytest.fixture(scope="module")
def versions(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Pinned]:
    """A model and eleven others with weights of their own, over the same MLLM."""
    found = [pin_model(str(model_folder), tracking_uri="")[0]]
    for number in range(1, 12):
        folder = tmp_path_factory.mktemp("version") / f"version{number}"
        shutil.copytree(model_folder, folder)
        save_alignnet(scaled(load_alignnet(model_folder), 1 + number / 10), folder)
        found.append(pin_model(str(folder), tracking_uri="")[0])
    assert len({each.digest for each in found}) == 12
    return found


def scaled(alignnet: AlignNet, factor: float) -> AlignNet:
    with torch.no_grad():
        for parameter in alignnet.parameters():
            parameter.mul_(factor)
    return alignnet


@pytest.fixture
def encoder(versions: list[Pinned]) -> PromptEncoder:
    return PromptEncoder(versions[0], tracking_uri="", device="cpu", max_batch=4)


@pytest.fixture(scope="module")
def settings(mini_recipe: Recipe) -> GenerateConfig:
    return mini_recipe.generate


@pytest.fixture
def read(encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts went through the MLLM, in each of its batches."""
    sizes: list[int] = []
    encode = Encoder.encode

    def counted(self: Encoder, prompts: Any, **others: Any) -> list[Encoded]:
        sizes.append(len(prompts))
        return encode(self, prompts, **others)

    monkeypatch.setattr(Encoder, "encode", counted)
    return sizes


def shown(content: bytes, *, kind: str = "png", words: str = "in blue") -> tuple[Any, ...]:
    """A prompt with a picture."""
    url = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return parse_prompt([{"type": "image", "image": url}, {"type": "text", "text": words}], folder=None)


def repainted() -> bytes:
    """The picture with another content."""
    with Image.open(io.BytesIO(PICTURE)) as image:
        other = image.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    file = io.BytesIO()
    other.save(file, "PNG")
    return file.getvalue()


def same(left: Encoded, right: Encoded) -> bool:
    return torch.allclose(left.prompt_embeds_TE, right.prompt_embeds_TE, atol=1e-5) and torch.allclose(
        left.pooled_P, right.pooled_P, atol=1e-5
    )


async def test_conditioning_is_the_encoders_own(
    encoder: PromptEncoder, versions: list[Pinned], model_folder: Path, settings: GenerateConfig
) -> None:
    prompts = ["a red circle", "two small green triangles", "a photo", "a red circle left of a blue square"]
    made = await asyncio.gather(*(encoder.encode(Wanted(versions[0], each, (1, 2), settings)) for each in prompts))
    expected = Encoder.load(model_folder).encode(prompts, seeds=[1] * 4, settings=settings)
    for [one], alone in zip(made, expected, strict=True):
        assert same(one, alone)
        assert one.prompt_embeds_TE.untyped_storage().nbytes() == one.prompt_embeds_TE.nbytes, "and nothing beside it"


async def test_what_was_read_lately_is_not_read_again(
    encoder: PromptEncoder, versions: list[Pinned], settings: GenerateConfig, read: list[int]
) -> None:
    first = Wanted(versions[0], "a red circle", (1,), settings)
    [made] = await encoder.encode(first)
    larger = settings.model_copy(update={"width": 96, "num_inference_steps": 9, "guidance": 1.0})
    assert (await encoder.encode(replace(first, seeds=(7, 8), settings=larger)))[0] is made
    assert (len(read), encoder.cache.hits, encoder.cache.misses) == (1, 1, 1)
    answering = settings.model_copy(update={"states": "both"})
    for other in (
        replace(first, content="a blue circle"),
        replace(first, settings=answering),
        replace(first, model=versions[1]),
    ):
        assert not same((await encoder.encode(other))[0], made)
    assert (len(read), encoder.cache.misses) == (5, 4), "a version that is loaded is run once before it is used"


async def test_a_medium_is_known_by_its_bytes(
    encoder: PromptEncoder, versions: list[Pinned], settings: GenerateConfig, read: list[int], tmp_path: Path
) -> None:
    async def encode(content: tuple[Any, ...]) -> Encoded:
        [made] = await encoder.encode(Wanted(versions[0], content, (1,), settings))
        return made

    made = await encode(shown(PICTURE))
    assert await encode(shown(PICTURE, kind="webp")) is made, "what the URL calls it is no matter"
    (tmp_path / "cat.png").write_bytes(PICTURE)
    words = [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "in blue"}]
    assert await encode(parse_prompt(words, folder=tmp_path)) is made
    assert len(read) == 1
    assert not same(await encode(shown(repainted())), made)
    assert not same(await encode(shown(PICTURE, words="in red")), made)
    (tmp_path / "cat.png").write_bytes(repainted())
    assert not same(await encode(parse_prompt(words, folder=tmp_path)), made)
    with pytest.raises(InputError, match="truncated"):
        await encode(shown(PICTURE[:200]))


async def test_a_drawn_answer_is_each_seeds_own(
    encoder: PromptEncoder, versions: list[Pinned], settings: GenerateConfig, read: list[int]
) -> None:
    drawn = settings.answer.model_copy(update={"temperature": 1.0})
    wanted = Wanted(
        versions[0], "a red circle", (1, 2, 3), settings.model_copy(update={"states": "answer", "answer": drawn})
    )
    made = await encoder.encode(wanted)
    assert len({each.answer for each in made}) > 1
    assert sum(read) == 3
    fourth = await encoder.encode(replace(wanted, seeds=(2, 4)))
    assert fourth[0] is made[1]
    assert sum(read) == 4
    greedy = wanted.settings.model_copy(update={"answer": settings.answer})
    assert len(await encoder.encode(replace(wanted, settings=greedy))) == 1


async def test_a_prompt_that_cannot_be_read_fails_alone(
    encoder: PromptEncoder, versions: list[Pinned], settings: GenerateConfig
) -> None:
    prompts = ["a red circle", "word " * 400, "a photo"]
    made = await asyncio.gather(
        *(encoder.encode(Wanted(versions[0], each, (1,), settings)) for each in prompts), return_exceptions=True
    )
    assert isinstance(made[1], InputError) and "at most 128 fit" in str(made[1])
    assert [isinstance(each, list) for each in made] == [True, False, True]


async def test_each_request_gets_the_version_that_it_names(
    encoder: PromptEncoder, versions: list[Pinned], settings: GenerateConfig, model_folder: Path
) -> None:
    """At once, and although one of them is not loaded yet: a replica that starts late learns of it so."""
    encoder.load(versions[1])
    wanted = [Wanted(versions[number % 3], f"a red circle {number}", (1,), settings) for number in range(12)]
    made = await asyncio.gather(*map(encoder.encode, wanted))
    for each, [one] in zip(wanted, made, strict=True):
        [expected] = Encoder.load(Path(each.model.source)).encode([str(each.content)], seeds=[1], settings=settings)
        assert same(one, expected)


async def test_prompts_are_read_by_the_old_version_while_a_new_one_loads(
    encoder: PromptEncoder, versions: list[Pinned], settings: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, began = threading.Event(), threading.Event()
    fetch = pinned.fetch

    def slow(*args: Any, **others: Any) -> Path:
        began.set()
        assert go.wait(30)
        return fetch(*args, **others)

    monkeypatch.setattr(module, "fetch", slow)
    loading = asyncio.create_task(asyncio.to_thread(encoder.load, versions[1]))
    try:
        assert await asyncio.to_thread(began.wait, 10)
        async with asyncio.timeout(10):
            assert await encoder.encode(Wanted(versions[0], "a red circle", (1,), settings))
        assert not loading.done()
    finally:
        go.set()
    loaded = await loading
    assert encoder.load(versions[1]) is loaded, "a second time it is there"


async def test_of_many_versions_those_used_last_stay(
    encoder: PromptEncoder, versions: list[Pinned], settings: GenerateConfig
) -> None:
    loaded = [encoder.load(each) for each in versions[: module.MAX_ALIGNNETS]]
    await encoder.encode(Wanted(versions[0], "a red circle", (1,), settings))
    for each in versions[module.MAX_ALIGNNETS :]:
        encoder.load(each)
    assert len(encoder._encoders) == module.MAX_ALIGNNETS
    assert encoder.load(versions[0]) is loaded[0], "it was used after the others were loaded"
    assert encoder.load(versions[1]) is not loaded[1]
    assert all(each.mllm is loaded[0].mllm for each in encoder._encoders.values()), "there is one MLLM"


def test_a_version_that_does_not_fit_is_not_loaded_and_harms_nobody(
    encoder: PromptEncoder, versions: list[Pinned], make_model: Callable[..., Path], mini_recipe: Recipe, tmp_path: Path
) -> None:
    wide, _ = pin_model(str(make_model(mini_recipe, num_layers=9)), tracking_uri="")
    with pytest.raises(WeightsError, match="AlignNet reads 9 layers"):
        encoder.load(wide)
    changing = tmp_path / "changing"
    shutil.copytree(versions[1].source, changing)
    pinned, _ = pin_model(str(changing), tracking_uri="")
    other = override(read_recipe(changing), ["generate.guidance=1"])
    (changing / "recipe.json").write_text(json.dumps(other.model_dump(mode="json")))
    with pytest.raises(WeightsError, match="the files of model 'changing' changed after it was deployed"):
        encoder.load(pinned)
    assert list(encoder._encoders) == [versions[0].digest]


def test_a_cache_keeps_what_was_used_last_within_its_bytes() -> None:
    cache = Cache(3 * 48)
    things = {name: Encoded(torch.zeros(2, 4), torch.zeros(4)) for name in "abcde"}  # 48 bytes each
    for name in "abc":
        cache.put(name, things[name])
    cache.put("b", things["e"])
    assert cache.get("a") is things["a"], "it is now used last"
    assert cache.get("b") is things["b"], "what is there is not replaced"
    cache.put("d", things["d"])
    assert [cache.get(name) is not None for name in "abcd"] == [True, True, False, True]
    assert (cache.bytes, cache.hits, cache.misses) == (3 * 48, 5, 1)
    cache.put("large", Encoded(torch.zeros(100, 4), torch.zeros(4)))
    assert cache.get("large") is None
    assert cache.bytes <= cache.max_bytes
