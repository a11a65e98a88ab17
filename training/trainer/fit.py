"""The training loop, on Lightning Fabric.

Why Fabric and not Lightning's Trainer or Accelerate: what is hard to get right by hand (devices,
mixed precision with its loss scaler, process groups, clipping under all of these) is Fabric's, and
the loop stays ours. It has to be: the losses contrast a whole batch over all processes
(`training.trainer.sharing`), a run must resume in the middle of an epoch bit for bit
(`training.trainer.order`), and nothing that is saved may need unpickling
(`training.trainer.state`); the Trainer's and Accelerate's own checkpoints pickle generators and
optimizer, and Accelerate's loaders cut and repeat batches in ways of their own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.utils.data import DataLoader

from r2rt.errors import R2rtError
from r2rt.files import replacing
from training.config import ModelSettings, RunConfig, TrainOptions, validated, write_config
from training.data.sample import Batch
from training.errors import TrainingError, TrainingInterruptedError
from training.model import R2Tuning
from training.recipes import Recipe
from training.trainer.history import History, StepsBar, plot_losses, steps_bar
from training.trainer.machine import (
    Signals,
    chosen_precision,
    ignore_signals,
    make_fabric,
    reproducible,
    shortages,
)
from training.trainer.order import (
    Batches,
    BatchesOrErrors,
    Purpose,
    Samples,
    seed_everything,
    usable_samples,
)
from training.trainer.schedule import learning_rate
from training.trainer.sharing import (
    ShareModule,
    batch_losses,
    connected,
    forget_idle,
    largest,
    padded,
)
from training.trainer.state import Progress, RunFolder

__all__ = ["Validation", "fit"]

Validation = Callable[[R2Tuning], Mapping[str, float]]
"""Gives figures of a model, in evaluation mode on the training's device; larger is better."""

# Settings that may change when a run is resumed: they affect how long it lasts and what it reports,
# not what a step does. The monitored figure stays: the best one so far is compared with later ones.
_FREE = {"epochs"} | ({*TrainOptions.__struct_fields__} - {"seed", "precision", "monitor"})

# Gradients that overflow at this scale, which is 65,536 at first, do not because of it.
_LOWEST_SCALE = 1e-4


