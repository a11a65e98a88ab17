"""The steps from annotations to a bundle; each leaves its result in the run's folder."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from r2rt.files import replacing
from r2rt.model.bundle_writer import staged_folder
from r2rt.video.fingerprint import fingerprint_files
from training.config import RunConfig, recorded_config, with_overrides
from training.data.annotation import Annotation
from training.data.checks import check_file
from training.data.errors import AnnotationError
from training.data.layouts import load_annotations
from training.data.videos import VideoFolder
from training.errors import TrainingError, TrainingInterruptedError
from training.own.settings import choose_rate, choose_settings
from training.own.split import split_by_video, write_annotations
from training.recipes import RECIPES

if TYPE_CHECKING:
    from training.clip_config import ClipConfig

__all__ = ["STEPS", "Own", "last_line"]

_FALSE_ALARM = 0.05


@dataclass(frozen=True, kw_only=True)
class Own:
    """The inputs and settings of a run.

    Attributes:
        annotations: the file of annotations.
        videos: the folder of their videos.
        out: the run's folder.
        clip: the CLIP, as `training.clip.load_clip` names it.
        val: annotations to evaluate on; None splits them off.
        init: checkpoint whose weights training starts from; None starts from random ones.
        fps: clips a second; None chooses by the moments' lengths.
        settings: training settings to change, by name.
        workers: processes that extract features; None for one a core.
        seed: of the split and of training.
        say: called with a line for people.
    """

    annotations: Path
    videos: Path
    out: Path
    clip: str
    val: Path | None
    init: Path | None
    fps: Fraction | None
    settings: dict[str, object]
    workers: int | None
    seed: int
    say: Callable[[str], None]

    @property
    def train_file(self) -> Path:
        """Annotations that are trained on."""
        return self.out / "train.jsonl"

    @property
    def val_file(self) -> Path:
        """Annotations that are evaluated on."""
        return self.out / "val.jsonl"

    @property
    def features(self) -> Path:
        """Folder of features; another CLIP, rate or choice of layers has another one."""
        layers = [self.changes.get(name) for name in ("layers", "read")]
        made_with = repr((self.clip, str(self.rate()), layers))
        return self.out / "features" / hashlib.sha256(made_with.encode()).hexdigest()[:8]

    @property
    def run(self) -> Path:
        """The training's folder; other annotations, videos or settings have another one."""
        return self.out / f"training-{self.key[:8]}"

    @property
    def exact(self) -> Path:
        """The bundle in fp32."""
        return self.out / "fp32"

    @property
    def bundle(self) -> Path:
        """The bundle to use."""
        return self.out / "bundle"

    @cached_property
    def key(self) -> str:
        """A digest of all inputs of the steps after `validate`, hex digits; read it after that."""
        # By content too: another file may have taken a name.
        clip = (self.clip, self.clip_config.weights_sha256)
        digest = hashlib.sha256(repr((clip, self.fps, self.settings, self.seed)).encode())
        if self.init is not None and self.init.is_file():
            digest.update(self.init.read_bytes())
        videos = VideoFolder(self.videos)
        for path in (self.train_file, self.val_file):
            digest.update(path.read_bytes())
            for vid in sorted({annotation.vid for annotation in load_annotations(path)}):
                digest.update(fingerprint_files(videos.candidates(vid)).encode())
        return digest.hexdigest()

    @cached_property
    def clip_config(self) -> ClipConfig:
        """The CLIP's sizes and the digest of its weights."""
        from training.clip import load_clip

        return load_clip(self.clip).config

    @cached_property
    def changes(self) -> dict[str, object]:
        """Settings to change: sizes of the initial model, then the user's own settings.

        Raises:
            R2rtError: the checkpoint cannot be read.
        """
        return {**({} if self.init is None else _sizes(self.init)), **self.settings}

    def rate(self) -> Fraction:
        """Clips a second: as asked for, else by the lengths of the moments."""
        return self.fps or choose_rate(load_annotations(self.annotations, fps=self.fps))

    def config(self) -> RunConfig:
        """Return the training's settings, by the data that is trained on."""
        train = load_annotations(self.train_file, fps=self.rate())
        return choose_settings(
            queries=len(train),
            longest_s=max(annotation.duration_s or 0.0 for annotation in train),
            fps=self.rate(),
            vision_width=self.clip_config.vision_width,
            seed=self.seed,
            changes=self.changes,
        )


def _sizes(init: Path) -> dict[str, object]:
    """Return the sizes that a checkpoint records as settings; none if it records nothing."""
    from training.checkpoint import load_checkpoint

    trained = recorded_config(load_checkpoint(init).meta)
    if trained is None:
        return {}
    model = trained.model
    layers = {"layers": model.layers} if model.read is None else {"read": list(model.read)}
    return {"width": model.width, "heads": model.heads, **layers}


