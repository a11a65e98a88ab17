"""Puts bundles into the home of models and on a mirror."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r2rt.model.installed import (
    models_dir,
)
from r2rt.model.manifest import MANIFEST_NAME
from r2rt.model.pull import manifest_sha256
from tests.r2rt.bundles import write_bundle
from tests.r2rt.hub import Hub


def install(name: str, **changes: Any) -> Path:
    write_bundle(models_dir() / name, **changes)
    return models_dir() / name


def publish(hub: Hub, folder: Path, name: str, contents: dict[str, bytes] | None = None) -> str:
    """Put a bundle on a mirror; return the hash of its manifest."""
    write_bundle(folder, contents)
    for path in folder.rglob("*"):
        if path.is_file():
            hub.add(f"mirror/{name}/{path.relative_to(folder)}", path.read_bytes())
    return manifest_sha256(folder)


def republish(hub: Hub, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    key = f"mirror/{name}/{MANIFEST_NAME}"
    document = json.loads(hub.files[key])
    change(document)
    hub.files[key] = json.dumps(document).encode()
