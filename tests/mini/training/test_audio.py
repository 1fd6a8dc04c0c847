"""What the miniature's audio tower is told, and that a chat with a sound runs as the true model does."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5OmniProcessor, Qwen2Tokenizer

from x2i_platform.errors import TrainingError
from x2i_platform.mini.speech import RATE, version_of_speech
from x2i_platform.mini.training import audio, pack
from x2i_platform.mini.training.language import hidden_token
from x2i_platform.mini.training.trainer import CHECKPOINT, Schedule, train
from x2i_platform.models.components import load_part

pytest.importorskip("espeakng_loader", reason="the extra `speech` isn't installed")

Thinker = tuple[Any, Qwen2Tokenizer]
CAPTIONS = [
    "two hearts",
    "a picture of a large red circle to the left of a medium-sized blue square",
    "there is a green cross and a black star",
]
ANSWERS = ["two hearts", "a large red circle left of a medium blue square", "a black star and a green cross"]
TINY = Schedule(steps=4, batch=2, lr=1e-3, warmup=1, save_every=2)


@pytest.fixture
def processor(thinker: Thinker, tmp_path: Path) -> Qwen2_5OmniProcessor:
    """As it ships."""
    model, words = thinker
    pack.write_omni(tmp_path, model=model, tokenizer=words)
    model.float()
    return Qwen2_5OmniProcessor.from_pretrained(tmp_path / pack.OMNI)


def test_chats_with_sound_run_as_the_whole_model_runs_them(thinker: Thinker, processor: Any) -> None:
    model, words = thinker
    recordings = audio.record(CAPTIONS, seed=1)
    sounds = audio.heard(recordings)
    batch = audio.audio_dialogues(words, sounds, answers=ANSWERS)
    head = words.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio"}]}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(
        text=[head + answer + words.eos_token for answer in ANSWERS],
        audio=[one.samples for one in recordings],
        return_tensors="pt",
        text_kwargs={"padding": True, "padding_side": "right"},
    )
    assert torch.equal(inputs["input_ids"], batch.ids_BS)
    frames = sounds.mask_BF.shape[1]
    assert torch.equal(inputs["feature_attention_mask"][:, :frames], sounds.mask_BF)
    heard = sounds.mask_BF.bool()
    ours, theirs = (each.transpose(1, 2) for each in (sounds.features_BMF, inputs["input_features"]))
    torch.testing.assert_close(ours[heard], theirs[:, :frames][heard], rtol=0, atol=1e-5)
    with torch.no_grad():
        states, logits = audio.run_with_audio(model, batch, sounds=sounds)
        whole = model(**inputs, output_hidden_states=True)
    told = batch.mask_BS.bool()
    torch.testing.assert_close(logits[told], whole.logits[told], rtol=1e-4, atol=1e-4)
    for one, other in zip(states, whole.hidden_states, strict=True):
        torch.testing.assert_close(one[told], other[told], rtol=1e-4, atol=1e-4)


def test_a_recording_is_speech_with_silence_around_it_and_noise_beneath() -> None:
    for one in audio.record(CAPTIONS * 10, seed=3):
        assert one.samples.dtype == np.float32 and 0.09 < np.abs(one.samples).max() <= 1.0
        lead = round(one.lead_s * RATE)
        speech = one.samples[lead : lead + len(one.spoken.samples)]
        around = np.concatenate([one.samples[:lead], one.samples[lead + len(one.spoken.samples) :]])
        assert 0 < np.square(around).mean() < 0.1 * np.square(speech).mean()


def test_labels_follow_the_words(thinker: Thinker) -> None:
    _, words = thinker
    (recording,) = audio.record(CAPTIONS[1:2], seed=1)
    (tokens,) = audio.heard([recording]).num_tokens
    labels = audio.word_labels(words, CAPTIONS[1], recording=recording, tokens=tokens)
    assert len(labels) == tokens
    said = [words.decode([token]).strip() for token, _ in groupby(labels.tolist()) if token != hidden_token(words)]
    captions_words = words.convert_ids_to_tokens(words(CAPTIONS[1], add_special_tokens=False).input_ids)
    rest = iter(piece.strip("Ġ") for piece in captions_words)
    assert all(piece in rest for piece in said), "in the caption's order; a short word may fall between two tokens"
    assert set(said) >= {"picture", "large", "red", "circle", "left", "medium", "-sized", "blue", "square"}
    _, circle_s = next(start for start in recording.spoken.starts if start[0] == CAPTIONS[1].index("circle"))
    place = labels.tolist().index(words.convert_tokens_to_ids("Ġcircle"))
    assert place * audio.TOKEN_S == pytest.approx(recording.lead_s + circle_s, abs=audio.TOKEN_S)


@pytest.mark.parametrize("loss", [audio._ear_loss, audio._loss])
def test_a_step_is_a_function_of_its_number_and_teaches_the_ear_alone(loss: Any, thinker: Thinker) -> None:
    model, words = thinker
    model.model.audio_tower.requires_grad_(True)
    first, again, other = (loss(model, words, count=3, step=step)["loss"] for step in (3, 3, 4))
    assert first == again != other
    first.backward()
    ear = model.model.audio_tower
    silent = {name for name, parameter in ear.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    # A bias of keys moves no attention; the two embeddings are of another part of the released model.
    assert all(name.endswith("k_proj.bias") or name == "audio_bos_eos_token.weight" for name in silent)
    others = {parameter.grad for name, parameter in model.named_parameters() if "audio_tower" not in name}
    assert others == {None}


def test_a_killed_training_continues_bit_for_bit(thinker: Thinker, tmp_path: Path) -> None:
    model, words = thinker
    untrained = {name: weight.clone() for name, weight in model.state_dict().items()}

    def trained(folder: Path) -> dict[str, torch.Tensor]:
        model.load_state_dict(untrained)
        audio.pretrain_ear(model, words, folder=folder / "ear", schedule=TINY)
        audio.build(model, words, folder=folder / "audio", schedule=TINY)
        return {name: weight.clone() for name, weight in model.state_dict().items()}

    whole = trained(tmp_path / "whole")
    kill_in_step_3(model, tmp_path / "killed", words=words, untrained=untrained)
    again = trained(tmp_path / "killed")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    changed = {name for name in whole if not torch.equal(whole[name], untrained[name])}
    assert changed and all("audio_tower" in name for name in changed)


def kill_in_step_3(model: Any, folder: Path, *, words: Qwen2Tokenizer, untrained: Any) -> None:
    """Leave the ear's checkpoint of two steps."""

    class Killed(Exception):  # noqa: N818 - no error
        pass

    def count(step: int) -> Any:
        if step == 3:
            raise Killed
        return audio._ear_loss(model, words, count=TINY.batch, step=step)

    model.load_state_dict(untrained)
    model.model.audio_tower.requires_grad_(True)
    with pytest.raises(Killed):
        train(model, count, schedule=TINY, folder=folder / "ear", title="", inputs=version_of_speech())
    assert torch.load(folder / "ear" / CHECKPOINT, weights_only=True)["step"] == 2
    model.requires_grad_(False)


def test_sounds_of_another_synthesiser_are_refused(
    thinker: Thinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, words = thinker
    untrained = {name: weight.clone() for name, weight in model.state_dict().items()}
    audio.pretrain_ear(model, words, folder=tmp_path, schedule=TINY)
    model.load_state_dict(untrained)
    monkeypatch.setattr(audio, "version_of_speech", lambda: "another")
    with pytest.raises(TrainingError, match="other data"):
        audio.pretrain_ear(model, words, folder=tmp_path, schedule=TINY)


def test_the_shipped_processor_loads_by_its_folder_alone(thinker: Thinker, tmp_path: Path) -> None:
    import transformers

    model, words = thinker
    pack.write_omni(tmp_path, model=model, tokenizer=words)
    processor = load_part(transformers.AutoProcessor, tmp_path / pack.OMNI)
    (recording,) = audio.record(CAPTIONS[:1], seed=2)
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio", "audio": recording.samples}]}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert int((inputs["input_ids"] == words.audio_token_id).sum()) == audio.heard([recording]).num_tokens[0]
