"""Small stores, and an S3 server, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.s3_server import s3_bucket, s3_server
from x2i_platform.features.store import FeatureStore, Fingerprint

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture
def fingerprint() -> Fingerprint:
    return {"text": {"teacher": "a"}, "mllm": {"mllm": "b"}, "targets": {"teacher": "a", "codec": "int8"}}


@pytest.fixture
def store(tmp_path: Path, fingerprint: Fingerprint) -> FeatureStore:
    return FeatureStore.create(str(tmp_path / "store"), fingerprint=fingerprint)
