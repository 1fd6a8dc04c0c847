"""Trains tokenizers of the three kinds that FLUX.1 and Qwen2.5-VL use, on the captions of a miniature.

Invariants: the same captions give the same vocabulary, bit for bit, in every process. CLIP's and Qwen's cover every
byte, so no text is lost. T5's covers printable ASCII and the captions, because its Unigram model has no byte fallback.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, Qwen2Tokenizer, T5Tokenizer

T5_TOKENS = 512
T5_PIECES = 400
CLIP_TOKENS = 77
CLIP_PIECES = 1024
QWEN_TOKENS = 32768
QWEN_PIECES = 2048

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
VISION_TOKENS = {
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "vision_pad_token": "<|vision_pad|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
SOUND_TOKENS = {"audio_bos_token": "<|audio_bos|>", "audio_token": "<|AUDIO|>", "audio_eos_token": "<|audio_eos|>"}
"""What Qwen2.5-Omni has besides, in the order of their ids."""
OMNI_NAMES = {"vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"}
"""What its processor calls two of the vision tokens."""

Merges = list[tuple[str, str]]


def t5_tokenizer(captions: Sequence[str]) -> T5Tokenizer:
    """Build a Unigram model with the pieces of byte-pair merging, scored by their frequency in the captions.

    `tokenizers.trainers.UnigramTrainer` isn't used because it adds floats in hash order: each process got other scores.
    """
    counter = Tokenizer(models.BPE())
    counter.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True), pre_tokenizers.Punctuation()]
    )
    printable = [chr(code) for code in range(33, 127)]
    _train(counter, captions, pieces=T5_PIECES, alphabet=printable)
    counts = Counter(token for caption in captions for token in counter.encode(caption).tokens)
    pieces = sorted(counter.get_vocab(), key=lambda piece: (-counts[piece], piece))
    total = counts.total() + len(pieces)
    control = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab = control + [(piece, math.log((counts[piece] + 1) / total)) for piece in pieces]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=T5_TOKENS)


def clip_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """Build lower-case byte-level BPE with `</w>` after words. Begin and end of text have the two highest ids."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend = CLIPTokenizer().backend_tokenizer
    learner.normalizer, learner.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trained = _train(learner, captions, pieces=CLIP_PIECES, alphabet=_bytes(), end_of_word_suffix="</w>")
    single = [*_bytes(), *(byte + "</w>" for byte in _bytes())]
    vocab = _vocab([*single, *map("".join, trained), "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(vocab=vocab, merges=trained, model_max_length=CLIP_TOKENS)


def qwen_tokenizer(
    texts: Sequence[str], *, chat_template: str, tokens: Mapping[str, str] | None = None
) -> Qwen2Tokenizer:
    """Build byte-level BPE with the chat's and the media's tokens as named special tokens after the learnt pieces.

    `tokens` are the media's by name; Qwen2.5-VL's without.
    """
    learner = Tokenizer(models.BPE())
    backend = Qwen2Tokenizer().backend_tokenizer
    learner.normalizer, learner.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trained = _train(learner, texts, pieces=QWEN_PIECES, alphabet=_bytes())
    tokenizer = Qwen2Tokenizer(
        vocab=_vocab([*_bytes(), *map("".join, trained), "<|endoftext|>"]),
        merges=trained,
        eos_token="<|im_end|>",
        extra_special_tokens={"chat_start_token": CHAT_TOKENS[0], **(tokens or VISION_TOKENS)},
        model_max_length=QWEN_TOKENS,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def _train(
    learner: Tokenizer, texts: Iterable[str], *, pieces: int, alphabet: list[str], end_of_word_suffix: str = ""
) -> Merges:
    """Learn byte-pair merges in place and return them. It is deterministic: piece ids break ties between pairs."""
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        min_frequency=2,
        initial_alphabet=alphabet,
        # Listing them here fixes their ids. The trainer would otherwise number them in the order of a random hash.
        special_tokens=[piece + end_of_word_suffix for piece in alphabet] if end_of_word_suffix else [],
        end_of_word_suffix=end_of_word_suffix,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def _bytes() -> list[str]:
    """Return the 256 characters that represent bytes in byte-level BPE."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _vocab(pieces: Iterable[str]) -> dict[str, int]:
    """Number the pieces in order of first appearance. Two merges may make the same piece."""
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
