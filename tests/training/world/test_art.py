from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from training.world import art
from training.world.art import SPRITE_SIZE, STYLES, build_sprites, fetch, verify
from training.world.concepts import CONCEPTS
from training.world.errors import ArtError
from training.world.sprites import Sprites

LICENSES = Path(art.__file__).with_name("LICENSES.md")
# A red square in the left half of its view.
SQUARE = '<path fill="#e01010" d="M2 4h12v24H2z"/>'


def write_package(folder: Path, name: str, files: Mapping[str, str]) -> str:
    """Write a tarball as npm packs it; return its sha256."""
    with tarfile.open(folder / name, "w:gz") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(f"package/{path}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return sha256((folder / name).read_bytes()).hexdigest()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small package for each of two styles, pinned as the real ones are."""
    icons = {
        "icons": {"dog-face": {"body": SQUARE}},
        "aliases": {"fox": {"parent": "dog-face"}},
        "width": 32,
        "height": 32,
    }
    files = {"icons.json": json.dumps(icons), "chars.json": json.dumps({"1f436": "dog-face"})}
    pinned = {
        name: replace(
            STYLES[name],
            sha256=write_package(tmp_path, STYLES[name].tarball, files),
        )
        for name in ("noto", "twemoji")
    }
    monkeypatch.setattr(art, "STYLES", pinned)
    return tmp_path


def test_images_are_drawn_cropped_and_centred(packages: Path) -> None:
    counts = build_sprites(packages, packages / "sprites.npz")
    assert counts == {"noto": 2, "twemoji": 2}
    with np.load(packages / "sprites.npz") as sprites:
        assert set(sprites.files) == {
            "noto/dog/0",
            "noto/fox/0",
            "twemoji/dog/0",
            "twemoji/fox/0",
        }
        picture = sprites["noto/dog/0"]
    assert picture.shape == (SPRITE_SIZE, SPRITE_SIZE, 4)
    ys, xs = np.nonzero(picture[..., 3] > 127)
    # Twice as high as wide, filling the height, in the middle of the width.
    assert (ys.min(), ys.max()) == (0, SPRITE_SIZE - 1)
    assert xs.min() + xs.max() == SPRITE_SIZE - 1
    assert np.ptp(xs) + 1 == SPRITE_SIZE // 2
    np.testing.assert_allclose(picture[48, 48], (0xE0, 0x10, 0x10, 255), atol=1)


def test_a_package_with_a_byte_changed_is_refused(packages: Path) -> None:
    style = art.STYLES["twemoji"]
    path = packages / style.tarball
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtError, match="sha256"):
        fetch(style, packages)
    with pytest.raises(ArtError, match="sha256"):
        build_sprites(packages, packages / "sprites.npz")
    assert not (packages / "sprites.npz").exists()


def test_a_missing_npm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArtError, match=r"npm is not installed; put .*noto-1\.2\.9\.tgz into"):
        fetch(STYLES["noto"], tmp_path)


def test_a_failing_npm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ArtError, match="failed: no such package; put"):
        fetch(STYLES["noto"], tmp_path / "art")


def test_verify_accepts_the_pinned_bytes(tmp_path: Path) -> None:
    path = tmp_path / "package.tgz"
    path.write_bytes(b"art")
    verify(path, sha256(b"art").hexdigest())


def test_every_style_is_pinned_and_its_licence_recorded() -> None:
    text = LICENSES.read_text()
    for style in STYLES.values():
        assert len(style.sha256) == 64
        (line,) = (row for row in text.splitlines() if row.startswith(f"| {style.name} |"))
        assert f"{style.package} {style.version}" in line
        assert style.licence in line
        assert ("training" in line) == (style.role == "train")


def test_nothing_share_alike_is_trained_on() -> None:
    """Weights are shipped under the project's own licence."""
    allowed = {"Apache-2.0", "MIT", "CC-BY-4.0"}
    assert {style.licence for style in STYLES.values() if style.role == "train"} <= allowed
    assert STYLES["twemoji"].role == STYLES["openmoji"].role == "held_out"


def test_concepts_have_names_of_their_own() -> None:
    names = [name for concept in CONCEPTS for name in concept.names]
    assert len(names) == len(set(names))
    assert 120 <= len(CONCEPTS) <= 170
    slugs = [slug for concept in CONCEPTS for slug in concept.slugs]
    assert len(slugs) == len(set(slugs))


def test_no_sprites_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArtError, match=r"python -m training\.world\.art --out"):
        Sprites(tmp_path / "sprites.npz")
