"""Training of the demo model's R² block on videos composed of encoded scenes.

`python -m training.demo.train --scenes DIR --clip FILE --out DIR --minutes 30`

With `--minutes` the schedule follows the clock, with `--steps` the number of steps. A checkpoint is
written every half minute, and `--resume` goes on from it.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from r2rt.files import replacing
from training.clip import ClipTowers
from training.demo.clip import clip_tensors, load_tiny_clip
from training.demo.guidance import Guide
from training.demo.objective import losses
from training.demo.scenes import Pool
from training.demo.settings import RECIPE, TRAIN_SEED, model_config
from training.demo.videos import Composer, Lesson, Shape
from training.demo.warm_start import warm_start
from training.model import R2Tuning
from training.precision import bfloat16_is_fast

__all__ = ["Budget", "train"]

_CHECKPOINT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long and how hard the training is.

    Attributes:
        minutes: wall-clock time; None where steps decide.
        steps: number of steps; None where time decides.
        lr: peak learning rate of AdamW.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's.
        clip_norm: the gradient's largest norm.
        average: weight of the past in the moving average of weights, which is what is kept.
        half: whether products run in bfloat16; by default where that is faster.
        compiled: whether the R² block is compiled first: a minute and a half, then twice as fast.
    """

    minutes: float | None = None
    steps: int | None = None
    lr: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    clip_norm: float = 35.0
    average: float = 0.995
    half: bool = field(default_factory=bfloat16_is_fast)
    compiled: bool = False

    def progress(self, step: int, elapsed_s: float) -> float:
        """Return the share of the budget that is used, 0 to 1."""
        by_step = step / self.steps if self.steps else 0.0
        by_time = elapsed_s / (60 * self.minutes) if self.minutes else 0.0
        return min(max(by_step, by_time), 1.0)


def train(
    pool: Pool,
    towers: ClipTowers,
    out: Path,
    budget: Budget,
    *,
    shape: Shape | None = None,
    clip: Mapping[str, Tensor] | None = None,
    layer_order: tuple[int, ...] = (0, 1, 2, 3),
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
        shape: of batches.
        clip: CLIP's tensors, for a warm start; without them the block starts from nothing.
        init: `model.pth` of an earlier training to start from instead.
        layer_order: CLIP layers as the block is given them; it reads the last one first.
        seed: of weights and of videos.
        resume: whether to go on from `checkpoint.pt`.

    Returns:
        The model with averaged weights, in eval mode.
    """
    run = _Run(pool, towers, out, budget, shape or Shape(), layer_order, seed)
    if resume and run.checkpoint.is_file():
        run.load()
    elif init is not None:
        run.start_from(init)
    elif clip is not None:
        run.warm_up(pool, towers, clip, seed)
        run.save()
    run.go()
    return run.average.eval()


class _Run:
    """The state of a training."""

    def __init__(
        self,
        pool: Pool,
        towers: ClipTowers,
        out: Path,
        budget: Budget,
        shape: Shape,
        layer_order: tuple[int, ...],
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.budget, self.layer_order = out, budget, list(layer_order)
        self.checkpoint = out / "checkpoint.pt"
        self.model = R2Tuning(model_config(towers, layers=len(layer_order))).train()
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
        self.composer = Composer(pool, towers, shape, seed)
        self.weights = RECIPE.loss_weights
        self.step = 0
        self.before_s, self.started = 0.0, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return self.before_s + time.monotonic() - self.started

    def go(self) -> None:
        """Train until the budget is used; the next batch is composed beside each step."""
        saved = self.elapsed_s
        with ThreadPoolExecutor(max_workers=1) as ahead:
            coming = ahead.submit(self.composer.lesson, self.step)
            while (progress := self.budget.progress(self.step, self.elapsed_s)) < 1:
                lesson = coming.result()
                coming = ahead.submit(self.composer.lesson, self.step + 1)
                terms = self.learn(lesson, progress)
                if self.step % 20 == 0:
                    self.log(terms)
                if self.elapsed_s - saved > _CHECKPOINT_S:
                    saved = self.elapsed_s
                    self.save()
        self.save()

    def start_from(self, weights: Path) -> None:
        """Take the weights of an earlier training."""
        state = torch.load(weights, weights_only=True)["state_dict"]
        self.model.load_state_dict(state)
        self.average.load_state_dict(state)

    def warm_up(
        self, pool: Pool, towers: ClipTowers, clip: Mapping[str, Tensor], seed: int
    ) -> None:
        """Fit the maps to CLIP's projections."""
        patches, sentences = warm_start(
            self.model, pool, towers, clip, layers=tuple(self.layer_order), seed=seed
        )
        self.average.load_state_dict(self.model.state_dict())
        self.log({"patches": torch.tensor(patches), "sentences": torch.tensor(sentences)})

    def learn(self, lesson: Lesson, progress: float) -> dict[str, Tensor]:
        """Take one step and return the loss terms."""
        batch = lesson.batch
        # Linear up, then linear down to nothing.
        warm = min(1.0, (self.step + 1) / self.budget.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.budget.lr * warm * (1 - progress)
        video = batch.video[:, :, self.layer_order].float()
        query = batch.query[:, :, self.layer_order]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.budget.half):
            output = self.model(video, query, batch.video_mask, batch.query_mask)
            terms = losses(self.model, output, batch.targets, lesson.truth, self.weights)
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
            torch.save({"meta": {}, "state_dict": self.average.state_dict()}, temporary)

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.guide.load_state_dict(state["guide"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.before_s = state["step"], state["elapsed_s"]
        torch.set_rng_state(state["rng"])
        self.started = time.monotonic()

    def log(self, terms: dict[str, Tensor]) -> None:
        record = {"minutes": round(self.elapsed_s / 60, 2), "step": self.step}
        rounded = {name: round(float(term.detach()), 4) for name, term in terms.items()}
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record | rounded) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=Path, required=True, help="folder of encoded scenes")
    parser.add_argument("--clip", type=Path, required=True, help="the CLIP that encoded them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, help="budget of time")
    parser.add_argument("--steps", type=int, help="budget of steps")
    parser.add_argument("--lr", type=float, default=Budget.lr, help="peak learning rate")
    parser.add_argument("--init", type=Path, help="model.pth to start from")
    parser.add_argument("--layers", default="0,1,2,3", help="CLIP layers in the block's order")
    parser.add_argument("--seed", type=int, default=TRAIN_SEED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile first: faster from then on")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    arguments = parser.parse_args()
    if arguments.minutes is None and arguments.steps is None:
        parser.error("name a budget: --minutes or --steps")
    torch.set_num_threads(arguments.threads)
    train(
        Pool.open(arguments.scenes),
        load_tiny_clip(arguments.clip),
        arguments.out,
        Budget(
            minutes=arguments.minutes,
            steps=arguments.steps,
            lr=arguments.lr,
            compiled=arguments.compile,
        ),
        clip=clip_tensors(arguments.clip)[0],
        layer_order=tuple(int(layer) for layer in arguments.layers.split(",")),
        init=arguments.init,
        seed=arguments.seed,
        resume=arguments.resume,
    )


if __name__ == "__main__":
    main()