def fit(
    model: R2Tuning,
    recipe: Recipe,
    train_set: Samples,
    *,
    out: Path | str,
    val: Validation | None = None,
    options: TrainOptions | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Path:
    """Train a model by a recipe and return the checkpoint to use.

    Under torchrun every process calls this with the same arguments and has its share of each batch.
    SIGTERM and Ctrl-C save and end the run; a second one ends it at once. The global generators of
    torch, numpy and Python are seeded anew for every step.

    Args:
        model: what is trained, on from the weights it has; its recurrent block, pyramid and heads
            are all there is, CLIP is not part of it. Left in evaluation mode.
        recipe: batch size, passes, epochs, learning rate, loss weights, ...
        train_set: a map-style data set of samples; see `Samples`.
        out: the run's folder; `training.trainer.state` says what is in it.
        val: gives figures of the model after an epoch, in the first process.
        options: how the run is carried out.
        resume: go on where the folder's run stands, or start if there is none; otherwise a folder
            with a run in it is refused.
        quiet: show no progress on stderr.

    Returns:
        `best.pth` where there is a validation, else `last.pth`. With `max_minutes` the run may have
        been left unfinished: see `read_progress(out)`.

    Raises:
        TrainingError: training cannot start, or not go on (a loss that is no number).
        TrainingInterruptedError: a signal ended it; everything is saved.
        OutputError: a file cannot be written.
    """
    recipe = validated(recipe)
    options = validated(options or TrainOptions())
    _check_model(model, recipe)
    config = RunConfig(recipe=recipe, model=ModelSettings.of(model.config), options=options)
    return _Run(model, config, train_set, RunFolder(Path(out)), val, resume, quiet).train()


class _Run:
    """One call of `fit`."""

    def __init__(
        self,
        model: R2Tuning,
        config: RunConfig,
        train_set: Samples,
        folder: RunFolder,
        val: Validation | None,
        resume: bool,
        quiet: bool,
    ) -> None:
        _require_packages()
        self.config, self.recipe, self.options = config, config.recipe, config.options
        self.folder, self.val, self.model = folder, val, model
        self.fabric = make_fabric(self.options)
        self.fabric.launch()
        self.first = self.fabric.is_global_zero
        self.precision = chosen_precision(self.options, self.fabric.device.type)
        self.quiet = quiet or not self.first
        self.resume = resume
        # The signal that ended the run, 0 if none.
        self.stopped_by = 0

        usable = usable_samples(train_set, self.recipe.min_video_s)
        if not usable:
            raise TrainingError(
                f"no sample to train on: the data set has {len(train_set)}, none of at least "
                f"{self.recipe.min_video_s:g} s (min_video_s)"
            )
        self.batches = Batches(
            train_set,
            usable,
            self.recipe,
            seed=self.options.seed,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        total = self.batches.epoch_steps * self.recipe.epochs
        self.progress = Progress(
            total_steps=min(total, self.options.max_steps or total), samples=len(usable)
        )
        self.dropped = len(train_set) - len(usable)

    def train(self) -> Path:
        with contextlib.ExitStack() as stack:
            if self.first:
                stack.enter_context(self.folder.locked())
            self.fabric.barrier()
            stack.enter_context(reproducible(self.options.deterministic))
            return self._train()

    def _train(self) -> Path:
        model = self.model
        self.fabric.to_device(model)
        optimizer: Any = torch.optim.AdamW(
            model.parameters(), lr=self.recipe.lr, weight_decay=self.recipe.weight_decay
        )
        self.plain_optimizer = optimizer
        self._start_or_resume(optimizer)
        module, optimizer = self.fabric.setup(
            ShareModule(model, whole=self.fabric.world_size > 1), optimizer
        )
        if self.progress.scaler:
            self.fabric.strategy.precision.load_state_dict(dict(self.progress.scaler))
        history = None
        if self.first:
            history = History(
                self.folder,
                step=self.progress.step,
                tensorboard=self.options.tensorboard,
                log_steps=self.options.log_steps,
            )
        try:
            with (
                steps_bar(self.progress.total_steps, quiet=self.quiet) as bar,
                Signals() as signals,
            ):
                self._announce(bar)
                with shortages():
                    self._steps(module, optimizer, history, bar, signals)
                self._conclude(bar)
        finally:
            if history is not None:
                history.close()
            model.eval()
        if self.first:
            plot_losses(self.folder.metrics, self.folder.plot)
        self.fabric.barrier()
        return self.folder.best if self.folder.best.exists() else self.folder.last

    def _start_or_resume(self, optimizer: torch.optim.Optimizer) -> None:
        if self.folder.has_state:
            if not self.resume:
                raise TrainingError(
                    f"{self.folder.path}: a run is in it, {self._where(self._saved())}; go on with "
                    "--resume, or choose another folder"
                )
            self._check_same_run()
            saved = self.folder.load(self.model, optimizer)
            saved.total_steps = self.progress.total_steps
            saved.finished = saved.step >= saved.total_steps
            self.progress = saved
        elif not (self.resume and self.folder.unsaved.exists()) and (
            kept := [path for path in self.folder.checkpoints if path.exists()]
        ):
            raise TrainingError(
                f"{kept[0]} is there, without a state of its run to go on from; move it, or choose "
                "another folder"
            )
        # Nobody writes before all have seen what is there.
        self.fabric.barrier()
        if not self.first:
            return
        if not self.progress.step:
            # What a run left that was killed before it saved a state.
            for path in (self.folder.metrics, *self.folder.checkpoints):
                path.unlink(missing_ok=True)
            self.folder.unsaved.touch()
        with replacing(self.folder.config) as temporary:
            temporary.write_text(write_config(self.config), encoding="utf-8")

    def _saved(self) -> Progress:
        return self.folder.read_header().progress

    def _check_same_run(self) -> None:
        header = self.folder.read_header()
        now: dict[str, Any] = _plain(self.config)
        for part, settings in now.items():
            for name, value in settings.items():
                before = header.config.get(part, {}).get(name)
                if before != value and name not in _FREE:
                    raise TrainingError(
                        f"{self.folder.path}: its run has {name} = {before}, now it is {value}; "
                        "resume with the settings it began with, or choose another folder"
                    )
        if header.progress.samples != self.progress.samples:
            raise TrainingError(
                f"{self.folder.path}: its run has {header.progress.samples} samples, now there are "
                f"{self.progress.samples}; resume with the data it began with"
            )

    def _announce(self, bar: StepsBar) -> None:
        fabric, progress = self.fabric, self.progress
        dropped = f" ({self.dropped} of shorter videos left out)" if self.dropped else ""
        processes = f"{fabric.world_size} processes" if fabric.world_size > 1 else "1 process"
        bar.say(
            f"{self.recipe.name}: {progress.samples} samples{dropped}, "
            f"{self.batches.epoch_steps} steps an epoch, {progress.total_steps} in all, "
            f"{processes} on {fabric.device}, {self.precision}; {self.folder.path}"
        )
        if self.recipe.warmup_steps >= progress.total_steps > 0:
            bar.say(
                f"the learning rate never reaches {self.recipe.lr:g}: its warm-up takes "
                f"{self.recipe.warmup_steps} steps; for few samples set a shorter one "
                "(warmup_steps), a smaller batch_size or more epochs"
            )
        if progress.step:
            bar.say(f"resumed {self._where(progress)}")

    def _steps(
        self,
        module: Any,
        optimizer: Any,
        history: History | None,
        bar: StepsBar,
        signals: Signals,
    ) -> None:
        """Take every step that is left, or as many as time and signals let."""
        progress, options = self.progress, self.options
        started_s = saved_s = time.monotonic()
        minutes_before, minutes = progress.minutes, 0.0
        if progress.step >= progress.total_steps:
            return
        for batch in self._loader(progress.step):
            if isinstance(batch, R2rtError):
                raise batch
            numbers = self._step(module, optimizer, batch)
            minutes = (time.monotonic() - started_s) / 60
            progress.step += 1
            progress.minutes = minutes_before + minutes
            progress.finished = progress.step >= progress.total_steps
            if history is not None:
                history.step(progress.step, numbers)
            bar.update(progress.step, numbers)

            # The first process's clock and anyone's signal decide for all.
            late = options.max_minutes is not None and minutes >= options.max_minutes
            stale = time.monotonic() - saved_s >= 60 * options.save_minutes
            self.stopped_by, time_is_up, save = largest(
                self.fabric,
                [signals.received or 0, int(late and self.first), int(stale and self.first)],
            )
            stop = self.stopped_by or time_is_up
            validated_now = self._validate_when_due(history, bar)
            by_steps = options.save_steps is not None and progress.step % options.save_steps == 0
            if stop or save or by_steps or validated_now or progress.finished:
                self._save(history)
                saved_s = time.monotonic()
            if stop:
                return

    def _step(self, module: Any, optimizer: Any, batch: Batch) -> dict[str, float]:
        """Take one step; return its losses, learning rate and gradient norm."""
        step, fabric = self.progress.step, self.fabric
        rate = learning_rate(self.recipe, step, self.batches.epoch_steps)
        for group in self.plain_optimizer.param_groups:
            group["lr"] = rate
        seed_everything(self.options.seed, Purpose.STEP, (step, fabric.global_rank))
        size = self.batches.size(step)
        losses, share = self.losses(module, batch, size)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        backward = total * fabric.world_size
        if size % fabric.world_size:
            backward = connected(backward, share)
        fabric.backward(backward)
        if fabric.world_size > 1:
            forget_idle(self.model, share["video_mask"].shape[1])
        norm = fabric.clip_gradients(
            module, optimizer, max_norm=self.recipe.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None  # Fabric's answer to a largest norm
        values = torch.stack([total.detach(), norm, *(v.detach() for v in losses.values())])
        loss, norm_value, *terms = values.double().tolist()
        if not math.isfinite(loss) or not (math.isfinite(norm_value) or self._may_scale_less()):
            self._refuse_nonfinite(step, loss, norm_value)
        optimizer.step()
        return {
            "loss": loss,
            **dict(zip(losses, terms, strict=True)),
            "lr": rate,
            "grad_norm": norm_value,
        }

    def _may_scale_less(self) -> bool:
        """Whether fp16's scaler leaves out a step that overflowed, and halves its scale."""
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return scaler is not None and scaler.get_scale() > _LOWEST_SCALE

    def losses(
        self, module: Any, batch: Batch, size: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the losses of the whole batch, and what this process's share gave to them."""
        module.train()
        boundary = batch.targets.boundary_s
        clips, tokens, moments = largest(
            self.fabric,
            [
                batch.video.shape[1],
                batch.query.shape[1],
                0 if boundary is None else boundary.shape[1],
            ],
        )
        batch = padded(batch, clips, tokens, moments)
        batch = batch.to(self.fabric.device, non_blocking=True).to(dtype=torch.float32)
        share = module(
            batch.video, batch.query, batch.video_mask, batch.query_mask, batch.targets.pos_clip
        )
        weights = self.recipe.loss_weights
        return batch_losses(self.fabric, self.model, share, batch.targets, size, weights), share

    def _refuse_nonfinite(self, step: int, loss: float, norm: float) -> None:
        kept = (
            f"step {self._saved().step} is saved" if self.folder.has_state else "nothing is saved"
        )
        raise TrainingError(
            f"the loss at step {step + 1} is {loss}, the gradient's norm {norm}: training has "
            f"diverged or a sample holds NaN ({kept}); check the data, lower lr, or take fp32"
        )

    def _validate_when_due(self, history: History | None, bar: StepsBar) -> bool:
        """Validate at the end of epochs that are due, and of the run; keep the best weights."""
        progress = self.progress
        epoch, rest = divmod(progress.step, self.batches.epoch_steps)
        due = rest == 0 and epoch % self.options.val_epochs == 0
        if self.val is None or not (due or progress.finished):
            return False
        if self.first:
            self._validate(self.val, history, bar)
        self.fabric.barrier()
        return True

    def _validate(self, val: Validation, history: History | None, bar: StepsBar) -> None:
        progress = self.progress
        self.model.eval()
        with torch.no_grad():
            figures = dict(val(self.model))
        monitor = self.options.monitor or next(iter(figures), None)
        if monitor not in figures:
            raise TrainingError(
                f"the validation gives no figure {monitor!r}; monitor one of {', '.join(figures)}"
            )
        if history is not None:
            history.validation(progress.step, figures)
        text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        value = float(figures[monitor])
        # Nothing compares as larger than NaN, which would stay the best for ever.
        better = not math.isnan(value) and (progress.best is None or value > progress.best)
        if better:
            progress.best, progress.best_step = value, progress.step
            self.folder.write_weights(self.folder.best, self.model, progress, self.config)
        bar.say(f"step {progress.step}: {text}" + (" (best)" if better else ""))

    def _save(self, history: History | None) -> None:
        if self.first:
            if history is not None:
                history.flush()
            self.progress.scaler = self.fabric.strategy.precision.state_dict()
            self.folder.save(self.model, self.plain_optimizer, self.progress, self.config)
        self.fabric.barrier()

    def _conclude(self, bar: StepsBar) -> None:
        again = "go on with the same command and --resume (fit: resume=True)"
        where = self._where(self.progress)
        if self.progress.finished:
            bar.say(f"trained {where}; {self.folder.path}")
        elif self.stopped_by:
            name = signal.Signals(self.stopped_by).name
            raise TrainingInterruptedError(f"{name}: saved {where}; {again}")
        else:
            bar.say(f"time is up: saved {where}; {again}")

    def _where(self, progress: Progress) -> str:
        return f"at step {progress.step} of {progress.total_steps}"

    def _loader(self, step: int) -> DataLoader[Batch | R2rtError]:
        """This process's shares of the batches from a step on, loaded ahead by the workers."""
        return DataLoader(
            BatchesOrErrors(self.batches),
            batch_size=None,
            sampler=range(step, self.progress.total_steps),
            num_workers=self.options.workers,
            # Loaders draw a seed for their workers, which nothing here uses, from this one.
            generator=torch.Generator(),
            pin_memory=self.fabric.device.type == "cuda",
            worker_init_fn=ignore_signals,
        )


def _check_model(model: R2Tuning, recipe: Recipe) -> None:
    for name in ("has_offsets", "strides", "use_tef", "merge_cls_sal"):
        has, wanted = getattr(model.config, name), getattr(recipe, name)
        if has != wanted:
            raise TrainingError(
                f"the model has {name} = {has}, the recipe {recipe.name} {wanted}; change one"
            )


def _require_packages() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise TrainingError("the plot of the losses needs matplotlib: pip install '.[train]'")


def _plain(config: RunConfig) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(config, enc_hook=str))
    return plain
