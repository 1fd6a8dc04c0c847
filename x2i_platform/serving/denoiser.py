"""One replica's DiT and VAE: conditioning becomes image files, in dynamic batches. Free of Ray.

Images of equal size, steps, guidance and number of text tokens share their denoising steps. A cancelled image ends its
batch between two steps if nobody else is in it; otherwise its row goes on unseen, because diffusers' pipelines can't
drop one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from x2i_platform.config import GenerateConfig, TeacherConfig
from x2i_platform.errors import InputError
from x2i_platform.generation.encoder import Encoded
from x2i_platform.generation.generator import draw
from x2i_platform.generation.provenance import image_bytes
from x2i_platform.models.dims import DiTDims
from x2i_platform.models.image_pipeline import ImagePipeline, Preview
from x2i_platform.serving.batching import Batcher, NobodyWaitsError, Ticket
from x2i_platform.serving.travel import Drawing, Drawn, Progress, Watcher

Finish = Callable[[Image.Image, Mapping[str, Any]], Image.Image]
"""What every image goes through before it becomes a file, with how it was made: a safety checker, which raises
InputError, or a watermark. Partial images go through it too; one that it refuses is not shown. Off by default."""


@dataclass(eq=False)
class _Job:
    drawing: Drawing
    watcher: Watcher | None
    asked_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Raw:
    image: Image.Image
    batch_size: int
    waited_s: float
    denoise_s: float


class Denoiser:
    """The loaded models of one replica."""

    def __init__(self, config: TeacherConfig, *, device: str, max_batch: int, finish: Finish | None = None) -> None:
        """Load the models. Raises WeightsError."""
        self.images = ImagePipeline.load(config, device=device)
        self._finish = finish
        self._batcher: Batcher[_Job, _Raw] = Batcher(self._draw, key=_alike, max_size=max_batch)

    def warm(self, settings: GenerateConfig, *, dims: DiTDims, text_tokens: int) -> None:
        """Draw one image in one step: the first costs more than those after it."""
        nothing = Encoded(torch.zeros(text_tokens, dims.joint_dim), torch.zeros(dims.pooled_dim))
        draw(self.images, [nothing], seeds=[0], settings=settings.model_copy(update={"num_inference_steps": 1}))

    async def draw(self, drawing: Drawing, *, watcher: Watcher | None = None) -> Drawn:
        """Draw an image; `watcher` is told of its steps, in this event loop. Raises ConfigError for its size."""
        loop = asyncio.get_running_loop()

        def tell(progress: Progress) -> None:
            if watcher:
                loop.call_soon_threadsafe(watcher, progress)

        raw = await self._batcher.run(_Job(drawing, tell if watcher else None))
        began = time.monotonic()
        image = await asyncio.to_thread(self._file, raw.image, drawing)
        seconds = {"wait": raw.waited_s, "denoise": raw.denoise_s, "write": time.monotonic() - began}
        return Drawn(image, drawing.seed, drawing.conditioning.answer, raw.batch_size, seconds)

    def _file(self, image: Image.Image, drawing: Drawing) -> bytes:
        return image_bytes(
            self._finished(image, drawing),
            prompt=drawing.prompt,
            how=_how(drawing),
            answer=drawing.conditioning.answer,
            output_format=drawing.output_format,
        )

    def _finished(self, image: Image.Image, drawing: Drawing) -> Image.Image:
        return self._finish(image, {"prompt": drawing.prompt, **_how(drawing)}) if self._finish else image

    def _draw(self, tickets: Sequence[Ticket[_Job, _Raw]]) -> list[_Raw]:
        """Draw a batch, in the batcher's thread. Raises NobodyWaitsError as soon as all are cancelled."""
        began = time.monotonic()
        drawings = [ticket.item.drawing for ticket in tickets]

        def on_step(step: int, steps: int, preview: Preview) -> None:
            if all(ticket.cancelled for ticket in tickets):
                raise NobodyWaitsError
            for row, ticket in enumerate(tickets):
                if ticket.item.watcher and not ticket.cancelled:
                    ticket.item.watcher(self._progress(ticket.item.drawing, step, steps, preview=preview, row=row))

        images = draw(
            self.images,
            [each.conditioning for each in drawings],
            seeds=[each.seed for each in drawings],
            settings=drawings[0].settings,
            on_step=on_step,
        )
        denoise_s = time.monotonic() - began
        waits = [began - ticket.item.asked_at for ticket in tickets]
        return [_Raw(image, len(tickets), wait_s, denoise_s) for image, wait_s in zip(images, waits, strict=True)]

    def _progress(self, drawing: Drawing, step: int, steps: int, *, preview: Preview, row: int) -> Progress:
        shown = partial_steps(steps, count=drawing.partial_images)
        if step not in shown:
            return Progress(drawing.seed, step, steps)
        try:
            image = self._finished(preview(row), drawing)
        except InputError:  # what the image is in the end is judged when it is there
            return Progress(drawing.seed, step, steps)
        partial = image_bytes(image, prompt=drawing.prompt, how=None, output_format=drawing.output_format)
        return Progress(drawing.seed, step, steps, partial=partial, index=shown.index(step))


def partial_steps(steps: int, *, count: int) -> list[int]:
    """After which of `steps` steps to show one of `count` partial images: evenly, and not after the last.

    Fewer, if there are fewer steps. The first step's is left out where there are others: it is as noisy as its start.
    """
    first = 1 if steps <= count + 1 else 2
    room = steps - first
    count = min(count, room)
    return [first + (room * number) // count for number in range(count)] if count > 0 else []


def _how(drawing: Drawing) -> dict[str, Any]:
    return {"seed": drawing.seed, **drawing.facts, **drawing.settings.model_dump()}


def _alike(job: _Job) -> Hashable:
    """What images must have in common to share their steps."""
    settings = job.drawing.settings
    size = (settings.width, settings.height, settings.num_inference_steps, settings.guidance)
    return (*size, len(job.drawing.conditioning.prompt_embeds_TE))
