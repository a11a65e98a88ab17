"""Compare every exported graph, and all of them together, with PyTorch.

The reference is `training.model` and `training.clip` as they are trained and evaluated, not the
modules that were exported: a mistake in a rearrangement shows here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.graphs import FrameTokens
from r2rt.model.contract import (
    GROUNDER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    ModelDims,
    graph_specs,
    query_inputs,
)
from r2rt.model.convert.check import TOLERANCES, Comparison, Tolerance, sample_frames
from r2rt.model.manifest import Check, Verification

if TYPE_CHECKING:
    from training.clip import ClipTowers
    from training.model import R2Tuning

__all__ = ["verify_graphs"]

Arrays = dict[str, NDArray[Any]]


_FRAME_BATCHES = (1, 2, 8)
_CLIPS = (1, 3, 8, 75)
_QUERIES = (1, 3)
_LENGTHS = (2, 9, 77)
_SEED = 20


def verify_graphs(
    files: Mapping[str, Path],
    model: R2Tuning,
    clip: ClipTowers,
    dims: ModelDims,
    *,
    video: NDArray[np.uint8] | None = None,
) -> Verification:
    """Run every check.

    Args:
        files: the ONNX file of each graph, by the graph's name.
        model: the checkpoint's model, in eval mode.
        clip: the towers.
        dims: sizes of the graphs.
        video: frames (T, S, S, 3) uint8 of a real video, to check on besides generated ones.
    """
    sources = {"pictures": sample_frames(12, dims.image_size)}
    if video is not None:
        sources["video"] = video
    runner = _Runner(files)
    with torch.inference_mode():
        checks = _Checker(runner, model.eval(), clip.eval(), dims, sources).run()
    return Verification(passed=all(check.passed for check in checks), checks=checks)


class _Runner:
    """ONNX Runtime sessions on the CPU, as the runtime opens them."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._sessions = {
            name: onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            for name, path in files.items()
        }

    def __call__(self, graph: str, **inputs: Tensor) -> dict[str, Tensor]:
        session = self._sessions[graph]
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {name: x.contiguous().numpy() for name, x in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


class _Checker:
    def __init__(
        self,
        runner: _Runner,
        model: R2Tuning,
        clip: ClipTowers,
        dims: ModelDims,
        sources: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        self.run_graph = runner
        self.model, self.clip, self.dims = model, clip, dims
        self.read = model.config.read
        self.frame_tokens = FrameTokens(model)
        self.frames = {name: torch.from_numpy(x) for name, x in sources.items()}
        # Computed once: the towers are what takes time.
        self.hidden = {
            name: clip.encode_video(frames, self.read) for name, frames in self.frames.items()
        }
        self.random = torch.Generator().manual_seed(_SEED)

    def run(self) -> tuple[Check, ...]:
        comparisons = self.video_encoder() + self.text_encoder() + self.grounder()
        if self.dims.use_tef:
            comparisons += self.video_finalizer()
        comparisons += self.bundle()
        return tuple(comparison.check() for comparison in comparisons)

    def video_encoder(self) -> list[Comparison]:
        """Compare p (or v), mean and M2 apart: their scales differ by orders of magnitude."""
        parts = ("p", "mean", "M2") if self.dims.use_tef else ("v",)
        sizes = [self.dims.width] + [1] * (len(parts) - 1)
        found = [Comparison(f"video_encoder {x}", TOLERANCES[VIDEO_ENCODER]) for x in parts]
        embedding = Comparison("video_encoder embedding", TOLERANCES[VIDEO_ENCODER])

        def compare(frames: Tensor) -> None:
            # With the last block's states, which the embedding is of.
            hidden = self.clip.encode_video(frames, (*self.read, -1))
            got, want = self._encode(frames), self.frame_tokens(hidden[:, :-1])
            for comparison, x, y in zip(
                found,
                torch.split(got["tokens"], sizes, -1),
                torch.split(want, sizes, -1),
                strict=True,
            ):
                comparison.add(x, y)
            if self.dims.embedding_width is not None:
                embedding.add(got["embedding"], self.clip.embed_frames(hidden))

        for frames in self.frames.values():
            compare(frames)
        side = self.dims.image_size
        for batch in _FRAME_BATCHES:
            shape = (batch, side, side, 3)
            frames = torch.randint(0, 256, shape, generator=self.random).to(torch.uint8)
            compare(frames)
        return found + [embedding] * (self.dims.embedding_width is not None)

    def video_finalizer(self) -> list[Comparison]:
        found = Comparison("video_finalizer", TOLERANCES[VIDEO_FINALIZER])
        for clips in _CLIPS:
            hidden = self._random_hidden(clips)
            found.add(self._finalize(self.frame_tokens(hidden)), self._mapped(hidden))
        for hidden in self.hidden.values():
            found.add(self._finalize(self.frame_tokens(hidden)), self._mapped(hidden))
        return [found]

    def text_encoder(self) -> list[Comparison]:
        found = {
            output.name: Comparison(f"text_encoder {output.name}", TOLERANCES[TEXT_ENCODER])
            for output in graph_specs(self.dims)[TEXT_ENCODER].outputs
        }
        for queries in _QUERIES:
            for length in self._lengths():
                ids, mask = self._random_query(queries, length)
                got = self.run_graph(TEXT_ENCODER, token_ids=ids, query_mask=mask)
                for name, want in self._encoded_text(ids, mask).items():
                    found[name].add(got[name], want)
        return list(found.values())

    def grounder(self) -> list[Comparison]:
        found = self._answer_comparisons("grounder", TOLERANCES[GROUNDER])
        for clips in _CLIPS:
            for queries in _QUERIES:
                for length in self._lengths():
                    video = self._random_hidden(clips)
                    text = torch.randn(
                        (queries, self.dims.layers, length, self.model.config.text_width),
                        generator=self.random,
                    )
                    _, mask = self._random_query(queries, length)
                    query = self._query_tokens(text, mask)
                    v = self._mapped(video)
                    got = self.run_graph(
                        GROUNDER,
                        v=v,
                        patch_bias=torch.zeros(v.shape[:-1]),
                        query_mask=mask,
                        **query,
                    )
                    self._compare_answers(found, got, video, text, mask)
        return list(found.values())

    def bundle(self) -> list[Comparison]:
        """From pixels and token ids to the answers, each graph fed with what the others gave."""
        found = self._answer_comparisons("bundle", TOLERANCES["bundle"])
        for name, frames in self.frames.items():
            v = self._finalize(self._encode(frames)["tokens"])
            for queries in _QUERIES:
                ids, mask = self._random_query(queries, min(12, self.dims.context_length))
                query = self.run_graph(TEXT_ENCODER, token_ids=ids, query_mask=mask)
                got = self.run_graph(
                    GROUNDER,
                    v=v,
                    patch_bias=torch.zeros(v.shape[:-1]),
                    query_mask=mask,
                    **query_inputs(query),
                )
                text = self.clip.encode_text(ids, self.read, mask.sum(dim=1).long())
                self._compare_answers(found, got, self.hidden[name], text, mask)
        return list(found.values())

    def _answer_comparisons(self, name: str, tolerance: Tolerance) -> dict[str, Comparison]:
        outputs = ["class_logits", "saliency"] + ["offsets"] * self.dims.has_offsets
        return {output: Comparison(f"{name} {output}", tolerance) for output in outputs}

    def _compare_answers(
        self,
        found: Mapping[str, Comparison],
        got: Mapping[str, Tensor],
        video: Tensor,
        text: Tensor,
        mask: Tensor,
    ) -> None:
        """Compare with the whole model on hidden states (T, K, P, Cv) and (N, K, L, Ct)."""
        queries = len(text)
        want = self.model(
            video[None].expand(queries, -1, -1, -1, -1),
            text.transpose(1, 2),
            query_mask=mask > 0,
        )
        for name, comparison in found.items():
            comparison.add(got[name], getattr(want, name))

    def _encode(self, frames: Tensor) -> dict[str, Tensor]:
        parts = [self.run_graph(VIDEO_ENCODER, frames=part) for part in torch.split(frames, 8)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _finalize(self, tokens: Tensor) -> Tensor:
        if not self.dims.use_tef:
            return tokens
        endpoints = _endpoints(len(tokens))
        return self.run_graph(VIDEO_FINALIZER, tokens=tokens, endpoints=endpoints)["v"]

    def _mapped(self, hidden: Tensor) -> Tensor:
        """Return v (T, K, P, D) of hidden states (T, K, P, Cv), by the model's own map."""
        endpoints = _endpoints(len(hidden))[None] if self.dims.use_tef else None
        layers = [
            self.model.adapter.map_video(hidden[None, :, layer], endpoints)[0]
            for layer in range(self.dims.layers)
        ]
        return torch.stack(layers, dim=1)

    def _encoded_text(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        lengths, most = mask.sum(dim=1).long(), self.clip.config.context_length
        # At full length, as the embedding may be of the last position.
        padded = torch.nn.functional.pad(ids, (0, most - ids.shape[1]))
        hidden = self.clip.encode_text(padded, (*self.read, -1), lengths)
        found = self._query_tokens(hidden[:, :-1, : ids.shape[1]], mask)
        if self.dims.embedding_width is not None:
            found["embedding"] = self.clip.embed_texts(hidden, lengths)
        return found

    def _query_tokens(self, text: Tensor, mask: Tensor) -> dict[str, Tensor]:
        adapter = self.model.adapter
        q = adapter.query_map(text)
        q_key = adapter.q_map(q) @ adapter.v_map.weight / math.sqrt(self.dims.width)
        return {"q": q, "q_key": q_key, "pooled": self.model.pooling(q[:, 0], mask > 0)}

    def _random_hidden(self, clips: int) -> Tensor:
        shape = (clips, self.dims.layers, self.dims.patches, self.model.config.vision_width)
        return torch.randn(shape, generator=self.random)

    def _random_query(self, queries: int, length: int) -> tuple[Tensor, Tensor]:
        """Token ids and a mask, (N, L): the first query fills its row, others end earlier."""
        vocabulary = self.clip.config.vocab_size
        ids = torch.randint(0, vocabulary, (queries, length), generator=self.random)
        ends = [max(1, length - 3 * row) for row in range(queries)]
        mask = (torch.arange(length) < torch.tensor(ends)[:, None]).to(torch.float32)
        return ids, mask

    def _lengths(self) -> Sequence[int]:
        return sorted({min(length, self.dims.context_length) for length in _LENGTHS})


def _endpoints(clips: int) -> Tensor:
    index = torch.arange(clips + 1, dtype=torch.float32) / clips
    return torch.stack([index[:-1], index[1:]], dim=-1)
