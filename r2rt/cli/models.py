"""`r2rt models`: list, info, pull, quantize, export, import, verify, calibrate, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r2rt.cli.console import complain, note, print_table, printable, write_text
from r2rt.cli.first_run import fetch_model
from r2rt.cli.options import quiet_option
from r2rt.engines.choice import DEVICES
from r2rt.files import as_text
from r2rt.model.installed import INT8_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from r2rt.engines import Device
    from r2rt.model.bundle import Bundle
    from r2rt.model.contract import ModelDims
    from r2rt.model.installed import InstalledModel
    from r2rt.model.manifest import Figure, Manifest, QuantizationReport

__all__ = ["models"]

_format_option = click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or for programs.",
)


@click.group()
def models() -> None:
    """List, fetch, check and remove models."""


@models.command("list")
@_format_option
def list_models(format_: str) -> None:
    """List the installed models, and those that can be fetched."""
    from r2rt.model.installed import demo_model, installed, models_dir
    from r2rt.model.registry import PUBLISHED

    there = {model.name: model for model in installed()}
    demo = demo_model()
    if format_ == "json":
        _write_json(
            {
                "folder": as_text(models_dir()),
                "installed": [_record(model) for model in there.values()],
                "demo": _record(demo) if demo else None,
                "published": [
                    {"name": model.name, "summary": model.summary, "url": model.url}
                    for model in PUBLISHED.values()
                ],
            }
        )
        return
    rows = []
    for name in dict.fromkeys((*there, *PUBLISHED)):
        model = there.get(name)
        if model is None:
            state, size = "not installed", ""
        elif model.manifest is None:
            state, size = "damaged", ""
            _note(f"{name}: {model.problem}")
        else:
            state, size = f"installed, {model.manifest.precision}", _megabytes(model.size_bytes)
        summary = PUBLISHED[name].summary if name in PUBLISHED else ""
        rows.append((name, state, size, summary))
    if demo and demo.manifest and demo.name not in there:
        state = f"in the package, {demo.manifest.precision}"
        summary = "moments and saliency, a small world of emoji"
        rows.append((demo.name, state, _megabytes(demo.size_bytes), summary))
    print_table(("name", "state", "size", "what it finds"), rows)


@models.command()
@click.argument("model")
@_format_option
def info(model: str, format_: str) -> None:
    """Show a bundle's manifest. MODEL is a name or a bundle's folder."""
    from r2rt.model.bundle import Bundle
    from r2rt.model.installed import resolve
    from r2rt.model.pull import manifest_sha256

    bundle = Bundle.open(resolve(model), verify="never")
    pin = manifest_sha256(bundle.path)
    if format_ == "json":
        _write_json(
            {
                "path": as_text(bundle.path.absolute()),
                "fingerprint": bundle.fingerprint,
                "manifest_sha256": pin,
                "manifest": bundle.manifest,
            }
        )
        return
    print_table(("", ""), _described(bundle, pin))


@models.command()
@click.argument("name")
@click.option(
    "--from",
    "source",
    metavar="URL|DIR",
    help="A mirror that holds NAME/bundle.json and the files it lists, or a bundle's folder.",
)
@click.option(
    "--clip",
    envvar="R2RT_CLIP",  # which goes before the file of defaults
    metavar="FILE|DIR|URL",
    help="CLIP's weights: a file, its folder, or its address, instead of the published one.  "
    "[default: $R2RT_CLIP]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="int8 makes the int8 form as well, see `r2rt models quantize`.",
)
@click.option("--force", is_flag=True, help="Fetch it again if it is installed already.")
@quiet_option
def pull(
    name: str, source: str | None, clip: str | None, precision: str, force: bool, quiet: bool
) -> None:
    """Fetch and install a model.

    Without --from, the published checkpoint (some MB) and CLIP ViT-B/32 (up to 605 MB, once) are
    fetched from the hub ($HF_ENDPOINT, $HF_TOKEN) and converted here. A download that was cut off
    goes on where it stopped. NAME@SHA256 pins the manifest of a mirror to the hash that `r2rt
    models info` prints.
    """
    folder = fetch_model(name, source=source, clip=clip, force=force, quiet=quiet)
    if precision == "int8":
        _add_int8(folder, force=force, quiet=quiet)


@models.command()
@click.argument("model")
@click.option(
    "--frames",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="VIDEO|DIR",
    help="A video, or a folder of images or videos, for calibration and comparison; best of the "
    "kind that will be searched; repeatable.  [default: generated frames]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The new bundle's folder.  [default: installed]",
)
@click.option("--name", help="The new bundle's name.  [default: MODEL's name and -int8]")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@quiet_option
def quantize(
    model: str,
    frames: tuple[Path, ...],
    output: Path | None,
    name: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Make the int8 form of a model in fp32, and compare their answers.

    MODEL is a name or a bundle's folder. If the int8 form departs too far, nothing is written.
    """
    from r2rt.quality.quantizer import RefusedError, quantize_bundle

    try:
        done = quantize_bundle(
            model,
            output,
            calibration=frames,
            name=name,
            force=force,
            say=lambda line: note(line, quiet=quiet),
        )
    except RefusedError as error:
        _print_figures(error.figures)
        raise
    if not quiet:
        assert done.manifest.quantization is not None
        _print_figures(done.manifest.quantization.figures)


