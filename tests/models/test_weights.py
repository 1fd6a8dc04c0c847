"""Finding model folders (local, cached, on a hub served from this process) and telling weights apart."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from x2i_platform.errors import WeightsError
from x2i_platform.models.weights import identity, locate, missing_files

SHA = "0123456789abcdef0123456789abcdef01234567"
CALL = """
import sys
from x2i_platform.errors import WeightsError
from x2i_platform.models import weights
function, *arguments = sys.argv[1:]
try:
    print(getattr(weights, function)(arguments[0], revision=arguments[1] if arguments[1:] else None))
except WeightsError as error:
    print("WeightsError:", error)
"""


def call(*arguments: str, **environment: str) -> str:
    """Run one function of `weights` in a fresh process: the hub's library reads its settings at import."""
    environment = {**os.environ, **environment}
    command = [sys.executable, "-c", CALL, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, "one line only"
    return done.stdout.strip()


def write_model(folder: Path, *, weights: bytes = b"w" * 100) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def write_snapshot(cache: Path, name: str) -> Path:
    """The layout of the Hugging Face cache for `org/NAME` with one complete commit on `main`."""
    repository = cache / f"models--org--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(SHA)
    return write_model(repository / "snapshots" / SHA)


def test_local_folder_is_found_and_keeps_its_identity_when_moved(tmp_path: Path) -> None:
    here = write_model(tmp_path / "here")
    before = identity(str(here))
    assert locate(str(here)) == here
    there = here.rename(tmp_path / "there")
    assert identity(str(there)) == before
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", before)


def test_identity_changes_with_any_byte_of_a_large_file(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", weights=bytes(3_000_001))
    seen = {identity(str(folder))}
    for position in (0, 1_234_567, 3_000_000):
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(position)
            file.write(b"x")
        seen.add(identity(str(folder)))
    assert len(seen) == 4


def test_identity_changes_with_any_byte_of_a_small_file_and_with_names(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    seen = {identity(str(folder))}
    (folder / "config.json").write_text('{"a": 1}')
    seen.add(identity(str(folder)))
    (folder / "config.json").rename(folder / "tokenizer.json")
    (folder / "config.json").write_text("{}")
    seen.add(identity(str(folder)))
    assert len(seen) == 3


def test_identity_ignores_files_that_no_model_is_loaded_from(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    before = identity(str(folder))
    (folder / ".DS_Store").write_text("junk")
    (folder / "README.md").write_text("about")
    (folder / "pytorch_model.bin").write_text("pickle")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "download.json").write_text("{}")
    assert identity(str(folder)) == before


def test_identity_enters_linked_parts(tmp_path: Path) -> None:
    part = write_model(tmp_path / "part")
    folder = write_model(tmp_path / "model")
    before = identity(str(folder))
    (folder / "linked").symlink_to(part)
    assert identity(str(folder)) != before


def test_incomplete_folders_name_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"incomplete: no config\.json or model_index\.json in it"):
        locate(str(folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"no \*\.safetensors in it"):
        locate(str(folder))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    (folder / "1.safetensors").write_text("")
    with pytest.raises(WeightsError, match=r"no 2\.safetensors in it"):
        locate(str(folder))
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "P", "vae": ["d", "V"], "dit": ["d", "D"], "x": [None, None]})
    )
    write_model(folder / "vae")
    assert missing_files(folder) == ["dit/"]
    (folder / "model_index.json").write_text("{")
    with pytest.raises(WeightsError, match=r"model_index\.json can't be read"):
        locate(str(folder))


@pytest.mark.parametrize("model", ["./checkpoints/flux", "/nowhere/flux", "~/nowhere-at-all", "a/b/c", "", "two words"])
def test_path_that_leads_nowhere_is_not_asked_of_the_hub(model: str) -> None:
    with pytest.raises(WeightsError, match="there is no folder /"):
        locate(model)


def test_file_and_unknown_miniature_are_refused(tmp_path: Path) -> None:
    (tmp_path / "flux.safetensors").write_text("")
    with pytest.raises(WeightsError, match="is a file; give the folder"):
        locate(str(tmp_path / "flux.safetensors"))
    with pytest.raises(WeightsError, match="no miniature model 'mini:flix'"):
        locate("mini:flix")


