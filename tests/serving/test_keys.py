"""API keys: who has one, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from x2i_platform.errors import ConfigError
from x2i_platform.serving.keys import ApiKey, holder, is_loopback, read_keys, require_keys

ALICE, BOB = "a" * 20, "b#" * 16


def key_file(folder: Path, text: str, *, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_keys_of_a_file_and_of_the_environment_are_known_by_their_digests(tmp_path: Path) -> None:
    path = key_file(tmp_path, f"\ufeff# who\n\nalice {ALICE}\n  \n")
    keys = read_keys(path, {"X2I_API_KEYS": f"bob {BOB}\n# nobody\n"})
    assert keys == (ApiKey.of("alice", ALICE), ApiKey.of("bob", BOB))
    assert ALICE not in repr(keys) and BOB not in repr(keys)
    assert holder(keys, BOB) == keys[1]
    assert holder(keys, f"{BOB} ") is None and holder(keys, keys[1].sha256) is None and holder((), "") is None
    assert read_keys(None, {}) == ()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="run chmod 600 on it"):
        read_keys(key_file(tmp_path, f"alice {ALICE}", mode=mode), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has none; write lines 'NAME KEY'"),
        ("alice", r"line 1: 1 words; a line is 'NAME KEY'"),
        (f"alice {ALICE} # mine", r"line 1: 4 words"),
        (f"# x\nal/ice {ALICE}", r"line 2: a name has up to 40 letters"),
        ("alice short", r"the key of 'alice' has 5 characters; at least 20 of ASCII"),
        (f"alice {'é' * 20}", "of ASCII"),
        (f"alice {ALICE}\nalice {BOB}", "a name is there twice: 'alice'"),
        (f"alice {ALICE}\nbob {ALICE}", "a key is there twice$"),
        ("a" * (1024**2 + 1), "has more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_without_its_keys(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_keys(key_file(tmp_path, text), {})
    assert "short" not in str(caught.value) and ALICE not in str(caught.value)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        read_keys(tmp_path / "missing", {})
    path = tmp_path / "packed"
    path.write_bytes(b"\xff\xfe\x00")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        read_keys(path, {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_a_service_on_loopback_needs_no_keys(host: str) -> None:
    assert is_loopback(host)
    require_keys((), host=host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", ""])
def test_a_service_that_others_reach_needs_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="API keys are needed"):
        require_keys((), host=host)
    require_keys((ApiKey.of("alice", ALICE),), host=host)
