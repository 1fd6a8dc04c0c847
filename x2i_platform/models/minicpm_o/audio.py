"""The audio tower `apm`: Whisper's encoder on sound of any length up to 30 s, one second of sight ahead at most.

Shape suffixes: N pieces of one length, M mel frames (10 ms), F frames after the convolutions (20 ms), B mel bins,
D channels, T tokens, H hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

FRAMES_A_SECOND = 50


def num_tokens(mel_frames: int, *, pool: int) -> int:
    """Return how many tokens a piece of sound gives: a convolution of stride 2, then an average over `pool` frames.

    It is 0 for fewer than 2 * `pool` - 1 mel frames.
    """
    frames = (mel_frames - 1) // 2 + 1
    return (frames - pool) // pool + 1


def chunk_mask(frames: int, *, chunk: int) -> Tensor:
    """Return an additive mask `(frames, frames)`: a frame sees its own chunk and all before it."""
    last = (torch.arange(frames) // chunk + 1) * chunk
    unseen = torch.arange(frames) >= last[:, None]
    return torch.zeros(frames, frames).masked_fill(unseen, float("-inf"))


class AudioTower(WhisperEncoder):
    """Whisper's encoder without its padding to 30 s."""

    def __init__(self, config: WhisperConfig, *, chunk_s: float) -> None:
        super().__init__(config)
        self.chunk = int(chunk_s * FRAMES_A_SECOND)

    def forward(self, mels_NMB: Tensor) -> Tensor:
        """Return the last layer's states after the final norm, `(N, F, D)`."""
        mels_NBM = mels_NMB.transpose(1, 2).to(self.conv1.weight.dtype)
        states_NFD = F.gelu(self.conv2(F.gelu(self.conv1(mels_NBM)))).transpose(1, 2)
        frames = states_NFD.shape[1]
        states_NFD = states_NFD + self.embed_positions.weight[:frames]
        mask = None
        if self.chunk > 0:  # a released setting of -1 s means that all is seen
            mask = chunk_mask(frames, chunk=self.chunk).to(states_NFD)[None, None]
        for layer in self.layers:
            states_NFD = layer(states_NFD, mask)
        normed_NFD: Tensor = self.layer_norm(states_NFD)
        return normed_NFD


class AudioProjection(nn.Module):
    """Two linear layers from the audio tower's width to the LLM's."""

    def __init__(self, audio_width: int, hidden_size: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(audio_width, hidden_size)
        self.linear2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, states_NFD: Tensor, *, pool: int) -> Tensor:
        """Return tokens `(N, T, H)`: the projected frames, averaged `pool` at a time; a rest is dropped."""
        projected_NFH = self.linear2(F.relu(self.linear1(states_NFD)))
        return F.avg_pool1d(projected_NFH.transpose(1, 2), pool, stride=pool).transpose(1, 2)
