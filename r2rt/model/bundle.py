"""A bundle: the folder that holds a model ready to run, and its manifest `bundle.json`.

Nothing in a bundle is pickled and opening one runs no code from it. Every file is listed in the
manifest with its size and sha256; what is not listed is not read.
"""

from __future__ import annotations

import hashlib
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from r2rt.cache.verified import is_verified, remember_verified
from r2rt.errors import BundleDamagedError, BundleSchemaError, HashMismatchError, ModelNotFoundError
from r2rt.model.contract import GraphSpec, ModelDims, graph_specs, parse_clip_rate
from r2rt.model.graph_files import external_locations

__all__ = [
    "GRAPH_REVISION",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "SCHEMA_VERSION",
    "TOKENIZER_NAME",
    "Bundle",
    "Check",
    "Figure",
    "FileEntry",
    "Manifest",
    "Nms",
    "Preprocessing",
    "Presence",
    "Provenance",
    "QuantizationReport",
    "Verification",
    "file_entry",
    "manifest_bytes",
    "parse_manifest",
    "read_manifest",
]

SCHEMA_VERSION = 1
# Counts changes of what a graph computes from the same weights. Revision 1 repeated the scores of a
# pyramid level by its stride; 2 repeats them T // length times, as the authors do.
GRAPH_REVISION = 2
MANIFEST_NAME = "bundle.json"
TOKENIZER_NAME = "tokenizer.json"

