"""Photographs as backgrounds: openly licensed panoramas from a pinned npm package.

`python -m training.world.photographs --out DIR` leaves DIR/photographs.npz. Those that measure are
never trained on. Licence and origin are in LICENSES.md beside this file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from r2rt.files import replacing
from training._command import run
from training.world.art import Package, fetch
from training.world.errors import ArtError

__all__ = ["PACKAGE", "PHOTOGRAPHS", "Photograph", "Photographs", "build_photographs"]

Image = NDArray[np.uint8]
Role = Literal["train", "held_out"]

PACKAGE = Package(
    "@pmndrs/assets",
    "1.7.0",
    "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc",
    "CC0-1.0",
    "Poly Haven",
)

# Square cuts have sides of these shares of the height, from rows that are not too distorted.
_SIDES = (0.3, 0.7)
_POLES = 0.1
# The mean luminance is mapped to this grey, as of a photographer's grey card.
_GREY = 0.18


@dataclass(frozen=True)
class Photograph:
    """A panorama of PACKAGE, by whom the package names and under its licence.

    Attributes:
        name: its name in the package.
        role: "train" where weights may learn from it, "held_out" where it only measures.
        sha256: of its OpenEXR file.
    """

    name: str
    role: Role
    sha256: str


PHOTOGRAPHS = tuple(
    Photograph(*row)
    for row in (
        ("apartment", "train", "31c62c03b5686b3d899071070ec1bfc760a3ddc1e6a05915ebc28102fef2fb1c"),
        ("bridge", "held_out", "921f8b95cd1ae8bda602d4d395d8ce5574975ae0df626504eb4387cc963212ea"),
        ("city", "held_out", "82847b3f3e2073d16647be2eb5712dc0f7e37ddc9480a1d45f2270fe8cd048f6"),
        ("dawn", "train", "02529d0a04dbc6e761adb9b4f6bcb07b0ef3931b218b394ee6be68b1fe39ce79"),
        (
            "esplanade",
            "held_out",
            "2a3c5a870167dc1a1ad44115cd0c554cfde97fa6ca859f4f90f39771db90b54c",
        ),
        ("forest", "held_out", "6fff311b5f3dad0910d8f334a6d9d88218ffd873d72c679ee1b7e4bccfa140e3"),
        ("hall", "train", "205a84e0108d40fb207e077db9bc68a15f329a8af8ee1f82c28524e967963b81"),
        ("lab", "held_out", "4f993660d9c53e97cb23f2d901e06aed9bc0323f6cd9079ec0de02e73634796e"),
        ("lobby", "train", "55b54fc7b4efc5e9fef27529208d4abe9614839307f40490b135ce75aa08b72c"),
        ("night", "train", "9509f1b917dbb4c98d63b92e9fd12fb79e3376d17ec3186e2de39543e32ce5ff"),
        ("park", "held_out", "00e78fd8fe0ac81f73eb3682b1a4e2e1b909148f1b06d1e52e771d4fec3d02a1"),
        ("sky", "train", "a72412700b91a49080a582420476d2ab9a1e8fd181031f4ae7ec5e2596addc2a"),
        ("studio", "train", "08038ed9159c24bb732d2218dafa09cef2abaa44f9ce11ec511d87c842d88fad"),
        ("sunrise", "train", "d48b92f8fd8d1e8eb111d90284a007f811a4d57abe4fa6faf10165287a3fe9c2"),
        ("sunset", "train", "d09a4d7581f5454f13c3da3c323a231d00a34e60200de7654a895d2d41a7ceb7"),
        ("venice", "train", "8200c809a7032efaa7d9fa3a5c64939d7f07d26478bc2418af624150af90dac9"),
        ("warehouse", "train", "bb11fe7e9c3037b8db21beab826a7ed7c452a48cb6d361f982ca7311aacba9c1"),
        ("workshop", "train", "793ca687c647e032c79ea3a67bd016ad3158d17506540cfa8fdd901550cc0a5d"),
    )
)


class Photographs:
    """Backgrounds that are cut out of photographs."""

    def __init__(self, path: Path, role: Role, share: float = 1.0) -> None:
        """Read `photographs.npz`.

        Args:
            path: the file that `build_photographs` made.
            role: which of them.
            share: how many of the backgrounds are photographs; the others are drawn.

        Raises:
            ArtError: there is no such file.
        """
        if not path.is_file():
            raise ArtError(
                f"{path} is no file; make it with: python -m training.world.photographs --out "
                f"{path.parent}"
            )
        self.share = share
        with np.load(path) as archive:
            self._images = [
                archive[photograph.name] for photograph in PHOTOGRAPHS if photograph.role == role
            ]

    def cut(self, rng: Generator, size: int) -> Image:
        """Return a square part of a photograph, (size, size, 3) uint8 RGB: any way round."""
        image = self._images[rng.integers(len(self._images))]
        height, width = image.shape[:2]
        side = int(height * rng.uniform(*_SIDES))
        top = int(rng.uniform(_POLES * height, (1 - _POLES) * height - side))
        # A panorama's right edge goes on at its left.
        columns = (int(rng.integers(width)) + np.arange(side)) % width
        part = image[top : top + side, columns]
        if rng.random() < 0.5:
            part = part[:, ::-1]
        way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(part, (size, size), interpolation=way), np.uint8)


def build_photographs(folder: Path, destination: Path) -> None:
    """Write all photographs into one file.

    Args:
        folder: where the package is, or is fetched to.
        destination: npz of (256, 512, 3) uint8 RGB by name.

    Raises:
        ArtError: the package cannot be had, or is not the pinned one.
    """
    images = {}
    with tarfile.open(fetch(PACKAGE, folder)) as archive:
        for photograph in PHOTOGRAPHS:
            member = archive.extractfile(f"package/hdri/{photograph.name}.exr.js")
            script = b"" if member is None else member.read()
            # export default 'data:application/exr;base64,...'
            data = base64.b64decode(script.partition(b"base64,")[2].partition(b"'")[0])
            if hashlib.sha256(data).hexdigest() != photograph.sha256:
                raise ArtError(f"{archive.name!s}: {photograph.name} is not the expected image")
            images[photograph.name] = _developed(_read_exr(data))
    with replacing(destination) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **images)  # type: ignore[arg-type]


def _read_exr(data: bytes) -> NDArray[np.float32]:
    """Decode an OpenEXR file: linear light (H, W, 3) RGB."""
    import av

    with av.open(io.BytesIO(data), "r", format="exr_pipe") as container:
        frame = next(container.decode(video=0))
    assert isinstance(frame, av.VideoFrame)
    # FFmpeg before 8 widens half floats.
    kind = np.float16 if frame.format.components[0].bits == 16 else np.float32
    planes = [
        np.frombuffer(bytes(plane), kind).reshape(frame.height, -1)[:, : frame.width]
        for plane in frame.planes
    ]
    green, blue, red = planes
    return np.stack([red, green, blue], axis=-1).astype(np.float32)


def _developed(light: NDArray[np.float32]) -> Image:
    """Return linear light as an image: exposed for its mean, highlights compressed (Reinhard)."""
    light = np.maximum(light, 1e-4)
    exposed = light * (_GREY / np.exp(np.log(light.clip(max=1e4)).mean()))
    compressed = 1 / (1 + 1 / exposed)
    return np.asarray(np.rint(255 * compressed ** (1 / 2.2)), np.uint8)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the package and of photographs.npz.",
)
def command(out: Path) -> None:
    """Fetch the photographs and write them."""
    out.mkdir(parents=True, exist_ok=True)
    build_photographs(out, out / "photographs.npz")
    for photograph in PHOTOGRAPHS:
        click.echo(f"{photograph.name:12} {photograph.role:9} {PACKAGE.licence} {PACKAGE.credit}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    cut = "photographs.npz is not written; a package that was fetched stays."
    return run(command, "python -m training.world.photographs", arguments, cut=cut)


if __name__ == "__main__":
    sys.exit(main())
