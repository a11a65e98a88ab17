"""Open-licensed emoji art: fetched as pinned npm packages, checked, rasterised into one cache.

`python -m training.world.art --out DIR` leaves DIR/sprites.npz. Packages are fetched by `npm pack`
with the user's own npm configuration; a tarball that is not byte for byte the pinned one is
refused. Licences are in LICENSES.md beside this file.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import NDArray

from r2rt.files import replacing
from training._command import run
from training.world.concepts import CONCEPTS
from training.world.errors import ArtError
from training.world.slugs import FXEMOJI, STREAMLINE

__all__ = ["SPRITE_SIZE", "STYLES", "Package", "Style", "build_sprites", "fetch", "verify"]

SPRITE_SIZE = 96  # side of a sprite in pixels

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Package:
    """A pinned npm package.

    Attributes:
        package: its name.
        version: its exact version.
        sha256: of its tarball.
        licence: SPDX identifier.
        credit: whom to name.
    """

    package: str
    version: str
    sha256: str
    licence: str
    credit: str

    @property
    def tarball(self) -> str:
        """The file name that `npm pack` gives the package."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Style(Package):
    """One artist's drawings of the world.

    Attributes:
        name: short name, as tables and sprites use it.
        role: "train" where weights may learn from it, "held_out" where it only measures.
        renames: slugs under which the package has images, where they are its own.
    """

    name: str
    role: Literal["train", "held_out"]
    renames: Mapping[str, str] | None = None


STYLES: dict[str, Style] = {
    style.name: style
    for style in (
        Style(
            "@iconify-json/noto",
            "1.2.9",
            "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
            "Apache-2.0",
            "Noto Emoji, Google",
            "noto",
            "train",
        ),
        Style(
            "@iconify-json/noto-v1",
            "1.2.5",
            "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
            "Apache-2.0",
            "Noto Emoji (v1), Google",
            "noto-v1",
            "train",
        ),
        Style(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
            "MIT",
            "Fluent Emoji, Microsoft",
            "fluent-flat",
            "train",
        ),
        Style(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            "MIT",
            "Fluent Emoji, Microsoft",
            "fluent-3d",
            "train",
        ),
        Style(
            "@iconify-json/fluent-emoji-high-contrast",
            "1.2.6",
            "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
            "MIT",
            "Fluent Emoji (high contrast), Microsoft",
            "fluent-line",
            "train",
        ),
        Style(
            "@iconify-json/fxemoji",
            "1.2.2",
            "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
            "Apache-2.0",
            "FxEmojis, Mozilla",
            "fxemoji",
            "train",
            FXEMOJI,
        ),
        Style(
            "@iconify-json/emojione",
            "1.2.3",
            "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
            "CC-BY-4.0",
            "EmojiTwo, EmojiTwo contributors and Ranks.com",
            "emojitwo",
            "train",
        ),
        Style(
            "@iconify-json/streamline-emojis",
            "1.2.4",
            "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
            "CC-BY-4.0",
            "Streamline Emojis, Streamline",
            "streamline",
            "train",
            STREAMLINE,
        ),
        Style(
            "@iconify-json/twemoji",
            "1.2.5",
            "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
            "CC-BY-4.0",
            "Twemoji, Twitter, Inc and other contributors",
            "twemoji",
            "held_out",
        ),
        Style(
            "@iconify-json/openmoji",
            "1.2.29",
            "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
            "CC-BY-SA-4.0",
            "OpenMoji",
            "openmoji",
            "held_out",
        ),
    )
}


def fetch(package: Package, folder: Path) -> Path:
    """Return the package's tarball in `folder`, fetched with npm where it is not there yet.

    Raises:
        ArtError: npm is missing or failed, or the tarball is not the pinned one.
    """
    path = folder / package.tarball
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", f"{package.package}@{package.version}", "--silent"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise ArtError(
                f"npm is not installed; put {package.tarball} into {folder} by hand"
            ) from error
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["no message"])[-1]
            raise ArtError(
                f"{' '.join(command)} failed: {last}; put {package.tarball} into {folder} by hand"
            ) from error
    verify(path, package.sha256)
    return path


