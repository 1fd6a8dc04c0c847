"""Whether a service is ready, and what keeps it from its newest model."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.serving.by_hand import ByHand, by_hand
from x2i_platform.config import Recipe
from x2i_platform.serving.catalogue import Follower
from x2i_platform.serving.http.app import make_app
from x2i_platform.serving.jobs import Jobs


async def test_ready_says_what_is_missing(mini_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, backend = by_hand(mini_recipe)
    follower = Follower(service.catalogue, backend.load, tracking_uri="", every_s=60)
    api = make_app(service, Jobs(service, folder=tmp_path), follower=follower)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as http:
        facts = service.catalogue.offers[0].pinned.facts
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", **facts})

        follower.problems["models:/toy@champion"] = "it needs another MLLM"
        stays = await http.get("/ready")
        assert (stays.status_code, stays.json()["problems"]) == (200, follower.problems)
        follower.problems.clear()

        async def missing(_: ByHand) -> str:
            return "no replica"

        with monkeypatch.context() as away:
            away.setattr(ByHand, "ready", missing)
            lost = await http.get("/ready")
            assert (lost.status_code, lost.json()["status"], lost.headers["Retry-After"]) == (503, "no replica", "5")
            assert (await http.get("/health")).status_code == 200

        await service.drain(grace_s=0)
        stopping = await http.get("/ready")
        assert (stopping.status_code, stopping.json()["status"]) == (503, "shutting down")
        refused = await http.post("/v1/images/generations", json={"prompt": "a"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, "shutting down")
        assert refused.headers["Retry-After"] == "5"


async def test_models_tell_their_defaults_and_inputs(mini_recipe: Recipe, tmp_path: Path) -> None:
    service, _ = by_hand(mini_recipe)
    api = make_app(service, Jobs(service, folder=tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as http:
        [model] = (await http.get("/v1/models")).json()["data"]
        assert model["inputs"] == ["text", "image", "video"]
        assert model["defaults"] == mini_recipe.generate.model_dump(mode="json")
        for name in ("models:/toy@champion", "toy", "models:/toy/1"):
            assert (await http.get(f"/v1/models/{name}")).json() == model
        assert (await http.get("/v1/models/models:/toy/2")).json()["error"]["code"] == "model_not_found"
