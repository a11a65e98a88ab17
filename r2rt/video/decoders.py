"""The names of what decodes videos; `r2rt.video.hardware` chooses among them."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["DECODERS", "Decoder"]

Decoder = Literal["auto", "cpu", "cuda", "vaapi", "qsv", "videotoolbox", "d3d11va"]
DECODERS: tuple[Decoder, ...] = get_args(Decoder)
