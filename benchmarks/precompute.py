"""Precompute against a bare loop over the same models: what Ray, the store and the commits cost.

    python benchmarks/precompute.py [--captions 640] [--batch-size 16] [--set KEY=VALUE ...]

Both sides use three processes, one a stage, one thread each, the same batches and the same recipe, and run one after
the other, twice, in one call. The bare loop keeps nothing: a process calls its stage's model on batch after batch and
drops the result (the targets process is handed T5's outputs, read beforehand). Rates are of the steady state, from the
end of the first shard to the end of the last shard of the slowest process, and of the whole run, models loaded and all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines import RECIPES, precompute
from x2i_platform.config import Recipe
from x2i_platform.features.schema import FEATURE_TABLES
from x2i_platform.features.store import FeatureStore
from x2i_platform.mini import captions_path
from x2i_platform.precompute.captions import Captions
from x2i_platform.recipes import load

Rates = dict[str, float]


def write_captions(path: Path, *, count: int) -> None:
    """The first of those that the package ships."""
    lines = captions_path().read_text(encoding="utf-8").splitlines()
    if count > len(lines):
        raise SystemExit(f"--captions {count} is more than the {len(lines)} that ship")
    path.write_text("\n".join(lines[:count]) + "\n", encoding="utf-8")


def through_ray(recipe: Recipe, captions: Path, store: Path) -> Rates:
    """Samples a second of `x2i-platform precompute`."""
    started = time.time()
    report = precompute.run(
        recipe, Captions(str(captions)), store=str(store), address=None, on_progress=lambda *_: None
    )
    ends = {table: sorted(p.stat().st_mtime for p in (store / "commits" / table).iterdir()) for table in FEATURE_TABLES}
    return _rates(recipe, started=started, ends=ends, samples=report.stored)


def _bare_stage(table: str, recipe: dict[str, Any], store: str, shards: int, results: Any) -> None:
    import torch

    from x2i_platform.precompute.stages import build_stage

    torch.set_num_threads(1)
    stage = build_stage(table, recipe=Recipe.model_validate(recipe), store_url=store)
    inputs = [stage.inputs(shard) for shard in range(shards)]
    ends = []
    with torch.inference_mode():
        for samples in inputs:
            for start in range(0, len(samples), stage.batch_size):
                stage.compute(samples[start : start + stage.batch_size])
            ends.append(time.time())
    results.put((table, ends))


def bare_loop(recipe: Recipe, store: Path, *, samples: int) -> Rates:
    """Samples a second of three processes that compute the same and keep nothing."""
    context = multiprocessing.get_context("spawn")
    shards = -(-samples // recipe.store.samples_per_shard)
    results = context.Queue()
    started = time.time()
    arguments = (recipe.model_dump(mode="json"), str(store), shards, results)
    processes = [context.Process(target=_bare_stage, args=(table, *arguments)) for table in FEATURE_TABLES]
    for process in processes:
        process.start()
    ends = dict(results.get() for _ in processes)
    for process in processes:
        process.join()
    return _rates(recipe, started=started, ends=ends, samples=samples)


def _rates(recipe: Recipe, *, started: float, ends: dict[str, list[float]], samples: int) -> Rates:
    first, last = min(times[0] for times in ends.values()), max(times[-1] for times in ends.values())
    return {
        "steady samples/s": (samples - recipe.store.samples_per_shard) / (last - first),
        "whole samples/s": samples / (last - started),
    }


def main() -> None:
    """Run both sides and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=640)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    batch = [f"run.{table}.batch_size={options.batch_size}" for table in FEATURE_TABLES]
    recipe = load("mini", shipped=RECIPES, overrides=[*batch, *options.overrides])
    ray_rates, bare_rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        captions = Path(folder) / "captions.txt"
        write_captions(captions, count=options.captions)
        for number in range(options.rounds):
            store = Path(folder) / f"store{number}"
            ray_rates.append(through_ray(recipe, captions, store))
            assert len(FeatureStore.open(str(store)).manifest().complete_shards()) > 1
            bare_rates.append(bare_loop(recipe, store, samples=options.captions))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {options.captions} captions")
    print("| rate | precompute | bare loop | ratio |\n|---|---|---|---|")
    summary = {}
    for name in ray_rates[0]:
        ours, bare = (statistics.median(r[name] for r in rates) for rates in (ray_rates, bare_rates))
        print(f"| {name} | {ours:.1f} | {bare:.1f} | {ours / bare:.2f} |")
        summary[name] = {"precompute": ours, "bare": bare, "ratio": ours / bare}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