def validate(own: Own) -> str:
    """Check the annotations, split them by videos, and write both parts.

    Raises:
        AnnotationError: annotations cannot be trained on; every problem was printed.
        TrainingError: no such setting, or a value that it cannot have.
    """
    videos = VideoFolder(own.videos)
    asked = with_overrides(RunConfig(recipe=RECIPES["qvhighlights"]), own.settings).recipe
    # The rate that the later steps will have: what fits no other is found out here.
    rate = own.fps or choose_rate(check_file(own.annotations).annotations)
    files = [path for path in (own.annotations, own.val) if path is not None]
    for path in files:
        checked = check_file(path, fps=rate, videos=videos, min_video_s=asked.min_video_s)
        for problem in checked.problems:
            own.say(str(problem))
        without = [each.place for each in checked.annotations if each.moments_s is None]
        if checked.errors or without:
            what = f"{len(checked.errors)} errors"
            if not checked.errors:
                what = f"{without[0]} has no relevant_windows"
            raise AnnotationError(f"{path}: {what}; correct it and run the same command again")
    names: dict[Path, str] = {}
    annotations = _one_name_a_video(load_annotations(own.annotations, fps=rate), videos, names)
    if own.val is None:
        train, val = split_by_video(annotations, own.seed)
    else:
        val = _one_name_a_video(load_annotations(own.val, fps=rate), videos, names)
        train = annotations
    own.out.mkdir(parents=True, exist_ok=True)
    write_annotations(own.train_file, train, videos, rate)
    write_annotations(own.val_file, val, videos, rate)
    counts = [
        f"{len(part)} queries of {len({a.vid for a in part})} videos" for part in (train, val)
    ]
    return f"{counts[0]} to train on, {counts[1]} to evaluate on, {rate} clips a second"


def extract(own: Own) -> str:
    """Make the features of all videos and queries."""
    from training.extract import main
    from training.extraction.errors import ExtractionError

    # As deep as the deepest layer that is read.
    layers = -min(own.config().model.read_layers)
    for path in (own.train_file, own.val_file):
        arguments = [str(path), "--videos", str(own.videos), "--model", own.clip]
        arguments += ["--out", str(own.features), "--fps", str(own.rate()), "--layers", str(layers)]
        # Features of a video that was changed are of no use any more.
        arguments += ["--replace", "--quiet"]
        if own.workers is not None:
            arguments += ["--workers", str(own.workers)]
        code = main(arguments)
        if code == 130:  # it said so itself
            raise KeyboardInterrupt
        if code:
            raise ExtractionError(f"features could not be made (exit code {code}); see above")
    return str(own.features)


def train(own: Own) -> str:
    """Train, or go on with a training that was interrupted."""
    from training.data.layouts import open_data
    from training.train import build_validation, new_model
    from training.trainer import fit, read_progress

    config = own.config()
    samples = open_data(
        config.recipe,
        own.features,
        "train",
        annotations=own.train_file,
        layers=config.model.read_layers,
    )
    try:
        best = fit(
            new_model(config, samples, init=own.init),
            config.recipe,
            samples,
            out=own.run,
            val=build_validation(config, own.features, annotations=own.val_file),
            options=config.options,
            resume=True,
            quiet=True,
        )
    except TrainingInterruptedError as error:  # all is saved; its own message names --resume
        raise KeyboardInterrupt from error
    progress = read_progress(own.run)
    if progress is not None and not progress.finished:
        raise TrainingError(
            f"max_minutes are over at step {progress.step} of {progress.total_steps}; all is "
            "saved, the same command goes on"
        )
    return f"{config.recipe.epochs} epochs of batches of {config.recipe.batch_size}: {best}"


def export(own: Own) -> str:
    """Export the best checkpoint, compared with PyTorch, in fp32."""
    from export.exporter import export_bundle

    best = own.run / "best.pth"
    exported = export_bundle(best, own.exact, clip=own.clip, name=_name(own), force=True)
    return f"{exported.path}, {_megabytes(exported.path)}"


