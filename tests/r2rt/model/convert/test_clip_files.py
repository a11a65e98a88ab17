"""Where CLIP's weights are found on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from r2rt.errors import DownloadError
from r2rt.model import registry
from r2rt.model.convert.clip_files import fetch_clip
from r2rt.model.registry import ClipSource


def test_a_file_of_another_user_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights"
    source = ClipSource(
        filename="clip.pt", urls=("{hub}/clip.pt",), sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setattr(registry, "CLIP_SOURCES", (source,))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("R2RT_CLIP", raising=False)
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    theirs, ours = tmp_path / "home" / "clip", tmp_path / ".cache" / "clip"
    for folder in (theirs, ours):
        folder.mkdir(parents=True)
        (folder / "clip.pt").write_bytes(content)
    opened = Path.open

    def refused(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.parent == theirs:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    assert fetch_clip(say=lambda _: None) == ours / "clip.pt"
    (ours / "clip.pt").unlink()
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        fetch_clip(say=lambda _: None)


def test_files_of_other_models_are_not_read_for_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of timm's models in the hub's cache have their weights under one name."""
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    source = ClipSource(filename="clip.pt", urls=(), sha256=digest, size=len(content))
    monkeypatch.setattr(registry, "CLIP_SOURCES", (source,))
    monkeypatch.delenv("R2RT_CLIP", raising=False)
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for model, weights in (("vit_huge", b"others" * 100), ("vit_ours", content)):
        folder = tmp_path / f"models--timm--{model}" / "snapshots" / "1"
        folder.mkdir(parents=True)
        (folder / "clip.pt").write_bytes(weights)
    read: list[Path] = []
    opened = Path.open

    def watched(path: Path, *arguments: Any, **options: Any) -> Any:
        read.append(path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", watched)
    ours = tmp_path / "models--timm--vit_ours" / "snapshots" / "1" / "clip.pt"
    assert fetch_clip(say=lambda _: None) == ours
    assert read == [ours]