@models.command("export")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def export_model(name: str, file: Path) -> None:
    """Write an installed model to one FILE, for machines without a network."""
    from r2rt.model.carry import export_model as export

    digest = export(name, file)
    write_text(None, f"{digest}  {printable(str(file))}\n")
    _note(f"on the other machine: r2rt models import {file} --sha256 {digest[:16]}")


@models.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--sha256", metavar="HEX", help="The hash that `r2rt models export` printed.")
@quiet_option
def import_model(file: Path, sha256: str | None, quiet: bool) -> None:
    """Install a model from a FILE of `r2rt models export`."""
    from r2rt.model.carry import import_model as import_

    folder = import_(file, sha256=sha256)
    if not quiet:
        _note(f"{folder.name} is installed in {folder}")


@models.command()
@click.argument("model")
@click.option(
    "--against",
    metavar="MODEL",
    help="Also compare the answers of a quantised MODEL with this one, which it was made from.",
)
@click.option(
    "--video",
    "videos",
    multiple=True,
    help="A video, or a folder of images, to compare them on; repeatable.",
)
@click.option(
    "--query",
    "queries",
    multiple=True,
    help="A sentence to compare them on; repeatable.  [default: sixteen of all kinds]",
)
def verify(
    model: str, against: str | None, videos: tuple[str, ...], queries: tuple[str, ...]
) -> None:
    """Check every file's hash and open every graph.

    MODEL is a name or a bundle's folder. With --against and --video, repeat the comparison of a
    quantised model with its fp32 origin on videos of your own.
    """
    if bool(against) != bool(videos) or (queries and not against):
        raise click.UsageError(
            "a comparison needs both --against MODEL and --video VIDEO; --query is for it alone"
        )
    from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
    from r2rt.model.bundle import Bundle
    from r2rt.model.installed import resolve

    bundle = Bundle.open(resolve(model), verify="always")
    engine = OnnxRuntimeEngine(bundle)
    for graph in bundle.graphs:
        engine.open(graph)
        engine.release(graph)
    files, graphs = len(bundle.manifest.files), len(bundle.graphs)
    write_text(None, f"{printable(str(bundle.path))}: {files} files and {graphs} graphs are good\n")
    if against:
        _compare(bundle, against, videos, queries)


