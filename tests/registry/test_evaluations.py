"""What an evaluation leaves in a real MLflow database: on the run of the evaluated version, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.registered import registered
from x2i_platform.errors import RegistryError
from x2i_platform.registry.connection import connect
from x2i_platform.registry.evaluations import learning_curves, log_evaluation, pin, record_gate
from x2i_platform.registry.models import list_models
from x2i_platform.registry.tracking import RunLogger

METRIC = "evaluation/english/held_out/prompt/accuracy"


def report(folder: Path, *, page: str = "page") -> Path:
    """A folder as an evaluation leaves it."""
    for name, text in (
        ("index.html", page),
        ("report.json", "{}"),
        ("results.jsonl", "{}\n"),
        ("sheets/english.png", "sheet"),
        ("images/student/a.png", "image"),
        ("mlflow.db", "of whoever evaluates into a folder that holds more"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def logged(tracking_uri: str, run_id: str, folder: str = "") -> set[str]:
    """Files of a run's artifacts."""
    entries = MlflowClient(tracking_uri).list_artifacts(run_id, folder or None)
    return {
        path
        for entry in entries
        for path in (logged(tracking_uri, run_id, entry.path) if entry.is_dir else {str(entry.path)})
    }


def metric(tracking_uri: str, run_id: str, name: str = METRIC) -> float:
    return float(MlflowClient(tracking_uri).get_run(run_id).data.metrics[name])


def test_report_and_figures_lie_on_the_run_of_the_version(tracking_uri: str, tmp_path: Path) -> None:
    info = registered(tracking_uri, tmp_path / "final")
    before = logged(tracking_uri, info.run_id)
    found = log_evaluation(
        "models:/mini@candidate",
        folder=report(tmp_path / "against teacher"),
        metrics={METRIC: 0.75, "evaluation/video/seen/answer/accuracy": 0.0},
        tracking_uri=tracking_uri,
    )
    assert found == info.run_id
    assert logged(tracking_uri, info.run_id) - before == {
        f"evaluation/against teacher/{name}"
        for name in ("index.html", "report.json", "results.jsonl", "sheets/english.png")
    }
    assert metric(tracking_uri, info.run_id) == 0.75
    assert metric(tracking_uri, info.run_id, "evaluation/video/seen/answer/accuracy") == 0.0


def test_a_later_evaluation_replaces_report_and_figures_even_if_they_are_lower(
    tracking_uri: str, tmp_path: Path
) -> None:
    info = registered(tracking_uri, tmp_path / "final")
    for page, accuracy in (("first", 0.9), ("second", 0.5)):
        folder = report(tmp_path / "report", page=page)
        log_evaluation("models:/mini/1", folder=folder, metrics={METRIC: accuracy}, tracking_uri=tracking_uri)
    assert metric(tracking_uri, info.run_id) == 0.5
    path = MlflowClient(tracking_uri).download_artifacts(info.run_id, "evaluation/report/index.html", str(tmp_path))
    assert Path(path).read_text() == "second"