def verify(path: Path, sha256: str) -> None:
    """Refuse a file whose bytes are not those pinned.

    Raises:
        ArtError: the file's sha256 differs.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ArtError(
            f"{path}: sha256 {found[:16]}..., expected {sha256[:16]}...; "
            "delete it, and it is fetched anew"
        )


def build_sprites(folder: Path, destination: Path) -> dict[str, int]:
    """Rasterise every style's images of all concepts into one file.

    Args:
        folder: where the packages are, or are fetched to.
        destination: npz of `style/concept/variant`: (96, 96, 4) uint8 RGBA, colour not
            premultiplied.

    Returns:
        The number of images by style.

    Raises:
        ArtError: a package cannot be had, is not the pinned one, or holds a broken image.
    """
    points = _code_points(fetch(STYLES["noto"], folder))
    sprites: dict[str, Image] = {}
    counts = {}
    for style in STYLES.values():
        draw = _drawer(style, fetch(style, folder), points)
        before = len(sprites)
        for concept in CONCEPTS:
            for variant, slug in enumerate(concept.slugs):
                drawn = draw(slug)
                if drawn is not None:
                    sprites[f"{style.name}/{concept.name}/{variant}"] = _centred(drawn)
        counts[style.name] = len(sprites) - before
    with replacing(destination) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **sprites)  # type: ignore[arg-type]
    return counts


def _drawer(
    style: Style, tarball: Path, points: Mapping[str, str]
) -> Callable[[str], Image | None]:
    """Return what draws a slug in a style, or returns None if the style has no such image."""
    archive = tarfile.open(tarball)  # noqa: SIM115 - read until the drawer is dropped
    members = set(archive.getnames())

    def webp(slug: str) -> Image | None:
        point = points.get(slug, "")
        for name in (f"package/assets/{point}.webp", f"package/assets/{point}-fe0f.webp"):
            if name in members:
                return _decode(_read(archive, name))
        return None

    if "package/icons.json" not in members:
        return webp
    icons: dict[str, Any] = json.loads(_read(archive, "package/icons.json"))
    width, height = icons.get("width", 16), icons.get("height", 16)

    def svg(slug: str) -> Image | None:
        if style.renames is not None and slug not in icons["icons"]:
            slug = style.renames.get(slug, slug)
        icon = icons["icons"].get(icons.get("aliases", {}).get(slug, {}).get("parent", slug))
        if icon is None:
            return None
        box = f"0 0 {icon.get('width', width)} {icon.get('height', height)}"
        return _rasterise(
            f'<svg xmlns="http://www.w3.org/2000/svg" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
            f'color="black">{icon["body"]}</svg>'
        )

    return svg


def _code_points(noto: Path) -> dict[str, str]:
    """Hexadecimal code points by slug, as Noto's package lists them."""
    with tarfile.open(noto) as archive:
        chars: dict[str, str] = json.loads(_read(archive, "package/chars.json"))
    # Shorter sequences come last, so that they win: the plain character, not a variant of it.
    ordered = sorted(chars.items(), key=lambda item: -len(item[0]))
    return {slug: point for point, slug in ordered}


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ArtError(f"{archive.name!s}: {name} is no file; fetch the package anew")
    return file.read()


def _rasterise(svg: str) -> Image:
    """Draw an SVG, (S, S, 4) RGBA, its longer side S = 2 x SPRITE_SIZE."""
    import resvg_py

    size = 2 * SPRITE_SIZE
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    return _decode(bytes(png))


def _decode(data: bytes) -> Image:
    from PIL import Image as PillowImage

    with PillowImage.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGBA"))


def _centred(image: Image) -> Image:
    """Crop to what is visible, pad to a square, scale to SPRITE_SIZE; colour not premultiplied."""
    from PIL import Image as PillowImage

    ys, xs = np.nonzero(image[..., 3] > 8)
    if not len(ys):
        raise ArtError("an image is empty; its package is not as expected")
    cropped = image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    height, width = cropped.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = cropped
    # Pillow premultiplies while it resizes RGBA, so edges do not darken.
    resized = PillowImage.fromarray(square).resize(
        (SPRITE_SIZE, SPRITE_SIZE), PillowImage.Resampling.LANCZOS
    )
    return np.asarray(resized)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the packages and of sprites.npz.",
)
def command(out: Path) -> None:
    """Fetch the art and write the sprites."""
    out.mkdir(parents=True, exist_ok=True)
    counts = build_sprites(out, out / "sprites.npz")
    for name, count in counts.items():
        style = STYLES[name]
        click.echo(f"{name:12} {count:4} images  {style.role:9} {style.licence:13} {style.credit}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    cut = "sprites.npz is not written; packages that were fetched stay."
    return run(command, "python -m training.world.art", arguments, cut=cut)


if __name__ == "__main__":
    sys.exit(main())
