"""The runtime in a process of its own, asked stage by stage, as `baseline.py` is.

    python benchmarks/ours.py --bundle B

Requests come on stdin and answers go to stdout, one JSON object a line.
"""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.process import serve
from r2rt.grounding.grounder import Grounder
from r2rt.video import open_source

if TYPE_CHECKING:
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.prediction import Prediction
    from r2rt.video import Sampling

__all__ = ["Ours"]

_IMPORT_S = time.perf_counter() - _BEGAN


class Ours:
    """The runtime's stages, each timed inside its process."""

    def __init__(self, bundle: Path) -> None:
        began = time.perf_counter()
        self._grounder = Grounder.load(bundle, device="cpu", precision=None)
        self._encoded: dict[tuple[str, str], EncodedVideo] = {}
        self._pixels: dict[str, NDArray[np.uint8]] = {}
        self.load_s = time.perf_counter() - began

    def warm_up(self) -> dict[str, Any]:
        """Open every graph."""
        self._grounder.warm_up()
        return {}

    def ground(
        self, video: str, queries: list[str], sampling: Sampling = "exact"
    ) -> dict[str, Any]:
        """Do everything, once; nothing that was kept is used."""
        began = time.perf_counter()
        encoded = self._grounder.encode(video, sampling=sampling)
        # As the baseline does, however long the video is.
        predictions = self._grounder.ground(encoded, queries, window=None)
        seconds = time.perf_counter() - began
        return self._answer(seconds, encoded, predictions)

    def encode_file(self, video: str, sampling: Sampling = "exact") -> dict[str, Any]:
        """Decode and encode, and keep the encoding for `query`."""
        began = time.perf_counter()
        encoded = self._grounder.encode(video, sampling=sampling)
        seconds = time.perf_counter() - began
        self._encoded = {(video, sampling): encoded}
        return {
            "seconds": seconds,
            "clips": encoded.num_clips,
            "token_bytes": encoded.tokens.nbytes,
        }

    def decode(self, video: str, sampling: Sampling = "exact") -> dict[str, Any]:
        """Index, plan, decode and resize alone."""
        began = time.perf_counter()
        with self._open(video, sampling) as source:
            clips = sum(frame.count for frame in source)
            report = source.report
        return {
            "seconds": time.perf_counter() - began,
            "clips": clips,
            "frames_decoded": report.frames_decoded,
            "packets": report.packets,
        }

    def encode(self, video: str) -> dict[str, Any]:
        """Encode alone, from images that are kept from the first call."""
        if video not in self._pixels:
            self._pixels = {video: self._pictures(video, "exact")}
        began = time.perf_counter()
        self._grounder.encode_frames(self._pixels[video], self._grounder.bundle.fps)
        return {"seconds": time.perf_counter() - began}

    def query(
        self,
        video: str,
        queries: list[str],
        sampling: Sampling = "exact",
        window: Literal["auto"] | None = None,
    ) -> dict[str, Any]:
        """Ask all queries in one batch about a video whose encoding is kept from the first call.

        The video is grounded as a whole, as the baseline does, or in the model's windows.
        """
        encoded = self._kept(video, sampling)
        began = time.perf_counter()
        predictions = self._grounder.ground(encoded, queries, window=window)
        return self._answer(time.perf_counter() - began, encoded, predictions)

    def finalize(self, video: str) -> dict[str, Any]:
        """Finalise the kept tokens alone."""
        tokens = self._kept(video, "exact").tokens
        began = time.perf_counter()
        self._grounder.finalize_tokens(tokens)
        return {"seconds": time.perf_counter() - began}

    def images(self, video: str, path: str, sampling: Sampling = "exact") -> dict[str, Any]:
        """Write what enters the encoder as an array (T, S, S, 3) uint8."""
        np.save(path, self._pictures(video, sampling))
        return {}

    def _kept(self, video: str, sampling: Sampling) -> EncodedVideo:
        if (video, sampling) not in self._encoded:
            self.encode_file(video, sampling)
        return self._encoded[video, sampling]

    def _open(self, video: str, sampling: Sampling) -> Any:
        bundle = self._grounder.bundle
        return open_source(
            video, fps=bundle.fps, image_size=bundle.dims.image_size, sampling=sampling
        )

    def _pictures(self, video: str, sampling: Sampling) -> NDArray[np.uint8]:
        with self._open(video, sampling) as source:
            return np.stack([frame.pixels for frame in source for _ in range(frame.count)])

    def _answer(
        self, seconds: float, encoded: EncodedVideo, predictions: list[Prediction]
    ) -> dict[str, Any]:
        timings = predictions[0].timings
        return {
            "seconds": seconds,
            "encode_s": encoded.encode_s,
            "text_s": timings.text_s,
            "ground_s": timings.ground_s,
            "clips": encoded.num_clips,
            "answers": [
                {
                    "boundaries": item.boundaries.tolist(),
                    "moments": [[m.start_s, m.end_s, m.score] for m in item.moments],
                    "saliency": item.saliency.tolist(),
                }
                for item in predictions
            ],
        }


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True)
def main(bundle: Path) -> None:
    """Answer requests on stdin."""
    ours = Ours(bundle)
    operations = (
        "warm_up",
        "ground",
        "encode_file",
        "decode",
        "encode",
        "query",
        "finalize",
        "images",
    )
    serve(
        {"import_s": _IMPORT_S, "load_s": ours.load_s},
        {name: getattr(ours, name) for name in operations},
    )


if __name__ == "__main__":
    main()
