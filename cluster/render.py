"""Fills the `${X2I_…}` values of a cluster file from the environment: `python cluster/render.py TEMPLATE [OUT]`.

Invariants: nothing is written unless every value is set and has the right form, and every local file that the nodes
will need is there; all that is wrong is reported at once, with exit code 2. No value is a secret.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHECKOUT = "X2I_CHECKOUT"
"""Set by this script: the folder that holds the committed files, which `ray up` copies to every node."""
PLACEHOLDER = re.compile(r"\$\{(X2I_\w+)\}")
NAME = r"[A-Za-z0-9][\w.-]*"
LABEL = r"[A-Za-z0-9]([\w./-]*[A-Za-z0-9])?"
URL = r"(s3|gs)://[A-Za-z0-9][\w.-]+(/[\w./*=-]*)?"
HTTP = r"https?://(?!localhost|127\.)[\w.-]+(:\d+)?(/[\w./-]*)?"


@dataclass(frozen=True)
class Value:
    """One thing only the user can know: what it is, the form it must have, and what it may look like."""

    meaning: str
    form: str
    example: str


VALUES = {
    "X2I_AWS_AMI": Value("machine image with Docker and NVIDIA driver", r"ami-[0-9a-f]{8,17}", "ami-0123456789abcdef0"),
    "X2I_AWS_HEAD_PROFILE": Value("instance profile of the head", r"[\w+=,.@-]+", "x2i-head"),
    "X2I_AWS_REGION": Value("region", r"[a-z]{2}(-[a-z]+)+-\d", "us-east-1"),
    "X2I_AWS_SECURITY_GROUP": Value("security group of all nodes", r"sg-[0-9a-f]{8,17}", "sg-0123456789abcdef0"),
    "X2I_AWS_WORKER_PROFILE": Value("instance profile of the workers", r"[\w+=,.@-]+", "x2i-worker"),
    "X2I_CAPTIONS": Value("captions on shared storage", URL, "s3://my-bucket/captions.txt.gz"),
    "X2I_GCP_IMAGE": Value(
        "machine image with Docker and NVIDIA driver",
        r"projects/[\w.:-]+/global/images/(family/)?[\w-]+",
        "projects/my-project/global/images/x2i-node",
    ),
    "X2I_GCP_PROJECT": Value("project id", r"[a-z][a-z0-9-]{4,28}[a-z0-9]", "my-project"),
    "X2I_GCP_REGION": Value("region", r"[a-z]+-[a-z]+\d", "us-central1"),
    "X2I_GCP_SERVICE_ACCOUNT": Value(
        "service account of the workers",
        r"[\w.-]+@[\w.-]+\.gserviceaccount\.com",
        "x2i@my-project.iam.gserviceaccount.com",
    ),
    "X2I_GCP_SUBNET": Value("subnetwork in that region", r"[a-z]([a-z0-9-]*[a-z0-9])?", "x2i"),
    "X2I_GCP_ZONE": Value("zone that sells the GPU", r"[a-z]+-[a-z]+\d-[a-z]", "us-central1-a"),
    "X2I_GPU_LABEL": Value("key of the label of GPU nodes", LABEL, "cloud.google.com/gke-accelerator"),
    "X2I_GPU_LABEL_VALUE": Value("value of that label", LABEL, "nvidia-a100-80gb"),
    "X2I_IMAGE": Value(
        "image built from cluster/docker/Dockerfile, with a registry and a tag other than latest, or a digest",
        r"[\w.-]+(:\d+)?/[\w./-]+(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})",
        "registry.example.com/x2i-platform:0.1.0",
    ),
    "X2I_MODEL": Value("model to serve", rf"models:/{NAME}(@{NAME}|/\d+)", "models:/alignnet@candidate"),
    "X2I_MODEL_NAME": Value("name under which training registers the model", NAME, "alignnet"),
    "X2I_RECIPE": Value("shipped recipe", NAME, "flux-dev_qwen2.5-vl-7b"),
    "X2I_RUNS": Value("folder of training checkpoints on shared storage", URL, "s3://my-bucket/runs"),
    "X2I_STORE": Value("feature store on shared storage", URL, "s3://my-bucket/store"),
    "X2I_TRACKING_URI": Value("MLflow server that every node reaches", HTTP, "https://mlflow.example.com"),
}

TOKENS = {
    "~/.ray/auth_token": "`ray get-auth-token --generate` writes it",
    "~/.cache/huggingface/token": "`hf auth login` writes it",
}
"""Local files that `ray up` hands to the nodes, and where they come from."""


def main(arguments: list[str] | None = None) -> int:
    """Write the filled file to OUT, or to standard output, and return 0; or say what is wrong and return 2."""
    parser = argparse.ArgumentParser(description="Fill the values of a cluster file from the environment.")
    parser.add_argument("template", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="file to write; standard output if not given")
    options = parser.parse_args(arguments)
    text = options.template.read_text()
    values = {CHECKOUT: str(ROOT / "build" / "x2i-platform"), **os.environ}
    problems = value_problems(text, values)
    filled = "" if problems else fill(text, values)
    problems += token_problems(filled)
    if problems:
        sys.stderr.write("".join(f"{options.template}: {problem}\n" for problem in problems))
        return 2
    if CHECKOUT in text:
        stage_checkout(Path(values[CHECKOUT]))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(filled)
    else:
        sys.stdout.write(filled)
    return 0


def value_problems(text: str, values: Mapping[str, str]) -> list[str]:
    """One line for each value of the template that is unset or of the wrong form."""
    found = []
    for name in sorted(set(PLACEHOLDER.findall(text)) - {CHECKOUT}):
        value, given = VALUES[name], values.get(name, "")
        if not given:
            found.append(f"{name} is not set: {value.meaning}, such as {value.example}")
        elif not re.fullmatch(value.form, given):
            found.append(f"{name} is '{given}', which is no {value.meaning}; it may look like {value.example}")
    return found


def fill(text: str, values: Mapping[str, str]) -> str:
    """The template with every `${X2I_…}` replaced; shell variables are left alone."""
    return PLACEHOLDER.sub(lambda match: values[match[1]], text)


def token_problems(filled: str) -> list[str]:
    """One line for each local token file that a `ray up` file hands to its nodes and that is missing or empty."""
    documents: list[Any] = list(yaml.safe_load_all(filled))
    mounts = {source for document in documents for source in (document or {}).get("file_mounts", {}).values()}
    paths = {source: Path(source).expanduser() for source in mounts & TOKENS.keys()}
    return [
        f"{source} is missing or empty: {TOKENS[source]}"
        for source, path in sorted(paths.items())
        if not path.is_file() or not path.read_text().strip()
    ]


def stage_checkout(folder: Path) -> None:
    """Put a copy of what is committed, and nothing else, into a folder: no environment, data or secret goes along."""
    git = ["git", "-C", str(ROOT)]
    archive = subprocess.run([*git, "archive", "--format=tar", "HEAD"], check=True, capture_output=True).stdout
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    if subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True).stdout:
        sys.stderr.write("note: uncommitted changes are not sent to the nodes\n")


if __name__ == "__main__":
    sys.exit(main())
