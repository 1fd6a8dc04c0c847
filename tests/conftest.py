"""What tests of several folders share: quiet libraries, and one Ray cluster for the whole run."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import RECIPES
from tests.random_models import RANDOM
from x2i_platform.config import Recipe
from x2i_platform.recipes import load

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # the tests' own cluster lets nobody else in either
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without it Ray replaces 127.0.0.1 by the machine's outer address
    "RAY_TRAIN_V2_ENABLED": "1",
}
for _name, _value in ENVIRONMENT.items():  # read by the libraries when they are imported
    os.environ.setdefault(_name, _value)

START_TIMEOUT_S = 120


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of tests that are coroutines."""
    return "asyncio"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Address of a Ray head on loopback with 6 logical CPUs, to which `ray.init(address)` may come and go."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="x2i-ray-"))  # short: Ray's sockets lie in it
    log = folder / "head.log"
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=6", f"--object-store-memory={200 * 1024**2}"),
        *("--include-dashboard=false", "--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}"),
        *("--disable-usage-stats", f"--temp-dir={folder}"),
    ]
    with log.open("wb") as output:
        head = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
        )
    try:
        _wait_until_up(head, log=log)
        yield f"127.0.0.1:{port}"
    finally:
        _stop(head)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_up(head: subprocess.Popen[bytes], *, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if head.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"no Ray cluster for the tests: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)


def _stop(head: subprocess.Popen[bytes]) -> None:
    """`ray start --block` ends its own processes on SIGTERM; what is left of its session is killed."""
    head.terminate()
    try:
        head.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def mini_recipe() -> Recipe:
    """The miniature recipe, drawing in two steps."""
    return load(RANDOM, shipped=RECIPES, overrides=["generate.num_inference_steps=2"])


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_model(recipe, num_layers=, prompt_dim=)`: a folder as training leaves it, with untrained weights."""
    import torch

    from x2i_platform.models.alignnet import AlignNet, AlignNetDims
    from x2i_platform.models.catalog import dit_dims, mllm_dims
    from x2i_platform.models.model_folder import save_alignnet

    def make(recipe: Recipe, *, num_layers: int | None = None, prompt_dim: int | None = None) -> Path:
        dit, mllm = dit_dims(recipe.teacher.model), mllm_dims(recipe.mllm.model)
        dims = AlignNetDims(
            num_layers=num_layers or mllm.num_states,
            hidden_size=mllm.hidden_size,
            text_tokens=recipe.teacher.text_tokens,
            prompt_dim=prompt_dim or dit.joint_dim,
            pooled_dim=dit.pooled_dim,
        )
        folder = tmp_path_factory.mktemp("model") / "untrained"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            save_alignnet(AlignNet(recipe.alignnet, dims=dims), folder)
        (folder / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def model_folder(make_model: Callable[..., Path], mini_recipe: Recipe) -> Path:
    """A model of the miniature recipe."""
    return make_model(mini_recipe)
