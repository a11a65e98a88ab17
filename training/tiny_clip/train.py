"""Training of the tiny CLIP, from nothing.

`python -m training.tiny_clip.train --sprites FILE --steps 14500 --stop 10000 --seed 0 --out DIR`

The schedule follows the number of steps, so every machine learns from the same batches.
Checkpoints are written whole every two minutes; `--resume` goes on from the last one. Per step:

1. a class matrix, free at first, names what a frame shows (softmax over all concepts);
2. the same matrix names every patch, whose content the compositor knows, and heads predict its
   colour and, from each layer that the R² block reads, its place;
3. the text tower joins: it must name what captions name, and distinguish true captions from false
   ones, frame by frame and caption by caption (a contrastive loss whose positives are all true
   pairs).
"""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from r2rt.files import replacing
from training._command import run
from training.errors import check_no_run
from training.precision import bfloat16_is_fast
from training.tiny_clip.data import IGNORED, Batch, Frames, settings_at
from training.tiny_clip.model import TinyClip
from training.tiny_clip.weights import load_model, write_weights
from training.tiny_clip.zero_shot import (
    class_embeddings,
    compose_test_frames,
    image_embeddings,
    score_images,
)
from training.world.concepts import CONCEPTS
from training.world.photographs import Photographs
from training.world.sprites import Sprites

__all__ = ["Settings", "losses", "train"]

# The share of the steps in which the rate falls where the training ends early.
_FALL = 0.2
_WATCHED = ("noto", "fluent-3d", "twemoji", "openmoji")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the training runs.

    Attributes:
        steps: number of steps that the schedule is laid out for.
        stop: end after this step instead, 0 for `steps`: over the last fifth of the steps the rate
            falls to nothing. Up to there it makes no difference, so it may be chosen late.
        seed: of weights and frames.
        batch: frames a step.
        rate: peak learning rate.
        warm_up: share of the steps in which the rate rises.
        text_from: share of the steps at which the text tower joins; it is in full a tenth later.
        decay: weight decay of matrices.
        average: weight of the past in the moving average of weights, which is what is kept.
        patches: so many patches of a frame, chosen at random, are looked at; smaller frames have
            fewer, and are looked at whole.
        whole_from: share of all steps from which on every frame is looked at whole.
        checkpoint_s: seconds between checkpoints.
        evaluate_s: seconds between evaluations.
        half: whether matrices are multiplied in bfloat16; by default where that is faster.
        max_steps: stop after so many steps, to be resumed; 0 for no limit.
        first_stage: share of the curriculum that is taken for done.
    """

    steps: int
    stop: int = 0
    seed: int = 0
    batch: int = 96
    rate: float = 1.5e-3
    warm_up: float = 0.02
    text_from: float = 0.2
    decay: float = 0.05
    average: float = 0.999
    patches: int = 32
    whole_from: float = 0.9
    checkpoint_s: float = 120
    evaluate_s: float = 240
    half: bool = field(default_factory=bfloat16_is_fast)
    max_steps: int = 0
    first_stage: float = 0.0

    @property
    def last(self) -> int:
        """The step at which the training ends."""
        return self.stop or self.steps

    def rate_at(self, step: int) -> float:
        """Return the learning rate at a step."""
        rate = self.rate * _rate(step / self.steps, self.warm_up)
        left = (self.last - step) / self.last
        return rate * min(left / _FALL, 1.0) if self.stop else rate


def losses(
    model: TinyClip, batch: Batch, text: float, looked_at: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the loss terms of a batch, each a scalar already weighted.

    Args:
        model: what is trained.
        batch: B frames and their captions.
        text: how far the text tower has joined, 0 to 1; at 0 it is not run.
        looked_at: (B, P) the patches of each frame that are looked at; all where it is None.
    """
    seen = model.see(batch.frames, looked_at)
    true_colours, true_patches = batch.colours, batch.patches
    where = _grid(true_patches.shape[1])
    if looked_at is not None:
        true_colours = true_colours.gather(1, looked_at)
        true_patches = true_patches.gather(1, looked_at)
        where = where[looked_at]
    classes = F.normalize(model.classes, dim=-1)
    named = model.class_scale.exp().clamp(max=100) * seen.image @ classes[:-1].T
    patch_logits = model.patch_scale.exp().clamp(max=100) * seen.patches @ classes.T
    importance = torch.ones(len(CONCEPTS) + 1)
    importance[-1] = 0.2
    terms = {
        "class": F.cross_entropy(named.float(), batch.shares),
        "patch": F.cross_entropy(
            patch_logits.float().flatten(0, 1),
            true_patches.flatten(),
            weight=importance,
            ignore_index=IGNORED,
        ),
    }
    terms["place"] = (seen.places - where).abs().mean()
    colours = true_colours.flatten()
    if bool((colours != IGNORED).any()):
        logits = seen.colours.float().flatten(0, 1)
        terms["colour"] = 0.2 * F.cross_entropy(logits, colours, ignore_index=IGNORED)
    if text > 0:
        read = model.read(batch.ids)
        alone = batch.named != IGNORED
        scale = model.class_scale.exp().clamp(max=100)
        terms["word"] = (
            0.5
            * text
            * F.cross_entropy((scale * read[alone] @ classes[:-1].T).float(), batch.named[alone])
        )
        pairs = (model.logit_scale.exp().clamp(max=100) * seen.image @ read.T).float()
        terms["match"] = text * (_matching(pairs, batch.truth) + _matching(pairs.T, batch.truth.T))
    return terms