def test_cached_snapshot_is_found_without_network(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path, "model")
    offline = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    assert call("locate", "org/model", **offline) == str(snapshot)
    assert call("identity", "org/model", **offline) == f"org/model@{SHA}"
    assert call("identity", "org/other", SHA, **offline) == f"org/other@{SHA}"


def test_offline_and_not_complete_in_the_cache_says_so(tmp_path: Path) -> None:
    (write_snapshot(tmp_path, "model") / "model.safetensors").unlink()
    for model in ("org/model", "org/absent"):
        said = call("locate", model, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
        assert said.startswith(f"WeightsError: can't get model '{model}': no folder {Path(model).absolute()}")
        assert f"not complete in the cache {tmp_path}" in said
        assert "HF_HUB_OFFLINE is set" in said


def test_unreachable_hub_is_reported(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        said = call("locate", "org/model", HF_HUB_CACHE=str(tmp_path), HF_ENDPOINT=endpoint)
    assert f"the hub at {endpoint} gave ConnectError" in said


def test_silent_hub_does_not_hang(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code = "from x2i_platform.models import weights; weights.HUB_TIMEOUT_S = 1; weights.locate('org/model')"
        environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": endpoint}
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert "ReadTimeout" in done.stderr.splitlines()[-1]
    assert time.monotonic() - started < 30


class HubServer(ThreadingHTTPServer):
    """Serves some files, and remembers which of them were fetched."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.files = files
        self.fetched: set[str] = set()


class Hub(BaseHTTPRequestHandler):
    """The few answers of a model hub that a download needs; files come from the server's `files`."""

    def do_GET(self) -> None:
        assert isinstance(self.server, HubServer)
        files = self.server.files
        path = self.path.split("?")[0]
        if path.startswith(f"/org/model/resolve/{SHA}/"):
            name = path.split("/", 5)[5]
            self.server.fetched.add(name)
            return self.answer(files[name], {"ETag": f'"{len(files[name])}-{name}"', "X-Repo-Commit": SHA})
        if path in ("/api/models/org/model", "/api/models/org/model/revision/main"):
            return self.send_json({"id": "org/model", "sha": SHA, "siblings": [{"rfilename": name} for name in files]})
        if path.startswith(f"/api/models/org/model/tree/{SHA}"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()
            ]
            return self.send_json(entries)
        if path.startswith("/api/models/org/model/revision/"):
            return self.answer(b"", {"X-Error-Code": "RevisionNotFound"}, status=404)
        if path == "/api/models/org/gated":
            return self.answer(b"", {"X-Error-Code": "GatedRepo"}, status=403)
        return self.answer(b"", {"X-Error-Code": "RepoNotFound"}, status=404)

    do_HEAD = do_GET

    def send_json(self, value: object) -> None:
        self.answer(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, data: bytes, headers: dict[str, str], *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[HubServer]:
    files = {
        "model_index.json": json.dumps({"vae": ["diffusers", "V"], "tokenizer": ["transformers", "T"]}).encode(),
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": b"weights",
        "vae/diffusion_pytorch_model.bin": b"pickle",
        "tokenizer/tokenizer.json": b"{}",
        "tokenizer/custom.py": b"raise SystemExit",
        "flux1-dev.safetensors": b"the same in another format",
        "README.md": b"about",
    }
    server = HubServer(files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_download_takes_only_what_is_loaded(hub: HubServer, tmp_path: Path) -> None:
    environment = {"HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    assert call("identity", "org/model", **environment) == f"org/model@{SHA}"
    assert hub.fetched == set(), "an identity needs no download"
    folder = Path(call("locate", "org/model", **environment))
    wanted = {
        "model_index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/tokenizer.json",
    }
    assert hub.fetched == wanted
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == wanted
    assert call("locate", "org/model", HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1") == str(folder)
    shutil.rmtree(folder / "vae")
    assert Path(call("locate", "org/model", **environment)) == folder, "a damaged snapshot is completed"


def test_hub_refusals_say_what_to_do(hub: HubServer, tmp_path: Path) -> None:
    environment = {"HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    assert "no such model" in call("locate", "org/unknown", **environment)
    assert "licence at" in call("locate", "org/gated", **environment)
    assert "no revision 'v9'" in call("locate", "org/model", "v9", **environment)
    del hub.files["vae/diffusion_pytorch_model.safetensors"]
    assert "no vae/*.safetensors (pickles aren't used)" in call("locate", "org/model", **environment)
