"""A bundle's manifest, `bundle.json`: what it says, and how it is read and written.

What it may say is limited by `r2rt.model.manifest_limits`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from r2rt.errors import BundleDamagedError, BundleSchemaError, ModelNotFoundError
from r2rt.model.contract import ModelDims

__all__ = [
    "GRAPH_REVISION",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "SCHEMA_VERSION",
    "TOKENIZER_NAME",
    "Check",
    "Figure",
    "FileEntry",
    "Manifest",
    "Nms",
    "Preprocessing",
    "Presence",
    "Provenance",
    "QuantizationReport",
    "TextCleaning",
    "Verification",
    "manifest_bytes",
    "parse_manifest",
    "read_manifest",
]

TextCleaning: TypeAlias = Literal["clip", "canonicalize", "whitespace"]
"""How a sentence is cleaned before it is split into tokens; see `r2rt.grounding.tokenizer`."""

# Bundles of older schemas are read, too. The encoders of schema 1 give no embeddings; 2 has CLIP's
# tokenizer alone.
SCHEMA_VERSION, OLDEST_SCHEMA_VERSION = 3, 1
# Counts changes of what a graph computes from the same weights. Revision 1 repeated the scores of a
# pyramid level by its stride; 2 repeats them T // length times, as the authors do; 3 gives CLIP's
# embeddings, too.
GRAPH_REVISION = 3
MANIFEST_NAME = "bundle.json"
TOKENIZER_NAME = "tokenizer.json"

# Text of a manifest; those of large models have some 20 KB.
MAX_MANIFEST_BYTES = 4 << 20


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size in bytes and sha256 (64 hexadecimal digits) of one file of the bundle."""

    size: int
    sha256: str


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pixels of a frame are, normalisation being inside `video_encoder`.

    The short side is resized to the model's image size with libswscale's bicubic filter, then the
    centre square is cut out. `mean` and `std` are of RGB in [0, 1].
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["bicubic"] = "bicubic"
    crop: Literal["center"] = "center"


class Nms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Non-maximum suppression of moments.

    `normal` removes a moment that overlaps a better one by at least `iou_threshold`; `linear`
    multiplies its score by 1 - IoU, `gaussian` by exp(-IoU² / sigma).
    """

    kind: Literal["normal", "linear", "gaussian"]
    iou_threshold: float = 0.7
    sigma: float = 0.5


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights came from."""

    recipe: str | None
    checkpoint: str
    checkpoint_sha256: str
    clip: str
    clip_sha256: str
    exporter: str
    random_weights: bool = False


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One comparison of an exported graph (or the whole bundle) with the model.

    `error` is the largest violation max(|got - want| / (atol + rtol · |want|)): 1 is the limit.
    """

    name: str
    cases: int
    max_abs_error: float
    error: float
    rtol: float
    atol: float
    passed: bool


class Verification(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The report of the checks that ended the export.

    Attributes:
        passed: whether all checks passed.
        checks: the checks.
        reference: what the graphs were compared with: the model in PyTorch, or the runtime's own in
            NumPy (`r2rt.model.convert.reference`), on fewer cases.
    """

    passed: bool
    checks: tuple[Check, ...]
    reference: Literal["pytorch", "numpy"] = "pytorch"


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured figure of a comparison with fp32, and how far it may go.

    Attributes:
        name: what was measured, and of what.
        value: the figure.
        limit: the most it may be, or the least where `at_least`.
        at_least: whether more is better.
        passed: whether the figure keeps to its limit.
    """

    name: str
    value: float
    limit: float
    at_least: bool
    passed: bool


class QuantizationReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a bundle was quantised, and how well it agrees with the fp32 bundle it came from.

    Attributes:
        origin: fingerprint of that bundle.
        method: what was done, for people.
        calibration: names of the videos that it was calibrated and compared on.
        frames: frames that it was calibrated on.
        clips: clips of the videos that it was compared on.
        queries: queries that were asked of each of these videos.
        kept: linear layers, by graph, that stay in fp32 because int8 hurts them most.
        figures: the comparison; see `r2rt.quality.agreement`.
    """

    origin: str
    method: str
    calibration: tuple[str, ...]
    frames: int
    clips: int
    queries: int
    kept: dict[str, tuple[str, ...]]
    figures: tuple[Figure, ...]


