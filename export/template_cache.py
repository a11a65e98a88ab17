"""Templates of graphs, which take long to trace, kept for all modules that are built alike."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import onnx
from filelock import FileLock
from torch import nn

from export._checkout import CHECKOUT
from export.onnx_writer import graph_template, module_weights
from r2rt.files import replacing
from r2rt.model.contract import GraphSpec
from r2rt.model.convert.template import write_graph

__all__ = ["TEMPLATES_VARIABLE", "graph_to_onnx", "kept_template"]

# Names a folder in which templates are kept, so that the next process does not trace them again.
TEMPLATES_VARIABLE = "R2RT_TEMPLATES"

# What a template depends on beside the module's sizes and settings.
_CODE = (
    "export/graphs",
    "export/onnx_writer.py",
    "export/template_cache.py",
    "r2rt/model/convert/template.py",
    "training/clip_towers.py",
)
_PACKAGES = ("numpy", "onnx", "onnxscript", "torch")

_templates: dict[str, bytes] = {}


def graph_to_onnx(
    module: nn.Module, spec: GraphSpec, *, context_length: int, doc: str = ""
) -> onnx.ModelProto:
    """Export a module with its weights; see `graph_template` for the arguments."""
    template = kept_template(module, spec, context_length=context_length, doc=doc)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        write_graph(template, module_weights(module), path)
        return onnx.load_model(path)


def kept_template(
    module: nn.Module, spec: GraphSpec, *, context_length: int, doc: str = ""
) -> bytes:
    """Return `graph_template` of the same arguments, which is traced once a process.

    Where `R2RT_TEMPLATES` names a folder, it is traced once for all processes, until the code or
    the packages that trace it change.
    """
    key = repr((spec, context_length, doc, list(_built(module))))
    if key not in _templates:
        folder = os.environ.get(TEMPLATES_VARIABLE)

        def traced() -> bytes:
            return graph_template(module, spec, context_length=context_length, doc=doc)

        if not folder:
            _templates[key] = traced()
        else:
            digest = hashlib.sha256(f"{_code_sha256()} {key}".encode()).hexdigest()
            path = Path(folder) / f"{spec.name}-{digest[:32]}.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    with replacing(path) as file:
                        file.write_bytes(traced())
                _templates[key] = path.read_bytes()
    return _templates[key]


def _built(module: nn.Module) -> Iterator[object]:
    """All that tracing can see of a module: classes, settings, shapes, and constants' values."""
    weights = module.state_dict()
    yield [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in weights.items()]
    for name, part in module.named_modules():
        settings = {key: x for key, x in vars(part).items() if not key.startswith("_")}
        yield name, type(part).__qualname__, settings
    for name, constant in module.named_buffers():
        if name not in weights:
            yield name, hashlib.sha256(constant.numpy().tobytes()).hexdigest()


@cache
def _code_sha256() -> str:
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in _PACKAGES).encode())
    files = {
        path
        for name in _CODE
        for path in ([CHECKOUT / name] if name.endswith(".py") else (CHECKOUT / name).rglob("*.py"))
    }
    for path in sorted(files):
        digest.update(str(path.relative_to(CHECKOUT)).encode() + path.read_bytes())
    return digest.hexdigest()
