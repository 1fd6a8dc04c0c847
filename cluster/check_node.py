"""Tells whether a node can do its work before any of it starts: run by the setup commands of `ray up`.

Invariant: exits with 0 only if shared storage was written, read back and cleaned, the MLflow server answered, and,
where asked for, a CUDA kernel ran on a GPU of the given size; else a line for each failure, and the node is given up.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial


def main(arguments: list[str] | None = None) -> int:
    """Run the checks asked for; 0 if all passed, else 1."""
    parser = argparse.ArgumentParser(description="Check that this node can work.")
    parser.add_argument("--store", required=True, help="URL of the feature store")
    parser.add_argument("--tracking-uri", required=True, help="URL of the MLflow server")
    parser.add_argument("--gpu-memory-gib", type=float, default=0.0, help="least memory of the GPU; 0: no GPU needed")
    options = parser.parse_args(arguments)
    checks: list[Callable[[], str]] = [
        partial(check_storage, options.store),
        partial(check_tracking, options.tracking_uri),
    ]
    if options.gpu_memory_gib:
        checks.append(partial(check_gpu, options.gpu_memory_gib))
    failures = [line for line in (check() for check in checks) if line]
    sys.stderr.write("".join(f"{socket.gethostname()}: {line}\n" for line in failures))
    return 1 if failures else 0


def check_storage(url: str) -> str:
    """Write, read and delete a small file under the store. Any failure of any filesystem is one and the same news."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
        path = f"{root}/.check/{socket.gethostname()}-{os.getpid()}"
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(path, b"x2i")
        content = fs.cat_file(path)
        fs.rm_file(path)
    except Exception as error:  # noqa: BLE001 - each cloud's client has its own family of errors
        return f"store '{url}' can't be written and read from here: {type(error).__name__}: {error}"
    return "" if content == b"x2i" else f"store '{url}' returned {content!r} for what was written"


def check_tracking(url: str) -> str:
    """Ask the MLflow server for its health page."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10):
            return ""
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        return f"MLflow server '{url}' does not answer: {error}"


def check_gpu(least_gib: float) -> str:
    """Run one CUDA kernel and compare the GPU's memory."""
    import torch

    try:
        torch.ones(1, device="cuda").item()
        properties = torch.cuda.get_device_properties(0)
    except (RuntimeError, AssertionError) as error:
        return f"no CUDA kernel runs with torch {torch.__version__}: {error}"
    found_gib = properties.total_memory / 2**30
    return "" if found_gib >= least_gib else f"{properties.name} has {found_gib:.0f} GiB, {least_gib:.0f} are needed"


if __name__ == "__main__":
    sys.exit(main())
