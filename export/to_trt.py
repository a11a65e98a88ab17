"""Build TensorRT engines: `python export/to_trt.py CHECKPOINT|BUNDLE`.

Exit codes: 0 done, 2 wrong usage, 20 to 23 the bundle is missing or damaged, 30 the engine
builder or Triton is not installed, 40 the bundle could not be written, 50 the model does not allow
it, 51 a graph differs from the one that it was made of, 52 no builder here serves the target, 53
the builder refused a graph or attention did not fuse, 54 a kernel does not fit a target, 65 the
checkpoint or the CLIP weights cannot be used, 130 interrupted; others are those of the command
r2rt.
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if not __package__:
    # Run as a script: Python put the folder `export` first, where the checkout belongs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from export._checkout import require_checkout

require_checkout("r2rt", "kernels", "training")

from export.to_onnx import to_onnx
from training._command import end_cleanly_on_sigterm, run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from export.engines import BuiltEngine
    from export.launches import KernelGraphs
    from export.trt_builder import Flavour
    from r2rt.engines.tensorrt.plans import PrecisionName, Range
    from r2rt.model.bundle import Bundle

__all__ = ["main", "to_trt"]

_FROM_TO_ONNX = {"clip", "clip_arch", "output", "name", "recipe", "fps", "unit", "force"}
_VIDEO_FRAMES = 16


class _Sizes(click.ParamType["Range"]):
    name = "least:usual:most"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Range:
        from r2rt.engines.tensorrt.plans import Range

        found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})", str(value))
        least, usual, most = (int(x) for x in found.groups()) if found else (0, 0, 0)
        if not 1 <= least <= usual <= most:
            self.fail(
                f"{value!r} are no sizes; expected three ascending from 1, such as 1:8:64",
                param,
                ctx,
            )
        return Range(least=least, usual=usual, most=most)


@click.command(epilog=(__doc__ or "").split("\n\n", 1)[1])
@click.argument("model")
@click.option(
    "--precision",
    type=click.Choice(["fp16", "int8"]),
    default="fp16",
    show_default=True,
    help="int8: the linear layers of CLIP's towers; everything else is fp16.",
)
@click.option(
    "--flavour",
    type=click.Choice(["auto", "tensorrt", "rtx"]),
    default="auto",
    show_default=True,
    help="TensorRT (on the GPU that it builds for) or TensorRT-RTX (needs no GPU).",
)
@click.option(
    "--target",
    metavar="8.9,12.0,...",
    help="Compute capabilities to build for, or `portable`: one engine for 8.0 and later, as far "
    "as TensorRT-RTX serves them.  [default: this machine's GPU, else portable]",
)
@click.option("--batch", type=_Sizes(), help="Frames encoded at once.  [default: 1:8:64]")
@click.option(
    "--clips",
    type=_Sizes(),
    help="Clips grounded at once.  [default: 1:the window's:256; 1:75:1024 without a window]",
)
@click.option("--tokens", type=_Sizes(), help="Tokens of a query.  [default: 1:16:77]")
@click.option("--queries", type=_Sizes(), help="Queries at once.  [default: 1:1:8]")
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where TensorRT keeps what it measured; TensorRT-RTX measures on the user's machine.  "
    "[default: in r2rt's cache]",
)
@click.option(
    "--verify-video",
    type=click.Path(path_type=Path),
    help="Compare and calibrate on this video's first frames, not on generated ones.",
)
@click.option(
    "--allow-unfused", is_flag=True, help="Keep engines whose attention did not fuse; slower."
)
@click.option(
    "--kernels",
    is_flag=True,
    help="Compile the R² block's kernels, too, and have them launched in place of its engine, on "
    "targets that they are compiled for (8.0, 8.9, 9.0, 10.0, 12.0); needs Triton.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where --kernels reads the weights if MODEL is a bundle: the file that it was made of.",
)
@click.option("--quiet", is_flag=True, help="Print errors alone.")
@click.pass_context
def to_trt(
    context: click.Context,
    /,
    model: str,
    precision: PrecisionName,
    flavour: Literal["auto", "tensorrt", "rtx"],
    target: str | None,
    batch: Range | None,
    clips: Range | None,
    tokens: Range | None,
    queries: Range | None,
    timing_cache: Path | None,
    verify_video: Path | None,
    allow_unfused: bool,
    kernels: bool,
    checkpoint: Path | None,
    quiet: bool,
    **export: Any,
) -> None:
    """Build the engines of a model's graphs and put them into its bundle.

    MODEL is a bundle's folder, the name of an installed model, or a checkpoint, which is converted
    first (the options of to_onnx.py are taken, too). Every graph is compared with the fp32 one, and
    every engine checked for its fused kernels, before they are put in place.
    """
    from rich.console import Console

    from export.engines import build_engines
    from export.kernel_writer import require_triton
    from export.trt_builder import choose_flavour
    from r2rt.model.bundle import Bundle

    console = Console(stderr=True, highlight=False, quiet=quiet)
    targets = tuple(target.split(",")) if target else ()
    weights = _weights(context, model, checkpoint, kernels=kernels)
    # What cannot be had is said before anything takes time.
    if kernels:
        require_triton()
    chosen = choose_flavour(flavour, targets)
    ranges = {"B": batch, "T": clips, "L": tokens, "N": queries}
    with console.status("reading") as status:

        def say(line: str) -> None:
            status.update(line)
            console.print(line, soft_wrap=True, markup=False)

        say(f"{chosen.name} {chosen.version} for {', '.join(chosen.targets)}: {chosen.reason}")
        bundle = Bundle.open(_bundle_path(context, model, verify_video, export, say))
        launched = None
        if weights is not None:
            launched = _add_kernels(bundle, weights, chosen, say, status.update)
            bundle = Bundle.open(bundle.path)
        built = build_engines(
            bundle,
            chosen,
            precision=precision,
            ranges={name: sizes for name, sizes in ranges.items() if sizes is not None},
            frames=None if verify_video is None else _read_frames(verify_video, bundle),
            heads=None if launched is None else launched.heads,
            allow_unfused=allow_unfused,
            timing_cache=timing_cache or _timings_of(chosen),
            say=say,
            step=status.update,
        )
    for engine in built:
        _print_summary(console, engine)


to_trt.params += [option for option in to_onnx.params if option.name in _FROM_TO_ONNX]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(to_trt, Path(__file__).name, arguments, cut="what was not finished was removed.")


def _timings_of(chosen: Flavour) -> Path:
    """Return where TensorRT keeps what it measured: a file a version and a model of GPU.

    Two models of one compute capability (an L4 and an RTX 4090) differ in which kernel is fastest.
    """
    from r2rt.cache.folder import cache_dir
    from r2rt.engines.gpu import find_gpu
    from r2rt.errors import BackendUnavailableError

    try:
        gpu = find_gpu().name
    except BackendUnavailableError:
        gpu = "no-gpu"
    model = re.sub(r"[^A-Za-z0-9]+", "-", gpu).strip("-")
    name = f"tensorrt-{chosen.version}-{model}-{'-'.join(chosen.targets)}.timing"
    return cache_dir() / "engines" / name


def _bundle_path(
    context: click.Context,
    model: str,
    verify_video: Path | None,
    export: dict[str, Any],
    say: Any,
) -> Path:
    """Return the bundle's folder; a checkpoint is converted first."""
    if Path(model).is_file():
        from export.exporter import export_bundle

        unit_s = export.pop("unit")
        exported = export_bundle(model, unit_s=unit_s, verify_video=verify_video, say=say, **export)
        return exported.path
    given = [
        option.opts[0]
        for option in to_trt.params
        if option.name in _FROM_TO_ONNX and export[option.name or ""]
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: only a checkpoint is converted, and {model} is no file", context
        )
    from r2rt.model.installed import resolve

    return resolve(model)


