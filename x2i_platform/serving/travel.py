"""What travels between the ingress, the encoders and the denoisers. Light: no torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from x2i_platform.config import GenerateConfig
from x2i_platform.generation.content import Message
from x2i_platform.serving.pinned import Pinned


@dataclass(frozen=True)
class Wanted:
    """The conditioning of one prompt; one for each seed if the MLLM's answer is drawn."""

    model: Pinned
    content: str | tuple[Message, ...]
    seeds: tuple[int, ...]
    settings: GenerateConfig

    @property
    def drawn(self) -> bool:
        """Whether the seed decides the answer."""
        return self.settings.states != "prompt" and self.settings.answer.temperature > 0


@dataclass(frozen=True)
class Drawing:
    """One image to draw."""

    conditioning: Any
    """`Encoded`; on the way between deployments possibly a reference to one."""
    seed: int
    settings: GenerateConfig
    prompt: str
    facts: Mapping[str, str]
    output_format: str = "png"
    partial_images: int = 0


@dataclass(frozen=True)
class Progress:
    """A denoising step that is done, with an image file of the estimate where one was asked for."""

    seed: int
    step: int
    steps: int
    partial: bytes | None = None
    index: int = 0
    """Number of the partial image, from 0."""


@dataclass(frozen=True)
class Drawn:
    """An image file, and what its making took."""

    image: bytes
    seed: int
    answer: str | None
    batch_size: int
    seconds: Mapping[str, float]
    """Seconds waited for the batch, of its denoising, and of writing the file."""


Watcher = Callable[[Progress], None]