@models.command()
@click.argument("model")
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.jsonl",
    help='A file of lines {"video": ..., "query": ..., "belongs": true or false}, at least '
    "20 of each.",
)
@click.option(
    "--false-alarm",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.05,
    show_default=True,
    help="The accepted false alarm rate: the share of absent queries that are reported as present.",
)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="The device to run on.",
)
@click.option("--cache/--no-cache", default=True, help="Keep the encoded videos.")
@quiet_option
def calibrate(
    model: str, pairs: Path, false_alarm: float, device: Device, cache: bool, quiet: bool
) -> None:
    """Calibrate how a model decides that a query is not in a video.

    MODEL is a name or a bundle's folder. The queries of FILE are run on their videos. The statistic
    that best separates present queries from absent ones, and its threshold, are written into the
    bundle's manifest. The demo model of the package is copied to the installed models first.
    """
    from r2rt.cli.calibrate import calibrate_model

    calibrate_model(model, pairs, false_alarm=false_alarm, device=device, cache=cache, quiet=quiet)


@models.command()
@click.argument("name")
@quiet_option
def remove(name: str, quiet: bool) -> None:
    """Remove an installed model."""
    from r2rt.model.installed import remove as remove_model

    folder = remove_model(name)
    if not quiet:
        _note(f"{folder.name} is removed from {folder.parent}")


def _add_int8(folder: Path, *, force: bool, quiet: bool) -> None:
    """Make the int8 form of an installed model, unless it is there or the gate refuses it."""
    from r2rt.model.installed import int8_form
    from r2rt.quality.quantizer import RefusedError, quantize_bundle

    if int8_form(folder) is not None and not force:
        note(f"the int8 form of {folder.name} is installed", quiet=quiet)
        return
    try:
        quantize_bundle(
            folder,
            name=f"{folder.name}{INT8_SUFFIX}",
            force=True,
            say=lambda line: note(line, quiet=quiet),
        )
    except RefusedError as error:
        complain(f"{folder.name} stays in fp32: {error}")


def _compare(
    bundle: Bundle, against: str, videos: tuple[str, ...], queries: tuple[str, ...]
) -> None:
    from r2rt.errors import AccuracyError
    from r2rt.grounding.grounder import Grounder
    from r2rt.quality.agreement import QUERIES, compare, failures

    reference = Grounder.load(against, device="cpu", precision=None)
    report = bundle.manifest.quantization
    if report is not None and report.origin != reference.bundle.fingerprint:
        _note(f"{against} is not the bundle that {bundle.manifest.name} was made from")
    agreement = compare(
        reference,
        Grounder.load(bundle.path, device="cpu", precision=None),
        videos,
        queries=queries or QUERIES,
        say=_note,
    )
    _print_figures(agreement.figures)
    if not agreement.passed:
        raise AccuracyError(
            f"{bundle.manifest.name} differs too much from {reference.bundle.manifest.name} here: "
            f"{failures(agreement.figures)}; use the fp32 bundle for such videos"
        )


def _print_figures(figures: Iterable[Figure]) -> None:
    rows = [(x.name, f"{x.value:.4g}", _limit(x), "ok" if x.passed else "FAILED") for x in figures]
    print_table(("compared with fp32", "", "limit", ""), rows)


def _limit(figure: Figure) -> str:
    return f"{'≥' if figure.at_least else '≤'} {figure.limit:g}"


