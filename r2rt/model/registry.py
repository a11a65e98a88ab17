"""The checkpoints that the authors of R²-Tuning published, and where they are fetched from."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = [
    "CLIP_ARCHITECTURE",
    "CLIP_PRETRAINED",
    "DEFAULT_NAME",
    "PUBLISHED",
    "REPOSITORY",
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
class PublishedModel:
    """One published checkpoint.

    Attributes:
        name: what `r2rt models pull` calls it, such as `qvhighlights`.
        hash8: the first 8 hexadecimal digits of the checkpoint file's sha256.
        summary: what it was trained on and what it predicts.
    """

    name: str
    hash8: str
    summary: str

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


_MOMENTS = {
    "qvhighlights": ("ed516355", "moments and saliency, QVHighlights"),
    "charades": ("1de02112", "moments, Charades-STA"),
    "ego4d": ("6a6f5754", "moments, Ego4D-NLQ"),
    "tacos": ("81759b55", "moments, TACoS"),
}
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


def _published() -> dict[str, PublishedModel]:
    rows = [(name, *row) for name, row in _MOMENTS.items()]
    rows += [
        (f"tvsum_{domain}", hash8, f"highlights, TVSum {domain.upper()}")
        for domain, hash8 in _TVSUM.items()
    ]
    rows += [
        (f"youtube_{domain}", hash8, f"highlights, YouTube Highlights {domain}")
        for domain, hash8 in _YOUTUBE.items()
    ]
    return {
        name: PublishedModel(name=name, hash8=hash8, summary=summary)
        for name, hash8, summary in rows
    }


PUBLISHED: dict[str, PublishedModel] = _published()
