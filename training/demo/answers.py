"""Who answers the test queries: the model, as PyTorch or as a bundle, and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from r2rt.grounding.moments import boundaries_from_points, postprocess
from r2rt.model.manifest import Nms
from training.demo.settings import FPS
from training.demo.videos import encode_queries
from training.demo.warm_start import project_image, project_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from r2rt.grounding.grounder import Grounder
    from training.clip import ClipTowers
    from training.demo.testset import AskedVideo
    from training.model import R2Tuning

__all__ = [
    "NMS",
    "Answer",
    "Answerer",
    "BundleAnswerer",
    "CosineAnswerer",
    "ModelAnswerer",
    "RandomAnswerer",
]

NMS = Nms(kind="normal", iou_threshold=0.7)
MAX_MOMENTS = 50


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Moments (N, 3) best first: start s, end s, score; and a saliency for every clip, (T,)."""

    moments: NDArray[np.float64]
    saliency: NDArray[np.float64]


class Answerer(Protocol):
    """Answers sentences about a video."""

    def answer(
        self,
        video: AskedVideo,
        frames: NDArray[np.uint8],
        hidden: NDArray[np.float16],
        texts: Sequence[str],
    ) -> list[Answer]:
        """Answer each sentence.

        Args:
            video: the video; only the random guess looks at its truth.
            frames: the frame of every clip, (T, S, S, 3).
            hidden: CLIP's hidden states of these, (T, K, P, Cv).
            texts: the sentences.
        """


class ModelAnswerer:
    """The R² block in PyTorch on hidden states."""

    def __init__(self, model: R2Tuning, towers: ClipTowers) -> None:
        self._model, self._towers, self._read = model.eval(), towers, list(model.config.read)

    def answer(
        self,
        video: AskedVideo,
        frames: NDArray[np.uint8],
        hidden: NDArray[np.float16],
        texts: Sequence[str],
    ) -> list[Answer]:
        """See `Answerer`."""
        encoded = encode_queries(self._towers, texts)
        query = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)[:, :, self._read]
        lengths = torch.tensor([len(words) for words in encoded])
        states = torch.from_numpy(hidden)[None, :, self._read].float()
        with torch.no_grad():
            mask = torch.arange(query.shape[1]) < lengths[:, None]
            output = self._model(states, query, None, mask)
        assert output.offsets is not None
        found = []
        for logits, offsets, saliency in zip(
            output.class_logits, output.offsets, output.saliency, strict=True
        ):
            boundaries = boundaries_from_points(
                logits.numpy(),
                offsets.numpy(),
                num_clips=len(hidden),
                strides=self._model.config.strides,
                fps=FPS,
                max_moments=MAX_MOMENTS,
            )
            moments = postprocess(
                boundaries, duration_s=video.video.duration_s, unit_s=None, nms=NMS
            )
            found.append(Answer(moments=moments, saliency=saliency.double().numpy()))
        return found


class BundleAnswerer:
    """The bundle as it is shipped, from pixels to moments."""

    def __init__(self, grounder: Grounder) -> None:
        self._grounder = grounder

    def answer(
        self,
        video: AskedVideo,
        frames: NDArray[np.uint8],
        hidden: NDArray[np.float16],
        texts: Sequence[str],
    ) -> list[Answer]:
        """See `Answerer`."""
        encoded = self._grounder.encode_frames(frames, Fraction(FPS))
        return [
            Answer(
                moments=np.array([(m.start_s, m.end_s, m.score) for m in found.moments]).reshape(
                    -1, 3
                ),
                saliency=found.saliency.astype(np.float64),
            )
            for found in self._grounder.ground(encoded, list(texts))
        ]


class CosineAnswerer:
    """No training but CLIP's: runs of frames that are like the sentence.

    The cosine of every frame with the sentence, from CLIP's own projections, is smoothed over
    three frames; moments are what stays above levels between its least and its greatest value, and
    a moment's score is how far its mean lies above the rest.
    """

    _LEVELS = (0.5, 0.4, 0.6, 0.3, 0.7)

    def __init__(self, towers: ClipTowers, tensors: Mapping[str, Tensor]) -> None:
        """Take the towers, and the weights in open_clip's names, the projections among them."""
        self._towers, self._tensors = towers, tensors

    def answer(
        self,
        video: AskedVideo,
        frames: NDArray[np.uint8],
        hidden: NDArray[np.float16],
        texts: Sequence[str],
    ) -> list[Answer]:
        """See `Answerer`."""
        image = project_image(torch.from_numpy(hidden[:, -1, 0]), self._tensors)
        ends = torch.stack([words[-1, -1] for words in encode_queries(self._towers, texts)])
        text = project_text(ends, self._tensors)
        image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
        cosines = (text @ image.T).double().numpy()
        return [self._moments(row, video.video.duration_s) for row in cosines]

    def _moments(self, cosine: NDArray[np.float64], duration_s: float) -> Answer:
        padded = np.pad(cosine, 1, mode="edge")
        smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
        low, high = smooth.min(), smooth.max()
        clip_s = float(1 / FPS)
        rows: dict[tuple[float, float], float] = {}
        for rank, level in enumerate(self._LEVELS):
            above = smooth >= low + level * (high - low)
            start = 0
            for on, run in groupby(above):
                end = start + len(list(run))
                if on:
                    rest = np.delete(smooth, np.s_[start:end])
                    contrast = smooth[start:end].mean() - (rest.mean() if len(rest) else low)
                    span = (start * clip_s, min(end * clip_s, duration_s))
                    # The middle level is the answer; what other levels find comes behind it.
                    rows.setdefault(span, contrast - 2 * rank)
                start = end
        moments = np.array([(*span, score) for span, score in rows.items()])
        return Answer(moments=moments[np.argsort(-moments[:, 2])], saliency=cosine)


class RandomAnswerer:
    """A guess: a span as long as a true moment, anywhere in the video."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def answer(
        self,
        video: AskedVideo,
        frames: NDArray[np.uint8],
        hidden: NDArray[np.float16],
        texts: Sequence[str],
    ) -> list[Answer]:
        """See `Answerer`."""
        spans = {query.text: query.spans_s for query in video.queries}
        found = []
        for text in texts:
            rows = []
            for rank in range(5):
                true = spans.get(text) or ((0.0, video.video.duration_s / 4),)
                start_s, end_s = true[self._rng.integers(len(true))]
                begin_s = self._rng.uniform(0, video.video.duration_s - (end_s - start_s))
                rows.append((begin_s, begin_s + end_s - start_s, -float(rank)))
            found.append(Answer(moments=np.array(rows), saliency=self._rng.random(len(hidden))))
        return found
