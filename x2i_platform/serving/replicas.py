"""What Ray Serve runs in processes of its own: encoders and denoisers. Errors travel as text, because exceptions lose
their causes between processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import ray

from x2i_platform.errors import X2IError, to_text
from x2i_platform.generation.encoder import Encoded
from x2i_platform.models.catalog import dit_dims
from x2i_platform.models.devices import choose_device
from x2i_platform.serving.catalogue import Offer
from x2i_platform.serving.denoiser import Denoiser
from x2i_platform.serving.deployment import load_finish
from x2i_platform.serving.encoding import PromptEncoder
from x2i_platform.serving.pinned import Pinned
from x2i_platform.serving.travel import Drawing, Drawn, Progress, Wanted

INLINE_BYTES = 64 * 1024
"""Conditioning up to this size goes with the call; larger ones go through the object store, past the ingress."""


class EncoderReplica:
    """The MLLM, and the AlignNets over it."""

    def __init__(self, models: list[Pinned], *, tracking_uri: str, num_gpus: float, max_batch: int) -> None:
        device = choose_device(num_gpus)
        self.encoder = PromptEncoder(models[0], tracking_uri=tracking_uri, device=device, max_batch=max_batch)
        for model in models[1:]:
            self.encoder.load(model)

    async def load(self, model: Pinned) -> str:
        """Load a version beside the others; returns an error as text, or ""."""
        try:
            await asyncio.to_thread(self.encoder.load, model)
        except X2IError as error:
            return to_text(error)
        return ""

    async def encode(self, wanted: Wanted) -> list[Any] | str:
        """Conditioning, or references to it; an error as text."""
        try:
            return [_sent(encoded) for encoded in await self.encoder.encode(wanted)]
        except X2IError as error:
            return to_text(error)


class DenoiserReplica:
    """The DiT and the VAE."""

    def __init__(self, offer: Offer, *, num_gpus: float, max_batch: int, finish: str | None) -> None:
        recipe = offer.recipe
        self.denoiser = Denoiser(
            recipe.teacher, device=choose_device(num_gpus), max_batch=max_batch, finish=load_finish(finish)
        )
        dims = dit_dims(recipe.teacher.model, revision=recipe.teacher.revision)
        self.denoiser.warm(recipe.generate, dims=dims, text_tokens=recipe.teacher.text_tokens)

    async def draw(self, drawing: Drawing) -> Drawn | str:
        """An image; an error as text."""
        try:
            return await self.denoiser.draw(await _received(drawing))
        except X2IError as error:
            return to_text(error)

    async def watch(self, drawing: Drawing) -> AsyncIterator[Progress | Drawn | str]:
        """The steps of an image, then the image; an error as text."""
        steps: asyncio.Queue[Progress | None] = asyncio.Queue()
        work = asyncio.create_task(self.denoiser.draw(await _received(drawing), watcher=steps.put_nowait))
        work.add_done_callback(lambda _: steps.put_nowait(None))
        try:
            while (progress := await steps.get()) is not None:
                yield progress
            yield await work
        except X2IError as error:
            yield to_text(error)
        finally:
            work.cancel()


def _sent(encoded: Encoded) -> Any:
    size = encoded.prompt_embeds_TE.nbytes + encoded.pooled_P.nbytes
    return encoded if size <= INLINE_BYTES else ray.put(encoded)


async def _received(drawing: Drawing) -> Drawing:
    """The drawing with its conditioning itself in place of a reference to it."""
    if not isinstance(drawing.conditioning, ray.ObjectRef):
        return drawing
    return replace(drawing, conditioning=await drawing.conditioning)
