"""One replica's MLLM and the AlignNets over it: prompts become conditioning, in dynamic batches. Free of Ray.

Conditioning of recent prompts is kept: the same prompt, at another size or seed, is not read again. Invariant: the
conditioning of a request is made by the one version that the request names, whatever is loaded beside it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from x2i_platform.config import GenerateConfig
from x2i_platform.digests import digest
from x2i_platform.generation.content import identity_of
from x2i_platform.generation.encoder import Encoded, Encoder
from x2i_platform.generation.loading import load_prompt
from x2i_platform.models.prompts import Prompt
from x2i_platform.serving.batching import Batcher, Ticket
from x2i_platform.serving.pinned import Pinned, fetch
from x2i_platform.serving.travel import Wanted

CACHE_BYTES = 256 * 1024**2
"""About 60 prompts of FLUX.1's 512 tokens of width 4096 in bfloat16."""
MAX_ALIGNNETS = 8
"""AlignNets of a replica at once; the one that was used longest ago goes first."""


@dataclass(frozen=True)
class _Job:
    encoder: Encoder
    prompt: str | Prompt
    seed: int
    settings: GenerateConfig


class PromptEncoder:
    """The loaded models of one replica."""

    def __init__(self, model: Pinned, *, tracking_uri: str, device: str, max_batch: int) -> None:
        """Load the MLLM and one AlignNet. Raises WeightsError or RegistryError."""
        self._tracking_uri = tracking_uri
        self._base = Encoder.load(fetch(model, tracking_uri=tracking_uri), device=device)
        self._encoders: OrderedDict[str, Encoder] = OrderedDict({model.digest: self._base})
        self._loading, self._changing = threading.Lock(), threading.Lock()
        self._batcher: Batcher[_Job, Encoded] = Batcher(self._encode, key=_alike, max_size=max_batch)
        self.cache = Cache(CACHE_BYTES)
        self._warm(self._base)

    def load(self, model: Pinned) -> Encoder:
        """Load a model's AlignNet beside the others and run it once. Raises WeightsError or RegistryError."""
        with self._loading:
            if loaded := self._loaded(model):
                return loaded
            encoder = self._base.beside(fetch(model, tracking_uri=self._tracking_uri))
            self._warm(encoder)
            with self._changing:
                self._encoders[model.digest] = encoder
                while len(self._encoders) > MAX_ALIGNNETS:
                    self._encoders.popitem(last=False)
            return encoder

    async def encode(self, wanted: Wanted) -> list[Encoded]:
        """The conditioning of a prompt: one, or one for each seed if answers are drawn, on the CPU.

        Raises InputError for a prompt that can't be read, PromptTooLong.
        """
        seeds = wanted.seeds if wanted.drawn else wanted.seeds[:1]
        keys = await asyncio.to_thread(_keys, wanted, seeds)
        found = [self.cache.get(key) for key in keys]
        missing = [row for row, encoded in enumerate(found) if encoded is None]
        if missing:
            encoder = self._loaded(wanted.model)
            if encoder is None:
                encoder = await asyncio.to_thread(self.load, wanted.model)
            prompt = await asyncio.to_thread(_prompt, wanted, encoder)
            jobs = [_Job(encoder, prompt, seeds[row], wanted.settings) for row in missing]
            for row, encoded in zip(missing, await asyncio.gather(*map(self._batcher.run, jobs)), strict=True):
                self.cache.put(keys[row], encoded)
                found[row] = encoded
        return [encoded for encoded in found if encoded is not None]

    def _loaded(self, model: Pinned) -> Encoder | None:
        """A model's encoder if it is loaded, which is then the last that was used. Doesn't wait for one that loads."""
        with self._changing:
            encoder = self._encoders.get(model.digest)
            if encoder:
                self._encoders.move_to_end(model.digest)
            return encoder

    def _encode(self, tickets: Sequence[Ticket[_Job, Encoded]]) -> list[Encoded]:
        jobs = [ticket.item for ticket in tickets]
        prompts, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
        made = jobs[0].encoder.encode(prompts, seeds=seeds, settings=jobs[0].settings)
        # Clones, because rows of a batch are views that would keep all of it in memory.
        return [Encoded(one.prompt_embeds_TE.cpu().clone(), one.pooled_P.cpu().clone(), one.answer) for one in made]

    def _warm(self, encoder: Encoder) -> None:
        """Run it once: the first prompt costs more than those after it, and an answer needs the MLLM's head."""
        encoder.encode(["a"], seeds=[0], settings=encoder.recipe.generate)


class Cache:
    """The conditioning used last, within a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self.hits = self.misses = 0
        self._kept: OrderedDict[str, Encoded] = OrderedDict()

    def get(self, key: str) -> Encoded | None:
        """What is kept under a key."""
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found

    def put(self, key: str, encoded: Encoded) -> None:
        """Keep something, and let go what was used longest ago."""
        if key not in self._kept:
            self._kept[key] = encoded
            self.bytes += _bytes(encoded)
        while self.bytes > self.max_bytes:
            self.bytes -= _bytes(self._kept.popitem(last=False)[1])


def _prompt(wanted: Wanted, encoder: Encoder) -> str | Prompt:
    """The prompt with its media decoded. Raises InputError."""
    if isinstance(wanted.content, str):
        return wanted.content
    return load_prompt(wanted.content, media=encoder.recipe.media)


def _bytes(encoded: Encoded) -> int:
    return encoded.prompt_embeds_TE.nbytes + encoded.pooled_P.nbytes


def _alike(job: _Job) -> Hashable:
    """What prompts must have in common to go through the MLLM together."""
    return (id(job.encoder), job.settings.states, job.settings.answer)


def _keys(wanted: Wanted, seeds: Sequence[int]) -> list[str]:
    """What decides the conditioning of each seed. Raises InputError if a medium can't be read."""
    content = wanted.content if isinstance(wanted.content, str) else identity_of(wanted.content)
    shared = [wanted.model.digest, content, wanted.settings.states, wanted.settings.answer.model_dump()]
    return [digest([*shared, seed if wanted.drawn else None]) for seed in seeds]
