"""Seconds from Enter to the answer of each command, in fresh processes.

    python benchmarks/cold_start.py [--rounds 3]

`serve` and `generate` run on a model folder with an untrained AlignNet; `serve` is timed to the first 200 of /ready.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from pipelines import RECIPES
from x2i_platform.mini import captions_path
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.catalog import dit_dims, mllm_dims
from x2i_platform.models.model_folder import save_alignnet
from x2i_platform.recipes import load

X2I = [sys.executable, "-c", "from cli import main; main()"]


def make_model(folder: Path) -> None:
    """A model folder of the `mini` recipe, untrained."""
    recipe = load("mini", shipped=RECIPES)
    dit, mllm = dit_dims(recipe.teacher.model), mllm_dims(recipe.mllm.model)
    dims = AlignNetDims(mllm.num_states, mllm.hidden_size, recipe.teacher.text_tokens, dit.joint_dim, dit.pooled_dim)
    save_alignnet(AlignNet(recipe.alignnet, dims=dims), folder)
    (folder / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")


def seconds(arguments: list[str], *, folder: Path) -> float:
    """Wall time of one command."""
    started = time.perf_counter()
    done = subprocess.run([*X2I, *arguments], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-1000:]
    return time.perf_counter() - started


def seconds_to_ready(model: str, *, folder: Path) -> float:
    """Wall time until a served model answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.perf_counter()
    server = subprocess.Popen([*X2I, "serve", model, "--port", str(port)], cwd=folder, stderr=subprocess.PIPE)
    try:
        while time.perf_counter() - started < 300:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return time.perf_counter() - started
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        raise TimeoutError("not ready in 300 s")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


def main() -> None:
    """Time every command and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model")
        (folder / "requests.jsonl").write_text('{"prompt": "a red circle"}\n', encoding="utf-8")
        captions = ["--captions", str(captions_path()), "--limit", "8", "--store", "store"]
        seconds(["precompute", "mini", *captions], folder=folder)
        commands = {
            "--help": ["--help"],
            "recipes": ["recipes"],
            "plan": ["plan", "mini", "--rows", "1000"],
            "models": ["models"],
            "precompute --dry-run": ["precompute", "mini", *captions, "--dry-run"],
            "precompute, nothing left to do": ["precompute", "mini", *captions],
            "train --dry-run": ["train", "mini", "--store", "store", "--dry-run"],
        }
        table = {label: [seconds(args, folder=folder) for _ in range(rounds)] for label, args in commands.items()}
        table["generate, one image"] = [
            seconds(["generate", "model", "--requests", "requests.jsonl", "--out", f"out{i}"], folder=folder)
            for i in range(rounds)
        ]
        table["serve, until ready"] = [seconds_to_ready("model", folder=folder) for _ in range(rounds)]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, median of {rounds}")
    print("| command | seconds |\n|---|---|")
    medians = {label: statistics.median(times) for label, times in table.items()}
    for label, median in medians.items():
        print(f"| `{label}` | {median:.1f} |")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