class Presence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model decides that what is asked for is absent; see `r2rt.grounding.presence`.

    Attributes:
        statistic: which presence statistic of a window is compared.
        false_alarm: share of absent queries that exceed the threshold.
        quantiles: of the statistic's null distribution (absent queries), at 0, 5, … 95 %.
        tail: mean excess of the exponential tail beyond them.
        areas: area under the ROC curve of every candidate.
        kept: share of the queries that belong which exceed the threshold.
        kept_interval: its 95 % interval, by bootstrap.
        positives: queries that belong which it was calibrated on.
        negatives: queries that do not belong which it was calibrated on.
    """

    statistic: Literal["score", "saliency", "contrast", "similarity"]
    false_alarm: float
    quantiles: tuple[float, ...]
    tail: float
    areas: dict[str, float]
    kept: float
    kept_interval: tuple[float, float]
    positives: int
    negatives: int


# What has its default is not written: manifests without a report read as they always did.
class Manifest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """`bundle.json`, schema 3.

    Attributes:
        schema: version of this layout.
        name: what the bundle calls itself, such as `r2_tuning_qvhighlights`.
        dims: sizes of the graphs; see `ModelDims`.
        clip: name of the CLIP architecture.
        vision_width: width Cv of the vision tower.
        text_width: width Ct of the text tower.
        heads: attention heads of the R² block.
        merge_cls_sal: whether saliency is the class score times the cosine similarity.
        fps: clips a second, as a fraction such as "1/2".
        unit_s: boundaries are rounded to multiples of this many seconds; null leaves them.
        window_s: the longest video the model was trained on, in seconds; null if unlimited.
        max_moments: how many of the best boundaries are kept before suppression.
        nms: suppression that the model's evaluation uses.
        preprocessing: what a frame's pixels are.
        precision: arithmetic of the graphs.
        files: every file but the manifest, by its path inside the bundle.
        provenance: where the weights came from.
        verification: the report of the checks that ended the export; a quantised bundle has that of
            its origin.
        quantization: how the bundle was quantised; null where it was not.
        known_words: the words that a model of few words was trained on, lower case; null for one
            that has read of everything.
        presence: how the model decides that what is asked for is not in the video; null where it
            was not calibrated.
        text_cleaning: how a sentence is cleaned before it is split into tokens; see
            `r2rt.grounding.tokenizer`.
        graph_revision: `GRAPH_REVISION` of the exporter that made the graphs.
    """

    schema: int
    name: str
    dims: ModelDims
    clip: str
    vision_width: int
    text_width: int
    heads: int
    merge_cls_sal: bool
    fps: str
    unit_s: float | None
    window_s: float | None
    max_moments: int
    nms: Nms
    preprocessing: Preprocessing
    precision: Literal["fp32", "fp16", "int8", "bf16"]
    files: dict[str, FileEntry]
    provenance: Provenance
    verification: Verification
    quantization: QuantizationReport | None = None
    known_words: tuple[str, ...] | None = None
    presence: Presence | None = None
    text_cleaning: TextCleaning = "clip"
    graph_revision: int = 1


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the manifest as the text of `bundle.json`, the same for the same manifest."""
    return (
        msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"
    )


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the bundle in `folder`; the files that it lists are not looked at.

    Raises:
        ModelNotFoundError: there is no such folder, or no manifest in it.
        BundleSchemaError: the manifest has another schema version.
        BundleDamagedError: the manifest is malformed or cannot be read.
    """
    path = folder / MANIFEST_NAME
    try:
        # A pipe would be waited for, and a device read, for ever.
        if path.exists() and not path.is_file():
            raise BundleDamagedError(f"{path}: cannot be read (it is not a regular file)")
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(
            f"{folder}: no {MANIFEST_NAME} there, so it is no bundle; "
            "`r2rt models list` shows what is installed"
        ) from None
    except OSError as error:
        raise BundleDamagedError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_manifest(text, where=str(path))


def parse_manifest(text: bytes, *, where: str) -> Manifest:
    """Read and validate the text of a `bundle.json`.

    Args:
        text: the text, which may come from anyone.
        where: what messages call it, such as its path or URL.

    Raises:
        BundleSchemaError: it has another schema version.
        BundleDamagedError: it is malformed.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleDamagedError(
            f"{where}: more than {MAX_MANIFEST_BYTES} bytes; fetch or export the bundle again"
        )
    try:
        version = msgspec.json.decode(text, type=_Version).schema
        if not OLDEST_SCHEMA_VERSION <= version <= SCHEMA_VERSION:
            raise BundleSchemaError(
                f"{where}: schema {version}, this r2rt reads schema {OLDEST_SCHEMA_VERSION} to "
                f"{SCHEMA_VERSION}; export the model again with this version"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
        # Of a dataclass, msgspec ignores fields that it has not.
        strange = msgspec.json.decode(text, type=_Dims).dims.keys() - {
            field.name for field in dataclasses.fields(ModelDims)
        }
        if strange:
            raise msgspec.ValidationError(f"dims has an unknown field {sorted(strange)[0]!r}")
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BundleDamagedError(f"{where}: {error}; fetch or export the bundle again") from error
    from r2rt.model.manifest_limits import impossible

    problem = impossible(manifest)
    if problem:
        raise BundleDamagedError(f"{where}: {problem}; fetch or export the bundle again")
    return manifest


class _Dims(msgspec.Struct):
    dims: dict[str, msgspec.Raw]


class _Version(msgspec.Struct):
    schema: int
