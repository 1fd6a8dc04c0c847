"""The layers, as a table that is checked: who may import whom, and which library is used where."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
SOURCES = sorted([*ROOT.glob("cli*.py"), *(ROOT / "pipelines").rglob("*.py"), *(ROOT / "x2i_platform").rglob("*.py")])


@dataclass(frozen=True)
class Room:
    """A room of the project: what is in it, and which rooms before it in the table it may import."""

    what: str
    knows: tuple[str, ...] = ()


ROOMS: dict[str, Room] = {
    # From the ground up: a room knows only rooms that stand before it.
    "progress": Room("how long work says how far it is"),
    "errors": Room("every error; how one crosses process borders; what is hidden in messages"),
    "config": Room("every setting, as frozen values"),
    "digests": Room("digests of values, and how two of them differ"),
    "cache": Room("where this machine keeps what can be made again", ("errors",)),
    "files": Room("local files that appear whole or not at all, and locks"),
    "torchvision_schemas": Room("operators that torchvision declares and some builds of it lack"),
    "recipes": Room("YAML recipes: inheritance, overrides, unknown keys"),
    "console": Room("tables and progress bars"),
    "options": Room("options that commands share"),
    "streams": Room("files wherever they lie, packed or not"),
    "media": Room("pictures, videos and sound from files and hosts of strangers, checked before they are decoded"),
    "mini": Room(
        "the miniature world: scenes, captions, pictures, videos, speech, judge, suites; its models and their training",
        ("media",),
    ),
    "models": Room(
        "AlignNet, the teacher and its taps, text encoders, MLLMs, catalogue, FLOPs", ("mini", "media", "recipes")
    ),
    "features": Room("the feature store: files, commits, shards, codecs"),
    "fingerprint": Room("what makes two results interchangeable", ("models", "features")),
    "costs": Room("bytes and FLOPs of one caption", ("models", "features")),
    "plan": Room("the price of a recipe", ("costs", "recipes")),
    "precompute": Room(
        "captions, their shards and the three stages ([captions](captions.md))", ("streams", "models", "features")
    ),
    "registry": Room(
        "MLflow: runs, versions, aliases, model cards", ("mini.checkpoints", "models.catalog", "models.model_folder")
    ),
    "training": Room(
        "the job, the loss, the step, strategies, the loop, checkpoints", ("fingerprint", "plan", "models", "features")
    ),
    "generation": Room("`Generator`, the requests of a file, the index of images", ("media", "models", "streams")),
    "pyfunc": Room("a model as MLflow's own tools run it: a table of prompts in, images out", ("generation", "models")),
    "evaluation": Room(
        "tasks, images, paired results, statistics, gate, report, layouts for external scorers",
        ("generation", "training.validation", "models", "media", "mini"),
    ),
    "serving": Room(
        "the service: its queue, replicas, jobs, files and batches; the HTTP interface; the Ray Serve application",
        ("streams", "generation", "registry", "fingerprint", "models", "media"),
    ),
    "pipelines": Room(
        "one file a verb, each readable as a method, and the Ray cluster it runs on",
        (
            *("recipes", "streams", "mini", "models", "features", "fingerprint", "plan", "precompute", "registry"),
            *("training", "generation", "evaluation", "serving"),
        ),
    ),
    "cli_models": Room("the command line: group `models`", ("console", "options", "registry", "pipelines")),
    "cli_chat": Room("the command line: `chat`", ("console", "options", "pipelines")),
    "cli_serve": Room("the command line: `serve`", ("console", "options", "pipelines")),
    "cli": Room(
        "the command line: parse, call a pipeline, print",
        (
            *("console", "options", "recipes", "models", "precompute.captions", "training.job", "evaluation.options"),
            *("registry", "pipelines", "cli_chat", "cli_models", "cli_serve"),
        ),
    ),
}
FOUNDATION = ("progress", "errors", "config", "digests", "cache", "files", "torchvision_schemas")
"""Rooms that every room may import."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    # Library: the places it may be imported in.
    "transformers": ("x2i_platform/models/", "x2i_platform/mini/"),
    "diffusers": ("x2i_platform/models/", "x2i_platform/mini/"),
    "mlflow": ("x2i_platform/registry/",),
    "deepspeed": ("x2i_platform/training/strategy.py",),
    "ray.serve": ("x2i_platform/serving/app.py", "pipelines/serve.py"),
    "ray.train": ("pipelines/train.py", "pipelines/ray_cluster/"),
    "ray.data": (
        "pipelines/precompute.py",
        "pipelines/evaluate.py",
        "pipelines/generator_pool.py",
        "pipelines/ray_cluster/session.py",
    ),
    "ray": ("pipelines/", "x2i_platform/serving/app.py", "x2i_platform/serving/replicas.py"),
    "av": ("x2i_platform/media/",),
    "soundfile": ("x2i_platform/media/", "x2i_platform/mini/training/recordings.py"),
    "soxr": ("x2i_platform/media/", "x2i_platform/mini/speech.py"),
    "espeakng_loader": ("x2i_platform/mini/speech.py",),
    "aiohttp": ("x2i_platform/media/fetching.py", "x2i_platform/streams.py"),
    "limits": ("x2i_platform/serving/http/rates.py",),
    "duckdb": (),
    "fcntl": (),
    "filelock": ("x2i_platform/files.py",),
    "rich": ("x2i_platform/console.py",),
    "typer": ("cli.py", "cli_chat.py", "cli_models.py", "cli_serve.py", "x2i_platform/options.py"),
}

