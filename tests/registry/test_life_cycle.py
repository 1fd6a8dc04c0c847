"""A model's whole life on real servers: PostgreSQL has the facts, S3 the files; directly and by MLflow's server."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mlflow_server import serve
from tests.postgres_server import postgres_uri
from tests.registered import registered
from tests.s3_server import s3_bucket, s3_server
from x2i_platform.errors import RegistryError
from x2i_platform.registry.aliases import holders
from x2i_platform.registry.connection import connect
from x2i_platform.registry.evaluations import log_evaluation, pin, record_gate
from x2i_platform.registry.lineage import card_of, sheet
from x2i_platform.registry.listing import list_rows
from x2i_platform.registry.models import resolve
from x2i_platform.registry.promotion import promote, rollback
from x2i_platform.registry.tracking import RunInfo, RunLogger, finish

__all__ = ["postgres_uri", "s3_bucket", "s3_server"]
pytestmark = pytest.mark.slow
PNG = b"\x89PNG\r\n\x1a\n of a sheet"


@pytest.fixture
def direct(postgres_uri: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database as tracking URI; we write to the bucket ourselves."""
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"{s3_bucket}/mlflow")
    return postgres_uri


@pytest.fixture
def server(postgres_uri: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An MLflow server's URI; it alone has the keys of the bucket."""
    with serve(tmp_path, backend=postgres_uri, artifacts=f"{s3_bucket}/mlflow") as uri:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
            monkeypatch.delenv(name)
        yield uri


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X2I_CACHE", str(tmp_path / "cache"))


def trained(uri: str, folder: Path, *, value: float, name: str) -> RunInfo:
    """A version whose run has curves, as a training leaves it."""
    info = registered(uri, folder, value=value, name=name)
    with RunLogger(info, sample_every_s=1000) as log:
        for step in (10, 20, 30):
            log.metrics({"kl_per_token": value / step}, step=step)
    finish(info)
    return info


def evaluated(uri: str, model: str, folder: Path, *, holds: bool) -> None:
    """What `evaluate --gate` leaves: a report with a sheet, figures, a verdict."""
    (folder / "sheets").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>report</h1>")
    (folder / "sheets" / "english.png").write_bytes(PNG)
    pinned = pin(model, tracking_uri=uri)
    metrics = {"evaluation/english/seen/prompt/accuracy": 0.75}
    log_evaluation(pinned, folder=folder, metrics=metrics, tracking_uri=uri)
    record_gate(pinned, holds=holds, reason="within" if holds else "−9 points", tracking_uri=uri)


@pytest.mark.parametrize(("name", "files"), [("direct", "s3://test-"), ("server", "mlflow-artifacts:/")])
def test_from_training_to_champion_and_back(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, files: str
) -> None:
    uri = str(request.getfixturevalue(name))
    first = trained(uri, tmp_path / f"{name} 1", value=1.0, name=name)
    evaluated(uri, f"models:/{name}@candidate", tmp_path / "report 1", holds=True)
    second = trained(uri, tmp_path / f"{name} 2", value=2.0, name=name)
    evaluated(uri, f"models:/{name}@candidate", tmp_path / "report 2", holds=False)
    with pytest.raises(RegistryError, match=rf"models:/{name}/2 failed its gate \(−9 points\)"):
        promote(f"models:/{name}@candidate", tracking_uri=uri)
    record_gate(f"models:/{name}/2", holds=True, reason="within", tracking_uri=uri)
    assert promote(f"models:/{name}/2", tracking_uri=uri).previous == f"models:/{name}/2", "its gate did it already"
    stored = resolve(f"models:/{name}@champion", tracking_uri=uri)
    assert sheet(f"models:/{name}/2", tracking_uri=uri).files.startswith(files)
    written = (tmp_path / f"{name} 2" / "alignnet.safetensors").read_bytes()
    assert (stored / "alignnet.safetensors").read_bytes() == written
    assert stored.is_relative_to(tmp_path / "cache")
    [row] = [row for row in list_rows(uri) if row.name == name]
    assert (row.versions, row.aliases) == (2, {"candidate": 2, "champion": 2})
    assert rollback(name, tracking_uri=uri).model == f"models:/{name}/1"
    found = sheet(name, tracking_uri=uri)
    assert (found.model, found.gate, found.lineage.run) == (f"models:/{name}/1", "passed", first.run_id)
    assert found.metrics["kl_per_token"] == 1.0 / 30
    assert card_of(name, tracking_uri=uri) == "# A model\n"
    assert sheet(f"models:/{name}/2", tracking_uri=uri).lineage.run == second.run_id
    with pytest.raises(RegistryError, match="no earlier 'champion'"):
        rollback(name, tracking_uri=uri)


def test_two_promotions_at_once_forget_no_holder(server: str, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        registered(server, tmp_path / f"race {number}", value=number, name="race")
    promote("models:/race/1", force=True, tracking_uri=server)

    def promoted(number: int) -> str:
        return promote(f"models:/race/{number}", force=True, tracking_uri=server).model

    with ThreadPoolExecutor() as threads:
        assert sorted(threads.map(promoted, (2, 3))) == ["models:/race/2", "models:/race/3"]
    model = connect(server).get_registered_model("race")
    assert model.aliases["champion"] in ("2", "3")
    assert sorted({each.version for each in holders(model, "champion")}) == [1, 2, 3]
    seen = [rollback("race", tracking_uri=server).model for _ in range(2)]
    assert seen[-1] == "models:/race/1"


def test_mlflows_pages_have_sheets_and_curves(server: str, tmp_path: Path) -> None:
    info = trained(server, tmp_path / "pages", value=1.0, name="pages")
    evaluated(server, "models:/pages@candidate", tmp_path / "report", holds=True)

    def get(page: str, **query: str) -> bytes:
        with urllib.request.urlopen(f"{server}{page}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return bytes(answer.read())

    assert b"<html" in get("/")
    files = json.loads(get("/api/2.0/mlflow/artifacts/list", run_id=info.run_id, path="evaluation/report"))["files"]
    assert {file["path"] for file in files} == {"evaluation/report/index.html", "evaluation/report/sheets"}
    assert get("/get-artifact", run_uuid=info.run_id, path="evaluation/report/sheets/english.png") == PNG
    assert b"report" in get("/get-artifact", run_uuid=info.run_id, path="evaluation/report/index.html")
    curve = json.loads(get("/api/2.0/mlflow/metrics/get-history", run_id=info.run_id, metric_key="kl_per_token"))
    assert [point["step"] for point in curve["metrics"]] == [10, 20, 30]
