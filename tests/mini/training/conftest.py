"""What the tests of the miniature's training share: the tokenizer and an untrained model."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Qwen2Tokenizer

from x2i_platform.mini.training import language


@pytest.fixture(scope="session")
def words() -> Qwen2Tokenizer:
    """Learnt from captions in all languages; takes a second or two."""
    return language.build_tokenizer()


@pytest.fixture
def mllm(words: Qwen2Tokenizer) -> Any:
    """Untrained, and all of it learns unless a test freezes it."""
    return language.untrained(words)
