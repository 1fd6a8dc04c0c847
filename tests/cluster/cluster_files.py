"""The cluster files as their readers get them: filled with the examples that render.py shows, and parsed."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
UP = ("aws.yaml", "gcp.yaml")
JOBS = ("kuberay/rayjob-precompute.yaml", "kuberay/rayjob-train.yaml")
KUBERAY = (*JOBS, "kuberay/rayservice.yaml")

sys.path.insert(0, str(CLUSTER))
import render  # noqa: E402 - a script beside the files, not a package


def example(name: str) -> str:
    """What a value may look like."""
    return render.VALUES[name].example


@functools.cache
def text_of(name: str) -> str:
    """A filled file."""
    values = {render.CHECKOUT: str(ROOT / "build" / "x2i-platform")} | {key: example(key) for key in render.VALUES}
    return render.fill((CLUSTER / name).read_text(), values)


def parsed(name: str) -> dict[str, Any]:
    """A filled file's content, the caller's own copy."""
    content: dict[str, Any] = yaml.safe_load(text_of(name))
    return content


def ray_cluster(name: str) -> dict[str, Any]:
    """The Ray cluster of a Kubernetes manifest."""
    spec: dict[str, dict[str, Any]] = parsed(name)["spec"]
    return spec["rayClusterSpec" if name in JOBS else "rayClusterConfig"]


def pinned(package: str) -> str:
    """The version in constraints.txt, or the installed one in a checkout that has no such file yet."""
    constraints = ROOT / "constraints.txt"
    if not constraints.exists():
        return importlib.metadata.version(package)
    pins = dict(line.split("==", 1) for line in constraints.read_text().splitlines() if re.match(r"[\w.-]+==", line))
    return pins[package].split()[0]


@functools.cache
def ray_start_options() -> frozenset[str]:
    """Every option that `ray start` of the installed Ray takes."""
    from ray.scripts.scripts import start

    return frozenset(option for parameter in start.params for option in parameter.opts)
