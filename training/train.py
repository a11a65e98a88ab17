"""Train by a published recipe: `python -m training.train qvhighlights --data DIR --out RUN`.

Exit codes: 0 done, or saved when --max-minutes were over; 2 wrong usage, 10 a file cannot be read,
40 a file could not be written, 60 annotations cannot be learned from, 62 training cannot start or
go on, 65 a checkpoint cannot be used, 130 interrupted (everything is saved).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from training._command import run
from training.config import (
    ModelSettings,
    RunConfig,
    find_recipe,
    parse_overrides,
    read_settings,
    recorded_config,
    with_overrides,
    write_config,
)
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.data.dataset import GroundingDataset
    from training.model import R2Config, R2Tuning
    from training.trainer.validation import MetricsValidation

__all__ = ["build_validation", "main", "new_model", "train"]

_FILE = click.Path(path_type=Path)


@click.command(epilog=(__doc__ or "").split("\n\n", 1)[1])
@click.argument("recipe", required=False)
@click.option("--data", type=_FILE, help="Folder of annotations and features.")
@click.option("--out", type=_FILE, help="The run's folder.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change a setting.  [repeatable]"
)
@click.option("--config", "config_path", type=_FILE, help="TOML or JSON of settings to change.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, if there is one.")
@click.option("--init", type=_FILE, help="Start from this checkpoint's weights.")
@click.option("--max-minutes", type=float, help="Save and end after so many minutes.")
@click.option("--annotations", type=_FILE, help="Your own annotations to train on.")
@click.option("--val-annotations", type=_FILE, help="Your own annotations to validate on.")
@click.option("--no-val", is_flag=True, help="Do not validate; there is no best.pth then.")
@click.option("--skip-missing", is_flag=True, help="Leave out annotations without features.")
@click.option("--show", is_flag=True, help="Print all settings as JSON, and train nothing.")
@click.option("--list", "list_recipes", is_flag=True, help="Print the recipes.")
@click.option("--quiet", is_flag=True, help="Print errors alone.")
def train(
    recipe: str | None,
    data: Path | None,
    out: Path | None,
    settings: tuple[str, ...],
    config_path: Path | None,
    resume: bool,
    init: Path | None,
    max_minutes: float | None,
    annotations: Path | None,
    val_annotations: Path | None,
    no_val: bool,
    skip_missing: bool,
    show: bool,
    list_recipes: bool,
    quiet: bool,
) -> None:
    """Train a model by RECIPE; several GPUs by `torchrun --nproc-per-node N -m training.train`.

    The run's folder holds the checkpoints (last.pth, best.pth), the state to resume from, the
    settings, and the losses as lines, events of TensorBoard and a plot.
    """
    if list_recipes:
        _print_recipes()
        return
    config = _config(recipe, settings, config_path, max_minutes)
    if show:
        click.echo(write_config(config), nl=False)
        return
    if data is None or out is None:
        raise click.UsageError("give --data DIR and --out RUN")
    from training.data.layouts import open_data
    from training.trainer import fit

    _log_to_stderr(quiet)
    train_set = open_data(
        config.recipe,
        data,
        "train",
        annotations=annotations,
        layers=config.model.read_layers,
        skip_missing=skip_missing,
    )
    val = None
    if not no_val:
        val = build_validation(config, data, annotations=val_annotations, skip=skip_missing)
        if val is None and not quiet:
            click.echo("no split to validate on: the last checkpoint is the one to use", err=True)
    if val is not None and config.options.monitor is not None:
        val.check_monitor(config.options.monitor)
    fit(
        new_model(config, train_set, init=init),
        config.recipe,
        train_set,
        out=out,
        val=val,
        options=config.options,
        resume=resume,
        quiet=quiet,
    )


def new_model(config: RunConfig, train_set: GroundingDataset, *, init: Path | None) -> R2Tuning:
    """Build the recipe's model for the widths of the data, from the seed or from a checkpoint.

    Raises:
        TrainingError: sizes contradict one another, or those of the data or the settings the
            checkpoint's.
    """
    import torch

    from training.checkpoint import build_model, load_checkpoint
    from training.model import R2Config, R2Tuning

    recipe, sample = config.recipe, train_set[0]
    layers, vision_width = sample.video.shape[1], sample.video.shape[3]
    text_width = sample.query.shape[2]
    if init is not None:
        weights = load_checkpoint(init)
        trained = recorded_config(weights.meta)
        # Weights show neither heads nor layers; only bare ones are taken to be as the settings say.
        known = config.model if trained is None else trained.model
        model = build_model(
            weights.state_dict,
            heads=known.heads,
            use_tef=recipe.use_tef,
            merge_cls_sal=recipe.merge_cls_sal,
            dropout=recipe.dropout,
            drop_path=recipe.drop_path,
            padding=config.model.padding,
            read_layers=known.read,
        )
        has = (model.config.vision_width, model.config.text_width)
        if has != (vision_width, text_width):
            raise TrainingError(
                f"{init}: reads a CLIP of widths {has[0]} and {has[1]}, the data has "
                f"{vision_width} and {text_width}; take features of the CLIP that the checkpoint "
                "was trained on"
            )
        _check_sizes(init, model.config, config.model)
        return model
    torch.manual_seed(config.options.seed)
    try:
        return R2Tuning(
            R2Config(
                width=config.model.width,
                layers=layers,
                vision_width=vision_width,
                text_width=text_width,
                heads=config.model.heads,
                strides=recipe.strides,
                use_tef=recipe.use_tef,
                has_offsets=recipe.has_offsets,
                merge_cls_sal=recipe.merge_cls_sal,
                dropout=recipe.dropout,
                drop_path=recipe.drop_path,
                padding=config.model.padding,
                read_layers=config.model.read,
            )
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error


def _check_sizes(init: Path, has: R2Config, asked: ModelSettings) -> None:
    """Refuse settings of another model than a checkpoint is of."""
    needed = []
    if has.width != asked.width:
        needed.append(f"width={has.width}")
    if has.heads != asked.heads:
        needed.append(f"heads={has.heads}")
    if has.read != asked.read_layers:
        needed.append(f"'read={list(has.read)}'")
    if needed:
        raise TrainingError(
            f"{init}: is of a model of other sizes; add " + " ".join(f"--set {x}" for x in needed)
        )


def build_validation(
    config: RunConfig, data: Path, *, annotations: Path | None = None, skip: bool = False
) -> MetricsValidation | None:
    """Return the validation by the recipe's benchmark, or None where the split is not there.

    Raises:
        R2rtError: the split is there and cannot be used.
    """
    from training.data.errors import AnnotationError
    from training.data.layouts import find_annotations, open_data
    from training.evaluation.benchmarks import BENCHMARKS
    from training.evaluation.reading import read_annotations
    from training.trainer.validation import MetricsValidation, labels_of

    recipe = config.recipe
    benchmark = BENCHMARKS[recipe.dataset]
    root = data / recipe.dataset if (data / recipe.dataset).is_dir() else data
    path = annotations
    if path is None:
        try:
            path = find_annotations(root, recipe.dataset, "val")
        except AnnotationError:
            return None
    samples = open_data(
        recipe,
        data,
        "val",
        annotations=annotations,
        layers=config.model.read_layers,
        skip_missing=skip,
    )
    if recipe.dataset == "tvsum" and path.suffix != ".jsonl":
        return None
    # Highlights are evaluated by each annotator's own ratings, which samples have the mean of.
    if recipe.dataset == "tvsum" or (recipe.dataset == "qvhighlights" and annotations is None):
        kept = {annotation.qid for annotation in samples.annotations}
        labels = [a for a in read_annotations(path, benchmark).lines if a.qid in kept]
    else:
        labels = labels_of(samples)
    if benchmark.labels is not None:
        # Ratings may go on behind the features, by more clips than the metric allows.
        clips = {each.qid: samples.clips(index) for index, each in enumerate(samples.annotations)}
        labels = [
            msgspec.structs.replace(each, label=each.label[: clips[each.qid]])
            for each in labels
            if each.label
        ]
    return MetricsValidation(samples, labels, benchmark, recipe) if labels else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(train, "python -m training.train", arguments, cut="what was saved stays.")


def _config(
    recipe: str | None, settings: Sequence[str], path: Path | None, max_minutes: float | None
) -> RunConfig:
    """The recipe, changed by the file of settings, then by the command line."""
    named, changes = (None, {}) if path is None else read_settings(path)
    name = recipe or named
    if name is None:
        raise click.UsageError("name a RECIPE; --list prints them")
    config = with_overrides(RunConfig(recipe=find_recipe(name)), changes)
    changes = parse_overrides(settings)
    if max_minutes is not None:
        changes["max_minutes"] = max_minutes
    return with_overrides(config, changes)


def _print_recipes() -> None:
    from r2rt.cli.console import print_table
    from training.recipes import RECIPES

    columns = ["recipe", "clips a second", "batch", "lr", "epochs", "predicts"]
    rows = [
        [
            name,
            str(Fraction(recipe.fps)),
            str(recipe.batch_size),
            f"{recipe.lr:g}",
            str(recipe.epochs),
            "moments and saliency" if recipe.has_offsets else "saliency",
        ]
        for name, recipe in RECIPES.items()
    ]
    print_table(columns, rows)


def _log_to_stderr(quiet: bool) -> None:
    """Show what the data set repairs, and which kernels run."""
    logging.basicConfig(format="%(message)s", level=logging.ERROR if quiet else logging.WARNING)
    logging.getLogger("kernels").setLevel(logging.ERROR if quiet else logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
