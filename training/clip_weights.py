"""Where CLIP's weights come from: found on disk or fetched, checked, read without running code."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2rt.errors import DownloadError
from r2rt.model.convert.archive import is_archive, read_module_tensors
from r2rt.model.convert.clip_files import clip_folder
from r2rt.model.registry import hub_endpoint
from r2rt.user_folders import user_path
from training.checkpoint import first_line, is_web_page
from training.clip_config import ClipError

__all__ = [
    "DEFAULT_TAG",
    "SUFFIXES",
    "fetch_clip",
    "fetch_tokenizer",
    "pixel_statistics",
    "read_weights",
]

DEFAULT_TAG = "openai"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
# The files that open_clip's models have in their hub repositories; some, as DFN's, have the second
# one alone.
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a file of CLIP weights; return its tensors by OpenAI's names, and the file's sha256.

    Takes `.safetensors`, a state dict (bare, or under `state_dict` as training scripts save it),
    or a TorchScript archive. Nothing in the file is executed.

    Raises:
        ClipError: the file is none of these, or damaged.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
        elif is_archive(path) and (module := read_module_tensors(path)) is not None:
            # A copy: PyTorch takes no array that may not be written to.
            tensors = {key: torch.from_numpy(np.array(array)) for key, array in module.items()}
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            tensors = _state_dict(loaded, path)
    except ClipError:
        raise
    except Exception as error:  # each reader has its own errors for damaged files
        with path.open("rb") as file:
            is_page = is_web_page(file.read(1024))
        reason = "it is a web page (HTML)" if is_page else first_line(error)
        raise ClipError(f"{path} holds no CLIP weights that can be read: {reason}") from error
    return tensors, _sha256(path)


def fetch_clip(
    spec: str, *, mirror: str | Path | None = None, cache_dir: str | Path | None = None
) -> Path:
    """Return the weights' file of `NAME` (OpenAI's weights) or `NAME@TAG`; fetch it if not there.

    Its address comes from open_clip's table of pretrained models. OpenAI's addresses hold the
    file's sha256, some others its beginning, which is verified; the rest promise nothing.

    Args:
        spec: an open_clip architecture, with or without a pretrained tag.
        mirror: URL or folder that holds the file, in place of its origin.
        cache_dir: folder where it is kept; by default `clip` in `$R2RT_HOME` or in the user's
            cache. OpenAI's own `~/.cache/clip` is looked into as well.

    Raises:
        ClipError: open_clip has no such weights, or they were trained with another activation.
        r2rt.errors.DownloadError: the file could not be fetched.
        r2rt.errors.HashMismatchError: what was fetched is not the published file.
    """
    from r2rt.model.download import download

    name, _, tag = spec.partition("@")
    origins = _origins(name, tag or DEFAULT_TAG)
    folder = clip_folder() if cache_dir is None else Path(cache_dir)
    for _, filename, sha256 in origins:
        target = folder / filename
        if target.is_file() and (sha256 is None or _sha256(target).startswith(sha256)):
            return target
        elsewhere = user_path("~/.cache/clip") / filename
        if sha256 and elsewhere.is_file() and _sha256(elsewhere).startswith(sha256):
            return elsewhere
    *others, last = origins
    for url, filename, sha256 in others:
        with contextlib.suppress(DownloadError):
            return download(_source(url, filename, mirror), folder / filename, sha256=sha256)
    url, filename, sha256 = last
    return download(_source(url, filename, mirror), folder / filename, sha256=sha256)


def fetch_tokenizer(
    repository: str, *, mirror: str | Path | None = None, cache_dir: str | Path | None = None
) -> Path:
    """Return the `tokenizer.json` of a hub repository; fetch it if it is not kept yet.

    Raises:
        r2rt.errors.DownloadError: the file could not be fetched.
    """
    from r2rt.model.download import download

    folder = clip_folder() if cache_dir is None else Path(cache_dir)
    target = folder / f"{repository.replace('/', '--')}--tokenizer.json"
    if target.is_file():
        return target
    url = f"{_hub(repository)}/tokenizer.json"
    return download(_source(url, target.name, mirror), target, sha256=None)


def _hub(repository: str) -> str:
    return f"{hub_endpoint()}/{repository}/resolve/main"


def _source(url: str, filename: str, mirror: str | Path | None) -> str:
    return url if mirror is None else f"{str(mirror).rstrip('/')}/{filename}"


def pixel_statistics(
    name: str, tag: str
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of RGB in 0..1 that these weights were trained with."""
    found = _pretrained(name, tag)
    mean, std = (tuple(float(x) for x in found[key]) for key in ("mean", "std"))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _origins(name: str, tag: str) -> list[tuple[str, str, str | None]]:
    """URL, name in the cache, and promised sha256 (or its first digits) of a model's weights.

    Where there are several, the later ones are tried if the earlier ones are not there.
    """
    found = _pretrained(name, tag)
    if found.get("quick_gelu") and not name.endswith("-quickgelu"):
        raise ClipError(f"{tag} weights of {name} use QuickGELU: ask for {name}-quickgelu")
    if url := found.get("url"):
        filename = url.rsplit("/", 1)[-1]
        promised = re.search(r"/([0-9a-f]{64})/[^/]+$|-([0-9a-f]{8})\.\w+$", url)
        return [(url, filename, (promised[1] or promised[2]) if promised else None)]
    repository = found["hf_hub"].strip("/")
    place, stem = _hub(repository), repository.replace("/", "--")
    return [(f"{place}/{file}", f"{stem}{Path(file).suffix}", None) for file in _HUB_FILES]


def _pretrained(name: str, tag: str) -> dict[str, Any]:
    import open_clip

    found = open_clip.get_pretrained_cfg(name, tag)
    if not found:
        raise ClipError(
            f"open_clip has no weights {tag!r} of {name}; name another NAME@TAG or a file"
        )
    return dict(found)


def _state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise ClipError(f"{path} holds a {type(loaded).__name__}, not a state dict of CLIP")
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    # Distributed training prefixes every name.
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
