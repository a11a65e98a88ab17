"""The model that is measured: one bundle, and the same weights for the baseline.

Without a bundle of one's own the model has the published sizes (ViT-B/32, R² width 256) and random
weights, which cost the same to run. Both are made once and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from r2rt.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.harness import Options
    from training.clip import ClipConfig, ClipTowers

__all__ = ["ModelChoice", "Workload", "load_towers", "model_options", "prepare", "queries"]

SEED = 0


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """What the user named: folders and files, or None for the random model.

    Attributes:
        bundle: the bundle in fp32.
        int8: a quantised bundle of the same weights.
        checkpoint: the R² checkpoint that the bundle was exported from.
        clip: its CLIP, as `training.clip.load_clip` takes it.
    """

    bundle: Path | None
    int8: Path | None
    checkpoint: Path | None
    clip: str | None


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A bundle and what the baseline builds the same model from.

    Attributes:
        bundle: the bundle in fp32.
        int8: a quantised bundle, if one was named.
        checkpoint: the R² weights; None where the baseline cannot be built.
        clip: the CLIP weights as `load_towers` reads them; None likewise.
        without_baseline: why not; None where it can.
    """

    bundle: Path
    int8: Path | None
    checkpoint: Path | None
    clip: Path | None
    without_baseline: str | None

    @property
    def bundles(self) -> dict[str, Path]:
        """The bundles by precision, fp32 first."""
        return {"fp32": self.bundle} | ({"int8": self.int8} if self.int8 else {})

    def baseline_arguments(self) -> list[str]:
        """Return the arguments of `baseline.py` for these weights."""
        assert self.checkpoint is not None
        assert self.clip is not None
        return [
            *("--bundle", str(self.bundle)),
            *("--checkpoint", str(self.checkpoint)),
            *("--clip", str(self.clip)),
        ]


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `ModelChoice`, which the command gets as one argument `model`."""
    import functools

    @functools.wraps(command)
    def gathered(
        bundle: Path | None,
        int8: Path | None,
        checkpoint: Path | None,
        clip: str | None,
        **others: Any,
    ) -> None:
        choice = ModelChoice(bundle=bundle, int8=int8, checkpoint=checkpoint, clip=clip)
        command(model=choice, **others)

    folder = click.Path(path_type=Path, exists=True, file_okay=False)
    file = click.Path(path_type=Path, exists=True, dir_okay=False)
    decorators = (
        click.option(
            "--bundle", type=folder, help="Bundle in fp32.  [default: random, of published size]"
        ),
        click.option("--int8", type=folder, help="Quantised bundle of the same weights."),
        click.option("--checkpoint", type=file, help="Checkpoint that the bundle was made from."),
        click.option("--clip", help="Its CLIP.  [default: what the bundle says]"),
    )
    wrapped: Callable[..., None] = gathered
    for decorator in reversed(decorators):
        wrapped = decorator(wrapped)
    return wrapped


def prepare(model: ModelChoice, options: Options) -> Workload:
    """Return the model to measure, made if it is not there.

    A quick run has a tiny model, unless a bundle is named.

    Raises:
        click.UsageError: the checkpoint or the int8 bundle that was named belongs to another model.
    """
    if model.bundle is None:
        workload = _random(options.media, tiny=options.quick, int8=model.int8)
    else:
        workload = _named(model, model.bundle, options.media)
    if workload.int8 is not None:
        _check_int8(workload.int8, workload.bundle)
    return workload


def _check_int8(int8: Path, bundle: Path) -> None:
    """Refuse figures of two models side by side; that both answer alike was found out before."""
    from r2rt.model.bundle import Bundle
    from r2rt.model.manifest import read_manifest

    report = read_manifest(int8).quantization
    if report is None or report.origin != Bundle.open(bundle).fingerprint:
        raise click.UsageError(f"{int8} is not an int8 form of {bundle}")
    if not all(figure.passed for figure in report.figures):
        raise click.UsageError(f"{int8} does not answer as {bundle} does")


def load_towers(path: Path) -> ClipTowers:
    """Read what `save_towers` wrote."""
    from safetensors import safe_open

    from training.clip import ClipConfig, ClipTowers

    with safe_open(str(path), framework="pt") as file:
        config = msgspec.json.decode(file.metadata()["config"], type=ClipConfig)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    towers = ClipTowers(config)
    towers.load_state_dict(state)
    return towers


def save_towers(towers: ClipTowers, path: Path) -> None:
    """Write towers as a file that loads as fast as a published one would."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        state = {name: tensor.contiguous() for name, tensor in towers.state_dict().items()}
        config = msgspec.json.encode(towers.config).decode()
        save_file(state, temporary, metadata={"config": config})


