"""Extra supervision of the R² block: where a thing is, and what it does.

A moment is a weak sign of why it is one: that a dog is on screen, that it goes left, that left was
asked for. Whoever made the videos knows all three at every clip. So small heads, which are thrown
away after training, must read them from the clips that the block gives: then the answers' own heads
find them there. Without that, motion is learned last: CLIP does not see it, and hidden states that
are mapped to what a frame is called have lost where things are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from training.demo.settings import FPS
from training.model import R2Output, R2Tuning
from training.world.claims import Claim
from training.world.scenes import Actor, Motion, Pose
from training.world.videos import Query, Video

__all__ = ["Guide", "Hints", "collate_hints", "hints_of"]

_MOTIONS = tuple(Motion)
_IGNORED = -100


@dataclass(frozen=True, kw_only=True, eq=False)
class Hints:
    """What is true of a query at every clip; of a batch, all have a first axis B.

    Attributes:
        shown: whether anything, and whether everything, that the query names is on screen, (T, 2);
            what things do is left out of it. -1 where padded.
        place: centre and size of the thing, as shares of the image's side, (T, 3); NaN where it
            is not on screen, where two are named, and where padded.
        motion: what it does, as an index of `Motion`, (T,); -100 where `place` is NaN.
        asked: the motion that the query speaks of, "still" where it speaks of none, ().
    """

    shown: Tensor
    place: Tensor
    motion: Tensor
    asked: Tensor


class Guide(nn.Module):
    """Heads that read the hints from a model's clips; in training alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shown = nn.Linear(width, 2)
        self.place = nn.Linear(width, 3)
        self.motion = nn.Conv1d(width, len(_MOTIONS), 3, padding=1)
        self.asked = nn.Linear(width, len(_MOTIONS))

    def forward(self, model: R2Tuning, output: R2Output, hints: Hints) -> dict[str, Tensor]:
        """Return the loss of each hint, weighted.

        Motion is read behind the class head's first convolution, which sees a clip's neighbours.
        """
        clips, real = output.video_emb, output.video_mask  # (B, T, D), (B, T)
        convolution = model.class_head.module[1]
        seen = convolution(clips.masked_fill(~real[..., None], 0).transpose(1, 2)).relu()
        on_screen = hints.motion != _IGNORED
        shown = F.binary_cross_entropy_with_logits(
            self.shown(clips).float()[real], hints.shown[real]
        )
        place = self.place(clips).float()[on_screen] - hints.place[on_screen]
        motion = self.motion(seen).float().transpose(1, 2)[on_screen]
        asked = self.asked(clips).float()[real]
        return {
            "guide_shown": 0.5 * shown,
            "guide_place": place.abs().mean(),
            "guide_motion": 0.3 * F.cross_entropy(motion, hints.motion[on_screen]),
            "guide_asked": 0.2
            * F.cross_entropy(asked, hints.asked[:, None].expand(real.shape)[real]),
        }


def hints_of(video: Video, queries: Sequence[Query], clips: int) -> list[Hints]:
    """Return what is true of each query in the middle of each of a video's first clips."""
    times_s = [(clip + 0.5) / float(FPS) for clip in range(clips)]
    scenes = [video.at(time_s) for time_s in times_s]
    posed = [
        [
            (actor, phase.pose_at(time_s - timed.start_s), phase.motion)
            for actor in timed.scene.actors
            if (phase := actor.phase_at(time_s - timed.start_s)) is not None
        ]
        for time_s, timed in zip(times_s, scenes, strict=True)
    ]
    return [_hints(query.claim, posed) for query in queries]


def collate_hints(hints: Sequence[Hints]) -> Hints:
    """Pad the hints of several queries to those of a batch."""
    padding = {"shown": -1.0, "place": torch.nan, "motion": _IGNORED}
    padded = {
        name: pad_sequence([getattr(each, name) for each in hints], True, value)
        for name, value in padding.items()
    }
    return Hints(**padded, asked=torch.stack([each.asked for each in hints]))


def _hints(claim: Claim, posed: Sequence[Sequence[tuple[Actor, Pose, Motion]]]) -> Hints:
    shown = np.zeros((len(posed), 2), np.float32)
    place = np.full((len(posed), 3), np.nan, np.float32)
    motion = np.full(len(posed), _IGNORED, np.int64)
    for clip, things in enumerate(posed):
        named = [(pose, does) for actor, pose, does in things if claim.fits(actor)]
        if claim.other is not None:
            others = any(actor.thing.concept == claim.other for actor, *_ in things)
            shown[clip] = bool(named) or others, bool(named) and others
            continue
        shown[clip] = bool(named)
        if named:
            pose, does = max(named, key=lambda each: each[0].size)
            place[clip] = pose.x, pose.y, pose.size
            motion[clip] = _MOTIONS.index(does)
    asked = _MOTIONS.index(claim.motion or Motion.STILL)
    return Hints(
        shown=torch.from_numpy(shown),
        place=torch.from_numpy(place),
        motion=torch.from_numpy(motion),
        asked=torch.tensor(asked),
    )