def _weights(
    context: click.Context, model: str, checkpoint: Path | None, *, kernels: bool
) -> Path | None:
    """Return the checkpoint that kernels are made of; None if none are."""
    if checkpoint is not None and (not kernels or Path(model).is_file()):
        raise click.UsageError("--checkpoint goes with --kernels and a bundle", context)
    if not kernels:
        return None
    if checkpoint is None and not Path(model).is_file():
        raise click.UsageError("--kernels needs the --checkpoint that the bundle was made of")
    return checkpoint or Path(model)


def _add_kernels(
    bundle: Bundle, checkpoint: Path, flavour: Flavour, say: Any, step: Any
) -> KernelGraphs:
    """Put compiled kernels and their launches into a bundle, for every target that has any."""
    from export.kernel_writer import TARGETS, store_kernels
    from export.launches import kernel_graphs

    graphs = kernel_graphs(bundle, checkpoint)
    served = {x for target in flavour.targets for x in flavour.capabilities(target)}
    targets = [x for x in TARGETS if f"{x // 10}.{x % 10}" in served]
    say(f"compiling kernels for {', '.join(f'sm_{x}' for x in targets) or 'none of the targets'}")
    store_kernels(bundle, targets=targets, more=graphs.variants, files=graphs.files, say=step)
    return graphs


def _read_frames(video: Path, bundle: Bundle) -> NDArray[np.uint8]:
    """Return the first frames (T, S, S, 3) that the runtime would take of a video."""
    import numpy as np

    from r2rt.errors import NoFramesError
    from r2rt.video import open_source

    with open_source(str(video), fps=bundle.fps, image_size=bundle.dims.image_size) as source:
        pixels = [frame.pixels for frame in itertools.islice(source, _VIDEO_FRAMES)]
    if not pixels:
        raise NoFramesError(f"{video}: not one frame could be decoded; name another --verify-video")
    return np.stack(pixels)


def _print_summary(console: Console, engine: BuiltEngine) -> None:
    from rich.table import Table

    table = Table("plan", "size", "sha256", "fused attention", "int8", "of tolerance")
    for graph, plan in engine.manifest.plans.items():
        worst = max(plan.checks, key=lambda check: check.error)
        table.add_row(
            graph,
            f"{plan.file.size / 1e6:.1f} MB",
            plan.file.sha256[:8],
            str(plan.kernels["attention"]),
            f"{plan.kernels['int8_products']}/{plan.kernels['products']}",
            f"{worst.error:.2g}",
        )
    console.print(table)
    console.print(str(engine.path), soft_wrap=True)


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main())
