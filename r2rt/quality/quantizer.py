"""From an fp32 bundle to an int8 one that was compared with it."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import AccuracyError, BundleDamagedError, NoFramesError, QueryError
from r2rt.grounding.many import find_videos
from r2rt.grounding.tokenizer import Tokenizer
from r2rt.model.bundle import PREPARED, Bundle
from r2rt.model.bundle_writer import check_destination, list_files, staged_folder, write_manifest
from r2rt.model.contract import TEXT_ENCODER, VIDEO_ENCODER
from r2rt.model.installed import INT8_SUFFIX, checked_name, locked, models_dir, resolve
from r2rt.model.manifest import Manifest, QuantizationReport
from r2rt.model.onnx_graph import OnnxGraph
from r2rt.quality.agreement import LIMITS, QUERIES, Agreement, Limits, compare, failures
from r2rt.quality.int8 import Selection, select
from r2rt.quality.made_frames import made_frames
from r2rt.video.remote import VideoPath, video_path

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Source
    from r2rt.model.manifest import Figure

__all__ = ["BUDGETS", "CALIBRATION_QUERIES", "Quantized", "RefusedError", "quantize_bundle"]

# The errors that the choice of layers aims at on calibration data, well inside the gate's limits:
# other frames err more. Queries may err more than frames, since in their encoder the last layers,
# whose errors nothing averages out, are a larger share of the work.
BUDGETS = {VIDEO_ENCODER: 0.015, TEXT_ENCODER: 0.025}

# The output of each encoder whose error is measured.
_OUTPUTS = {VIDEO_ENCODER: "tokens", TEXT_ENCODER: "q"}

_FRAMES = 32
# Scenes of made frames to compare on.
_SCENES = 8
# What a manifest names where no video was calibrated on.
_MADE = "frames made by r2rt"
_FRAMES_A_RUN = 8

# Other sentences than those that the gate asks.
CALIBRATION_QUERIES = (
    "a man speaks into a microphone",
    "a woman in a red dress is standing near a window",
    "three friends are sitting at a table and eating dinner",
    "a cat jumps onto the sofa",
    "someone is typing on a laptop",
    "a person opens the fridge and takes out a bottle of milk",
    "the sun sets over the mountains",
    "a crowd cheers in a stadium",
    "a train arrives at the station",
    "a girl brushes her hair in front of a mirror",
    "news anchor reports from the studio with a map behind her",
    "an aerial view of a forest and a river",
    "a football player scores a goal",
    "kids swim in the pool",
    "he throws the ball to the other player",
    "slicing vegetables on a cutting board",
    "she",
    "how to repair a bicycle tire step by step",
    "a black screen with white letters",
    "a couple takes a selfie on the beach, laughing",
    "snow covers the road while a truck drives slowly past the houses of the village",
    "a bird flies",
    "a soldier climbs over a wall",
    "someone pours coffee into a cup",
    "a monkey sits on a branch and eats a banana",
    "a drummer plays on stage, lights flashing in many colours",
    "person holding a pillow",
    "where did I put the scissors?",
    "vlog of a walk through a market in Asia with street food and fruit",
    "an old photograph in black and white",
    "a rocket launches from its pad",
    "the person puts clothes into the washing machine",
)


class RefusedError(AccuracyError):
    """A quantised bundle that does not keep to the gate's limits; it was not written."""

    def __init__(self, message: str, figures: tuple[Figure, ...] = ()) -> None:
        super().__init__(message)
        self.figures = figures


