"""Sound as it is decoded, before it is written."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from r2rt.media.sound import _decoded

RATE = 8000


def test_a_gap_is_silence_of_its_length_in_pieces_of_a_second_at_most() -> None:
    frames = []
    for begin_s in (0, 60):
        samples = np.full((1, RATE), 0.5, np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = begin_s * RATE
        frames.append(frame)
    blocks = [block for block, _, _ in _decoded(iter(frames), Fraction(0), Fraction(90))]
    assert max(block.shape[1] for block in blocks) <= RATE
    loud = np.flatnonzero(np.concatenate(blocks, axis=1)[0])
    assert (loud[0], loud[-1]) == (0, 61 * RATE - 1)
    assert len(loud) == 2 * RATE
