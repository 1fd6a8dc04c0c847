"""What the tests of the miniature's training share: the tokenizer, an untrained model, and a Thinker without an ear."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Qwen2Tokenizer

from x2i_platform.mini.checkpoints import trained_folder
from x2i_platform.mini.training import language, omni


@pytest.fixture(scope="session")
def words() -> Qwen2Tokenizer:
    """Learnt from captions in all languages; takes a second or two."""
    return language.build_tokenizer()


@pytest.fixture
def mllm(words: Qwen2Tokenizer) -> Any:
    """Untrained, and all of it learns unless a test freezes it."""
    return language.untrained(words)


@pytest.fixture
def thinker() -> tuple[Any, Qwen2Tokenizer]:
    """The shipped Qwen2.5-VL as a Thinker whose audio tower has learnt nothing, and its tokenizer."""
    return omni.widened(trained_folder() / "qwen2.5-vl")
