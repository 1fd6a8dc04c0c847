"""What only the user can know is asked for early, all at once and by name; and a node says why it can't work."""

from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
TEMPLATES = sorted(CLUSTER.glob("*.yaml")) + sorted(CLUSTER.glob("kuberay/*.yaml"))

sys.path.insert(0, str(CLUSTER))
import check_node  # noqa: E402 - scripts beside the files, not a package
import render  # noqa: E402


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with nothing in it, and an environment with no value set."""
    for name in render.VALUES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def set_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in render.VALUES.items():
        monkeypatch.setenv(name, value.example)


def write_tokens(home: Path) -> None:
    for token in render.TOKENS:
        path = home / token.removeprefix("~/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")


def values_of(template: Path) -> set[str]:
    return set(render.PLACEHOLDER.findall(template.read_text())) - {render.CHECKOUT}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_every_unset_value_is_named_and_nothing_is_written(
    template: Path, user: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render.main([str(template), str(user / "out.yaml")]) == 2
    printed = capsys.readouterr()
    assert {name for name in values_of(template) if f"{name} is not set" in printed.err} == values_of(template) != set()
    assert not (user / "out.yaml").exists() and not printed.out


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_filled_file_parses_and_has_no_value_left(
    template: Path, user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch)
    write_tokens(user)
    monkeypatch.setattr(render, "stage_checkout", lambda folder: folder.exists())
    assert render.main([str(template)]) == 0
    filled = capsys.readouterr().out
    assert "${X2I" not in filled
    assert yaml.safe_load(filled)


def test_every_value_is_used_and_documented() -> None:
    assert set().union(*map(values_of, TEMPLATES)) == set(render.VALUES)
    readme = (CLUSTER / "README.md").read_text()
    assert not [name for name in render.VALUES if name not in readme]
    assert not set(re.findall(r"X2I_[A-Z]\w+", readme)) - set(render.VALUES) - {"X2I_WAIT_FOR_NODES_S"}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("X2I_IMAGE", "x2i-platform"),
        ("X2I_IMAGE", "registry.example.com/x2i-platform:latest"),
        ("X2I_STORE", "/data/store"),
        ("X2I_STORE", 's3://bucket/"; rm -rf /'),
        ("X2I_TRACKING_URI", "sqlite:///mlflow.db"),
        ("X2I_TRACKING_URI", "http://localhost:5000"),
        ("X2I_AWS_AMI", "ubuntu"),
        ("X2I_MODEL", "alignnet"),
        ("X2I_GCP_PROJECT", "My Project"),
    ],
)
def test_a_value_of_the_wrong_form_is_refused(name: str, wrong: str) -> None:
    (problem,) = render.value_problems(f"key: ${{{name}}}", {name: wrong})
    assert problem.startswith(f"{name} is '{wrong}'") and render.VALUES[name].example in problem


@pytest.mark.parametrize("name", render.VALUES)
def test_the_examples_have_the_form_asked_for(name: str) -> None:
    assert render.value_problems(f"key: ${{{name}}}", {name: render.VALUES[name].example}) == []


def test_a_missing_or_empty_token_is_refused(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch)
    write_tokens(user)
    (user / ".ray/auth_token").write_text("\n")
    assert render.main([str(CLUSTER / "aws.yaml")]) == 2
    assert "~/.ray/auth_token is missing or empty: `ray get-auth-token --generate`" in capsys.readouterr().err


def test_shell_variables_are_left_alone() -> None:
    assert render.fill("$RAY_HEAD_IP $(id -u) ${token} ${X2I_STORE}", {"X2I_STORE": "s"}) == (
        "$RAY_HEAD_IP $(id -u) ${token} s"
    )


def test_only_committed_files_are_sent_to_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, sent = tmp_path / "repository", tmp_path / "sent"
    repository.mkdir()
    (repository / "code.py").write_text("committed")
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (repository / ".env").write_text("secret")
    sent.mkdir()
    (sent / "stale.py").write_text("of an earlier commit")
    monkeypatch.setattr(render, "ROOT", repository)
    render.stage_checkout(sent)
    assert [path.name for path in sent.iterdir()] == ["code.py"]


class Healthy(http.server.BaseHTTPRequestHandler):
    """MLflow's health page."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def mlflow_url() -> object:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_node_that_can_work_passes_and_leaves_nothing_in_the_store(tmp_path: Path, mlflow_url: str) -> None:
    assert check_node.main(["--store", f"{tmp_path}/store", "--tracking-uri", mlflow_url]) == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_node_says_everything_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way of the store's folder")
    arguments = ["--store", f"{tmp_path}/file/store", "--tracking-uri", "http://127.0.0.1:1", "--gpu-memory-gib", "1e6"]
    assert check_node.main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "can't be written and read from here" in lines[0]
    assert "MLflow server 'http://127.0.0.1:1' does not answer" in lines[1]
    assert "CUDA" in lines[2] or "GiB" in lines[2]