def _described(bundle: Bundle, pin: str) -> list[tuple[str, str]]:
    manifest = bundle.manifest
    dims, origin = manifest.dims, manifest.provenance
    predicts = "moments and saliency" if dims.has_offsets else "saliency"
    size = sum(entry.size for entry in manifest.files.values())
    return [
        ("name", manifest.name),
        ("folder", str(bundle.path.absolute())),
        ("predicts", predicts),
        ("precision", manifest.precision),
        ("clips", f"{manifest.fps} a second, {dims.image_size}×{dims.image_size} pixels"),
        ("boundaries", "unrounded" if manifest.unit_s is None else f"to {manifest.unit_s:g} s"),
        ("window", "unlimited" if manifest.window_s is None else f"{manifest.window_s:g} s"),
        ("suppression", _suppression(manifest)),
        ("CLIP", f"{manifest.clip}, {_layers(dims)}"),
        ("R² block", f"width {dims.width}, {manifest.heads} heads, strides {dims.strides}"),
        ("files", f"{len(manifest.files)}, {_megabytes(size)}"),
        ("recipe", origin.recipe or "unknown"),
        ("checkpoint", f"{origin.checkpoint} (sha256 {origin.checkpoint_sha256[:16]}…)"),
        ("CLIP weights", f"{origin.clip} (sha256 {origin.clip_sha256[:16]}…)"),
        ("weights", "random: for trying out only" if origin.random_weights else "trained"),
        *_licences(manifest),
        ("exporter", origin.exporter),
        ("verified", _verification(manifest)),
        *(_quantization(manifest.quantization) if manifest.quantization else ()),
        *_presence(manifest),
        ("fingerprint", bundle.fingerprint),
        ("pin", f"{bundle.path.absolute().name}@{pin}"),
    ]


def _layers(dims: ModelDims) -> str:
    if dims.read_layers is None:
        return f"last {dims.layers} layers"
    return f"layers {', '.join(map(str, dims.read_layers))}"


def _suppression(manifest: Manifest) -> str:
    nms = manifest.nms
    if nms.kind == "normal":
        return f"normal, IoU {nms.iou_threshold:g}"
    return nms.kind if nms.kind == "linear" else f"gaussian, sigma {nms.sigma:g}"


def _verification(manifest: Manifest) -> str:
    checks = manifest.verification.checks
    worst = max((check.error for check in checks), default=0.0)
    verdict = "passed" if manifest.verification.passed else "FAILED"
    against = {"pytorch": "PyTorch", "numpy": "the model in NumPy"}
    return (
        f"{verdict}, {len(checks)} checks against {against[manifest.verification.reference]}, "
        f"worst error {worst:.2g} of what is allowed"
    )


def _licences(manifest: Manifest) -> list[tuple[str, str]]:
    """Licences of the weights, where they are the published ones."""
    from r2rt.model.registry import CLIP_LICENCE, PUBLISHED, WEIGHTS_LICENCE

    if manifest.provenance.recipe not in PUBLISHED or manifest.provenance.random_weights:
        return []
    model = PUBLISHED[manifest.provenance.recipe]
    if not manifest.provenance.checkpoint_sha256.startswith(model.hash8):
        return []
    return [("licence", WEIGHTS_LICENCE), ("licence of CLIP", CLIP_LICENCE)]


def _quantization(report: QuantizationReport) -> list[tuple[str, str]]:
    kept = [f"{name} ({graph})" for graph, names in report.kept.items() for name in names]
    return [
        ("quantised", report.method),
        ("stay in fp32", ", ".join(kept) or "no layer of the encoders"),
        (
            "calibrated on",
            f"{', '.join(report.calibration)}: {report.frames} frames; compared with fp32 on "
            f"{report.clips} clips and {report.queries} queries",
        ),
        *((figure.name, f"{figure.value:.4g}, {_limit(figure)}") for figure in report.figures),
    ]


def _presence(manifest: Manifest) -> list[tuple[str, str]]:
    from r2rt.cli.calibrate import described_presence

    if manifest.presence is None:
        return [("not in this video", "not calibrated: every query is answered with moments")]
    return described_presence(manifest.presence)


def _record(model: InstalledModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "path": as_text(model.path),
        "size_bytes": model.size_bytes,
        "precision": model.manifest.precision if model.manifest else None,
        "problem": model.problem and as_text(model.problem),
    }


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB"


def _write_json(document: dict[str, Any]) -> None:
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    write_text(None, text + "\n")


def _note(line: str) -> None:
    complain(line)