def test_the_report_of_the_current_folder_has_its_name(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = registered(tracking_uri, tmp_path / "final")
    monkeypatch.chdir(report(tmp_path / "here"))
    log_evaluation("models:/mini/1", folder=Path(), metrics={}, tracking_uri=tracking_uri)
    assert "evaluation/here/index.html" in logged(tracking_uri, info.run_id)


def test_more_figures_than_mlflow_takes_at_once(tracking_uri: str, tmp_path: Path) -> None:
    info = registered(tracking_uri, tmp_path / "final")
    many = {f"evaluation/suite {number}/seen/prompt/accuracy": number / 1200 for number in range(1200)}
    folder = tmp_path / "report"
    folder.mkdir()
    log_evaluation("models:/mini/1", folder=folder, metrics=many, tracking_uri=tracking_uri)
    assert MlflowClient(tracking_uri).get_run(info.run_id).data.metrics == pytest.approx(many)


def test_the_alias_moves_to_the_version_that_was_evaluated_whatever_was_trained_meanwhile(
    tracking_uri: str, tmp_path: Path
) -> None:
    first = registered(tracking_uri, tmp_path / "first")
    evaluated = pin("models:/mini@candidate", tracking_uri=tracking_uri)
    assert evaluated == "models:/mini/1" == pin("models:/mini/1", tracking_uri=tracking_uri)
    second = registered(tracking_uri, tmp_path / "second", value=2.0)
    folder = report(tmp_path / "report")
    assert log_evaluation(evaluated, folder=folder, metrics={METRIC: 1.0}, tracking_uri=tracking_uri) == first.run_id
    assert record_gate(evaluated, holds=True, reason="within", tracking_uri=tracking_uri) == "models:/mini/1"
    (model,) = list_models(tracking_uri)
    assert model.aliases == {"candidate": 2, "champion": 1}
    assert METRIC not in MlflowClient(tracking_uri).get_run(second.run_id).data.metrics


def test_the_verdict_is_on_the_version_and_only_one_that_holds_makes_a_champion(
    tracking_uri: str, tmp_path: Path
) -> None:
    for number in (1, 2):
        registered(tracking_uri, tmp_path / str(number), value=number)

    def verdicts() -> list[tuple[str | None, str | None]]:
        versions = [MlflowClient(tracking_uri).get_model_version("mini", number) for number in ("1", "2")]
        return [(version.tags.get("x2i.gate"), version.tags.get("x2i.gate_reason")) for version in versions]

    def gate(number: int, *, holds: bool, reason: str) -> str | None:
        return record_gate(f"models:/mini/{number}", holds=holds, reason=reason, tracking_uri=tracking_uri)

    def champion() -> int | None:
        [model] = list_models(tracking_uri)
        return model.aliases.get("champion")

    assert verdicts() == [(None, None)] * 2
    assert gate(1, holds=False, reason="−9 points") is None
    assert (verdicts(), champion()) == ([("failed", "−9 points"), (None, None)], None)
    assert gate(2, holds=True, reason="+1 point") == "models:/mini/2"
    assert (verdicts(), champion()) == ([("failed", "−9 points"), ("passed", "+1 point")], 2)
    assert gate(1, holds=True, reason="0 points") == "models:/mini/1"
    assert (verdicts(), champion()) == ([("passed", "0 points"), ("passed", "+1 point")], 1)
    assert gate(2, holds=False, reason="−5 points") is None
    assert (verdicts(), champion()) == ([("passed", "0 points"), ("failed", "−5 points")], 1)


def test_learning_curves_are_the_losses_of_its_run_by_step(tracking_uri: str, tmp_path: Path) -> None:
    info = registered(tracking_uri, tmp_path / "final")
    with RunLogger(info, sample_every_s=1000) as log:
        for step in (2, 4, 6):
            log.metrics({"kl_per_token": 1 / step, "lr": 0.1}, step=step)
        log.metrics({"validation_kl_per_token": 0.5}, step=4)
    assert learning_curves("models:/mini@candidate", tracking_uri=tracking_uri) == {
        "kl_per_token": [(2, 1 / 2), (4, 1 / 4), (6, 1 / 6)],
        "validation_kl_per_token": [(4, 0.5)],
    }


def test_a_plain_folder_leaves_nothing_and_creates_nothing(tmp_path: Path) -> None:
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", str(report(tmp_path / "report"))
    (tmp_path / "report" / "mlflow.db").unlink()
    assert pin(folder, tracking_uri=uri) == folder
    assert log_evaluation(folder, folder=Path(folder), metrics={METRIC: 1.0}, tracking_uri=uri) is None
    assert record_gate(folder, holds=True, reason="", tracking_uri=uri) is None
    assert learning_curves(folder, tracking_uri=uri) == {}
    assert pin("models:/mini@candidate", tracking_uri=uri) == "models:/mini@candidate"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_version_that_is_not_there_is_named(tracking_uri: str, tmp_path: Path) -> None:
    connect(tracking_uri)
    with pytest.raises(RegistryError, match="there is no model 'mini'"):
        pin("models:/mini@candidate", tracking_uri=tracking_uri)
    registered(tracking_uri, tmp_path / "final")
    with pytest.raises(RegistryError, match=r"no alias 'champion'; .*candidate"):
        pin("models:/mini@champion", tracking_uri=tracking_uri)
    with pytest.raises(RegistryError, match="no version 7"):
        record_gate("models:/mini/7", holds=True, reason="", tracking_uri=tracking_uri)
