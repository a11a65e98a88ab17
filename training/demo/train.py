"""Training of the demo model's R² block on videos composed of encoded scenes.

`python -m training.demo.train --scenes DIR --clip FILE --out DIR --steps 5600 --alone 2800`

In the first steps each video is asked its own queries alone, which takes two thirds of the time of
the others. A checkpoint is written every half minute, and `--resume` goes on from it.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from r2rt.files import replacing
from training._command import run
from training.clip import ClipTowers
from training.config import ModelSettings, RunConfig, recorded_model, write_config
from training.demo.clip import clip_tensors, load_tiny_clip
from training.demo.guidance import Guide
from training.demo.objective import losses
from training.demo.scenes import Pool
from training.demo.settings import READ, RECIPE, TRAIN_SEED, model_config
from training.demo.videos import Composer, Lesson, Shape
from training.demo.warm_start import warm_start
from training.errors import TrainingError, check_no_run
from training.model import R2Tuning
from training.precision import bfloat16_is_fast

__all__ = ["ALONE", "Budget", "train"]

# Shape of the first lessons, in which videos are asked their own queries alone.
ALONE = Shape(queries=7, absent=2, shared=False)
_CHECKPOINT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long and how hard the training is.

    Attributes:
        steps: number of steps.
        alone: so many of them, the first, have videos that are asked their own queries alone.
        lr: peak learning rate of AdamW.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's.
        clip_norm: the gradient's largest norm.
        average: weight of the past in the moving average of weights, which is what is kept.
        half: whether products run in bfloat16; by default where that is faster.
        compiled: whether the R² block is compiled first, for minutes; faster in bfloat16 alone.
    """

    steps: int
    alone: int = 0
    lr: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    clip_norm: float = 35.0
    average: float = 0.995
    half: bool = field(default_factory=bfloat16_is_fast)
    compiled: bool = False


def train(
    pool: Pool,
    towers: ClipTowers,
    out: Path,
    budget: Budget,
    *,
    shape: Shape | None = None,
    clip: Mapping[str, Tensor] | None = None,
    read: tuple[int, ...] = READ,
    init: Path | None = None,
    seed: int = TRAIN_SEED,
    resume: bool = False,
) -> R2Tuning:
    """Train within the budget; leave `checkpoint.pt`, `model.pth` and `metrics.jsonl` in `out`.

    Args:
        pool: encoded scenes.
        towers: the CLIP that they were encoded with.
        out: folder of the results.
        budget: how long.
        shape: of batches, after the first steps.
        clip: CLIP's tensors, for a warm start; without them the block starts from nothing.
        init: `model.pth` of an earlier training to start from instead; of its `checkpoint.pt` also
            the heads that only training has are taken.
        read: the layers that are read, as `R2Config.read_layers`.
        seed: of weights and of videos.
        resume: whether to go on from `checkpoint.pt`.

    Returns:
        The model with averaged weights, in eval mode.

    Raises:
        TrainingError: `out` has a checkpoint that is not to be gone on from, or this one or `init`
            is of a model that reads other layers.
    """
    if not resume:
        check_no_run(out / "checkpoint.pt")
    lessons = _Lessons(
        Composer(pool, towers, ALONE, seed),
        Composer(pool, towers, shape or Shape(), seed),
        budget.alone,
    )
    run = _Run(lessons, towers, out, budget, read, seed)
    if resume and run.checkpoint.is_file():
        run.load()
    elif init is not None:
        run.start_from(init)
    elif clip is not None:
        run.warm_up(pool, towers, clip, seed)
        run.save()
    run.go()
    return run.average.eval()


@dataclass(frozen=True)
class _Lessons:
    """Lessons by number, the first `count` of them of one kind, the others of another."""

    first: Composer
    others: Composer
    count: int

    def __call__(self, number: int) -> Lesson:
        return (self.first if number < self.count else self.others).lesson(number)


