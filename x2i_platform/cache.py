"""The folder in which this machine keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

from x2i_platform.errors import ConfigError


def cache_folder() -> Path:
    """`$X2I_CACHE`, else `~/.cache/x2i-platform`. Raises ConfigError for a user without a home."""
    require_home()
    return Path(os.environ.get("X2I_CACHE") or "~/.cache/x2i-platform").expanduser().absolute()


def require_home() -> None:
    """Set a home for a user without one, such as an arbitrary id in a container: `$X2I_CACHE`.

    MLflow, Ray and the hub's client need a home when they are imported. Raises ConfigError if `$X2I_CACHE` isn't set
    either.
    """
    try:
        Path.home()
    except RuntimeError:
        if not os.environ.get("X2I_CACHE"):
            raise ConfigError("this user has no home folder; set X2I_CACHE to a folder that may be written") from None
        os.environ["HOME"] = os.environ["X2I_CACHE"]