def _grid(patches: int) -> Tensor:
    """Return x and y of the patches of a frame, (P, 2), from -1 to 1."""
    side = math.isqrt(patches)
    ramp = torch.linspace(-1, 1, side)
    return torch.stack((ramp.repeat(side), ramp.repeat_interleave(side)), dim=1)


def _matching(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy against all that is true of each row; rows of which nothing is are left out."""
    some = truth.any(dim=1)
    target = truth[some].float()
    return F.cross_entropy(logits[some], target / target.sum(dim=1, keepdim=True))


def train(
    sprites: Path,
    out: Path,
    settings: Settings,
    *,
    init: Path | None = None,
    resume: bool = False,
    photographs: Photographs | None = None,
) -> TinyClip:
    """Train; leave checkpoints, metrics and the averaged weights in `out`.

    Args:
        sprites: the file that `training.world.art` made.
        out: folder of the results.
        settings: how.
        init: weights to start from, with the whole world from the first step on.
        resume: whether to go on from `out`'s checkpoint, if there is one.
        photographs: backgrounds beside the drawn ones.

    Returns:
        The model with averaged weights.

    Raises:
        TrainingError: `out` has a checkpoint that is not to be gone on from.
    """
    if not resume:
        check_no_run(out / "checkpoint.pt")
    out.mkdir(parents=True, exist_ok=True)
    if init is not None:
        settings = replace(settings, first_stage=0.6, text_from=-1.0)
    state = _Run(sprites, out, settings, photographs)
    if resume and state.checkpoint.is_file():
        state.load()
    elif init is not None:
        state.start_from(init)
    state.go()
    write_weights(state.average, out / "final")
    return state.average


class _Run:
    """The state of a training."""

    def __init__(
        self, sprites: Path, out: Path, settings: Settings, photographs: Photographs | None
    ) -> None:
        torch.manual_seed(settings.seed)
        self.photographs = photographs
        self.sprites, self.out, self.settings = sprites, out, settings
        self.checkpoint = out / "checkpoint.pt"
        self.model = TinyClip()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = _optimizer(self.model, settings)
        self.step = self.images = 0
        self.before_s = 0.0  # what earlier parts of the run took
        self._sprites: Sprites | None = None
        self._frames: dict[tuple[str, int], tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
        self.started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return self.before_s + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """How far the schedule is."""
        return self.step / self.settings.steps

    @property
    def stage(self) -> float:
        """How far the curriculum is."""
        return max(self.progress, self.settings.first_stage)

    def start_from(self, weights: Path) -> None:
        """Take the towers' weights; what only training has is made from them."""
        self.model = load_model(weights).train()
        with torch.no_grad():
            self.model.classes[:-1] = class_embeddings(self.model)
            self.model.class_scale.fill_(float(self.model.logit_scale))
            self.model.patch_scale.fill_(float(self.model.logit_scale))
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = _optimizer(self.model, self.settings)

    def go(self) -> None:
        settings = self.settings
        # A forked worker inherits locks of OpenCV's and OpenMP's threads, and may hang on them.
        context = multiprocessing.get_context("spawn")
        frames = Frames(
            self.sprites,
            seed=settings.seed,
            first=self.step,
            batch=settings.batch,
            steps=settings.steps,
            first_stage=settings.first_stage,
            photographs=self.photographs,
        )
        loader = DataLoader(
            frames,
            batch_size=None,
            num_workers=1,
            prefetch_factor=6,
            multiprocessing_context=context,
        )
        saved = evaluated = self.elapsed_s
        for batch in loader:
            if self.step >= settings.last or (
                settings.max_steps and self.step >= settings.max_steps
            ):
                break
            terms = self._learn(Batch(*batch))
            if self.step % 50 == 0:
                self._log("loss", {name: round(term.item(), 4) for name, term in terms.items()})
            if self.elapsed_s - evaluated > settings.evaluate_s:
                evaluated = self.elapsed_s
                self.evaluate()
            if self.elapsed_s - saved > settings.checkpoint_s:
                saved = self.elapsed_s
                self.save()
        self.save()
        self.evaluate()

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        settings, progress = self.settings, self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(self.step)
        text = min(max((progress - settings.text_from) / 0.1, 0.0), 1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.half):
            terms = losses(self.model, batch, text, self._looked_at(batch))
        total = torch.stack(list(terms.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.images += len(batch.frames)
        # Early weights are soon forgotten.
        keep = min(settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - keep
            )
        return terms

    def _looked_at(self, batch: Batch) -> Tensor | None:
        """Choose the patches that this step looks at: half a frame costs half as much."""
        frames, patches = batch.patches.shape
        whole = self.step >= self.settings.whole_from * self.settings.last
        if whole or patches <= self.settings.patches:
            return None
        generator = torch.Generator().manual_seed(self.step)
        order = torch.rand(frames, patches, generator=generator).argsort(dim=1)
        return order[:, : self.settings.patches].sort(dim=1).values

    def evaluate(self) -> None:
        """Log how well frames of some styles are named, seen and unseen."""
        model = self.average.eval()
        size = settings_at(min(self.stage, 0.999)).size
        classes = {"": F.normalize(model.classes[:-1], dim=-1)}
        if self.progress > self.settings.text_from:
            classes[" by text"] = class_embeddings(model)
        found: dict[str, Any] = {"size": size}
        for style in _WATCHED:
            frames, labels = self._test_frames(style, size)
            images = image_embeddings(model, frames)
            for kind, vectors in classes.items():
                score = score_images(images, vectors, labels)
                found[style + kind] = [round(100 * score.top1, 1), round(100 * score.top5, 1)]
        self._log("top-1, top-5", found)

    def _test_frames(self, style: str, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Frames to name, kept for the next time."""
        if (style, size) not in self._frames:
            if self._sprites is None:
                self._sprites = Sprites(self.sprites)
            self._frames[style, size] = compose_test_frames(self._sprites, style, each=3, size=size)
        return self._frames[style, size]

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "images": self.images,
            "elapsed_s": self.elapsed_s,
        }
        with replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.images = state["step"], state["images"]
        self.before_s = state["elapsed_s"]
        self.started = time.monotonic()

    def _log(self, kind: str, values: dict[str, Any]) -> None:
        record = {
            "minutes": round(self.elapsed_s / 60, 2),
            "step": self.step,
            "images": self.images,
            kind: values,
        }
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


def _optimizer(model: TinyClip, settings: Settings) -> torch.optim.AdamW:
    return torch.optim.AdamW(_groups(model, settings.decay), lr=0.0, fused=True)


def _groups(model: TinyClip, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; gains, biases, embeddings and scales do not."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or "embedding" in name or name == "classes"
        (others if plain else matrices).append(parameter)
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _rate(progress: float, warm_up: float) -> float:
    """Share of the peak learning rate: a line up, then a cosine down to a hundredth."""
    if progress < warm_up:
        return max(progress / warm_up, 0.01)
    fallen = (progress - warm_up) / (1 - warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fallen))


_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--sprites", type=_FILE, required=True, help="sprites.npz of training.world.art.")
@click.option("--out", type=_FOLDER, required=True, help="Folder of checkpoints and metrics.")
@click.option("--steps", type=click.IntRange(1), required=True, help="Number of steps.")
@click.option("--stop", type=click.IntRange(0), default=0, help="End after this step instead.")
@click.option("--seed", default=Settings.seed, show_default=True)
@click.option("--rate", default=Settings.rate, show_default=True, help="Peak learning rate.")
@click.option("--batch", default=Settings.batch, show_default=True, help="Frames a step.")
@click.option("--threads", default=1, show_default=True, help="Of the model; frames have one more.")
@click.option(
    "--evaluate-s", default=Settings.evaluate_s, show_default=True, help="Between evaluations."
)
@click.option("--init", type=_FILE, help="Weights to start from.")
@click.option("--photographs", type=_FILE, help="photographs.npz, for backgrounds.")
@click.option("--share", default=0.5, show_default=True, help="Of backgrounds from photographs.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint, if there is one.")
def command(
    sprites: Path,
    out: Path,
    steps: int,
    stop: int,
    seed: int,
    rate: float,
    batch: int,
    threads: int,
    evaluate_s: float,
    init: Path | None,
    photographs: Path | None,
    share: float,
    resume: bool,
) -> None:
    """Train the tiny CLIP."""
    torch.set_num_threads(threads)
    settings = Settings(
        steps=steps,
        stop=stop,
        seed=seed,
        rate=rate,
        batch=batch,
        evaluate_s=evaluate_s,
    )
    train(
        sprites,
        out,
        settings,
        init=init,
        resume=resume,
        photographs=None if photographs is None else Photographs(photographs, "train", share),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    cut = "everything up to the last checkpoint is kept; --resume goes on from it."
    return run(command, "python -m training.tiny_clip.train", arguments, cut=cut)


if __name__ == "__main__":
    sys.exit(main())