def quantise(own: Own) -> str:
    """Quantise to int8 where the gate passes it; otherwise the bundle is the fp32 one."""
    from r2rt.quality.quantizer import RefusedError, quantize_bundle

    videos = VideoFolder(own.videos)
    train = load_annotations(own.train_file)
    calibration = [videos.candidates(vid)[0] for vid in sorted({a.vid for a in train})]
    try:
        made = quantize_bundle(
            own.exact,
            own.bundle,
            calibration=calibration,
            calibration_queries=sorted({a.query for a in train}),
            # The gate asks sentences that no range was taken from, as far as there are any.
            queries=sorted({a.query for a in load_annotations(own.val_file)}),
            name=_name(own),
            force=True,
        )
    except RefusedError as error:
        with staged_folder(own.bundle, force=True) as folder:
            shutil.copytree(own.exact, folder, dirs_exist_ok=True)
        return f"fp32 stays: {error}"
    return f"{made.path}, int8, {_megabytes(made.path)}"


def evaluate(own: Own) -> str:
    """Ask the bundle the queries that were kept, and write the figures."""
    from r2rt.grounding.grounder import Grounder
    from training.evaluation.answering import answer
    from training.evaluation.benchmarks import BENCHMARKS
    from training.evaluation.benchmarks import evaluate as evaluate_lines
    from training.evaluation.reading import read_annotations

    benchmark = BENCHMARKS["own"]
    lines = read_annotations(own.val_file, benchmark)
    # The files that features were made of, whatever else goes by their names.
    videos = VideoFolder(own.videos)
    sources = {line.vid: videos.candidates(line.vid)[0] for line in lines.lines}
    with Grounder.load(own.bundle.resolve(), device="cpu") as grounder:
        answers = answer(grounder, benchmark, lines.lines, sources)
    evaluation = evaluate_lines(benchmark, answers, lines.lines)
    with replacing(own.out / "figures.json") as temporary:
        text = msgspec.json.format(msgspec.json.encode(evaluation.figures()), indent=1)
        temporary.write_bytes(text + b"\n")
    headline = evaluation.headline()
    names = ("MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mAP", "MR-full-mIoU")
    found = ", ".join(f"{name.removeprefix('MR-full-')} {headline[name]:.1f}" for name in names)
    return f"{found} on {evaluation.num_queries} queries; figures.json"


def calibrate(own: Own) -> str:
    """Calibrate "not in this video" on the videos that were kept, if there are enough queries.

    A query that is annotated in one of them counts as absent from the others.
    """
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction
    from r2rt.quality.calibration import FEWEST, store_presence
    from r2rt.quality.calibration import calibrate as fit_presence

    asked = load_annotations(own.val_file)
    true = {(a.vid, a.query) for a in asked}
    vids, texts = sorted({a.vid for a in asked}), sorted({a.query for a in asked})
    absent = len(vids) * len(texts) - len(true)
    if min(len(true), absent) < FEWEST:
        return (
            f"not calibrated: {len(true)} queries that belong to their video and {absent} that do "
            f"not, expected {FEWEST} of each; annotate more videos"
        )
    videos = VideoFolder(own.videos)
    belong: list[Prediction] = []
    others: list[Prediction] = []
    with Grounder.load(own.bundle.resolve(), device="cpu") as grounder:
        for vid in vids:
            answers = grounder.ground(grounder.encode(str(videos.candidates(vid)[0])), texts)
            for text, found in zip(texts, answers, strict=True):
                (belong if (vid, text) in true else others).append(found)
    presence = fit_presence(belong, others, _FALSE_ALARM)
    store_presence(own.bundle, presence)
    return f"{presence.kept:.0%} of present queries are kept at {_FALSE_ALARM:.0%} false alarms"


STEPS: dict[str, Callable[[Own], str]] = {
    "validate": validate,
    "extract": extract,
    "train": train,
    "export": export,
    "quantise": quantise,
    "evaluate": evaluate,
    "calibrate": calibrate,
}
"""The steps by name, in order; each returns a line for people."""


def last_line(own: Own) -> str:
    """Return a command line that asks the new model."""
    row = json.loads(own.val_file.read_text(encoding="utf-8").split("\n", 1)[0])
    video = VideoFolder(own.videos).candidates(row["vid"])[0]
    return shlex.join(["r2rt", "ground", "--model", str(own.bundle), str(video), row["query"]])


def _one_name_a_video(
    annotations: Sequence[Annotation], videos: VideoFolder, names: dict[Path, str]
) -> list[Annotation]:
    """Call each video as the first annotation of it does: its path and its name alone both find it.

    `names` has the videos that were called before, and is added to.
    """
    return [
        replace(each, vid=names.setdefault(videos.candidates(each.vid)[0], each.vid))
        for each in annotations
    ]


def _name(own: Own) -> str:
    from export.exporter import default_name

    return default_name(own.out / "best.pth", "")


def _megabytes(bundle: Path) -> str:
    files: Sequence[Path] = [path for path in bundle.rglob("*") if path.is_file()]
    return f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB"
