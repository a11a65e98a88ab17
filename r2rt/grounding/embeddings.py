"""CLIP's embeddings of images and sentences, which their cosine compares."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import BundleSchemaError, NotAVideoError
from r2rt.model.contract import VIDEO_ENCODER
from r2rt.video.pixels import prepare_frame
from r2rt.video.still import read_image

if TYPE_CHECKING:
    from r2rt.engines import Engine
    from r2rt.grounding.texts import TextEncoder
    from r2rt.model.bundle import Bundle

__all__ = ["check_embeds", "embed_image", "embed_text"]

Floats = NDArray[np.float32]


def check_embeds(bundle: Bundle) -> None:
    """Raise `BundleSchemaError` for a bundle whose encoders give no embeddings."""
    if bundle.dims.embedding_width is None:
        raise BundleSchemaError(
            f"{bundle.manifest.name} gives no embeddings, because it was exported by an older r2rt "
            "or from a CLIP without projections; pull or export the model again"
        )


def embed_text(bundle: Bundle, texts: TextEncoder, queries: Sequence[str]) -> Floats:
    """Return the embeddings of sentences; see `Grounder.embed_text`."""
    check_embeds(bundle)
    found = [text.embedding for text in texts.features(queries)]
    return np.stack([embedding for embedding in found if embedding is not None])


def embed_image(
    bundle: Bundle, engine: Engine, image: str | os.PathLike[str] | NDArray[np.uint8]
) -> Floats:
    """Return the embedding of an image; see `Grounder.embed_image`."""
    check_embeds(bundle)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise NotAVideoError(
                f"an image of shape {image.shape} and type {image.dtype}; "
                "expected (height, width, 3) uint8 RGB"
            )
        pixels = prepare_frame(np.ascontiguousarray(image), bundle.dims.image_size)
    else:
        pixels = prepare_frame(read_image(Path(image)), bundle.dims.image_size)
    out = engine.run(VIDEO_ENCODER, {"frames": pixels[None]})
    return np.array(out["embedding"][0], dtype=np.float32)
