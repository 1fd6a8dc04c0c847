"""A second architecture end to end: captions to features, a training whose loss falls, images, an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines import RECIPES, generate, precompute, train
from tests.pipelines.evaluation_runs import SMALL, evaluate, report
from tests.random_models import CAPTIONS
from x2i_platform.precompute.captions import Captions
from x2i_platform.progress import Metrics
from x2i_platform.recipes import load
from x2i_platform.registry.models import resolve
from x2i_platform.training.job import prepare

RECIPE = str(Path(__file__).parents[1] / "recipes" / "random-sd3.yaml")
QUICK = (
    *("store.samples_per_shard=16", "generate.num_inference_steps=2", "train.batch_size=4", "train.steps=40"),
    *("train.warm_start_steps=40", "train.warmup_steps=4", "run.train.log_every=4", "run.train.checkpoint_every=40"),
)


def silent(done: int, total: int, metrics: Metrics | None = None, /) -> None:
    """No progress bar."""


def images(out: Path) -> list[np.ndarray]:
    rows = pq.read_table(out / "index.parquet", columns=["file"]).to_pylist()
    return [np.asarray(Image.open(out / row["file"])).astype(int) for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_precompute_train_generate_evaluate(tmp_path: Path, ray_cluster: str) -> None:
    recipe = load(RECIPE, shipped=RECIPES, overrides=QUICK)
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS[:32]) + "\n", encoding="utf-8")
    store = str(tmp_path / "store")
    captions = Captions(str(tmp_path / "captions.txt"))
    stored = precompute.run(recipe, captions, store=store, address=ray_cluster, on_progress=silent)
    assert (stored.stored, stored.quarantined) == (32, 0)

    destination = train.Destination("sd3", f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "runs"))
    trained = train.run(prepare(recipe, store=store), destination, address=ray_cluster, on_progress=silent)
    client = MlflowClient(destination.tracking_uri)
    for metric, share in (("warm_start/loss", 0.9), ("validation_kl_per_token", 0.9)):
        first, *_, last = [point.value for point in client.get_metric_history(trained.run_id, metric)]
        assert last < share * first, metric

    model = resolve(trained.model, tracking_uri=destination.tracking_uri)
    lines = [json.dumps({"prompt": prompt, "seed": 1}) for prompt in ("a red circle", "two blue stars")]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines), encoding="utf-8")
    drawn = []
    for guidance in (1, 4):
        out = tmp_path / f"images-{guidance}"
        made = generate.run(
            model,
            requests=str(tmp_path / "requests.jsonl"),
            out=str(out),
            overrides=[f"generate.guidance={guidance}"],
            address=ray_cluster,
            on_progress=silent,
        )
        assert (made.images, made.failed) == (2, 0)
        drawn.append(images(out))
    (plain, other), (guided, _) = drawn
    assert plain.shape == (64, 64, 3)
    assert np.abs(plain - other).mean() > 1
    assert np.abs(plain - guided).mean() > 1

    evaluate(model, tmp_path / "report", SMALL)
    data = report(tmp_path / "report")
    assert (data["baseline"], data["rows"][0]["pairs"]) == ("teacher", 2)
    assert all(value > 0 for value in data["kl"].values())
