"""Processes of their own that train.

`runner.py slow OUT` trains the small model on samples that take time, so that it can be caught in
the middle. `runner.py golden OUT`, started by torchrun, trains each case of `CASES` in a folder of
its own, and the first one once more in two parts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import torch

from tests.golden_data import GOLDEN
from tests.training.trainer.material import (
    OPTIONS,
    GoldenSamples,
    RandomSamples,
    golden_model,
    golden_recipe,
    small_model,
    small_recipe,
)
from training.data.sample import Sample
from training.trainer import fit

__all__ = ["CASES", "train_golden"]

# Kind of model, samples in a batch, steps in 5 epochs: of moments there are 3 samples, of summaries
# 2. Of a batch of 3, two processes have shares of 2 and 1; of one sample they both have that one.
CASES = [("moment", 3, 5), ("moment", 2, 10), ("summary", 2, 5), ("summary", 1, 10)]


class _Slow(RandomSamples):
    def __getitem__(self, index: int) -> Sample:
        time.sleep(0.02)
        return super().__getitem__(index)


def train_golden(
    kind: str, batch_size: int, out: Path, *, max_steps: int | None = None, resume: bool = False
) -> None:
    """Train a golden model for 5 epochs, without dropout."""
    fit(
        golden_model(kind, dropout=0.0, drop_path=0.0),
        golden_recipe(kind, batch_size=batch_size, epochs=5),
        GoldenSamples(GOLDEN / f"loss_{kind}"),
        out=out,
        options=msgspec.structs.replace(OPTIONS, max_steps=max_steps),
        resume=resume,
    )


def main(what: str, out: Path) -> None:
    """See the module."""
    torch.set_num_threads(1)
    if what == "slow":
        options = msgspec.structs.replace(OPTIONS, save_steps=4)
        fit(
            small_model(), small_recipe(), _Slow(drawing=True), out=out, options=options, quiet=True
        )
        return
    for kind, batch_size, _ in CASES:
        train_golden(kind, batch_size, out / f"{kind}{batch_size}")
    kind, batch_size, _ = CASES[0]
    train_golden(kind, batch_size, out / "parts", max_steps=2)
    train_golden(kind, batch_size, out / "parts", resume=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