def _silent(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A bundle that was written.

    Attributes:
        path: its folder.
        manifest: its manifest, the report in it.
    """

    path: Path
    manifest: Manifest


def quantize_bundle(
    origin: str | Path,
    output: str | Path | None = None,
    *,
    calibration: Sequence[str | Path] = (),
    calibration_queries: Sequence[str] = CALIBRATION_QUERIES,
    queries: Sequence[str] = QUERIES,
    name: str | None = None,
    smooth: bool = True,
    leave_out: bool = True,
    budgets: Mapping[str, float] = BUDGETS,
    limits: Limits = LIMITS,
    force: bool = False,
    say: Callable[[str], None] = _silent,
) -> Quantized:
    """Quantise both encoders of an fp32 bundle to int8.

    Nothing is written if anything fails, and what stands at `output` stays. The same bundle and
    videos give the same graphs on machines with the same processor; on others, sums of fp32 differ
    in their last digit, and a code may be rounded to its neighbour.

    Args:
        origin: an installed model's name or the bundle's folder.
        output: the new bundle's folder; by default the one of model `name` in the models folder.
        calibration: videos, folders of images, or folders of videos; by default frames that are
            made by a formula.
        calibration_queries: sentences to take the text encoder's ranges from.
        queries: other sentences, which the gate asks.
        name: what the new bundle calls itself; by default the origin's name, under which it is
            installed, and `-int8`.
        smooth: whether channels may be scaled before they are rounded.
        leave_out: whether layers may stay in fp32.
        budgets: of each encoder, the error on calibration data above which they do.
        limits: what the gate holds the new bundle to.
        force: replace a bundle that stands at `output`.
        say: called with one line for each step.

    Raises:
        RefusedError: the new bundle's answers differ too much from its origin's.
        QueryError: the origin is not fp32 or would be replaced, or there is nothing to calibrate
            on.
        R2rtError: another of its classes; the message says what to do.
    """
    bundle = Bundle.open(resolve(origin))
    if bundle.manifest.precision != "fp32":
        raise QueryError(f"{bundle.path} is {bundle.manifest.precision}; expected an fp32 bundle")
    # Where it is looked for: a model may be installed under another name than it calls itself.
    is_installed = bundle.path.parent.resolve() == models_dir().resolve()
    own = bundle.path.name if is_installed else bundle.manifest.name
    name = checked_name(name or f"{own}{INT8_SUFFIX}")
    destination = models_dir() / name if output is None else Path(output)
    if destination.exists() and destination.samefile(bundle.path):
        raise QueryError(
            f"{destination} is the bundle that is quantised; write to another --output or --name"
        )
    check_destination(destination, force=force)
    frames, sources = _material(bundle, calibration)
    say(f"calibrating on {len(frames)} frames")
    selections = _select_layers(
        bundle,
        frames,
        calibration_queries,
        smooth=smooth,
        leave_out=leave_out,
        budgets=budgets,
        say=say,
    )
    lock = locked(name) if output is None else contextlib.nullcontext()
    with lock, staged_folder(destination, force=force) as folder:
        _write_files(folder, bundle, selections)
        kept = {graph: selection.kept for graph, selection in selections.items()}
        smoothed = sum(selection.smoothed for selection in selections.values())
        selections.clear()  # they hold both forms of the encoders, which are opened next
        manifest = _int8_manifest(bundle.manifest, name, folder)
        write_manifest(folder, manifest)
        agreement = _compare(bundle, folder, sources, queries, limits, say)
        report = _report(bundle, kept, smoothed, agreement, len(frames))
        if not calibration:
            report = msgspec.structs.replace(report, calibration=(_MADE,))
        manifest = msgspec.structs.replace(manifest, quantization=report)
        write_manifest(folder, manifest)
    say(f"wrote {destination}")
    return Quantized(path=destination, manifest=manifest)


def _material(
    bundle: Bundle, calibration: Sequence[str | Path]
) -> tuple[NDArray[np.uint8], list[Source]]:
    """Return frames (T, S, S, 3) to take ranges from, and others, or videos, to compare on."""
    if calibration:
        videos = _videos(calibration)
        return _calibration_frames(videos, bundle), [*videos]
    size = bundle.dims.image_size
    return made_frames(_FRAMES // 2, 2, size, seed=1), [made_frames(_SCENES, 3, size, seed=2)]


def _select_layers(
    bundle: Bundle,
    frames: NDArray[np.uint8],
    queries: Sequence[str],
    *,
    smooth: bool,
    leave_out: bool,
    budgets: Mapping[str, float],
    say: Callable[[str], None],
) -> dict[str, Selection]:
    """Return both encoders in int8, calibrated on frames (T, S, S, 3) and queries."""
    starts = range(0, len(frames), _FRAMES_A_RUN)
    runs: dict[str, list[dict[str, NDArray[Any]]]] = {
        VIDEO_ENCODER: [{"frames": frames[start : start + _FRAMES_A_RUN]} for start in starts],
        TEXT_ENCODER: _query_runs(bundle, queries),
    }
    measured = {VIDEO_ENCODER: 1, TEXT_ENCODER: None}
    return {
        graph: select(
            _read(bundle, graph),
            runs[graph],
            output=_OUTPUTS[graph],
            features=bundle.dims.width,
            budget=budgets[graph],
            measured=measured[graph],
            smooth=smooth,
            leave_out=leave_out,
            say=_prefixed(graph, say),
        )
        for graph in runs
    }


def _read(bundle: Bundle, graph: str) -> OnnxGraph:
    path = bundle.file(f"{graph}.onnx")
    try:
        return OnnxGraph.read(path)
    except (ValueError, KeyError, OSError) as error:
        raise BundleDamagedError(
            f"{path}: not a graph that r2rt exports ({error}); export the bundle again"
        ) from error


def _prefixed(graph: str, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: say(f"{graph}: {line}")


def _videos(calibration: Sequence[str | Path]) -> list[VideoPath]:
    """Return the sources named; a folder of videos stands for these, whatever lies beside them.

    Raises:
        SourceNotFoundError: a folder holds neither videos nor images.
        QueryError: there are encoded videos alone, which have no frames.
    """
    paths = [video_path(video) for video in find_videos(calibration)]
    found = [path for path in paths if not path.name.lower().endswith(".r2rt")]
    if not found:
        raise QueryError(f"{paths[0]}: an encoded video has no frames; name the video itself")
    return found


def _calibration_frames(videos: Sequence[VideoPath], bundle: Bundle) -> NDArray[np.uint8]:
    """Return frames (T, S, S, 3) of all videos, taken evenly.

    They are taken from between those that stand for the clips, so that what the gate sees was not
    calibrated on, where there are any: not in folders of images, nor in videos of at most one frame
    a clip.
    """
    from r2rt.video import open_source

    quota = -(-_FRAMES // len(videos))
    pixels = []
    for video in videos:
        with open_source(video, fps=bundle.fps, image_size=bundle.dims.image_size) as source:
            clips = source.num_clips
        # Points in time halfway between clips and a multiple of them coincide where it is odd.
        rate = bundle.fps * 2 * max(1, -(-quota // (2 * clips)))
        with open_source(video, fps=rate, image_size=bundle.dims.image_size) as source:
            total = source.num_clips
            wanted = {int((index + 0.5) * total / quota) for index in range(quota)}
            pixels += [
                frame.pixels
                for frame in itertools.islice(source, max(wanted) + 1)
                if not wanted.isdisjoint(range(frame.clip_index, frame.clip_index + frame.count))
            ]
    if not pixels:
        raise NoFramesError(f"{videos[0]}: not one frame to calibrate on; name another video")
    return np.stack(pixels)


def _query_runs(bundle: Bundle, queries: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    """Return the calibration queries, those of one length together: none is padded."""
    tokenizer = Tokenizer.of(bundle)
    by_length: dict[int, list[NDArray[np.int64]]] = {}
    for query in queries:
        ids = tokenizer.encode(query).ids
        by_length.setdefault(len(ids), []).append(ids)
    return [
        {"token_ids": np.stack(ids), "query_mask": np.ones((len(ids), length), np.float32)}
        for length, ids in sorted(by_length.items())
    ]


def _write_files(folder: Path, bundle: Bundle, selections: dict[str, Selection]) -> None:
    # Numbers beside a large graph are in its int8 form itself.
    beside = {f"{graph}.onnx.data" for graph in selections}
    for file in bundle.manifest.files.keys() - beside:
        if file.startswith(PREPARED):
            continue  # made of the graphs that are replaced
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        selection = selections.get(file.removesuffix(".onnx"))
        if selection is None:
            shutil.copyfile(bundle.file(file), path)
        else:
            selection.graph.write(path)


def _int8_manifest(origin: Manifest, name: str, folder: Path) -> Manifest:
    """Return the manifest of the files in the folder, without the report."""
    from importlib.metadata import version

    return msgspec.structs.replace(
        origin,
        name=name,
        precision="int8",
        files=list_files(folder),
        presence=None,  # calibrated on the answers of fp32
        provenance=msgspec.structs.replace(origin.provenance, exporter=f"r2rt {version('r2rt')}"),
    )


def _compare(
    bundle: Bundle,
    folder: Path,
    sources: Sequence[Source],
    queries: Sequence[str],
    limits: Limits,
    say: Callable[[str], None],
) -> Agreement:
    """Return how far both bundles agree; raises RefusedError where that is too little."""
    from r2rt.grounding.grounder import Grounder

    def load(path: Path) -> Grounder:
        return Grounder.load(path, device="cpu", precision=None, verify="never")

    agreement = compare(
        load(bundle.path), load(folder), sources, queries=queries, limits=limits, say=say
    )
    if not agreement.passed:
        raise RefusedError(
            f"the int8 form of {bundle.manifest.name} differs too much from fp32: "
            f"{failures(agreement.figures)}; no bundle was written, "
            "calibrate on videos like yours with `r2rt models quantize --frames VIDEO`",
            agreement.figures,
        )
    return agreement


def _report(
    bundle: Bundle,
    kept: dict[str, tuple[str, ...]],
    smoothed: int,
    agreement: Agreement,
    frames: int,
) -> QuantizationReport:
    return QuantizationReport(
        origin=bundle.fingerprint,
        method="weights int8 a channel, activations uint8 of fixed range, "
        f"channels of {smoothed} layers scaled",
        calibration=tuple(Path(video).name for video in agreement.videos),
        frames=frames,
        clips=agreement.clips,
        queries=agreement.queries,
        kept=kept,
        figures=agreement.figures,
    )
