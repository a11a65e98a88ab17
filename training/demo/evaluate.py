"""The demo model's table: styles seen and unseen, baselines, kinds of queries, ablations.

`python -m training.demo.evaluate --art DIR --clip FILE --model FILE [--bundle DIR] --out FILE.json`
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from r2rt.files import replacing
from training.checkpoint import load_checkpoint
from training.config import recorded_model
from training.demo.answers import (
    Answer,
    Answerer,
    BundleAnswerer,
    CosineAnswerer,
    ModelAnswerer,
    RandomAnswerer,
)
from training.demo.clip import clip_tensors, load_tiny_clip
from training.demo.scenes import encode_frames
from training.demo.settings import TEST_SEED, TEST_VIDEOS, model_config
from training.demo.testset import AskedVideo, sample_test_videos
from training.metrics import (
    RECALL_IOUS,
    MomentFigures,
    Prediction,
    highlight_metrics,
    moment_metrics,
)
from training.model import R2Tuning
from training.world.photographs import Photographs
from training.world.sprites import Sprites

if TYPE_CHECKING:
    from training.clip import ClipTowers

__all__ = [
    "Figures",
    "Material",
    "arguments_parser",
    "evaluate",
    "load_model",
    "prepare",
    "prepare_once",
]

_STYLES = ("noto", "fluent-3d", "twemoji", "openmoji")
_KINDS = ("object", "colour", "pair", "motion")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one way to answer, in percent.

    Attributes:
        queries: how many.
        r1_50: first moment overlaps an annotated one by an IoU of 0.5 or more.
        r1_70: the same at 0.7.
        mean_ap: mean average precision of moments over IoU 0.5 to 0.95.
        mean_iou: of the first moment.
        hd_map: mean average precision of saliency (a clip that shows what was asked is right).
        hd_hit1: queries whose most salient clip shows what was asked.
        by_kind: R1@0.5 by kind of query.
        roc_auc: area under the ROC curve, in per cent, of the best score as a sign that a sentence
            is true; untrue ones are those of `sample_absent`.
        kept: true sentences whose best score is above those of all but one untrue one in twenty.
    """

    queries: int
    r1_50: float
    r1_70: float
    mean_ap: float
    mean_iou: float
    hd_map: float
    hd_hit1: float
    by_kind: dict[str, float]
    roc_auc: float
    kept: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """A test video with its frames (T, S, S, 3) and their hidden states (T, K, P, Cv)."""

    video: AskedVideo
    frames: NDArray[np.uint8]
    hidden: NDArray[np.float16]


def prepare(
    videos: Sequence[AskedVideo],
    sprites: Sprites,
    towers: ClipTowers,
    photographs: Photographs | None = None,
) -> list[Material]:
    """Draw and encode test videos, on drawn backgrounds or on photographs."""
    found = []
    for video in videos:
        frames = video.frames(sprites, towers.config.image_size, photographs)
        found.append(Material(video=video, frames=frames, hidden=encode_frames(towers, frames)))
    return found


def prepare_once(
    file: Path, videos: Sequence[AskedVideo], sprites: Sprites, towers: ClipTowers
) -> list[Material]:
    """Do as `prepare`, or read what an earlier call with the same arguments left in `file`."""
    if not file.is_file():
        made = prepare(videos, sprites, towers)
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                frames=np.concatenate([item.frames for item in made]),
                hidden=np.concatenate([item.hidden for item in made]),
                clips=np.array([len(item.frames) for item in made]),
            )
        return made
    with np.load(file) as kept:
        ends = np.cumsum(kept["clips"])[:-1]
        frames, hidden = np.split(kept["frames"], ends), np.split(kept["hidden"], ends)
    return [
        Material(video=video, frames=frames[place], hidden=hidden[place])
        for place, video in enumerate(videos)
    ]


def evaluate(answerer: Answerer, material: Sequence[Material]) -> Figures:
    """Let all queries be answered and compare with the truth."""
    annotations = [x for item in material for x in item.video.annotations()]
    predictions: list[Prediction] = []
    present: list[float] = []
    absent: list[float] = []
    kinds: dict[str, list[int]] = {kind: [] for kind in _KINDS}
    for item in material:
        video = item.video
        texts = [query.text for query in (*video.queries, *video.absent)]
        answers = answerer.answer(video, item.frames, item.hidden, texts)
        for number, (query, answer) in enumerate(zip(video.queries, answers, strict=False)):
            kinds[query.claim.kind].append(len(predictions))
            predictions.append(_prediction(video.qid(number), answer))
            present.append(_best(answer))
        absent += [_best(answer) for answer in answers[len(video.queries) :]]
    moments = moment_metrics(predictions, annotations)["full"]
    fair = highlight_metrics(predictions, annotations)["Fair"]
    return Figures(
        queries=len(predictions),
        r1_50=_recall(moments, 0.5),
        r1_70=_recall(moments, 0.7),
        mean_ap=moments.mean_average_precision,
        mean_iou=moments.mean_iou,
        hd_map=fair.mean_average_precision,
        hd_hit1=fair.hit_at_1,
        by_kind={
            kind: _recall(
                moment_metrics([predictions[i] for i in rows], [annotations[i] for i in rows])[
                    "full"
                ],
                0.5,
            )
            for kind, rows in kinds.items()
            if rows
        },
        roc_auc=_roc_auc(np.array(present), np.array(absent)),
        kept=_kept(np.array(present), np.array(absent)),
    )