class _Run:
    """The state of a training."""

    def __init__(
        self,
        lessons: _Lessons,
        towers: ClipTowers,
        out: Path,
        budget: Budget,
        read: tuple[int, ...],
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.budget = out, budget
        self.checkpoint = out / "checkpoint.pt"
        self.model = R2Tuning(model_config(towers, read=read)).train()
        self.guide = Guide(self.model.config.width)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.learned = [*self.model.parameters(), *self.guide.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.learned, lr=0.0, weight_decay=budget.weight_decay, fused=True
        )
        if budget.compiled:
            # Without it, a rounded maximum equals nothing that it is the maximum of, and its
            # gradient is 0 / 0.
            options = {"emulate_precision_casts": True}
            self.model.adapter.compile(dynamic=True, options=options)
        self.lessons = lessons
        self.weights = RECIPE.loss_weights
        model = ModelSettings.of(self.model.config)
        self.meta = {"config": json.loads(write_config(RunConfig(recipe=RECIPE, model=model)))}
        self.step = 0
        self.before_s, self.started = 0.0, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return self.before_s + time.monotonic() - self.started

    def go(self) -> None:
        """Train until the budget is used; the next batch is composed beside each step."""
        saved = self.elapsed_s
        with ThreadPoolExecutor(max_workers=1) as ahead:
            coming = ahead.submit(self.lessons, self.step)
            while self.step < self.budget.steps:
                lesson = coming.result()
                coming = ahead.submit(self.lessons, self.step + 1)
                terms = self.learn(lesson)
                if self.step % 20 == 0:
                    self.log(terms)
                if self.elapsed_s - saved > _CHECKPOINT_S:
                    saved = self.elapsed_s
                    self.save()
        self.save()

    def start_from(self, weights: Path) -> None:
        """Take the weights of an earlier training."""
        state = self._read(weights)
        kept = state["average"] if "average" in state else state["state_dict"]
        self.model.load_state_dict(kept)
        self.average.load_state_dict(kept)
        if "guide" in state:
            self.guide.load_state_dict(state["guide"])

    def warm_up(
        self, pool: Pool, towers: ClipTowers, clip: Mapping[str, Tensor], seed: int
    ) -> None:
        """Fit the maps to CLIP's projections."""
        patches, sentences = warm_start(self.model, pool, towers, clip, seed=seed)
        self.average.load_state_dict(self.model.state_dict())
        self.log({"patches": torch.tensor(patches), "sentences": torch.tensor(sentences)})

    def learn(self, lesson: Lesson) -> dict[str, Tensor]:
        """Take one step and return the loss terms."""
        batch = lesson.batch
        # Linear up, then linear down to nothing.
        warm = min(1.0, (self.step + 1) / self.budget.warmup_steps)
        progress = self.step / self.budget.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.budget.lr * warm * (1 - progress)
        read = list(self.model.config.read)
        video = batch.video[:, :, read].float()
        query = batch.query[:, :, read]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.budget.half):
            output = self.model(video, query, batch.video_mask, batch.query_mask)
            terms = losses(
                self.model,
                output,
                batch.targets,
                lesson.truth,
                self.weights,
                shared=lesson.shared,
            )
            terms |= self.guide(self.model, output, lesson.hints)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.learned, self.budget.clip_norm, error_if_nonfinite=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        # Early weights are soon forgotten.
        keep = min(self.budget.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - keep
            )
        return terms

    def save(self) -> None:
        """Write the checkpoint, and the averaged weights in the published layout."""
        state = {
            "meta": self.meta,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "guide": self.guide.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "rng": torch.get_rng_state(),
        }
        with replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)
        with replacing(self.out / "model.pth") as temporary:
            torch.save({"meta": self.meta, "state_dict": self.average.state_dict()}, temporary)

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = self._read(self.checkpoint)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.guide.load_state_dict(state["guide"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.before_s = state["step"], state["elapsed_s"]
        torch.set_rng_state(state["rng"])
        self.started = time.monotonic()

    def _read(self, weights: Path) -> dict[str, Any]:
        """Read a file of weights; refuse those of a model that reads other layers."""
        state: dict[str, Any] = torch.load(weights, weights_only=True)
        has = recorded_model(state.get("meta", {})).read_layers
        if has != self.model.config.read:
            raise TrainingError(
                f"{weights}: reads other layers; add --read={','.join(map(str, has))}"
            )
        return state

    def log(self, terms: dict[str, Tensor]) -> None:
        record = {"minutes": round(self.elapsed_s / 60, 2), "step": self.step}
        rounded = {name: round(float(term.detach()), 4) for name, term in terms.items()}
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record | rounded) + "\n")


_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--scenes", type=_FOLDER, required=True, help="Folder of encoded scenes.")
@click.option("--clip", type=_FILE, required=True, help="The CLIP that encoded them.")
@click.option("--out", type=_FOLDER, required=True, help="Folder of the results.")
@click.option("--steps", type=click.IntRange(1), required=True, help="Number of steps.")
@click.option(
    "--alone",
    type=click.IntRange(0),
    default=Budget(steps=1).alone,
    show_default=True,
    help="So many of them, the first, have videos that are asked their own queries alone.",
)
@click.option("--lr", default=Budget(steps=1).lr, show_default=True, help="Peak learning rate.")
@click.option("--init", type=_FILE, help="model.pth or checkpoint.pt to start from.")
@click.option(
    "--read",
    default=",".join(map(str, READ)),
    show_default=True,
    help="CLIP layers that are read, counted from the last, -1; the one listed last is read first.",
)
@click.option("--seed", default=TRAIN_SEED, show_default=True, help="Of weights and videos.")
@click.option("--threads", default=2, show_default=True, help="Processor threads.")
@click.option(
    "--compile", "compiled", is_flag=True, help="Compile first: faster in bfloat16 alone."
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
def command(
    scenes: Path,
    clip: Path,
    out: Path,
    steps: int,
    alone: int,
    lr: float,
    init: Path | None,
    read: str,
    seed: int,
    threads: int,
    compiled: bool,
    resume: bool,
) -> None:
    """Train the block."""
    torch.set_num_threads(threads)
    towers = load_tiny_clip(clip)
    train(
        Pool.open(scenes, towers),
        towers,
        out,
        Budget(steps=steps, alone=alone, lr=lr, compiled=compiled),
        clip=clip_tensors(clip)[0],
        read=tuple(int(layer) for layer in read.split(",")),
        init=init,
        seed=seed,
        resume=resume,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    cut = "everything up to the last checkpoint is kept; --resume goes on from it."
    return run(command, "python -m training.demo.train", arguments, cut=cut)


if __name__ == "__main__":
    sys.exit(main())
