"""Every command, started as a user starts it: nothing it listens on is open to strangers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from pipelines.ray_cluster.keys import write_keys
from tests.conftest import free_port
from tests.listening import Port, Running, outcome_of_call
from tests.random_models import CAPTIONS, RANDOM

TIMEOUT_S = 600
QUICK = (
    *("targets.taps=[double.0.image, single.0]", "teacher.text_tokens=64", "mllm.max_tokens=64"),
    *("store.samples_per_shard=16", "train.steps=4", "train.batch_size=4", "run.train.checkpoint_every=4"),
    "generate.num_inference_steps=2",
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * TIMEOUT_S)]


def overridden(*more: str) -> list[str]:
    return [word for override in (*QUICK, *more) for word in ("--set", override)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run. Each leaves there what the next one needs: the tests below go in order."""
    folder = tmp_path_factory.mktemp("ports")
    (folder / "captions.txt").write_text("\n".join(CAPTIONS[:16]))
    (folder / "requests.jsonl").write_text('{"prompt": "a red circle"}\n')
    return folder


def test_precompute(folder: Path) -> None:
    words = ("precompute", RANDOM, "--captions", "captions.txt", "--store", "store", *overridden())
    with Running(*words, folder=folder) as command:
        command.finish(timeout_s=TIMEOUT_S)
    assert command.ports
    assert command.open_to_others() == []


@pytest.mark.parametrize(("workers", "strategy"), [(1, "ddp"), (2, "zero2")])
def test_train(folder: Path, workers: int, strategy: str) -> None:
    changes = overridden(f"run.train.workers={workers}", f"run.train.strategy={strategy}")
    words = ("train", RANDOM, "--store", "store", "--name", "m", "--runs", f"runs-{workers}-{strategy}", *changes)
    with Running(*words, folder=folder) as command:
        command.finish(timeout_s=TIMEOUT_S)
    assert command.ports
    assert command.open_to_others() == []


def test_generate(folder: Path) -> None:
    words = ("generate", "models:/m@candidate", "--requests", "requests.jsonl", "--out", "out")
    with Running(*words, folder=folder) as command:
        command.finish(timeout_s=TIMEOUT_S)
    assert command.ports
    assert command.open_to_others() == []


def test_evaluate(folder: Path) -> None:
    words = ("evaluate", "models:/m@candidate", "--suite", "english", "--states", "prompt", "--cases", "1")
    with Running(*words, folder=folder) as command:
        command.finish(timeout_s=TIMEOUT_S)
    assert command.ports
    assert command.open_to_others() == []


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    port = free_port()
    with Running("serve", "models:/m@candidate", f"--port={port}", folder=folder) as command:
        deadline = time.monotonic() + TIMEOUT_S
        while not _is_ready(port):
            assert command.process.poll() is None, command.process.communicate()[0][-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.5)
        time.sleep(2)  # for a last look at the ports
        yield command


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_serve_opens_to_others_only_ports_that_refuse_strangers(service: Running, tmp_path: Path) -> None:
    opened = service.open_to_others()
    assert all(port.process.startswith("ray::ServeReplica:x2i-platform:") for port in opened), opened
    # A process may have been seen under two titles.
    for port in {port.number: port for port in opened}.values():
        assert_strangers_are_refused(port, tmp_path / f"proof-{port.number}")


def assert_strangers_are_refused(port: Port, proof: Path) -> None:
    """A call whose pickle would make the folder `proof`, as a stranger and as one of the cluster's own processes."""
    own = psutil.Process(port.pid).environ()
    authority, certificate, key = (
        Path(own[f"RAY_TLS_{name}"]).read_bytes() for name in ("CA_CERT", "SERVER_CERT", "SERVER_KEY")
    )
    forged, forged_key, _ = write_keys(_made(proof.with_suffix(".keys")))
    token = {"authorization": f"Bearer {own['RAY_AUTH_TOKEN']}"}
    strangers = {
        "without TLS": None,
        "without a certificate": grpc.ssl_channel_credentials(authority),
        "with a certificate of its own": grpc.ssl_channel_credentials(
            authority, forged_key.read_bytes(), forged.read_bytes()
        ),
    }
    for name, keys in strangers.items():
        outcome = outcome_of_call(port.number, proof, keys=keys, metadata=token)
        assert outcome == grpc.StatusCode.UNAVAILABLE, f"{name}: {outcome}"
        assert not proof.exists(), name
    ours = grpc.ssl_channel_credentials(authority, key, certificate)
    assert outcome_of_call(port.number, proof, keys=ours) == grpc.StatusCode.UNAUTHENTICATED
    assert not proof.exists(), "without the token"
    outcome_of_call(port.number, proof, keys=ours, metadata=token)
    assert proof.exists(), "the call reaches nothing that unpickles, so its refusal shows nothing"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_keys_are_their_owners_alone_and_gone_with_the_service(service: Running) -> None:
    own = psutil.Process(service.open_to_others()[0].pid).environ()
    files = [Path(own[f"RAY_TLS_{name}"]) for name in ("CA_CERT", "SERVER_CERT", "SERVER_KEY")]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
    assert {oct(path.parent.stat().st_mode & 0o777) for path in files} == {"0o700"}
    service.process.terminate()
    output = service.finish(timeout_s=120)
    assert "takes calls from anybody" not in output
    assert not files[0].parent.exists()
