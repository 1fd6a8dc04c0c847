"""The whole model on small random weights: media, batches, padding, generation, saving."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from x2i_platform.mini.random.minicpm_o import LAYERS, WIDTH

Parts = list[dict[str, Any]]


def noise(width: int, height: int, *, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def picture(width: int, height: int, *, seed: int = 0) -> dict[str, Any]:
    return {"type": "image", "image": noise(width, height, seed=seed)}


def clip(frames: int) -> dict[str, Any]:
    return {"type": "video", "video": [noise(60, 40, seed=frame) for frame in range(frames)]}


def sound(seconds: float) -> dict[str, Any]:
    samples = np.random.default_rng(1).standard_normal(int(16_000 * seconds)).astype(np.float32)
    return {"type": "audio", "audio": samples}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


PROMPTS: dict[str, Parts] = {
    "text": [words("a red circle")],
    "image": [picture(50, 70), words("like this")],
    "slices": [picture(200, 90)],
    "video": [clip(3), words("what is it")],
    "audio": [sound(1.3)],
    "all": [words("mix"), picture(90, 60, seed=5), sound(2.71), clip(2), picture(60, 60, seed=6), sound(0.4)],
}


def inputs_of(processor: Any, parts: Parts) -> dict[str, Tensor]:
    made = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        tokenize=True,
        add_generation_prompt=True,
        sanitize_control_tokens=True,
        return_dict=True,
        return_tensors="pt",
    )
    return dict(made)


def batch_of(all_inputs: Sequence[dict[str, Tensor]], *, left: bool = False) -> dict[str, Tensor]:
    """As the platform batches: tokens padded, everything else concatenated along the first axis."""
    size = max(each["input_ids"].shape[1] for each in all_inputs)
    batch = {}
    for name in dict.fromkeys(name for each in all_inputs for name in each):
        some = [each[name] for each in all_inputs if name in each]
        if name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            missing = [size - row.shape[1] for row in some]
            pads = [(count, 0) if left else (0, count) for count in missing]
            some = [torch.nn.functional.pad(row, pad) for row, pad in zip(some, pads, strict=True)]
        batch[name] = torch.cat(some)
    return batch


def states_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """`(C, B, S, H)`."""
    with torch.no_grad():
        return torch.stack(model(**inputs, use_cache=False, output_hidden_states=True).hidden_states)


@pytest.mark.parametrize("kind", PROMPTS)
def test_every_kind_of_prompt_runs(body: Any, processor: Any, kind: str) -> None:
    inputs = inputs_of(processor, PROMPTS[kind])
    states = states_of(body, inputs)
    assert states.shape == (LAYERS + 1, 1, inputs["input_ids"].shape[1], WIDTH)
    assert torch.isfinite(states).all()


def test_layers_run_from_the_embedding_to_the_final_norm(body: Any, processor: Any) -> None:
    inputs = inputs_of(processor, PROMPTS["all"])
    states = states_of(body, inputs)
    text = inputs["mm_token_type_ids"] == 0
    with torch.no_grad():
        embedded = body.get_input_embeddings()(inputs["input_ids"])
        last = body(**inputs).last_hidden_state
        seen = body.image_tokens(inputs["pixel_values"], inputs["target_sizes"])
        heard = body.audio_tokens(inputs["audio_features"], inputs["audio_feature_lens"])
    assert torch.equal(states[0][text], embedded[text])
    assert torch.equal(states[0][inputs["mm_token_type_ids"] == 1], seen)
    assert torch.equal(states[0][inputs["mm_token_type_ids"] == 3], heard)
    assert not torch.isclose(states[0][~text], embedded[~text]).all(-1).any(), "a placeholder kept its embedding"
    assert torch.equal(states[-1], last)


def test_a_batch_gives_each_prompt_what_it_gets_alone(body: Any, processor: Any) -> None:
    alone = [inputs_of(processor, parts) for parts in PROMPTS.values()]
    together = states_of(body, batch_of(alone))
    for row, inputs in enumerate(alone):
        length = inputs["input_ids"].shape[1]
        torch.testing.assert_close(together[:, row, :length], states_of(body, inputs)[:, 0], rtol=1e-4, atol=1e-4)


def test_padding_on_the_right_changes_nothing(body: Any, processor: Any) -> None:
    inputs = inputs_of(processor, PROMPTS["all"])
    length = inputs["input_ids"].shape[1]
    longer = dict(inputs)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        longer[name] = torch.nn.functional.pad(inputs[name], (0, 17))
    torch.testing.assert_close(states_of(body, longer)[:, :, :length], states_of(body, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("image", [picture(50, 70, seed=9), words("like this")]),
        ("video", [clip(2), clip(1), words("what is it")]),
        ("audio", [{"type": "audio", "audio": -sound(1.3)["audio"][::-1].copy()}]),
    ],
)
def test_what_is_shown_matters(body: Any, processor: Any, kind: str, changed: Parts) -> None:
    states = states_of(body, inputs_of(processor, PROMPTS[kind]))[:, 0, -1]
    others = states_of(body, inputs_of(processor, changed))[:, 0, -1]
    assert (states[1:] - others[1:]).abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize("kind", PROMPTS)
def test_states_are_those_of_generates_prefill(body: Any, whole: Any, processor: Any, kind: str) -> None:
    inputs = inputs_of(processor, PROMPTS[kind])
    made = whole.generate(
        **inputs, max_new_tokens=3, do_sample=False, output_hidden_states=True, return_dict_in_generate=True
    )
    prefill = torch.stack(made.hidden_states[0])
    assert torch.equal(prefill, states_of(whole.model, inputs))
    torch.testing.assert_close(prefill, states_of(body, inputs), rtol=1e-4, atol=1e-4)


def test_media_are_seen_once_and_steps_continue_them(whole: Any, processor: Any) -> None:
    """Greedy answers with the cache are those that a forward over everything so far chooses."""
    inputs = inputs_of(processor, PROMPTS["all"])
    calls: list[int] = []
    hook = whole.model.vpm.register_forward_hook(lambda *_: calls.append(1))
    made = whole.generate(**inputs, max_new_tokens=5, do_sample=False)
    hook.remove()
    assert len(calls) == len(set(map(tuple, _grids(inputs))))
    length = inputs["input_ids"].shape[1]
    longer = dict(inputs, input_ids=made, attention_mask=torch.ones_like(made))
    longer["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, made.shape[1] - length))
    with torch.no_grad():
        chosen = whole(**longer).logits[0, length - 1 : -1].argmax(-1)
    assert chosen.tolist() == made[0, length:].tolist()


def _grids(inputs: dict[str, Tensor]) -> list[list[int]]:
    """The sizes of pictures and, marked, of frames: each runs once, being fewer than a batch of the tower."""
    return [*inputs["target_sizes"].tolist(), *([*size, -1] for size in inputs["target_sizes_videos"].tolist())]


def test_answers_of_a_batch_are_those_alone(whole: Any, processor: Any) -> None:
    alone = [inputs_of(processor, PROMPTS[kind]) for kind in ("text", "image", "audio", "all")]
    together = whole.generate(**batch_of(alone, left=True), max_new_tokens=5, do_sample=False, pad_token_id=0)
    for row, inputs in zip(together, alone, strict=True):
        made = whole.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0)[0]
        answer = made[inputs["input_ids"].shape[1] :]
        assert row[-5:][: len(answer)].tolist() == answer.tolist()


def test_half_precision_runs(minicpm_folder: Path, body: Any, processor: Any) -> None:
    half = transformers.AutoModel.from_pretrained(minicpm_folder, dtype=torch.bfloat16).eval()
    inputs = inputs_of(processor, PROMPTS["all"])
    states = states_of(half, inputs)
    assert states.dtype == torch.bfloat16
    exact = states_of(body, inputs)
    assert torch.nn.functional.cosine_similarity(states.float(), exact, dim=-1).min() > 0.98


def test_placeholders_and_media_must_agree(body: Any, processor: Any) -> None:
    inputs = inputs_of(processor, PROMPTS["image"])
    with pytest.raises(ValueError, match="media need mm_token_type_ids too"):
        body(**{name: value for name, value in inputs.items() if name != "mm_token_type_ids"})
    with pytest.raises(ValueError, match="media need target_sizes too"):
        body(**{name: value for name, value in inputs.items() if name != "target_sizes"})
    inputs["mm_token_type_ids"] = inputs["mm_token_type_ids"] * 3
    with pytest.raises(ValueError, match="media of 12 tokens, but 0 placeholders of their kind"):
        body(**inputs)


@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForMultimodalLM"])
def test_saved_and_read_again_it_gives_the_same(
    minicpm_folder: Path, processor: Any, tmp_path: Path, kind: str
) -> None:
    model = getattr(transformers, kind).from_pretrained(minicpm_folder).eval()
    model.save_pretrained(tmp_path)
    inputs = inputs_of(processor, PROMPTS["all"])
    again, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    body = model if kind == "AutoModel" else model.model
    torch.testing.assert_close(states_of(again.eval(), inputs), states_of(body, inputs), rtol=1e-4, atol=1e-4)
    for name, weight in body.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])


@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForMultimodalLM"])
def test_no_weight_is_missing_and_none_unused_but_those_of_speech(minicpm_folder: Path, kind: str) -> None:
    model, report = getattr(transformers, kind).from_pretrained(minicpm_folder, output_loading_info=True)
    assert not any(report.values())
    files = load_file(minicpm_folder / "model-00001-of-00002.safetensors")
    files |= load_file(minicpm_folder / "model-00002-of-00002.safetensors")
    assert any(name.startswith("tts.") for name in files)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, files[name.removeprefix("model.")])


def test_an_unknown_weight_and_a_missing_one_are_reported(minicpm_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(minicpm_folder, tmp_path / "changed"))
    weights = load_file(folder / "model-00001-of-00002.safetensors")
    weights |= load_file(folder / "model-00002-of-00002.safetensors")
    for path in folder.glob("model*"):
        path.unlink()
    weights["vpm.other.weight"] = weights.pop("resampler.query")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert (report["missing_keys"], report["unexpected_keys"]) == ({"resampler.query"}, {"vpm.other.weight"})
