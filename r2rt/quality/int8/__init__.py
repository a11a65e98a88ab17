"""Quantises ONNX graphs: int8 weights per output channel, uint8 activations with fixed ranges.

Ranges are fixed by calibration and not taken from each batch, so that what a frame becomes does not
depend on the frames it is encoded with, and nothing is searched for a minimum at run time.
"""

from __future__ import annotations

from r2rt.quality.int8.fit import Fit, fit_linear
from r2rt.quality.int8.graph import quantize_graph
from r2rt.quality.int8.linears import Linear, find_linears
from r2rt.quality.int8.samples import Samples, collect
from r2rt.quality.int8.select import Selection, select

__all__ = [
    "Fit",
    "Linear",
    "Samples",
    "Selection",
    "collect",
    "find_linears",
    "fit_linear",
    "quantize_graph",
    "select",
]
