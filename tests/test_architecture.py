"""The layers, as a table that is checked: who may import whom, and which library is used where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("cli*.py"), *(ROOT / "pipelines").rglob("*.py"), *(ROOT / "x2i_platform").rglob("*.py")])

FOUNDATION = {"errors", "config", "cache", "torchvision_schemas"}
MAY_IMPORT: dict[str, set[str]] = {
    # Room: rooms of this project it may import besides itself and the foundation.
    "errors": set(),
    "config": set(),
    "cache": {"errors"},
    "torchvision_schemas": set(),
    "recipes": set(),
    "captions": {"streams"},
    "streams": set(),
    "console": set(),
    "options": set(),
    "mini": set(),
    "models": {"mini", "recipes"},
    "features": {"captions"},
    "registry": {"mini.checkpoints", "models.catalog", "models.model_folder"},
    "evaluation": set(),
    "fingerprint": {"models", "features"},
    "draws": {"features"},
    "stages": {"models", "features", "draws"},
    "distill": {"models", "features"},
    "serving": {"fingerprint", "models", "registry", "streams"},
    "pipelines": {
        *("captions", "recipes", "fingerprint", "models", "features", "draws", "stages", "distill", "registry"),
        *("serving", "evaluation", "mini", "pipelines"),
    },
    "cli": {"console", "options", "captions", "recipes", "models", "registry", "pipelines", "cli_models"},
    "cli_models": {"console", "options", "pipelines"},
}

ONLY_IN: dict[str, tuple[str, ...]] = {
    # Library: the places it may be imported in.
    "transformers": ("x2i_platform/models/", "x2i_platform/mini/"),
    "diffusers": ("x2i_platform/models/", "x2i_platform/mini/"),
    "mlflow": ("x2i_platform/registry/",),
    "deepspeed": ("x2i_platform/distill/strategy.py",),
    "ray.serve": ("x2i_platform/serving/app.py", "pipelines/serve.py"),
    "ray.train": ("pipelines/distill.py", "pipelines/process_group.py", "pipelines/train_worker.py"),
    "ray.data": ("pipelines/precompute.py", "pipelines/generate.py", "pipelines/ray_session.py"),
    "ray": ("pipelines/", "x2i_platform/serving/app.py"),
    "duckdb": (),
    "rich": ("x2i_platform/console.py",),
    "typer": ("cli.py", "cli_models.py", "x2i_platform/options.py"),
}


def imports(path: Path) -> Iterator[str]:
    """Every absolute module name a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    """The room a module of this project is in; None for other libraries."""
    parts = module.split(".")
    if parts[0] in ("cli", "cli_models", "pipelines"):
        return parts[0]
    if parts[0] != "x2i_platform":
        return None
    return parts[1] if len(parts) > 1 else ""


def is_in(module: str, rooms: set[str]) -> bool:
    """Whether a module is one of some rooms, or inside one."""
    name = module.removeprefix("x2i_platform.")
    return any(name == allowed or name.startswith(f"{allowed}.") for allowed in rooms)


def own_room(path: Path) -> str:
    found = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert found is not None
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    here = own_room(path)
    if here == "__init__":
        return
    allowed = MAY_IMPORT[here] | FOUNDATION | {here}
    ours = {module for module in imports(path) if room(module) in MAY_IMPORT}
    assert not {module for module in ours if not is_in(module, allowed)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    for module in imports(path):
        for library, rooms in ONLY_IN.items():
            if module == library or module.startswith(f"{library}."):
                assert place.startswith(rooms) if rooms else False, f"{place} imports {module}"


def test_every_room_is_in_the_table() -> None:
    rooms = {own_room(path) for path in SOURCES} - {"__init__"}
    assert rooms == set(MAY_IMPORT)


def test_files_and_functions_stay_small() -> None:
    long_files = [path for path in SOURCES if path.read_text(encoding="utf-8").count("\n") > 300]
    assert not long_files
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 50, f"{path}:{node.lineno} {node.name} is too long"
