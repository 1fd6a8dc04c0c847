"""Trains the audio tower of the miniature Qwen2.5-Omni for its frozen language model, on spoken English captions.

First the tower alone learns which word is being spoken at each moment: its output must be near the language model's
embedding of that word. Then it learns through the frozen language model, which answers a spoken caption with the
scene's description; the hidden states of the answer must be those for the written caption.

Shape suffixes: B batch, M mel bands, F frames of 20 ms, T audio tokens of 80 ms, S tokens, V vocabulary, H width.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, WhisperFeatureExtractor

from x2i_platform.mini.languages import caption, describe
from x2i_platform.mini.scenes import canonical
from x2i_platform.mini.speech import RATE, TIMBRES, Spoken, Voice, draw_voice, speak, version_of_speech
from x2i_platform.mini.training.corpus import training_scenes
from x2i_platform.mini.training.language import (
    Dialogues,
    collate,
    cross_entropies,
    dialogues,
    hidden_token,
    hide,
    run,
)
from x2i_platform.mini.training.omni import HOP, LONGEST_S, MELS, SEED
from x2i_platform.mini.training.trainer import Schedule, train
from x2i_platform.mini.training.vision import distance_from
from x2i_platform.mini.vocabularies import SOUND_TOKENS

EAR_SCHEDULE = Schedule(steps=900, batch=48, lr=2e-3, warmup=50, ema=0.99)
SCHEDULE = Schedule(steps=1600, batch=48, lr=1.5e-3, warmup=100, ema=0.998)
STATES_WEIGHT = 1.0
SHARPNESS = 10.0
"""Factor of the squared distances to the embeddings. Those of two words are about 1.5 apart."""
FEATURES = {"feature_size": MELS, "hop_length": HOP, "chunk_length": LONGEST_S, "return_attention_mask": True}
"""Settings of the feature extractor that ships with the model."""
TOKEN_S = 4 * HOP / RATE
"""Seconds of an audio token: a convolution halves the frames, then pairs of them are averaged."""
SILENCE_S = 0.2
"""Upper bound of the silence before and after the speech."""
LOUDNESS = (0.1, 1.0)
NOISE_DB = (15.0, 45.0)
"""How far white noise lies below the speech."""
TILTS = (-0.4, 0.8)
"""How much of each sample is taken from the next: below 0 the sound gets dull, above 0 thin, as by a bad microphone."""


@dataclass(frozen=True)
class Sounds:
    """Sounds as the model takes them."""

    features_BMF: Tensor
    mask_BF: Tensor
    """1 at frames of sound."""

    @property
    def num_tokens(self) -> list[int]:
        """Audio tokens of each sound."""
        return [((frames - 1) // 2 - 1) // 2 + 1 for frames in self.mask_BF.sum(1).tolist()]


@dataclass(frozen=True)
class Recording:
    """A spoken caption as it was recorded."""

    samples: NDArray[np.float32]
    spoken: Spoken
    voice: Voice
    lead_s: float
    """Seconds of silence before the speech."""


def pretrain_ear(model: Any, tokenizer: Qwen2Tokenizer, *, folder: Path, schedule: Schedule = EAR_SCHEDULE) -> None:
    """Train the audio tower alone to follow the words of a caption."""
    model.requires_grad_(False)
    model.model.audio_tower.requires_grad_(True)

    def loss(step: int) -> Mapping[str, Tensor]:
        return _ear_loss(model, tokenizer, count=schedule.batch, step=step)

    train(model, loss, schedule=schedule, folder=folder, title="ear", inputs=version_of_speech())
    model.requires_grad_(False)


def build(model: Any, tokenizer: Qwen2Tokenizer, *, folder: Path, schedule: Schedule = SCHEDULE) -> None:
    """Train the audio tower through the frozen language model."""
    model.requires_grad_(False)
    model.model.audio_tower.requires_grad_(True)

    def loss(step: int) -> Mapping[str, Tensor]:
        return _loss(model, tokenizer, count=schedule.batch, step=step)

    train(model, loss, schedule=schedule, folder=folder, title="audio", inputs=version_of_speech())
    model.requires_grad_(False)


def _ear_loss(model: Any, tokenizer: Qwen2Tokenizer, *, count: int, step: int) -> Mapping[str, Tensor]:
    seed = 1_000_003 * SEED + step
    captions = [caption(scene, seed=step) for scene in islice(training_scenes(seed=seed), count)]
    recordings = record(captions, seed=seed)
    sounds = heard(recordings)
    goals_T = torch.cat(
        [
            word_labels(tokenizer, text, recording=recording, tokens=tokens)
            for text, recording, tokens in zip(captions, recordings, sounds.num_tokens, strict=True)
        ]
    )
    outputs_TH = model.model.get_audio_features(
        sounds.features_BMF, feature_attention_mask=sounds.mask_BF
    ).last_hidden_state
    embeddings_VH = model.get_input_embeddings().weight
    # The gradient of torch.cdist differs from run to run in its last bits; that of products doesn't.
    squares = outputs_TH.square().sum(1, keepdim=True) + embeddings_VH.square().sum(1)
    distances_TV = squares - 2 * outputs_TH @ embeddings_VH.mT
    near = distances_TV.gather(1, goals_T[:, None]).mean()
    words = nn.functional.cross_entropy(-SHARPNESS * distances_TV, goals_T)
    exact = (distances_TV.argmin(1) == goals_T).float().mean()
    return {"loss": words + SHARPNESS * near, "words": words, "near": near, "exact": exact}


def _loss(model: Any, tokenizer: Qwen2Tokenizer, *, count: int, step: int) -> Mapping[str, Tensor]:
    seed = 2_000_003 * SEED + step
    scenes = list(islice(training_scenes(seed=seed), count))
    answers = [describe(canonical(scene)) for scene in scenes]
    captions = [caption(scene, seed=step) for scene in scenes]
    sounds, token = heard(record(captions, seed=seed)), hidden_token(tokenizer)
    told = hide(audio_dialogues(tokenizer, sounds, answers=answers), rows=count, seed=step, token=token)
    states, logits_BSV = run_with_audio(model, told, sounds=sounds)
    text = hide(dialogues(tokenizer, captions, answers=answers), rows=count, seed=step, token=token)
    with torch.no_grad():
        goals, _ = run(model, text)
    distance = distance_from([layer_BSH[text.answer_BS] for layer_BSH in goals], states, told)
    figures = cross_entropies(logits_BSV, told)
    return {"loss": figures["answer"] + STATES_WEIGHT * distance, **figures, "apart": distance}


def record(captions: Sequence[str], *, seed: int, timbres: Sequence[str] = TIMBRES) -> list[Recording]:
    """Speak captions in random voices, louder or softer, with some silence around them and some noise."""
    draw = random.Random(f"voices {seed}")
    noise = np.random.default_rng(seed)
    voices = [draw_voice(draw, timbres=timbres) for _ in captions]
    spoken = speak(list(zip(captions, voices, strict=True)))
    return [_recorded(one, voice=voice, draw=draw, noise=noise) for one, voice in zip(spoken, voices, strict=True)]


def _recorded(spoken: Spoken, *, voice: Voice, draw: random.Random, noise: np.random.Generator) -> Recording:
    before, after = (round(draw.uniform(0, SILENCE_S) * RATE) for _ in range(2))
    speech = np.pad(spoken.samples, (before, after))
    rms = float(np.sqrt(np.mean(np.square(speech))))
    level = rms * 10 ** (-draw.uniform(*NOISE_DB) / 20)
    noisy = speech + level * noise.standard_normal(len(speech), np.float32)
    noisy[1:] -= draw.uniform(*TILTS) * noisy[:-1]
    peak = float(np.abs(noisy).max())
    samples = (draw.uniform(*LOUDNESS) / peak * noisy).astype(np.float32)
    return Recording(samples, spoken, voice, before / RATE)


def heard(recordings: Sequence[Recording]) -> Sounds:
    """Compute log-mel spectrograms as the shipped extractor does; only the padding is shorter."""
    extractor = WhisperFeatureExtractor(**FEATURES)
    longest = max(len(one.samples) for one in recordings)
    # A window reaches 200 samples beyond its middle: after the longest sound it must see silence, not a reflection.
    made = extractor(
        [one.samples for one in recordings],
        sampling_rate=RATE,
        max_length=longest + extractor.n_fft,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return Sounds(made["input_features"], made["attention_mask"])


def word_labels(tokenizer: Any, text: str, *, recording: Recording, tokens: int) -> Tensor:
    """Return for each audio token `(T,)` the language model's token that is being spoken at its middle.

    eSpeak NG reports when a word begins, for some short ones like "of a" together; its tokens share the time equally.
    In silence it is the token that stands for a hidden word.
    """
    pieces = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    # A piece holds the space before its word.
    places = [end - len(text[start:end].strip()) for start, end in pieces.offset_mapping]
    starts = recording.spoken.starts
    times: list[tuple[float, int]] = []
    for (begin, start_s), (end, end_s) in pairwise(starts):
        said = [token for token, place in zip(pieces.input_ids, places, strict=True) if begin <= place < end]
        shares = np.linspace(start_s, end_s, len(said), endpoint=False)
        times += [(recording.lead_s + float(share), token) for share, token in zip(shares, said, strict=True)]
    silence = hidden_token(tokenizer)
    times = [(-1.0, silence), *times, (recording.lead_s + starts[-1][1], silence)]
    middles = (np.arange(tokens) + 0.5) * TOKEN_S
    spoken = np.searchsorted([time for time, _ in times], middles, side="right") - 1
    return torch.tensor([times[place][1] for place in spoken])


def audio_dialogues(tokenizer: Any, sounds: Sounds, *, answers: Sequence[str]) -> Dialogues:
    """Tokenize chats whose prompt is one sound."""
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio"}]}], tokenize=False, add_generation_prompt=True
    )
    before, after = (
        tokenizer(part, add_special_tokens=False).input_ids for part in head.split(SOUND_TOKENS["audio_token"])
    )
    heads = [[*before, *[tokenizer.audio_token_id] * tokens, *after] for tokens in sounds.num_tokens]
    tails = [[*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for answer in answers]
    return collate(heads, tails, filler=tokenizer.pad_token_id)


def run_with_audio(model: Any, batch: Dialogues, *, sounds: Sounds) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run the model on prompts with one sound each. Returns the hidden states of all layers and the logits."""
    output = model.model(
        input_ids=batch.shown_BS,
        attention_mask=batch.mask_BS,
        input_features=sounds.features_BMF,
        feature_attention_mask=sounds.mask_BF,
        use_cache=False,
        output_hidden_states=True,
    )
    return output.hidden_states, model.lm_head(output.last_hidden_state)
