"""Where the user's caches, data and settings are, and paths that begin with `~`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["user_cache", "user_config", "user_data", "user_path"]

# What a user without a home is given, as a container's often is: it is not there and cannot be
# made, so that nothing is found in it and what should be written is reported.
NOWHERE = Path("/nonexistent/r2rt")


def user_cache() -> Path:
    """Return r2rt's folder among the user's caches."""
    import platformdirs

    return _folder(platformdirs.user_cache_dir)


def user_data() -> Path:
    """Return `$R2RT_HOME`, or r2rt's folder among the user's data."""
    if home := os.environ.get("R2RT_HOME"):
        return user_path(home)
    import platformdirs

    return _folder(platformdirs.user_data_dir)


def user_config() -> Path:
    """Return r2rt's folder among the user's settings."""
    import platformdirs

    return _folder(platformdirs.user_config_dir)


def user_path(text: str) -> Path:
    """Return a path in which a leading `~` is the user's home, where there is such a user."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  Path's raises where there is none


def _folder(find: Callable[..., str]) -> Path:
    try:
        path = Path(find("r2rt", appauthor=False))
    except RuntimeError:  # newer versions of platformdirs find no home
        return NOWHERE
    return path if path.is_absolute() else NOWHERE  # older ones leave a `~`
