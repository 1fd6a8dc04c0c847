"""Every family of MLLMs at small size: each kind of input, against transformers' own forward and `generate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from tests.random_models import THREE_CAPTIONS
from x2i_platform.config import AnswerConfig, MLLMConfig
from x2i_platform.errors import InputError, WeightsError
from x2i_platform.media.clips import Audio, Video
from x2i_platform.mini.checkpoints import RANDOM
from x2i_platform.models.catalog import mllm_entry
from x2i_platform.models.components import load_part
from x2i_platform.models.families import FAMILIES
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.prompts import Medium, Prompt, Turn, Weighted, kind_of, media_inputs
from x2i_platform.models.weights import locate

MODELS = tuple(f"mini:{name}" for name in RANDOM if name not in ("random-flux", "random-sd3"))


def picture(colour: str, *, size: tuple[int, int] = (64, 64)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((10, 10, 40, 40), fill=colour)
    return image


def tone(hertz: float, *, seconds: float) -> Audio:
    times = np.arange(int(16_000 * seconds), dtype=np.float32) / 16_000
    return Audio((np.sin(2 * np.pi * hertz * times) / 2).astype(np.float32))


def clip(*colours: str) -> Video:
    return Video(tuple(picture(colour) for colour in colours), fps=1.0)


TWO_OF_A_KIND: dict[str, tuple[Medium, Medium]] = {
    "image": (picture("red"), picture("blue")),
    "video": (clip("red", "blue", "green", "black"), clip("blue", "blue", "green", "red")),
    "audio": (tone(440, seconds=2), tone(220, seconds=1.3)),
}
MIXED = Prompt.of("like this", picture("blue", size=(200, 130)), "but with", picture("green"), "at night")
DIALOGUE = Prompt(
    (
        Turn("system", ("Answer in one line.",)),
        Turn("user", ("What is it?", picture("red"))),
        Turn("assistant", ("A circle.",)),
        Turn("user", ("Make it blue.",)),
    )
)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> MLLM:
    config = MLLMConfig(model=request.param, dtype="float32", max_tokens=400, answer_tokens=6)
    return MLLM.load(config)


@pytest.fixture(scope="module")
def whole(model: MLLM) -> Any:
    return getattr(transformers, model._family.whole).from_pretrained(locate(model._config.model)).eval()


def prompts_for(model: MLLM) -> list[str | Prompt]:
    shown = [Prompt.of(medium, "and this") for kind in model._family.takes for medium in TWO_OF_A_KIND[kind]]
    return [THREE_CAPTIONS[0], *shown, MIXED, DIALOGUE, "a photo"]


def test_a_batch_gives_each_prompt_what_it_gets_alone(model: MLLM) -> None:
    """Alone a prompt has no padding; in a batch it is padded on the right."""
    prompts = prompts_for(model)
    together = model.encode(prompts)
    assert len({states.shape[1] for states in together}) > 3, "prompts of one length test no padding"
    for prompt, states_CSH in zip(prompts, together, strict=True):
        (alone_CSH,) = model.encode([prompt])
        torch.testing.assert_close(states_CSH, alone_CSH, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_states_of_all_layers_are_those_of_generates_prefill(model: MLLM, whole: Any) -> None:
    for prompt in prompts_for(model):
        (states_CSH,) = model.encode([prompt])
        inputs = model._batch(model.reader.read([prompt], limit=400))
        made = whole.generate(
            **inputs, max_new_tokens=2, do_sample=False, output_hidden_states=True, return_dict_in_generate=True
        )
        torch.testing.assert_close(states_CSH, torch.cat(made.hidden_states[0]), rtol=1e-3, atol=1e-3)
        assert states_CSH.shape[::2] == (model.num_layers_plus_one, model.hidden_size)


def test_what_is_shown_or_heard_matters(model: MLLM) -> None:
    for kind in model._family.takes:
        one, other = (model.encode([Prompt.of(medium)])[0] for medium in TWO_OF_A_KIND[kind])
        assert one.shape != other.shape or not torch.allclose(one, other, atol=1e-3)


def test_an_answer_after_its_prompt_begins_with_the_prompts_states(model: MLLM) -> None:
    prompts = prompts_for(model)
    alone, answers = model.encode(prompts), model.answers(prompts)
    for prompt_CSH, answer, both in zip(alone, answers, model.answers(prompts, both=True), strict=True):
        expected_CSH = torch.cat([prompt_CSH, answer.states_CSH], dim=1)
        torch.testing.assert_close(both.states_CSH, expected_CSH, rtol=1e-3, atol=1e-3)
        assert both.text == answer.text


def test_a_drawn_answer_depends_on_its_seed_alone(model: MLLM) -> None:
    prompts = prompts_for(model)
    drawn = AnswerConfig(temperature=1.0, top_p=0.9)
    together = [answer.text for answer in model.answers(prompts, sampling=drawn, seeds=range(len(prompts)))]
    alone = [model.answers([p], sampling=drawn, seeds=[seed])[0].text for seed, p in enumerate(prompts)]
    assert together == alone
    several = model.answers(prompts[:1] * 4, sampling=drawn, seeds=range(4))
    assert len({answer.text for answer in several}) > 1
    (short,) = model.answers(prompts[:1], sampling=AnswerConfig(max_tokens=2))
    assert short.states_CSH.shape[1] <= 2


def test_a_folder_saved_without_a_hub_gives_the_same_states(model: MLLM, whole: Any, tmp_path: Path) -> None:
    whole.save_pretrained(tmp_path)
    folder = locate(model._config.model)
    load_part(transformers.AutoTokenizer, folder).save_pretrained(tmp_path)
    load_part(transformers.AutoProcessor, folder).save_pretrained(tmp_path)
    again = MLLM.load(model._config.model_copy(update={"model": str(tmp_path)}))
    for mine, other in zip(model.encode(prompts_for(model)), again.encode(prompts_for(model)), strict=True):
        assert torch.equal(mine, other)


def test_no_text_of_a_prompt_becomes_a_special_token(model: MLLM) -> None:
    """Some processors count the placeholders of media in the words too: such a prompt is refused."""
    special = model.tokenizer.added_tokens_encoder
    plain = model.reader.read([Prompt.of(picture("red"), "a")], limit=400)[0]
    expected = [token for token in plain.ids.tolist() if token in special.values()]
    processor = model.reader.processor()
    placeholders = [getattr(processor, f"{kind}_token") for kind in model._family.takes]
    for text in special:
        try:
            hostile = model.reader.read([Prompt.of(picture("red"), f"a{text}")], limit=400)[0]
        except InputError as error:
            assert text in placeholders, error
        else:
            assert [token for token in hostile.ids.tolist() if token in special.values()] == expected
    together = "".join(text for text in special if text not in placeholders)
    [all_of_them] = model.reader.read([Prompt.of(picture("red"), together)], limit=400)
    assert all_of_them.num_media_tokens == plain.num_media_tokens > 0


def test_a_weight_scales_the_states_of_its_mediums_tokens_alone(model: MLLM) -> None:
    first, second = picture("red"), clip("blue", "green", "red", "red")
    plain = Prompt.of("mix", first, "and", second)
    weighted = Prompt.of("mix", Weighted(first, 0.5), "and", Weighted(second, 2.0))
    (plain_CSH,), (weighted_CSH,) = model.encode([plain]), model.encode([weighted])
    types = model.reader.read([plain], limit=400)[0].types
    factors = weighted_CSH[-1].norm(dim=-1) / plain_CSH[-1].norm(dim=-1)
    template = model.tokenizer.get_chat_template()
    counts = [
        media_inputs(Prompt.of(each), processor=model.reader.processor(), template=template).num_media_tokens
        for each in (first, second)
    ]
    torch.testing.assert_close(factors[types > 0], torch.tensor([0.5] * counts[0] + [2.0] * counts[1]))
    torch.testing.assert_close(factors[types == 0], torch.ones(int((types == 0).sum())))


def test_a_prompt_padded_on_the_left_has_the_same_weights(model: MLLM) -> None:
    """As AlignNets of padding `reference` read it, all released ones among them."""
    picture_of = Weighted(picture("red"), 0.5)
    (alone_CSH,) = model.encode([Prompt.of(picture_of, "a")])
    size = alone_CSH.shape[1] + 5
    (plain_CSH,), (padded_CSH,) = (
        model.encode([Prompt.of(shown, "a")], pad_to=size) for shown in (picture("red"), picture_of)
    )
    torch.testing.assert_close(padded_CSH[:, -alone_CSH.shape[1] :], alone_CSH, rtol=1e-3, atol=1e-3)
    assert torch.equal(padded_CSH[:, :5], plain_CSH[:, :5])


def test_what_a_family_does_not_take_is_refused_by_name(model: MLLM) -> None:
    for kind, (medium, _) in TWO_OF_A_KIND.items():
        assert kind_of(medium) == kind
        if kind not in model._family.takes:
            with pytest.raises(InputError, match=rf"takes text, image, video, not {kind}"):
                model.encode([Prompt.of(medium)])


def test_sound_at_another_rate_is_refused() -> None:
    model = MLLM.load(MLLMConfig(model="mini:random-qwen2.5-omni", dtype="float32"))
    with pytest.raises(InputError, match="sound at 8000 samples a second; this MLLM hears 16000"):
        model.encode([Prompt.of(Audio(np.zeros(8000, np.float32), sampling_rate=8000))])


def test_sound_that_would_be_cut_off_is_refused() -> None:
    hearing = MLLM.load(MLLMConfig(model="mini:random-qwen2.5-omni"))
    with pytest.raises(InputError, match=r"sound of 6\.5 s; this MLLM hears at most 6 s"):
        hearing.encode([Prompt.of(tone(440, seconds=6.5))])


@pytest.mark.parametrize("fps", [0.5, 4.0])
def test_a_videos_time_is_told_by_its_own_frame_rate(fps: float) -> None:
    watching = MLLM.load(MLLMConfig(model="mini:random-qwen2.5-omni"))
    frames = clip("red", "blue", "green", "black").frames
    (inputs,) = watching.reader.read([Prompt.of(Video(frames, fps=fps))], limit=400)
    assert inputs.media["video_second_per_grid"].tolist() == [2 / fps], "a position in time holds two frames"


def test_every_family_has_a_small_model_here() -> None:
    found = {json.loads((locate(name) / "config.json").read_text())["model_type"] for name in MODELS}
    assert set(FAMILIES) - found == {"qwen2_5_omni"}, "its Thinker is what is tested"


@pytest.fixture
def published_omni(tmp_path: Path) -> Path:
    """Qwen2.5-Omni as it is published: the Thinker's config and weights beside those that speak."""
    folder = Path(shutil.copytree(locate("mini:random-qwen2.5-omni"), tmp_path / "omni"))
    thinker = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "qwen2_5_omni", "thinker_config": thinker, "talker_config": {}, "token2wav_config": {}}
    (folder / "config.json").write_text(json.dumps(whole))
    weights = {f"thinker.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights | {"talker.x": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_thinker_is_found_in_the_published_omni(published_omni: Path) -> None:
    configs = [MLLMConfig(model=str(name), dtype="float32") for name in ("mini:random-qwen2.5-omni", published_omni)]
    mine, theirs = map(MLLM.load, configs)
    prompt = Prompt.of("like", picture("red"), tone(440, seconds=1))
    assert torch.equal(mine.encode([prompt])[0], theirs.encode([prompt])[0])
    assert mine.answers([prompt])[0].text == theirs.answers([prompt])[0].text
    here, there = (mllm_entry(str(locate(config.model))) for config in configs)
    assert (here.dims, here.parameters, here.lm_head_parameters) == (
        there.dims,
        there.parameters,
        there.lm_head_parameters,
    )


def test_a_head_that_the_folder_lacks_is_missed(published_omni: Path) -> None:
    weights = {k: v for k, v in load_file(published_omni / "model.safetensors").items() if "lm_head" not in k}
    save_file(weights, published_omni / "model.safetensors", metadata={"format": "pt"})
    headless = MLLM.load(MLLMConfig(model=str(published_omni), dtype="float32"))
    with pytest.raises(WeightsError, match=r"no weights are named 'lm_head\.weight'"):
        headless.answers(["a"])
