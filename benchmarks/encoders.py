"""What an encoder costs, before anyone trains on it: `python benchmarks/encoders.py NAME...`.

Of each architecture of open_clip: a model of its true shape with random weights; whether our towers
and the exported graphs give what open_clip's own model gives; megabytes in fp32 and int8; and
milliseconds a frame and a query on this machine. Each is made, and timed, in a process of its own.

The graphs are kept in --media, and `--make` ends when they are made. The file of results,
`benchmarks/results/encoders.json`, keeps the rows of models that were measured before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    # Run as a script: Python put this folder first, where the checkout belongs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_commit, describe_machine, describe_versions
from benchmarks.process import python, run_child
from r2rt.engines.onnx_runtime import sums_bytes_exactly
from r2rt.portable import usable_cores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.clip_config import ClipConfig
    from training.clip_towers import ClipTowers

NAMES = (
    "ViT-B-32-quickgelu",
    "ViT-B-16-quickgelu",
    "ViT-B-16-SigLIP2",
    "PE-Core-B-16",
    "ViT-B-32-SigLIP2-256",
    "ViT-L-14-quickgelu",
    "ViT-L-14-worldwide-quickgelu",
)
_RESULTS = Path(__file__).with_name("results") / "encoders.json"
_LAYERS, _WIDTH = 4, 256
_SECONDS, _MOST, _LEAST = 12.0, 40, 3
_QUERY_TOKENS = 12
_FRAMES_CALIBRATED = 8


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME")
    parser.add_argument("--media", type=Path, default=Path("/tmp/r2rt-encoders"))
    parser.add_argument("--make", action="store_true", help="make the graphs, time nothing")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="file of results")
    parser.add_argument("--one", choices=tuple(_STAGES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        [name] = options.names
        print(json.dumps(_STAGES[options.one](name, options.media / name)))
        return
    for name in options.names:
        folder = options.media / name
        facts = _kept(name, "make", folder) | _kept(name, "quantize", folder)
        if not options.make:
            _record(facts | _run(name, "time", folder), options.out)
    if not options.make:
        _show(options.out)


def _kept(name: str, stage: str, folder: Path) -> dict[str, Any]:
    """Return what a stage found, from its file where it was run before."""
    path = folder / f"{stage}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_run(name, stage, folder)))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _run(name: str, stage: str, folder: Path) -> dict[str, Any]:
    """Run a stage in a process of its own; return what it found and took."""
    print(f"{name}: {stage}", file=sys.stderr, flush=True)
    child = run_child(python("encoders.py", name, "--one", stage, "--media", folder.parent))
    found = _last_line(child.stdout)
    found |= {f"{stage}_cpu_s": child.cpu_s, f"{stage}_peak_mb": child.peak_rss_bytes / 1e6}
    return found


def _last_line(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def _make(name: str, folder: Path) -> dict[str, Any]:
    """Build a model of open_clip, ours from its weights, and the graphs; compare; return facts."""
    import open_clip
    import torch

    from export.graphs import TextEncoder, VideoEncoder
    from export.onnx_writer import module_weights
    from export.templates import model_dims, template_of
    from r2rt.model.contract import TEXT_ENCODER, VIDEO_ENCODER
    from r2rt.model.convert.template import write_graph
    from training.clip import towers_from_state_dict
    from training.clip_arch import arch_config
    from training.model import R2Config, R2Tuning

    folder.mkdir(parents=True, exist_ok=True)
    config = arch_config(name)
    torch.manual_seed(0)
    settings = dict(open_clip.get_model_config(name) or {})
    custom = settings.pop("custom_text", False)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**settings).eval()
    _shake(model)
    frames, ids, lengths = _inputs(config)
    wanted = _of_open_clip(model, config, frames, ids)
    state = model.state_dict()
    del model
    towers = towers_from_state_dict(config, state)
    del state
    found = _of_towers(towers, frames, ids, lengths)
    block = R2Tuning(
        R2Config(
            width=_WIDTH,
            layers=_LAYERS,
            vision_width=config.vision_width,
            text_width=config.text_width,
        )
    ).requires_grad_(False)
    dims = model_dims(block, towers)
    facts: dict[str, Any] = {
        "name": name,
        "image_px": config.image_size,
        "tokens": config.patches,
        "widths": [config.vision_width, config.text_width],
        "layers": [config.vision_layers, config.text_layers],
        "kb_a_clip": 4 * dims.layers * dims.patches * dims.token_width / 1000,
        "towers_error": {key: _error(found[key], wanted[key]) for key in wanted},
    }
    graph_inputs = {
        VIDEO_ENCODER: {"frames": frames.numpy()},
        TEXT_ENCODER: _text_inputs(ids, lengths, dims.context_length),
    }
    for graph, kind in ((VIDEO_ENCODER, VideoEncoder), (TEXT_ENCODER, TextEncoder)):
        path = folder / f"{graph}.onnx"
        module = kind(block, towers).eval()
        write_graph(template_of(graph, module, dims), module_weights(module), path)
        del module
        facts[f"{graph}_mb"] = (
            sum(file.stat().st_size for file in folder.glob(f"{path.name}*")) / 1e6
        )
        key = "frames" if graph == VIDEO_ENCODER else "texts"
        got = _session(path).run(["embedding"], graph_inputs[graph])[0]
        facts[f"{graph}_error"] = _error(got, wanted[key])
        inputs: dict[str, Any] = {**graph_inputs[graph]}
        np.savez(folder / f"{graph}.npz", **inputs)
    return facts


def _shake(model: nn.Module) -> None:
    """Give every parameter noise, so that no bias is 0 and no norm 1: a forgotten one shows."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() < 1 << 20:
                scale = 0.1 * float(parameter.std()) + 0.02 if parameter.numel() > 1 else 0.0
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def _inputs(config: ClipConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (2, S, S, 3) uint8, token ids (2, context) padded as the encoder was, and lengths."""
    import torch

    from r2rt.quality.made_frames import made_frames

    frames = torch.from_numpy(made_frames(1, 2, config.image_size, seed=1))
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([5, _QUERY_TOKENS])
    ids = torch.randint(5, config.vocab_size - 1, (2, config.context_length), generator=generator)
    # The end that open_clip looks for: the id of the tokenizer, or CLIP's, the highest.
    eos = _eos_id(config.name)
    ids[torch.arange(2), lengths - 1] = config.vocab_size - 1 if eos is None else eos
    padding = torch.arange(config.context_length) >= lengths[:, None]
    return frames, ids.masked_fill(padding, config.text.pad_id), lengths


def _eos_id(name: str) -> int | None:
    import open_clip

    found = (open_clip.get_model_config(name) or {})["text_cfg"].get("eos_id")
    return None if found is None else int(found)


def _of_open_clip(
    model: Any, config: ClipConfig, frames: Tensor, ids: Tensor
) -> dict[str, NDArray[np.float32]]:
    """Embeddings of frames and texts, and both towers' last hidden states but one."""
    import torch

    trunk = getattr(model.visual, "trunk", None)
    vision = model.visual.transformer.resblocks if trunk is None else trunk.blocks
    text = (model.text if hasattr(model, "text") else model).transformer.resblocks
    kept: dict[str, NDArray[np.float32]] = {}

    def keeper(key: str) -> Callable[..., None]:
        def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
            kept[key] = output.numpy()

        return keep

    hooks = [
        vision[-2].register_forward_hook(keeper("patches")),
        text[-2].register_forward_hook(keeper("words")),
    ]
    pixels = (frames / 255 - torch.tensor(config.mean)) / torch.tensor(config.std)
    with torch.inference_mode():
        kept["frames"] = model.encode_image(pixels.permute(0, 3, 1, 2)).numpy()
        kept["texts"] = model.encode_text(ids).numpy()
    for hook in hooks:
        hook.remove()
    patches = kept["patches"]
    kept["patches"] = patches[:, int(config.vision.class_token) :]
    return kept


def _of_towers(
    towers: ClipTowers, frames: Tensor, ids: Tensor, lengths: Tensor
) -> dict[str, NDArray[np.float32]]:
    import torch

    with torch.inference_mode():
        hidden = towers.encode_video(frames, 2)
        words = towers.encode_text(ids, 2, lengths)
        return {
            "patches": hidden[:, 0, 1:].numpy(),
            "words": words[:, 0].numpy(),
            "frames": towers.embed_frames(hidden).numpy(),
            "texts": towers.embed_texts(words, lengths).numpy(),
        }


def _error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _text_inputs(ids: Tensor, lengths: Tensor, most: int) -> dict[str, NDArray[Any]]:
    length = min(_QUERY_TOKENS, most)
    mask = np.arange(length) < lengths.numpy()[:, None]
    return {"token_ids": ids[:, :length].numpy(), "query_mask": mask.astype(np.float32)}


def _quantize(_name: str, folder: Path) -> dict[str, Any]:
    """Quantise every layer: size and speed. Weights that are random decide no gate."""
    from r2rt.model.onnx_graph import OnnxGraph
    from r2rt.quality.int8 import select

    facts: dict[str, Any] = {}
    for graph, output in (("video_encoder", "tokens"), ("text_encoder", "q")):
        with np.load(folder / f"{graph}.npz") as file:
            inputs = {name: file[name] for name in file.files}
        chosen = select(
            OnnxGraph.read(folder / f"{graph}.onnx"),
            [inputs],
            output=output,
            features=_WIDTH,
            budget=1.0,
            smooth=False,
            leave_out=False,
            say=lambda line: print(line, file=sys.stderr),
        )
        path = folder / f"{graph}.int8.onnx"
        chosen.graph.write(path)
        facts[f"{graph}_int8_mb"] = path.stat().st_size / 1e6
        facts[f"{graph}_int8_off"] = chosen.error
    return facts


def _time(_name: str, folder: Path) -> dict[str, Any]:
    """Milliseconds a frame and a query of every graph that is in the folder."""
    size = json.loads((folder / "make.json").read_text())["image_px"]
    found: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (1, size, size, 3), np.uint8)
    mask = np.ones((1, _QUERY_TOKENS), np.float32)
    query = {"token_ids": rng.integers(5, 300, mask.shape), "query_mask": mask}
    for precision in ("", ".int8"):
        for graph, inputs in (("video_encoder", {"frames": frame}), ("text_encoder", query)):
            path = folder / f"{graph}{precision}.onnx"
            if not path.is_file():
                continue
            session = _session(path)
            session.run(None, inputs)
            samples: list[float] = []
            began = time.perf_counter()
            while len(samples) < _LEAST or (
                len(samples) < _MOST and time.perf_counter() - began < _SECONDS
            ):
                start = time.perf_counter()
                session.run(None, inputs)
                samples.append(1000 * (time.perf_counter() - start))
            found[f"{graph}{precision.replace('.', '_')}_ms"] = statistics.median(samples)
            del session
    return found


