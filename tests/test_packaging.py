"""The wheel, built and installed into a fresh folder: it holds what the commands need, and they run from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = (
    "cli.py",
    "cli_chat.py",
    "cli_serve.py",
    "cli_models.py",
    "pipelines",
    "x2i_platform",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built offline from a copy, so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed") / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return target


def run(installed: Path, folder: Path, *words: str) -> str:
    """Run the installed command from a folder that knows nothing of the checkout."""
    # The checkout itself is installed editable here: its import hook must not answer in the wheel's place.
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if '__editable__' not in getattr(f, '__module__', '')]; "
        "import cli; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_code_recipes_and_the_miniature_world(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("pipelines", "x2i_platform")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= held
    assert {name.split("/")[0] for name in held} == {
        "cli.py",
        "cli_chat.py",
        "cli_serve.py",
        "cli_models.py",
        "pipelines",
        "x2i_platform",
        "x2i_platform-0.1.0.dist-info",
    }


def test_the_wheel_declares_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        entry_points = archive.read(name).decode()
    assert "x2i-platform = cli:main" in entry_points


def test_the_installed_command_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    assert "precompute" in run(installed, tmp_path, "--help")
    assert '"recipe": "mini"' in run(installed, tmp_path, "recipes", "--json")
    where = run(installed, tmp_path, "plan", "mini", "--rows", "3", "--json")
    assert '"rows": 3' in where


def test_the_installed_script_and_module_are_the_same_command(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    script = [sys.executable, str(installed / "bin" / "x2i-platform")]
    outputs = [
        subprocess.run([*command, "recipes", "--json"], cwd=tmp_path, env=environment, capture_output=True, check=True)
        for command in (script, [sys.executable, "-m", "cli"])
    ]
    assert outputs[0].stdout == outputs[1].stdout != b""


def test_the_installed_miniature_world_is_found(installed: Path, tmp_path: Path) -> None:
    code = "from x2i_platform.mini import captions_path as c, chat_template_path as t; print(c(), t())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.split()) == 2
    for path in done.stdout.split():
        assert Path(path).is_relative_to(installed)
        assert Path(path).stat().st_size > 0