def load_model(path: Path, towers: ClipTowers) -> R2Tuning:
    """Read what `training.demo.train` left as `model.pth`."""
    weights = load_checkpoint(path)
    layers = recorded_model(weights.meta).read_layers
    model = R2Tuning(model_config(towers, read=layers))
    model.load_state_dict(weights.state_dict)
    return model.eval()


def _recall(figures: MomentFigures, iou: float) -> float:
    """Return the share of queries whose first moment overlaps an annotated one so much."""
    return float(figures.recall[1][RECALL_IOUS.index(iou)])


def _prediction(qid: str, answer: Answer) -> Prediction:
    return Prediction(
        qid=qid,
        pred_relevant_windows=[(s, e, score) for s, e, score in answer.moments.tolist()],
        pred_saliency_scores=answer.saliency.tolist(),
    )


def _best(answer: Answer) -> float:
    return float(answer.moments[0, 2]) if len(answer.moments) else 0.0


def _roc_auc(present: NDArray[np.float64], absent: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve, in percent."""
    above = (present[:, None] > absent).mean() + (present[:, None] == absent).mean() / 2
    return 100 * float(above)


def _kept(present: NDArray[np.float64], absent: NDArray[np.float64]) -> float:
    """Return what stays, in percent, where at most 5 % of what is absent is let through."""
    limit = np.quantile(absent, 0.95, method="higher")
    return 100 * float((present > limit).mean())


def table(rows: Mapping[str, Mapping[str, Figures]]) -> str:
    """Return figures by style and by who answers, as a Markdown table."""
    lines = [
        "| style | | R1@0.5 | R1@0.7 | mAP | mIoU | HD mAP | HD Hit@1 | object | colour | pair "
        "| motion | separated | kept at 5 % |",
        "|---|---|" + "---|" * 12,
    ]
    for style, by_name in rows.items():
        for name, x in by_name.items():
            values = [x.r1_50, x.r1_70, x.mean_ap, x.mean_iou, x.hd_map, x.hd_hit1]
            values += [x.by_kind.get(kind, float("nan")) for kind in _KINDS]
            values += [x.roc_auc, x.kept]
            cells = " | ".join(f"{value:.1f}" for value in values)
            lines.append(f"| {style} | {name} | {cells} |")
    return "\n".join(lines)


def arguments_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--art", type=Path, required=True, help="folder with sprites.npz")
    parser.add_argument("--clip", type=Path, required=True, help="the tiny CLIP")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="model.pth of a training",
    )
    parser.add_argument("--bundle", type=Path, help="a bundle to evaluate as well")
    parser.add_argument("--styles", default=",".join(_STYLES))
    parser.add_argument("--videos", type=int, default=TEST_VIDEOS, help="test videos a style")
    parser.add_argument(
        "--seed", type=int, default=TEST_SEED, help="of the test videos; the card's by default"
    )
    parser.add_argument(
        "--photographs", type=Path, help="photographs.npz: things stand before held-out ones"
    )
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    return parser


def main() -> None:
    """Command line."""
    arguments = arguments_parser().parse_args()
    torch.set_num_threads(arguments.threads)
    sprites, towers = Sprites(arguments.art / "sprites.npz"), load_tiny_clip(arguments.clip)
    answerers: dict[str, Answerer] = {}
    for spec in map(str, arguments.model):
        name, _, file = spec.rpartition("=")
        answerers[name or "R²"] = ModelAnswerer(load_model(Path(file), towers), towers)
    if arguments.bundle is not None:
        from r2rt.grounding.grounder import Grounder

        grounder = Grounder.load(arguments.bundle.resolve())
        answerers[f"bundle ({grounder.bundle.manifest.precision})"] = BundleAnswerer(grounder)
    if not arguments.no_baselines:
        answerers["CLIP cosine"] = CosineAnswerer(towers, clip_tensors(arguments.clip)[0])
        answerers["random guess"] = RandomAnswerer()
    photographs = (
        None if arguments.photographs is None else Photographs(arguments.photographs, "held_out")
    )
    rows: dict[str, dict[str, Figures]] = {}
    for style in arguments.styles.split(","):
        material = prepare(
            sample_test_videos(style, arguments.videos, sprites, seed=arguments.seed),
            sprites,
            towers,
            photographs,
        )
        rows[style] = {name: evaluate(who, material) for name, who in answerers.items()}
    print(table(rows))
    if arguments.out is not None:
        with replacing(arguments.out) as temporary:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1))


if __name__ == "__main__":
    main()
