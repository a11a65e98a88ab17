"""`python -m training.extract VIDEOS_OR_ANNOTATIONS`: features of videos and queries.

What is there is kept, so a run that was killed goes on. Features that another model or another
video made are refused; a query's are named by its sentence.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from training._command import run

if TYPE_CHECKING:
    from training.extraction.jobs import Job
    from training.extraction.store import FeatureStore
    from training.extraction.worker import Outcome, Setup

_FAILURES_SHOWN = 20


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--model", required=True, help="With --format authors an encoder, with tokens a bundle."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write to.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["authors", "tokens"]),
    default="authors",
    show_default=True,
    help="authors: hidden states, to train on; tokens: encoded videos, to ask a model.",
)
@click.option(
    "--videos",
    type=click.Path(path_type=Path),
    help="Folder of the annotations' videos.  [default: the folder of the annotations]",
)
@click.option("--recipe", help="Take the clip rate of this recipe.")
@click.option(
    "--fps", help="Clips a second, such as 1/2.  [default: the recipe's, the bundle's or 1/2]"
)
@click.option("--layers", default=4, show_default=True, help="Last CLIP layers to keep (authors).")
@click.option("--clip-arch", help="open_clip's name of the architecture of a file of weights.")
@click.option("--tokenizer", help="The tokenizer.json of a CLIP that has another than OpenAI's.")
@click.option("--only", type=click.Choice(["videos", "queries"]), help="Make these alone.")
@click.option(
    "--sampling",
    type=click.Choice(["exact", "nearest"]),
    default="exact",
    show_default=True,
    help="Decode the exact frame of each clip, or the cheapest one near it.",
)
@click.option("--batch", default=32, show_default=True, help="Frames that CLIP takes at once.")
@click.option("--shard", default="1/1", show_default=True, help="This machine's share, as 3/8.")
@click.option(
    "--replace",
    is_flag=True,
    help="Make features again that another video of the same name made.  [default: refuse them]",
)
@click.option(
    "--workers",
    type=int,
    help="Processes; 0 works in this one.  [default: one a core, 0 for a single job; with --gpus, "
    "as many as they take]",
)
@click.option("--threads", type=int, help="Threads of a worker.  [default: 1, without workers all]")
@click.option("--ray", is_flag=True, help="Let Ray start the workers, on this machine.")
@click.option("--address", help="Let the workers of a Ray cluster do it; auto finds one.")
@click.option("--gpus", default=0.0, help="GPUs of each worker; a fraction shares one.")
@click.option("--quiet", is_flag=True, help="Print errors alone.")
def extract(
    source: Path,
    model: str,
    out: Path,
    format_: Literal["authors", "tokens"],
    videos: Path | None,
    recipe: str | None,
    fps: str | None,
    layers: int,
    clip_arch: str | None,
    tokenizer: str | None,
    only: str | None,
    sampling: Literal["exact", "nearest"],
    batch: int,
    shard: str,
    replace: bool,
    workers: int | None,
    threads: int | None,
    ray: bool,
    address: str | None,
    gpus: float,
    quiet: bool,
) -> None:
    """Make features of SOURCE: a video, a folder of videos, or annotations and their videos.

    Features are written below --out, a file each, whole or not at all. Exit code 63 if some could
    not be made; those that could are there, and the same command tries the others again.
    """
    from r2rt.errors import QueryError
    from training.extraction.encoders import Settings, make_manifest
    from training.extraction.jobs import Shard, plan_jobs
    from training.extraction.pipeline import run_jobs
    from training.extraction.store import FeatureStore
    from training.extraction.worker import Setup

    if min(layers, batch, 1 if threads is None else threads) < 1:
        raise QueryError("--layers, --batch and --threads must be 1 or more")
    if (workers or 0) < 0 or gpus < 0:
        raise QueryError("--workers and --gpus must be 0 or more")
    share = Shard.parse(shard)
    rate = _rate(fps, recipe, model if format_ == "tokens" else None)
    settings = Settings(
        format=format_,
        model=_absolute(model),
        clip_arch=clip_arch,
        tokenizer=None if tokenizer is None else str(Path(tokenizer).resolve()),
        layers=layers,
        fps=str(rate),
        sampling=sampling,
        batch=batch,
        device="cuda" if gpus else "cpu",
    )
    jobs, missing = plan_jobs(
        source,
        videos=videos,
        fps=rate,
        shard=share,
        one_rate=format_ == "tokens",
        want_videos=only != "queries",
        want_queries=only != "videos",
    )
    store = FeatureStore(out, make_manifest(settings))
    store.prepare()
    if not replace:
        missing += [
            f"{job.vid}: {store.video_path(str(job.vid))} was made of another video or at another "
            "rate; --replace makes it again, another --out keeps both"
            for job in jobs
            if store.is_of_another(job)
        ]
        jobs = [job for job in jobs if not store.is_of_another(job)]
    pending = [job for job in jobs if not store.is_done(job)]
    store.sweep(pending)
    if not quiet:
        click.echo(
            f"{store.manifest.model}, shard {share}: {len(pending)} of {len(jobs)} jobs to do",
            err=True,
        )
    workers, threads = _processes(len(pending), workers, threads, gpus, ray=ray, address=address)
    setup = Setup(
        settings=msgspec.structs.replace(settings, threads=threads),
        manifest=store.manifest,
        folder=str(out.resolve()),
    )
    work = partial(run_jobs, workers=workers, gpus=gpus, ray=ray, address=address)
    failures = [*missing, *_failures(pending, setup, work, quiet)]
    _report(store, jobs, failures, quiet)


def _processes(
    pending: int,
    workers: int | None,
    threads: int | None,
    gpus: float,
    *,
    ray: bool,
    address: str | None,
) -> tuple[int, int]:
    """Return how many workers there are, and the threads of each, where options leave it open."""
    from r2rt.portable import usable_cores

    cores = usable_cores()
    if gpus and address is None:
        workers = _workers_on_gpus(gpus, workers)
    if workers is None:
        workers = 0 if pending < 2 else max(1, cores // (threads or 1))
    if threads is None:
        threads = 1 if workers or ray or address else cores
    return workers, threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(
        extract,
        "python -m training.extract",
        arguments,
        cut="what was made is kept; the same command goes on.",
    )


def _failures(
    jobs: list[Job],
    setup: Setup,
    work: Callable[[list[Job], Setup], Iterator[Outcome]],
    quiet: bool,
) -> list[str]:
    """Do the jobs under a progress bar and return what failed."""
    from rich.console import Console
    from rich.progress import Progress

    if not jobs:
        return []
    failures: list[str] = []
    console = Console(stderr=True, highlight=False)
    with Progress(console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("features", total=len(jobs))
        for outcome in work(jobs, setup):
            failures.extend(outcome.failures)
            bar.advance(task)
    return failures


def _report(store: FeatureStore, jobs: list[Job], failures: list[str], quiet: bool) -> None:
    from training.extraction.errors import ExtractionError

    for line in failures[:_FAILURES_SHOWN]:
        click.echo(f"not made: {line}", err=True)
    if len(failures) > _FAILURES_SHOWN:
        click.echo(f"and {len(failures) - _FAILURES_SHOWN} more", err=True)
    if failures:
        raise ExtractionError(
            f"{len(failures)} could not be made, the others are there; correct those and run the "
            "same command again"
        )
    undone = sum(not store.is_done(job) for job in jobs)
    if undone:
        raise ExtractionError(f"{undone} jobs were not done; run the same command again")
    if not quiet:
        click.echo(f"features in {store.videos} and {store.queries.name}", err=True)


def _rate(fps: str | None, recipe: str | None, bundle: str | None) -> Fraction:
    """Clips a second: as asked for, else the recipe's, else the bundle's, else 1/2."""
    from r2rt.errors import QueryError
    from r2rt.model.bundle import Bundle
    from r2rt.model.installed import resolve
    from training.recipes import RECIPES

    if fps is not None:
        try:
            rate = Fraction(fps)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 0 < rate <= 1000:
            raise QueryError(f"--fps {fps!r}; expected clips a second, such as 0.5 or 1/2")
        return rate
    if recipe is not None:
        if recipe not in RECIPES:
            raise QueryError(f"no recipe {recipe!r}; there are {', '.join(sorted(RECIPES))}")
        return RECIPES[recipe].fps
    return Fraction(1, 2) if bundle is None else Bundle.open(resolve(bundle)).fps


def _workers_on_gpus(gpus: float, workers: int | None) -> int:
    """How many workers to start: as many as this machine's GPUs take, or fewer if asked for."""
    import torch

    from r2rt.errors import BackendUnavailableError, QueryError
    from training.extraction.pipeline import workers_on

    count = torch.cuda.device_count()
    most = workers_on(count, gpus)
    if not most:
        raise BackendUnavailableError(
            f"--gpus {gpus:g}: PyTorch sees {count} GPUs here; ask for fewer, or leave --gpus out"
        )
    if workers is not None and workers > most:
        raise QueryError(
            f"--workers {workers} with --gpus {gpus:g} each: PyTorch sees {count} GPUs here, "
            f"which take {most}"
        )
    return most if workers is None else workers


def _absolute(model: str) -> str:
    """A model's path as workers, which start elsewhere, will find it; names stay as they are."""
    path = Path(model)
    return str(path.resolve()) if path.exists() else model


if __name__ == "__main__":
    sys.exit(main())
