from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from x2i_platform.mini.random.weights import fill
from x2i_platform.models.minicpm_o.audio import AudioProjection, AudioTower, chunk_mask, num_tokens


@pytest.mark.parametrize(
    ("mel_frames", "tokens"),
    # frames after the convolution of stride 2 are halves, rounded up; then pairs, a rest dropped
    [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 1), (7, 2), (100, 25), (101, 25), (103, 26), (2999, 750), (3000, 750)],
)
def test_numbers_of_tokens(mel_frames: int, tokens: int) -> None:
    assert num_tokens(mel_frames, pool=2) == tokens


def test_the_mask_lets_a_chunk_see_itself_and_what_was_before() -> None:
    seen = chunk_mask(5, chunk=2) == 0
    assert seen.long().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


@torch.no_grad()
def test_without_chunks_and_at_30_seconds_it_is_whispers_encoder(body: Any) -> None:
    config = body.config.audio_config
    tower, whisper = AudioTower._from_config(config, chunk_s=-1.0).eval(), WhisperEncoder._from_config(config).eval()
    fill(tower, seed=3)
    whisper.load_state_dict(tower.state_dict())
    mels_NMB = torch.randn(1, 3000, config.num_mel_bins, generator=torch.Generator().manual_seed(0))
    expected = whisper(mels_NMB.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(tower(mels_NMB), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_second_depends_on_no_later_one(body: Any) -> None:
    """Two convolutions see 30 ms past a frame; apart from these, a change after 1 s changes nothing before."""
    mels_NMB = torch.randn(1, 250, body.config.audio_config.num_mel_bins, generator=torch.Generator().manual_seed(0))
    changed = mels_NMB.clone()
    changed[:, 104:] += 1
    before, after = body.apm(mels_NMB)[0], body.apm(changed)[0]
    assert before.shape[0] == 125
    torch.testing.assert_close(before[:50], after[:50], rtol=0, atol=0)
    assert not torch.allclose(before[50:100], after[50:100], atol=1e-3)


@torch.no_grad()
def test_frames_are_projected_before_they_are_averaged() -> None:
    projection = AudioProjection(6, 8)
    fill(projection, seed=0)
    states = torch.randn(1, 7, 6, generator=torch.Generator().manual_seed(0))
    frames = F.linear(
        F.linear(states, projection.linear1.weight, projection.linear1.bias).relu(), projection.linear2.weight
    )
    pairs = (frames[0, 0:6:2] + frames[0, 1:6:2]) / 2 + projection.linear2.bias
    torch.testing.assert_close(projection(states, pool=2)[0], pairs)