def _session(path: Path) -> Any:
    """Open a graph as the runtime does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not sums_bytes_exactly():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _record(row: dict[str, Any], path: Path) -> None:
    """Put a model's row beside those of others."""
    known: dict[str, Any] = {}
    if path.is_file():
        known = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    known[row["name"]] = row | {"commit": describe_commit(), "machine": describe_machine()}
    record = {"benchmark": "encoders", "versions": describe_versions(), "rows": [*known.values()]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def _show(path: Path) -> None:
    """Print the rows of all models."""
    table = Table("encoder", "px", "tokens", "KB a clip", "MB", "MB int8", "ms a frame", "int8")
    for heading in ("ms a query", "int8", "error"):
        table.add_column(heading)
    for row in json.loads(path.read_text())["rows"]:
        table.add_row(*_cells(row))
    Console(width=150).print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    def number(key: str, digits: int = 0) -> str:
        return f"{row[key]:.{digits}f}" if key in row else "-"

    def both(suffix: str) -> str:
        return " + ".join(number(f"{graph}{suffix}") for graph in ("video_encoder", "text_encoder"))

    worst = max(
        *row["towers_error"].values(),
        row.get("video_encoder_error", 0.0),
        row.get("text_encoder_error", 0.0),
    )
    return [
        row["name"],
        str(row["image_px"]),
        str(row["tokens"]),
        number("kb_a_clip"),
        both("_mb"),
        both("_int8_mb"),
        number("video_encoder_ms"),
        number("video_encoder_int8_ms"),
        number("text_encoder_ms"),
        number("text_encoder_int8_ms"),
        f"{worst:.0e}",
    ]


_STAGES: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "make": _make,
    "quantize": _quantize,
    "time": _time,
}


if __name__ == "__main__":
    main()