PUBLISHERS = ("x2i_platform/files.py", "x2i_platform/features/files.py")
"""The places where a file may be moved to its name; the second has a scratch folder of its own, and object stores."""

TESTED_ELSEWHERE: dict[str, str] = {
    # Module without a mirrored test: the test in tests/ that runs it, through its imports; or why none is needed.
    "cli_chat.py": "pipelines/test_chat.py",
    "cli_models.py": "test_cli.py",
    "cli_serve.py": "test_cli.py",
    "pipelines/image_folder.py": "pipelines/test_generate.py",
    "pipelines/listings.py": "test_cli.py",
    "pipelines/named.py": "test_cli.py",
    "pipelines/serve.py": "serving/test_app.py",
    "pipelines/ray_cluster/events.py": "pipelines/test_train.py",
    "pipelines/ray_cluster/keys.py": "pipelines/ray_cluster/test_ports.py",
    "pipelines/ray_cluster/process_group.py": "pipelines/test_train.py",
    "pipelines/ray_cluster/train_worker.py": "pipelines/test_train.py",
    "x2i_platform/config.py": "test_recipes.py",
    "x2i_platform/console.py": "test_cli.py",
    "x2i_platform/generation/index.py": "pipelines/test_generate.py",
    "x2i_platform/generation/provenance.py": "pipelines/test_generate.py",
    "x2i_platform/digests.py": "features/test_store.py",
    "x2i_platform/options.py": "test_cli.py",
    "x2i_platform/progress.py": "types alone",
    "x2i_platform/costs.py": "test_plan.py",
    "x2i_platform/serving/http/answers.py": "serving/http/test_guards.py",
    "x2i_platform/serving/http/bounds.py": "serving/http/test_guards.py",
    "x2i_platform/torchvision_schemas.py": "mini/test_checkpoints.py",
    "x2i_platform/evaluation/evaluator.py": "pipelines/test_evaluate.py",
    "x2i_platform/evaluation/outcome.py": "pipelines/test_evaluate.py",
    "x2i_platform/evaluation/page.py": "evaluation/test_report.py",
    "x2i_platform/evaluation/png.py": "evaluation/test_report.py",
    "x2i_platform/evaluation/report_data.py": "values alone",
    "x2i_platform/evaluation/sheets.py": "pipelines/test_evaluate.py",
    "x2i_platform/evaluation/tasks.py": "pipelines/test_evaluate.py",
    "x2i_platform/evaluation/work.py": "pipelines/test_evaluate.py",
    "x2i_platform/features/schema.py": "features/test_store.py",
    "x2i_platform/features/writer.py": "features/test_store.py",
    "x2i_platform/media/clips.py": "values alone",
    "x2i_platform/media/containers.py": "media/test_hostile.py",
    "x2i_platform/media/limits.py": "media/test_hostile.py",
    "x2i_platform/mini/build.py": "mini/training/test_parts.py",
    "x2i_platform/serving/travel.py": "values alone",
    "x2i_platform/serving/replicas.py": "serving/test_app.py",
    "x2i_platform/serving/metrics.py": "serving/http/test_images.py",
    "x2i_platform/serving/http/app.py": "serving/http/test_images.py",
    "x2i_platform/serving/http/told.py": "serving/http/test_jobs.py",
    "x2i_platform/mini/languages/chinese.py": "mini/test_languages.py",
    "x2i_platform/mini/languages/english.py": "mini/test_languages.py",
    "x2i_platform/mini/languages/french.py": "mini/test_languages.py",
    "x2i_platform/mini/languages/german.py": "mini/test_languages.py",
    "x2i_platform/mini/languages/japanese.py": "mini/test_languages.py",
    "x2i_platform/mini/languages/vietnamese.py": "mini/test_languages.py",
    "x2i_platform/mini/processors.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/builders.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/flux.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/internvl.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/minicpm_o.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/minicpm_v.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/parts.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/qwen.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/qwen3_vl.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/qwen_omni.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/sd3.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/weights.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/random/words.py": "mini/test_checkpoints.py",
    "x2i_platform/mini/training/dit.py": "mini/training/test_parts.py",
    "x2i_platform/mini/training/text.py": "mini/training/test_parts.py",
    "x2i_platform/mini/training/vae.py": "mini/training/test_parts.py",
    "x2i_platform/mini/training/video.py": "mini/training/test_parts.py",
    "x2i_platform/mini/templates.py": "mini/test_judge.py",
    "x2i_platform/mini/vocabularies.py": "mini/test_checkpoints.py",
    "x2i_platform/models/conditioning.py": "values alone",
    "x2i_platform/models/entries.py": "models/test_catalog.py",
    "x2i_platform/models/devices.py": "pipelines/test_generate.py",
    "x2i_platform/models/dits/interface.py": "types alone",
    "x2i_platform/models/model_folder.py": "pipelines/test_models.py",
    "x2i_platform/models/prompts.py": "models/test_mllm_prompts.py",
    "x2i_platform/models/prompt_reader.py": "models/test_mllm.py",
    "x2i_platform/precompute/draws.py": "precompute/test_stages_of_targets.py",
    "x2i_platform/precompute/captions/json_values.py": "precompute/captions/test_json_documents.py",
    "x2i_platform/precompute/captions/lines.py": "precompute/captions/test_properties.py",
    "x2i_platform/precompute/captions/records.py": "precompute/captions/test_properties.py",
    "x2i_platform/registry/artifacts.py": "registry/test_models.py",
    "x2i_platform/serving/batch_records.py": "serving/test_batches.py",
    "x2i_platform/serving/http/pages.py": "serving/http/test_files.py",
    "x2i_platform/serving/http/uploads.py": "serving/http/test_files.py",
    "x2i_platform/training/job.py": "pipelines/test_train.py",
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
    if parts[0] in ("cli", "cli_chat", "cli_models", "cli_serve", "pipelines"):
        return parts[0]
    if parts[0] != "x2i_platform":
        return None
    return parts[1] if len(parts) > 1 else ""


def is_in(module: str, rooms: Iterable[str]) -> bool:
    """Whether a module is one of some rooms, or inside one."""
    name = module.removeprefix("x2i_platform.")
    return any(name == allowed or name.startswith(f"{allowed}.") for allowed in rooms)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layers_table() -> str:
    """The rooms as `docs/architecture.md` shows them."""
    lines = ["| room | what is in it | knows |", "|---|---|---|"]
    for name, each in ROOMS.items():
        known = ", ".join(f"`{other}`" for other in each.knows) or "–"
        lines.append(f"| `{name}` | {each.what} | {known} |")
    return "\n".join(lines)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_knows(path: Path) -> None:
    here = room(module_name(path))
    if not here:
        return
    ours = {module for module in imports(path) if room(module) in ROOMS}
    assert not {module for module in ours if not is_in(module, (*ROOMS[here].knows, *FOUNDATION, here))}


def test_no_room_knows_one_that_stands_after_it() -> None:
    order = list(ROOMS)
    for name, each in ROOMS.items():
        for known in each.knows:
            assert order.index(known.partition(".")[0]) < order.index(name), f"{name} knows {known}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {module_name(path) for path in SOURCES}
    graph = {module_name(path): (names & set(imports(path))) - {module_name(path)} for path in SOURCES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    for module in imports(path):
        for library, rooms in ONLY_IN.items():
            if module == library or module.startswith(f"{library}."):
                assert place.startswith(rooms) if rooms else False, f"{place} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_published_in_one_place(path: Path) -> None:
    if path.relative_to(ROOT).as_posix() in PUBLISHERS:
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    moves = [call.lineno for call in calls if moves_a_file(call)]
    assert not moves, f"{path}, lines {moves}: use what x2i_platform/files.py has for that"


def moves_a_file(call: ast.Call) -> bool:
    """Whether a file gets a name, or a temporary one; `replace` of a text or a date takes other arguments."""
    name = ast.unparse(call.func)
    if name.endswith(".replace"):
        return name == "os.replace" or (len(call.args), len(call.keywords)) == (1, 0)
    return name.endswith((".rename", ".renames", ".link", ".move", "mkstemp", "NamedTemporaryFile"))


def test_every_room_is_in_the_table() -> None:
    assert {room(module_name(path)) for path in SOURCES} - {""} == set(ROOMS)


def test_the_documented_table_is_this_one() -> None:
    assert layers_table() in DOCUMENT.read_text(encoding="utf-8"), (
        "paste what `python tests/test_architecture.py` prints"
    )


def mirror(path: Path) -> Path:
    """Where the test of a module lies."""
    place = path.relative_to(ROOT)
    inside = Path(*place.parts[1:]) if place.parts[0] == "x2i_platform" else place
    return ROOT / "tests" / inside.with_name(f"test_{path.name}")


def test_every_module_has_a_mirrored_test_or_a_reason() -> None:
    modules = {str(path.relative_to(ROOT)): path for path in SOURCES if path.name != "__init__.py"}
    without = {name for name, path in modules.items() if not mirror(path).exists()}
    assert without == set(TESTED_ELSEWHERE)
    files = {module_name(path): path for path in (*SOURCES, *(ROOT / "tests").rglob("*.py"))}
    graph = {name: files.keys() & set(imports(path)) for name, path in files.items()}
    for name, reason in TESTED_ELSEWHERE.items():
        if reason.endswith(".py"):
            test = module_name(ROOT / "tests" / reason)
            assert test in graph, f"{name}: there is no tests/{reason}"
            assert module_name(modules[name]) in reached(test, graph=graph), f"tests/{reason} doesn't reach {name}"


def reached(start: str, *, graph: Mapping[str, set[str]]) -> set[str]:
    """The modules that one imports, directly or through others."""
    found: set[str] = set()
    unread = [start]
    while unread:
        known = graph[unread.pop()] - found
        found |= known
        unread += known
    return found


def test_files_and_functions_stay_small() -> None:
    long_files = [path for path in SOURCES if path.read_text(encoding="utf-8").count("\n") > 300]
    assert not long_files
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 50, f"{path}:{node.lineno} {node.name} is too long"


if __name__ == "__main__":
    sys.stdout.write(f"{layers_table()}\n")