def queries(count: int, *, start: int = 0) -> list[str]:
    """Return as many different sentences of 8 to 12 words, the same for the same arguments."""
    who = ("a man", "a woman", "a rabbit", "two children", "the tall chef", "a small grey dog")
    what = ("walks across", "runs through", "jumps over", "looks around", "stands still in")
    where = ("the green meadow", "a crowded street", "the kitchen", "a room full of old books")
    when = ("in the morning", "as it begins to rain", "while others watch", "after the sun has set")
    sentences = []
    for number in range(start, start + count):
        rest, words = number, []
        for choices in (who, what, where, when):
            rest, place = divmod(rest, len(choices))
            words.append(choices[place])
        sentences.append(" ".join(words) + (f" {rest}" if rest else ""))
    return sentences


def _random(folder: Path, *, tiny: bool, int8: Path | None) -> Workload:
    home = folder / ("model-tiny" if tiny else "model-full")
    bundle, checkpoint, clip = home / "bundle", home / "r2.pth", home / "clip.safetensors"
    if not (bundle / "bundle.json").exists():
        _make_random(home, tiny=tiny)
    return Workload(
        bundle=bundle, int8=int8, checkpoint=checkpoint, clip=clip, without_baseline=None
    )


def _make_random(home: Path, *, tiny: bool) -> None:
    import torch

    from export.exporter import export_bundle
    from training.clip import DEFAULT_ARCH, arch_config, random_towers
    from training.model import R2Config, R2Tuning

    home.mkdir(parents=True, exist_ok=True)
    config = _tiny_clip() if tiny else arch_config(DEFAULT_ARCH)
    towers = random_towers(config, SEED)
    torch.manual_seed(SEED)
    model = R2Tuning(
        R2Config(
            width=64 if tiny else 256,
            vision_width=config.vision_width,
            text_width=config.text_width,
        )
    )
    with torch.no_grad():
        # Parameters that start at constants would hide a mistake from the comparison.
        for name, parameter in model.named_parameters():
            spread = 0.5 if name in {"adapter.gate", "adapter.scale", "coef"} else 0.02
            parameter.add_(spread * torch.randn_like(parameter))
    checkpoint = home / "r2.pth"
    torch.save({"meta": {}, "state_dict": model.state_dict()}, checkpoint)
    save_towers(towers, home / "clip.safetensors")
    export_bundle(
        checkpoint,
        home / "bundle",
        clip=towers,
        name="random-tiny" if tiny else "random-full",
        recipe="qvhighlights",
        force=True,
    )


def _tiny_clip() -> ClipConfig:
    from training.clip import ClipConfig

    return ClipConfig(
        name="tiny",
        image_size=64,
        patch_size=16,
        vision_width=64,
        vision_layers=4,
        vision_heads=2,
        vision_mlp_width=128,
        text_width=16,
        text_layers=4,
        text_heads=2,
        text_mlp_width=32,
    )


def _named(model: ModelChoice, bundle: Path, folder: Path) -> Workload:
    from r2rt.model.manifest import read_manifest

    provenance = read_manifest(bundle).provenance
    without: str | None = None
    clip: Path | None = None
    if model.checkpoint is None:
        without = f"name the checkpoint of {bundle} ({provenance.checkpoint}) with --checkpoint"
    elif (problem := _other_checkpoint(model.checkpoint, provenance.checkpoint_sha256)) is not None:
        raise click.UsageError(problem)
    else:
        clip = _kept_clip(model.clip or provenance.clip, provenance.clip_sha256, folder)
    return Workload(
        bundle=bundle,
        int8=model.int8,
        checkpoint=model.checkpoint,
        clip=clip,
        without_baseline=without,
    )


def _other_checkpoint(checkpoint: Path, sha256: str) -> str | None:
    import hashlib

    found = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    if found == sha256:
        return None
    return f"{checkpoint} has sha256 {found[:16]}, the bundle was made from {sha256[:16]}"


def _kept_clip(spec: str, sha256: str, folder: Path) -> Path:
    import hashlib

    from training.clip import load_clip

    key = hashlib.sha256(f"{spec} {sha256}".encode()).hexdigest()[:16]
    path = folder / f"clip-{key}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_towers(load_clip(spec), path)
    return path
