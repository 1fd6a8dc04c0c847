"""The examples, each run as a user would run it, and what they print and leave; the guide to extending."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipelines import RECIPES
from x2i_platform.features.reader import ShardReader, read_samples
from x2i_platform.features.schema import MLLM, SAMPLES, TARGETS
from x2i_platform.features.store import FeatureStore
from x2i_platform.recipes import load

ROOT = Path(__file__).parent.parent
CHOSEN = ["double.1.image", "single.3"]
"""The taps that add_tap.py chooses."""


def run(name: str, *words: str, folder: Path, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an example from a folder of its own."""
    done = subprocess.run(
        [sys.executable, *python, str(ROOT / "examples" / f"{name}.py"), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def numbers(pattern: str, printed: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, printed)]


@pytest.fixture(scope="module")
def tap_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The store that add_tap.py leaves, and what it printed."""
    folder = tmp_path_factory.mktemp("taps")
    return folder / "store", run("add_tap", "store", folder=folder).stdout


@pytest.mark.slow
def test_add_tap(tap_run: tuple[Path, str]) -> None:
    store, printed = tap_run
    assert printed.splitlines()[0] == f"taps in the store: {', '.join(CHOSEN)}"
    [at_taps] = numbers(r"KL per token at these taps: ([\d.]+)", printed)
    first, last = numbers(r"KL per token at the MLP, step \d+: ([\d.]+)", printed)
    assert at_taps > 0
    assert last < first / 3, "the gradient of a watched module reaches AlignNet"
    assert [path.name for path in store.parent.iterdir()] == ["store"]


@pytest.mark.slow
def test_read_features_is_plain_pyarrow_and_right(tap_run: tuple[Path, str], tmp_path: Path) -> None:
    """It reads without this package, and what this package reads."""
    folder, _ = tap_run
    done = run("read_features", str(folder), folder=tmp_path, python=("-X", "importtime"))
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "pyarrow" in loaded
    assert not loaded & {"x2i_platform", "pipelines", "torch"}

    store = FeatureStore.open(str(folder))
    samples, mllm, targets = (store.commit_of(table, 0) for table in (SAMPLES, MLLM, TARGETS))
    assert samples
    assert mllm
    assert targets
    reader = ShardReader(store, mllm=mllm, targets=targets)
    for row in read_samples(store, samples):
        states_CSH = reader.sample(row["sample_id"]).states_CSH
        line = f"{row['caption']!r}: MLLM states {tuple(states_CSH.shape)}, mean {states_CSH.mean():.6f}"
        assert line in done.stdout.splitlines()
    assert re.findall(r"^    (\S+): .*, mean 0\.00, deviation 1\.00$", done.stdout, re.M) == CHOSEN


@pytest.mark.slow
def test_read_features_makes_a_store_where_it_is_given_none(tmp_path: Path) -> None:
    printed = run("read_features", folder=tmp_path).stdout
    assert len(re.findall(r"MLLM states \(5, \d+, 128\)", printed)) == 4
    assert "states of the MLLM's answer" in printed
    assert len(re.findall(r"mean 0\.00, deviation 1\.00", printed)) == 8
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_distill_step_comes_closer_to_the_teacher(tmp_path: Path) -> None:
    losses = numbers(r"step \d+: loss ([\d.]+)", run("distill_step", folder=tmp_path).stdout)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 5
    assert not list(tmp_path.iterdir())


def test_own_recipe(tmp_path: Path) -> None:
    printed = run("own_recipe", str(tmp_path), folder=tmp_path).stdout
    assert "targets.taps: 'all' in mini, 'single' asked for" in printed
    assert "tables with other numbers: targets\n" in printed
    theirs, mine = numbers(r"mini: (\d+) GB", printed) + numbers(r"my-recipe: (\d+) GB", printed)
    assert mine < theirs
    assert "unknown key 'step' in train; did you mean 'steps'?" in printed
    left = load(str(tmp_path / "my-recipe.yaml"), shipped=RECIPES)
    assert (left.train.steps, left.teacher) == (200, load("mini", shipped=RECIPES).teacher)


@pytest.mark.slow
def test_generate_draws_what_was_asked_for(tmp_path: Path) -> None:
    printed = run("generate", str(tmp_path), folder=tmp_path).stdout
    assert [line.rpartition(": ")[2] for line in printed.splitlines()] == ["right"] * 3
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["english.png", "japanese.png", "picture.png"]
    assert {Image.open(tmp_path / name).size for name in names} == {(64, 64)}


def test_the_guide_to_extending_names_what_is_there() -> None:
    guide = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w.-]+/[\w./-]+)`", guide)
    assert len(paths) > 30
    assert not [path for path in paths if not (ROOT / path).exists()]
    files = [file for folder in ("pipelines", "tests", "x2i_platform") for file in (ROOT / folder).rglob("*.py")]
    sources = "".join(file.read_text(encoding="utf-8") for file in files)
    names = set(re.findall(r"`(?:\w+\.)?(\w+)`", guide)) - {"md", "py"}
    assert {"flux_tap_names", "_tapped_modules", "FORMATS", "test_no_field_is_forgotten"} <= names
    assert not [name for name in names if not re.search(rf"\b{name}\b", sources)]