# Text of a manifest; those of large models have some 20 KB.
MAX_MANIFEST_BYTES = 4 << 20
# Limits of what a manifest may say, far beyond every model, so that a wrong one is refused in one
# line and not found out by a lack of memory.
_MAX_SIZES = {
    "image_size": 2048,
    "patches": 1 << 14,
    "layers": 128,
    "width": 1 << 14,
    "context_length": 1 << 13,
}
_MAX_TOKEN_BYTES = 256 << 20  # of one clip
_MAX_STRIDES, _MAX_STRIDE = 16, 1 << 16
_MAX_HEADS, _MAX_MOMENTS, _MAX_TOWER_WIDTH = 1024, 100_000, 1 << 16
_MAX_SECONDS = 86_400.0
_MAX_NAME, _MAX_FILES, _MAX_FILE_NAME = 200, 10_000, 255

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Forms of the graphs that are ready for one kind of machine: adding one changes no answer.
_PREPARED = ("engines/", "kernels/")


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
        statistic: which of the numbers that a window gives is compared.
        false_alarm: share of queries that do not belong which the threshold lets through.
        quantiles: of the statistic in windows that hold nothing of what is asked, at 0, 5, … 95 %.
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
    """`bundle.json`, schema 1.

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
    graph_revision: int = 1


class Bundle:
    """An opened bundle: a folder whose manifest was read and whose files are there."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(
        cls, path: str | Path, *, verify: Literal["always", "change", "never"] = "change"
    ) -> Bundle:
        """Open the bundle in folder `path`.

        Args:
            path: the folder that holds `bundle.json`.
            verify: compare the sha256 of every file: `always`, once after every `change` of a
                file, or `never`; sizes are always compared.

        Raises:
            ModelNotFoundError: there is no such folder, or no manifest in it.
            BundleSchemaError: the manifest has another schema version.
            BundleDamagedError: the manifest is malformed, or a file is missing or of another size.
            HashMismatchError: a file's content is not what the manifest promises.
        """
        folder = Path(path)
        bundle = cls(folder, read_manifest(folder))
        for name, entry in bundle.manifest.files.items():
            _check_present(folder, name, entry)
        names = (MANIFEST_NAME, *bundle.manifest.files)
        if verify == "always" or (verify == "change" and not is_verified(folder, names)):
            bundle.verify_hashes()
            remember_verified(folder, names)
        return bundle

    def verify_hashes(self) -> None:
        """Compare the sha256 of every file, and see that graphs read listed files alone.

        Raises:
            HashMismatchError: a file's content is not what the manifest promises.
            BundleDamagedError: a graph is malformed or names a file that is not listed.
        """
        with ThreadPoolExecutor(max_workers=4) as pool:  # hashlib releases the GIL
            entries = self.manifest.files
            found = dict(zip(entries, pool.map(self._hash, entries), strict=True))
        for name, digest in found.items():
            want = entries[name].sha256
            if digest != want:
                raise HashMismatchError(
                    f"{self.path / name}: sha256 is {digest[:16]}…, expected {want[:16]}…; "
                    "the bundle is damaged, fetch or export it again"
                )
        for name in entries:
            if name.endswith(".onnx"):
                self._check_graph(name)

    def _check_graph(self, name: str) -> None:
        """Raise `BundleDamagedError` if a graph reads a file whose hash is not in the manifest."""
        try:
            locations = external_locations(self.path / name)
        except (ValueError, OSError) as error:
            raise BundleDamagedError(
                f"{self.path / name}: not an ONNX graph ({error}); fetch or export the bundle again"
            ) from error
        for location in sorted(locations):
            if str(PurePosixPath(name).parent / location) not in self.manifest.files:
                raise BundleDamagedError(
                    f"{self.path / name}: reads weights from {location[:80]!r}, which the manifest "
                    "does not list, so nothing can verify them; export the bundle again"
                )

    def file(self, name: str) -> Path:
        """Return the path of a listed file; raise `BundleDamagedError` if it is not listed."""
        if name not in self.manifest.files:
            raise BundleDamagedError(
                f"{self.path}: the manifest lists no file {name}; export the bundle again"
            )
        return self.path / name

    @property
    def dims(self) -> ModelDims:
        """Sizes of the graphs."""
        return self.manifest.dims

    @property
    def fps(self) -> Fraction:
        """Clips a second, exactly."""
        return Fraction(self.manifest.fps)

    @property
    def outdated(self) -> str | None:
        """Say how answers differ from those of a bundle exported today; None if they do not."""
        if self.manifest.graph_revision >= GRAPH_REVISION or len(self.dims.strides) == 1:
            return None
        return (
            f"{self.manifest.name} was exported by an older r2rt, and its saliency is off by up to "
            "0.07 in videos of 10 to 63 clips; fetch or export it again"
        )

    @cached_property
    def graphs(self) -> dict[str, GraphSpec]:
        """Definition of every graph of this bundle, by name."""
        return graph_specs(self.manifest.dims)

    @cached_property
    def fingerprint(self) -> str:
        """Hash (32 hexadecimal digits) of all that decides what the bundle computes.

        Two bundles with the same fingerprint give the same answers; what one has encoded, the other
        can ground.
        """
        decisive = msgspec.structs.asdict(self.manifest)
        for name in (
            "name",
            "provenance",
            "verification",
            "quantization",
            "known_words",
            "presence",
            "graph_revision",
        ):
            del decisive[name]
        decisive["files"] = {
            name: entry.sha256
            for name, entry in self.manifest.files.items()
            if not name.startswith(_PREPARED)
        }
        text = msgspec.json.encode(decisive, order="deterministic")
        return hashlib.sha256(text).hexdigest()[:32]

    def _hash(self, name: str) -> str:
        try:
            return file_entry(self.path / name).sha256
        except OSError as error:
            raise BundleDamagedError(
                f"{self.path / name}: cannot be read ({error.strerror}); "
                "fetch or export the bundle again"
            ) from error


