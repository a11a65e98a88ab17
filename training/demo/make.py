"""The demo model from nothing, in one command: `python -m training.demo.make --out DIR`.

Art, CLIP, scenes, R² block, bundle, figures. Every stage counts steps, not time, so with one seed
the same machine makes the same weights. A stage that is done is not repeated, one that was cut off
goes on from its last checkpoint.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from r2rt.files import replacing
from training._command import run
from training.demo.stages import (
    KEPT,
    LEFT,
    STAGES,
    Plan,
    bundle_of,
    clip_of,
    first_clip_of,
    options_of,
)

__all__ = ["main", "make"]


class _Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stage that was run.

    Attributes:
        options: of it and of those before it.
        seconds: all of its parts took together.
        finished: False if it was interrupted.
    """

    options: dict[str, Any]
    seconds: float
    finished: bool = True


def make(
    out: Path,
    plan: Plan,
    *,
    trained_clip: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run every stage that is not done, in order.

    Args:
        out: folder of everything.
        plan: how much of what.
        trained_clip: CLIP's weights of another run with the same options, after its first or its
            second training, which then is not repeated.
        say: called with a line for each stage.

    Raises:
        click.UsageError: a stage was done, or begun and not to be gone on with, with other options.
        ClipError: `trained_clip` is no file of CLIP's weights.
    """
    import torch

    torch.set_num_threads(plan.threads)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "stages.json"
    ran = msgspec.json.decode(path.read_bytes(), type=dict[str, _Stage]) if path.is_file() else {}
    for name in ran:
        if ran[name].finished and ran[name].options != options_of(name, plan):
            raise click.UsageError(
                f"{name} in {out} was made with other options; repeat them, or choose another "
                "folder"
            )
    if trained_clip is not None:
        _take(trained_clip, out, plan, ran)
    for name, stage in STAGES.items():
        before = ran.get(name)
        if before is not None and before.finished:
            say(f"{name}: done before, in {before.seconds:.0f} s")
            continue
        if before is not None:
            _check_begun(name, before, out, plan)
        # The checkpoint knows of a part that was killed.
        earlier_s = max(before.seconds if before is not None else 0.0, _checkpoint_s(out / name))
        began, finished = time.monotonic(), False
        # Who is killed writes nothing any more.
        ran[name] = _Stage(options_of(name, plan), round(earlier_s, 1), finished)
        _write_stages(path, ran)
        try:
            stage(out, plan)
            finished = True
        finally:
            seconds = round(earlier_s + time.monotonic() - began, 1)
            ran[name] = _Stage(options_of(name, plan), seconds, finished)
            _write_stages(path, ran)
        say(f"{name}: {seconds:.0f} s")
    say(f"{bundle_of(out)}; figures in {out / 'card.md'}")


def _check_begun(name: str, begun: _Stage, out: Path, plan: Plan) -> None:
    """Refuse to go on with what a stage left that was begun with another seed or other data."""
    if name not in LEFT or not (out / name / LEFT[name]).exists():
        return
    now = options_of(name, plan)
    for option in KEPT:
        if option in now and begun.options.get(option) != now[option]:
            raise click.UsageError(
                f"{name} in {out} was begun with --{option.replace('_', '-')} "
                f"{begun.options.get(option)}, not {now[option]}; repeat it, or choose another "
                "folder"
            )


def _write_stages(path: Path, ran: dict[str, _Stage]) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(ran), indent=1))


def _take(weights: Path, out: Path, plan: Plan, ran: dict[str, _Stage]) -> None:
    """Put CLIP's weights of another run where a stage would have, and count it as done."""
    from training.tiny_clip.weights import read_made

    made = read_made(weights)
    for names, place in ((("clip", "clip-again"), clip_of(out)), (("clip",), first_clip_of(out))):
        if made == options_of(names[-1], plan):
            place.parent.mkdir(exist_ok=True)
            if weights.resolve() != place.resolve():
                with replacing(place) as temporary:
                    shutil.copyfile(weights, temporary)
            for name in names:
                if name not in ran or not ran[name].finished:
                    ran[name] = _Stage(options_of(name, plan), 0.0)
            return
    raise click.UsageError(f"{weights} was made with other options than these")


def _checkpoint_s(folder: Path) -> float:
    """Return how long a training had run when it wrote its checkpoint, 0 without one."""
    import torch

    path = folder / "checkpoint.pt"
    return float(torch.load(path, weights_only=True)["elapsed_s"]) if path.is_file() else 0.0


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of everything.")
@click.option("--clip-steps", default=Plan().clip_steps, show_default=True, help="Steps of CLIP.")
@click.option(
    "--clip-stop",
    default=Plan().clip_stop,
    show_default=True,
    help="The step after which CLIP's training ends; 0 for --clip-steps.",
)
@click.option(
    "--clip-again",
    default=Plan().clip_again,
    show_default=True,
    help="Steps of CLIP's second training.",
)
@click.option(
    "--clip-again-stop",
    default=Plan().clip_again_stop,
    show_default=True,
    help="The step after which it ends; 0 for --clip-again.",
)
@click.option(
    "--motion-words",
    type=click.FloatRange(0),
    default=Plan().motion_words,
    show_default=True,
    help="Length of the random embeddings of CLIP's words of motion; 0 leaves them as trained.",
)
@click.option(
    "--clip",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="r2rt-tiny.safetensors of another run with the same options, from which to go on.",
)
@click.option("--scenes", default=Plan().scenes, show_default=True, help="Scenes: 0.5 MB each.")
@click.option(
    "--photographs",
    type=click.FloatRange(0, 1),
    default=Plan().photographs,
    show_default=True,
    help="Share of backgrounds that are photographs.",
)
@click.option("--block-steps", default=Plan().block_steps, show_default=True, help="Steps of R².")
@click.option(
    "--block-alone",
    default=Plan().block_alone,
    show_default=True,
    help="Of them, steps in which videos are asked their own queries alone.",
)
@click.option(
    "--block-again",
    default=Plan().block_again,
    show_default=True,
    help="Steps of a second training of R², from the weights of the first.",
)
@click.option(
    "--block-again-alone",
    default=Plan().block_again_alone,
    show_default=True,
    help="Of them, steps in which videos are asked their own queries alone.",
)
@click.option(
    "--block-last",
    default=Plan().block_last,
    show_default=True,
    help="Steps of a last training of R², at half the rate.",
)
@click.option(
    "--block-last-alone",
    default=Plan().block_last_alone,
    show_default=True,
    help="Of them, steps in which videos are asked their own queries alone.",
)
@click.option("--clip-seed", default=Plan().clip_seed, show_default=True, help="Seed of CLIP.")
@click.option("--block-seed", default=Plan().block_seed, show_default=True, help="Seed of R².")
@click.option("--threads", default=Plan().threads, show_default=True, help="Processor threads.")
def command(out: Path, clip: Path | None, **plan: Any) -> None:
    """Make the demo model from nothing: art, CLIP, scenes, R² block, bundle, figures."""
    make(out, Plan(**plan), trained_clip=clip)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(command, "python -m training.demo.make", arguments, cut="the same command goes on.")


if __name__ == "__main__":
    sys.exit(main())
