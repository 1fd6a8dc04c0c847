"""Chats with the miniature's language model: what is scored, what is hidden, and that it runs as the true one does."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from transformers import Qwen2Tokenizer

from x2i_platform.mini.languages import describe
from x2i_platform.mini.scenes import canonical
from x2i_platform.mini.training import language, vision
from x2i_platform.mini.training.corpus import training_scenes


def test_hiding_leaves_what_is_to_be_said_and_what_was_asked(words: Qwen2Tokenizer) -> None:
    batch = language.dialogues(words, ["a red circle"] * 40, answers=["a large red circle above a small cross"] * 40)
    token = language.hidden_token(words)
    hidden = language.hide(batch, rows=40, seed=3, token=token)
    for name in ("ids_BS", "mask_BS", "answer_BS"):
        assert torch.equal(getattr(hidden, name), getattr(batch, name))
    assert token not in batch.ids_BS
    covered = hidden.shown_BS == token
    assert torch.equal(hidden.shown_BS[~covered], batch.ids_BS[~covered])
    assert not (covered & ~batch.answer_BS).any()
    assert not covered[::2].any(), "every other dialogue is whole"
    assert covered[1::2][batch.answer_BS[1::2]].float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not torch.equal(language.hide(batch, rows=40, seed=4, token=token).shown_BS, hidden.shown_BS)


def test_the_same_words_are_hidden_whatever_the_prompt_is(words: Qwen2Tokenizer) -> None:
    """States are compared answer by answer, which must be of the same words."""
    scenes = list(islice(training_scenes(seed=6), 12))
    answers = [describe(canonical(scene)) for scene in scenes]
    token = language.hidden_token(words)
    batches = [
        language.dialogues(words, ["a red circle"] * 24, answers=answers * 2),
        language.dialogues(words, ["zwei kleine blaue Sterne"] * 12, answers=answers),
        vision.vision_dialogues(words, answers=answers),
        vision.vision_dialogues(words, answers=answers, kind="video", pairs=2),
    ]
    said = [words([answer], add_special_tokens=False).input_ids[0] for answer in answers]
    shown = []
    for batch in batches:
        hidden = language.hide(batch, rows=12, seed=3, token=token)
        half = [hidden.shown_BS[row][hidden.answer_BS[row]].tolist() for row in range(len(hidden.ids_BS))]
        shown += [half[i : i + 12] for i in range(0, len(half), 12)]
    assert all(each == shown[0] for each in shown)
    assert shown[0] != [[*each, words.eos_token_id] for each in said]
    assert shown[0][::2] == [[*each, words.eos_token_id] for each in said[::2]]


def test_the_longest_answer_fits(words: Qwen2Tokenizer) -> None:
    answers = {describe(canonical(scene)) for scene in islice(training_scenes(seed=6, sized=True), 2000)}
    assert max(map(len, words(sorted(answers)).input_ids)) < language.LONGEST_ANSWER


def test_what_is_hidden_is_not_seen(mllm: Any, words: Qwen2Tokenizer) -> None:
    batch = language.dialogues(words, ["a red circle"] * 2, answers=["a red circle", "a blue circle"])
    blind = replace(batch, shown_BS=batch.ids_BS.masked_fill(batch.answer_BS, 7))
    with torch.no_grad():
        (_, seen), (_, unseen) = language.run(mllm, batch), language.run(mllm, blind)
    assert not torch.equal(seen[0], seen[1])
    torch.testing.assert_close(unseen[0], unseen[1])


def test_states_of_the_english_half_are_a_goal_without_a_gradient() -> None:
    batch = language.collate([[1, 2], [3]] * 2, [[4, 5], [6, 7, 8]] * 2, filler=0)
    states = tuple(torch.randn(4, 4, 8, requires_grad=True) for _ in range(3))
    language.states_distance(states, batch).backward()
    assert states[0].grad is None, "the embeddings are of words, which differ"
    for layer in states[1:]:
        assert layer.grad is not None
        assert not layer.grad[:2].any()
        assert torch.equal(layer.grad[2:].any(-1), batch.answer_BS[2:])
    same = tuple(layer[:2].repeat(2, 1, 1) for layer in states)
    assert language.states_distance(same, batch) == 0


def test_answers_alone_are_scored() -> None:
    batch = language.collate([[1, 2], [3]], [[4, 5], [6, 5]], filler=0)
    assert batch.ids_BS.tolist() == [[1, 2, 4, 5], [3, 6, 5, 0]]
    assert batch.shown_BS.tolist() == batch.ids_BS.tolist()
    assert batch.mask_BS.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch.answer_BS.tolist() == [[False, False, True, True], [False, True, True, False]]
    logits = torch.zeros(2, 4, 8)
    for row, place, token in ((0, 1, 4), (0, 2, 5), (1, 0, 6), (1, 1, 7)):  # the second answer ends wrongly
        logits[row, place, token] = 100
    figures = language.cross_entropies(logits, batch)
    assert figures["answer"].item() == pytest.approx(100 / 4)
    assert figures["exact"].item() == 0.5


def test_captions_run_as_the_whole_model_runs_them(mllm: Any, words: Qwen2Tokenizer) -> None:
    batch = language.dialogues(words, ["a red circle", "ein kleines blaues Quadrat"], answers=["a", "a blue square"])
    with torch.no_grad():
        states, logits = language.run(mllm, batch)
        whole = mllm(input_ids=batch.ids_BS, attention_mask=batch.mask_BS, output_hidden_states=True)
    told = batch.mask_BS.bool()
    torch.testing.assert_close(logits[told], whole.logits[told], rtol=1e-4, atol=1e-5)
    for one, other in zip(states, whole.hidden_states, strict=True):
        torch.testing.assert_close(one[told], other[told], rtol=1e-4, atol=1e-5)