def file_entry(path: Path) -> FileEntry:
    """Return size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size=path.stat().st_size, sha256=digest)


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
        if version != SCHEMA_VERSION:
            raise BundleSchemaError(
                f"{where}: schema {version}, this r2rt reads schema {SCHEMA_VERSION}; "
                "export the model again with this version"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BundleDamagedError(f"{where}: {error}; fetch or export the bundle again") from error
    problem = _inconsistency(manifest)
    if problem:
        raise BundleDamagedError(f"{where}: {problem}; fetch or export the bundle again")
    return manifest


class _Version(msgspec.Struct):
    schema: int


def _inconsistency(manifest: Manifest) -> str | None:
    """Return what in a manifest cannot be; None where all can."""
    problem = (
        _impossible_sizes(manifest) or _impossible_values(manifest) or _impossible_files(manifest)
    )
    if problem:
        return problem
    wanted = {f"{graph}.onnx" for graph in graph_specs(manifest.dims)} | {TOKENIZER_NAME}
    missing = sorted(wanted - manifest.files.keys())
    return f"the files {', '.join(missing)} are not listed" if missing else None


def _impossible_sizes(manifest: Manifest) -> str | None:
    dims = manifest.dims
    sizes = {name: (getattr(dims, name), most) for name, most in _MAX_SIZES.items()}
    sizes |= {
        "max_moments": (manifest.max_moments, _MAX_MOMENTS),
        "heads": (manifest.heads, _MAX_HEADS),
        "vision_width": (manifest.vision_width, _MAX_TOWER_WIDTH),
        "text_width": (manifest.text_width, _MAX_TOWER_WIDTH),
    }
    for name, (size, most) in sizes.items():
        if not 1 <= size <= most:
            return f"sizes must be positive and {name} at most {most}, got {size}"
    token_bytes = 4 * dims.layers * dims.patches * dims.token_width
    if token_bytes > _MAX_TOKEN_BYTES:
        return f"a clip of {dims} takes {token_bytes} bytes, expected at most {_MAX_TOKEN_BYTES}"
    strides = dims.strides
    if not strides or strides[0] != 1 or list(strides) != sorted(set(strides)):
        return f"strides must ascend from 1, got {strides[:_MAX_STRIDES]}"
    if len(strides) > _MAX_STRIDES or strides[-1] > _MAX_STRIDE:
        return f"strides must be at most {_MAX_STRIDES}, none above {_MAX_STRIDE}"
    return None


def _impossible_values(manifest: Manifest) -> str | None:
    if not 1 <= len(manifest.name) <= _MAX_NAME or not manifest.name.isprintable():
        return f"name must be 1 to {_MAX_NAME} printable characters, got {manifest.name[:40]!r}"
    try:
        parse_clip_rate(manifest.fps)
    except ValueError as error:
        return str(error)
    for field in ("unit_s", "window_s"):
        value = getattr(manifest, field)
        if value is not None and not 0 < value <= _MAX_SECONDS:
            return f"{field} must be positive, at most {_MAX_SECONDS:g}, or null, got {value}"
    mean, std = manifest.preprocessing.mean, manifest.preprocessing.std
    if not all(0 < value <= 1e3 for value in std) or not all(abs(value) <= 1e3 for value in mean):
        return f"std must be positive, and mean and std at most 1000, got {mean} and {std}"
    if not 0 <= manifest.nms.iou_threshold <= 1 or not 0 < manifest.nms.sigma <= 1e6:
        return f"nms needs an iou_threshold in 0..1 and a positive sigma, got {manifest.nms}"
    if manifest.presence is not None and not _is_sound(manifest.presence):
        return (
            "presence needs 20 ascending quantiles, a false alarm in 0..1 and a tail of 0 or more"
        )
    return None


def _impossible_files(manifest: Manifest) -> str | None:
    if len(manifest.files) > _MAX_FILES:
        return f"lists {len(manifest.files)} files, expected at most {_MAX_FILES}"
    for name, entry in manifest.files.items():
        if len(name) > _MAX_FILE_NAME or not _SAFE_NAME.fullmatch(name) or name == MANIFEST_NAME:
            return f"{name[:80]!r} is not a file name that a bundle may list"
        if not _SHA256.fullmatch(entry.sha256) or entry.size < 0:
            return f"size or sha256 of {name} is malformed"
        if any(str(parent) in manifest.files for parent in PurePosixPath(name).parents):
            return f"{name} lies in what is listed as a file"
    return None


def _is_sound(presence: Presence) -> bool:
    quantiles = presence.quantiles
    return (
        len(quantiles) == 20
        and list(quantiles) == sorted(quantiles)
        and 0 < presence.false_alarm < 1
        and presence.tail >= 0
    )


def _check_present(folder: Path, name: str, entry: FileEntry) -> None:
    path = folder / name
    try:
        status = path.stat()
    except OSError as error:
        raise BundleDamagedError(
            f"{path}: {error.strerror}, but the manifest lists it; fetch or export the bundle again"
        ) from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise BundleDamagedError(f"{path}: not a regular file; fetch or export the bundle again")
    if status.st_size != entry.size:
        raise BundleDamagedError(
            f"{path}: {status.st_size} bytes, expected {entry.size}; "
            "fetch or export the bundle again"
        )
