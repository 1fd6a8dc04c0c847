"""`python benchmarks/hashing.py [--gigabytes N]`: what a local model folder's identity costs, at first and again."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from x2i_platform.models.content import SETTLED_S, content_digest

FILES = 4


def main() -> None:
    """Write random weights, hash them twice, print seconds and GB/s."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    size = int(parser.parse_args().gigabytes * 1e9 / FILES)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["X2I_CACHE"] = str(Path(folder, "cache"))
        model = Path(folder, "model")
        model.mkdir()
        for number in range(FILES):
            (model / f"{number}.safetensors").write_bytes(os.urandom(size))
        time.sleep(SETTLED_S + 0.1)
        for title in ("first", "again"):
            started = time.monotonic()
            content_digest(model)
            seconds = time.monotonic() - started
            print(f"{title}: {seconds:.3f} s, {FILES * size / seconds / 1e9:.2f} GB/s")


if __name__ == "__main__":
    main()
