"""The checkpoints that the authors of R²-Tuning published, and where they are fetched from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CLIP_ARCHITECTURE",
    "CLIP_LICENCE",
    "CLIP_PRETRAINED",
    "CLIP_SOURCES",
    "DEFAULT_NAME",
    "FAMILIES",
    "PUBLISHED",
    "REPOSITORY",
    "WEIGHTS_LICENCE",
    "ClipSource",
    "Family",
    "PublishedModel",
    "canonical_name",
    "hub_endpoint",
]

REPOSITORY = "yeliudev/R2-Tuning"
# The checkpoints hold no CLIP; all of them were trained on this one, in open_clip's spelling.
CLIP_ARCHITECTURE = "ViT-B-32-quickgelu"
CLIP_PRETRAINED = "openai"
DEFAULT_NAME = "qvhighlights"

_PREFIX = "r2_tuning_"
_DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Published models of one architecture.

    Attributes:
        strides: strides of the temporal pyramid's levels, in clips.
        moments: whether moments are predicted. Endpoint features, the coordinate head and the
            cosine in the saliency go with them.
    """

    strides: tuple[int, ...]
    moments: bool


FAMILIES = {
    "moments": Family(strides=(1, 2, 4, 8), moments=True),
    "highlights": Family(strides=(1,), moments=False),
}
WEIGHTS_LICENCE = "BSD-3-Clause (R²-Tuning's weights, github.com/yeliudev/R2-Tuning)"
CLIP_LICENCE = (
    "MIT (code, github.com/openai/CLIP); its model card advises against deployment "
    "without tests in the very setting, surveillance, face recognition, and other languages than "
    "English"
)
# Sizes that all published models have, which their templates are made for.
WIDTH, LAYERS, HEADS = 256, 4, 8


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """One published checkpoint.

    Attributes:
        name: what `r2rt models pull` calls it, such as `qvhighlights`.
        hash8: the first 8 hexadecimal digits of the checkpoint file's sha256.
        summary: what it was trained on and what it predicts.
        family: key of `FAMILIES`.
        fps: clips a second, as a fraction.
        unit_s: boundaries are rounded to multiples of this many seconds; None leaves them.
        window_s: the longest video it was trained on, in seconds; None where they vary.
        nms: suppression of its evaluation: `normal` or `linear`.
    """

    name: str
    hash8: str
    summary: str
    family: str = "moments"
    fps: str = "1/2"
    unit_s: float | None = None
    window_s: float | None = None
    nms: Literal["normal", "linear"] = "linear"

    @property
    def filename(self) -> str:
        """The checkpoint's file name on the hub."""
        return f"{_PREFIX}{self.name}-{self.hash8}.pth"

    @property
    def url(self) -> str:
        """The checkpoint's address on the hub that `HF_ENDPOINT` names."""
        return f"{hub_endpoint()}/{REPOSITORY}/resolve/main/checkpoints/{self.filename}"


def hub_endpoint() -> str:
    """Return the hub's address: `HF_ENDPOINT`, or the public hub."""
    return (os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")


def canonical_name(name: str) -> str:
    """Return a published model's short name where its checkpoint's name was given."""
    short = name.removeprefix(_PREFIX)
    return short if short in PUBLISHED else name


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """A file of CLIP's weights that is known by its hash.

    Attributes:
        filename: its name on disk, by which a mirror has it as well.
        urls: where it is published; `{hub}` is the hub's address.
        sha256: of the file.
        size: of the file, in bytes, where it is known.
    """

    filename: str
    urls: tuple[str, ...]
    sha256: str
    size: int | None = None


# In the order in which they are tried. The first holds the same numbers in fp32.
_OPENAI_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
CLIP_SOURCES = (
    ClipSource(
        filename="open_clip_model.safetensors",
        urls=(
            "{hub}/timm/vit_base_patch32_clip_224.openai/resolve/main/open_clip_model.safetensors",
        ),
        sha256="e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        size=605_143_284,
    ),
    ClipSource(
        filename="ViT-B-32.pt",
        urls=(f"https://openaipublic.azureedge.net/clip/models/{_OPENAI_SHA256}/ViT-B-32.pt",),
        sha256=_OPENAI_SHA256,
    ),
)

_MOMENTS = (
    PublishedModel(
        name="qvhighlights",
        hash8="ed516355",
        summary="moments and saliency, QVHighlights",
        unit_s=2.0,
        window_s=150.0,
        nms="normal",
    ),
    PublishedModel(
        name="charades",
        hash8="1de02112",
        summary="moments, Charades-STA",
        fps="1",
        unit_s=0.1,
    ),
    PublishedModel(name="ego4d", hash8="6a6f5754", summary="moments, Ego4D-NLQ"),
    PublishedModel(name="tacos", hash8="81759b55", summary="moments, TACoS"),
)
_TVSUM = {
    "bk": "45b59440",
    "bt": "13683fdf",
    "ds": "d11b33d3",
    "fm": "2c8c119d",
    "ga": "58e79858",
    "ms": "d9b4f8fa",
    "pk": "1830ce03",
    "pr": "51d78fc9",
    "vt": "0069d8d3",
    "vu": "6f8ebb4b",
}
_YOUTUBE = {
    "dog": "702bd293",
    "gym": "ff68b1b3",
    "par": "27442af0",
    "ska": "dad28398",
    "ski": "df2edc4c",
    "sur": "d384d8b2",
}


def _highlights(name: str, hash8: str, summary: str, fps: str) -> PublishedModel:
    return PublishedModel(
        name=name, hash8=hash8, summary=summary, family="highlights", fps=fps, nms="normal"
    )


def _published() -> dict[str, PublishedModel]:
    models = list(_MOMENTS)
    models += [
        _highlights(f"tvsum_{domain}", hash8, f"highlights, TVSum {domain.upper()}", "1/2")
        for domain, hash8 in _TVSUM.items()
    ]
    # Trained at a clip every 50 frames: 3/5 at 30 frames a second.
    models += [
        _highlights(f"youtube_{domain}", hash8, f"highlights, YouTube Highlights {domain}", "3/5")
        for domain, hash8 in _YOUTUBE.items()
    ]
    return {model.name: model for model in models}


PUBLISHED: dict[str, PublishedModel] = _published()
