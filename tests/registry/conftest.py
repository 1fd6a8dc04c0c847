"""A blank MLflow database is made once (its migrations take seconds) and copied for every test."""

import shutil
from pathlib import Path

import pytest

from tests.mlflow_server import mlflow_server
from x2i_platform.registry.connection import connect

__all__ = ["mlflow_server"]


@pytest.fixture(scope="session")
def blank_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def tracking_uri(blank_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    monkeypatch.setenv("X2I_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "my runs #1 ü"
    folder.mkdir()
    shutil.copy(blank_database, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"
