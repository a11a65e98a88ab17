from __future__ import annotations

import base64
import struct
import tarfile
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.world import photographs as module
from training.world.backgrounds import background
from training.world.errors import ArtError
from training.world.photographs import (
    PACKAGE,
    PHOTOGRAPHS,
    Photograph,
    Photographs,
    build_photographs,
    main,
)
from training.world.scenes import Scene
from training.world.sprites import Sprites
from training.world.videos import Painter

HEIGHT, WIDTH = 128, 256
LICENSES = Path(module.__file__).with_name("LICENSES.md")


def exr(light: NDArray[np.float16]) -> bytes:
    """An OpenEXR file of half floats (H, W, 3) RGB without compression, by its specification."""
    height, width = light.shape[:2]

    def attribute(name: str, kind: str, data: bytes) -> bytes:
        return f"{name}\0{kind}\0".encode() + struct.pack("<i", len(data)) + data

    channels = b"".join(
        name + b"\0" + struct.pack("<iB3xii", 1, 0, 1, 1) for name in (b"B", b"G", b"R")
    )
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = b"\x76\x2f\x31\x01" + struct.pack("<i", 2)
    header += attribute("channels", "chlist", channels + b"\0")
    header += attribute("compression", "compression", b"\0")
    header += attribute("dataWindow", "box2i", window)
    header += attribute("displayWindow", "box2i", window)
    header += attribute("lineOrder", "lineOrder", b"\0")
    header += attribute("pixelAspectRatio", "float", struct.pack("<f", 1))
    header += attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0))
    header += attribute("screenWindowWidth", "float", struct.pack("<f", 1)) + b"\0"
    lines = [
        struct.pack("<ii", row, 6 * width) + light[row, :, ::-1].T.astype("<f2").tobytes()
        for row in range(height)
    ]
    start, size = len(header) + 8 * height, len(lines[0])
    table = struct.pack(f"<{height}Q", *(start + size * row for row in range(height)))
    return header + table + b"".join(lines)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pinned package of a red and a green photograph; one is held out."""
    images = {name: np.full((HEIGHT, WIDTH, 3), 0.01, np.float16) for name in ("red", "green")}
    images["red"][..., 0] = 3.0
    images["green"][..., 1] = 3.0
    found = {name: exr(light) for name, light in images.items()}
    with tarfile.open(tmp_path / PACKAGE.tarball, "w:gz") as archive:
        for name, data in found.items():
            script = b"export default 'data:application/exr;base64,%b'" % base64.b64encode(data)
            info = tarfile.TarInfo(f"package/hdri/{name}.exr.js")
            info.size = len(script)
            archive.addfile(info, BytesIO(script))
    whole = sha256((tmp_path / PACKAGE.tarball).read_bytes()).hexdigest()
    monkeypatch.setattr(module, "PACKAGE", replace(PACKAGE, sha256=whole))
    rows = (
        Photograph("red", "train", sha256(found["red"]).hexdigest()),
        Photograph("green", "held_out", sha256(found["green"]).hexdigest()),
    )
    monkeypatch.setattr(module, "PHOTOGRAPHS", rows)
    return tmp_path


def test_light_is_exposed_for_its_mean_and_held_out_photographs_are_not_trained_on(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(package)]) == 0
    assert "red          train     CC0-1.0 Poly Haven" in capsys.readouterr().out
    # By hand: the geometric mean of 3, 0.01 and 0.01 becomes 0.18, x becomes x / (1 + x).
    exposed = np.array([3.0, 0.01, 0.01]) * 0.18 / (3.0 * 0.01 * 0.01) ** (1 / 3)
    expected = 255 * (exposed / (1 + exposed)) ** (1 / 2.2)
    file = package / "photographs.npz"
    for role, colour in (("train", expected), ("held_out", expected[[1, 0, 2]])):
        backgrounds = Photographs(file, role)  # type: ignore[arg-type]
        for seed in range(8):
            cut = background(np.random.default_rng(seed), 32, photographs=backgrounds)
            assert cut.shape == (32, 32, 3)
            assert cut.dtype == np.uint8
            np.testing.assert_allclose(cut, np.broadcast_to(colour, cut.shape), atol=1)


def test_the_share_of_photographs_and_the_same_scene_twice(
    package: Path, toy_sprites: Sprites
) -> None:
    build_photographs(package, package / "photographs.npz")
    some = Photographs(package / "photographs.npz", "train", share=0.25)
    red = some.cut(np.random.default_rng(0), 16)
    drawn = [background(np.random.default_rng(seed), 16, photographs=some) for seed in range(400)]
    # 400 draws of a chance of 1/4: a standard deviation of 8.7.
    assert 65 <= sum(np.array_equal(image, red) for image in drawn) <= 135
    everywhere = Photographs(package / "photographs.npz", "train")
    scene = Scene(duration_s=4.0, backdrop_seed=5)
    assert np.array_equal(Painter(toy_sprites, 16, everywhere).draw(scene, 1.0), red)
    # Without photographs, a background is what it was before there were any.
    plain = background(np.random.default_rng(5), 16)
    assert np.array_equal(Painter(toy_sprites, 16).draw(scene, 1.0), plain)


def test_an_image_that_is_not_the_pinned_one_is_refused(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (replace(module.PHOTOGRAPHS[0], sha256="0" * 64),)
    monkeypatch.setattr(module, "PHOTOGRAPHS", rows)
    with pytest.raises(ArtError, match="red is not the expected image"):
        build_photographs(package, package / "photographs.npz")
    with pytest.raises(ArtError, match=r"training\.world\.photographs"):
        Photographs(package / "photographs.npz", "train")


def test_some_photographs_are_held_out_and_the_licences_name_all() -> None:
    roles = [photograph.role for photograph in PHOTOGRAPHS]
    assert roles.count("train") == 12
    assert roles.count("held_out") == 6
    text = LICENSES.read_text(encoding="utf-8")
    assert f"{PACKAGE.package} {PACKAGE.version}" in text
    for photograph in PHOTOGRAPHS:
        row = f"| {photograph.name} | {photograph.role.replace('_', ' ')} | {photograph.sha256} |"
        assert row in text
