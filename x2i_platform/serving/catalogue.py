"""The models that a service offers, each at one version at a time, and the aliases that it follows. Free of Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from x2i_platform.config import Recipe
from x2i_platform.errors import X2IError
from x2i_platform.generation.content import Kind
from x2i_platform.models.catalog import mllm_entry
from x2i_platform.models.families import FAMILIES, TEXT_ONLY
from x2i_platform.registry.evaluations import pin
from x2i_platform.serving.pinned import Pinned, pin_model, require_same_base

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """A model at one version. A request keeps the offer it began with."""

    pinned: Pinned
    recipe: Recipe

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Kinds of parts that prompts may have, by its MLLM; all of them where this machine can't see it."""
        mllm = self.recipe.mllm
        try:
            family = mllm_entry(mllm.model, revision=mllm.revision).family
        except X2IError:
            return get_args(Kind)
        return ("text", *FAMILIES.get(family, TEXT_ONLY).takes)


class Catalogue:
    """Offers by the names that clients use. The first is the default."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.offers = list(offers)

    def find(self, name: str | None) -> Offer | None:
        """The offer of a name, or the first for None. A name that two offers have is the first one's."""
        return next((offer for offer in self.offers if name is None or name in offer.pinned.names), None)

    def pinned(self, name: str | None) -> Pinned | None:
        """What `find` finds, without its recipe."""
        offer = self.find(name)
        return offer.pinned if offer else None

    def switch(self, offer: Offer) -> None:
        """Offer a model at another version from now on."""
        names = [each.pinned.name for each in self.offers]
        self.offers[names.index(offer.pinned.name)] = offer


class Follower:
    """Moves offers to the versions that their aliases name: loads a version beside the old one, then switches.

    What can't be served is left alone, said once in the log, and tried again at every look.
    """

    def __init__(
        self, catalogue: Catalogue, load: Callable[[Pinned], Awaitable[None]], *, tracking_uri: str, every_s: float
    ) -> None:
        self.catalogue, self._load = catalogue, load
        self._tracking_uri, self._every_s = tracking_uri, every_s
        self.problems: dict[str, str] = {}
        """Why a model is not at the version that its alias names, by the model's name."""

    async def run(self) -> None:
        """Look at every alias again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Exception:  # such as a replica that dies while it loads: aliases are followed as long as we serve
                log.exception("looking at the aliases failed")

    async def look(self) -> None:
        """Look at every alias once, and switch where one moved."""
        for offer in list(self.catalogue.offers):
            if offer.pinned.follows:
                await self._look_at(offer)

    async def _look_at(self, offer: Offer) -> None:
        name = offer.pinned.name
        try:
            source = await asyncio.to_thread(pin, name, tracking_uri=self._tracking_uri)
            if source == offer.pinned.source:
                self.problems.pop(name, None)
                return
            pinned, recipe = await asyncio.to_thread(pin_model, name, tracking_uri=self._tracking_uri)
            require_same_base(pinned, recipe, base=self.catalogue.offers[0].recipe)
            await self._load(pinned)
        except X2IError as error:
            if self.problems.get(name) != str(error):
                log.warning("%s stays at %s: %s", name, offer.pinned.version, error)
            self.problems[name] = str(error)
            return
        self.catalogue.switch(Offer(pinned, recipe))
        self.problems.pop(name, None)
        log.warning("%s is now %s", name, pinned.version)
