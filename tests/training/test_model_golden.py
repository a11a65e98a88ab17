from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden_data import INFERENCE, assert_golden, assert_inference, ground, load_arrays
from training.checkpoint import build_model
from training.model import decode_boundaries

CASES = [
    ("moment.pth", "moment_t5.npz"),
    ("moment.pth", "moment_t12.npz"),
    *(("moment.pth", f"stretch_t{clips}.npz") for clips in (10, 15, 23, 31)),
    ("highlight.pth", "highlight_t11.npz"),
    ("patch16.pth", "patch16_t6.npz"),
]


@pytest.mark.parametrize(("checkpoint", "golden"), CASES)
def test_outputs_equal_the_original_implementation(
    golden_dir: Path, checkpoint: str, golden: str
) -> None:
    assert_inference(build_model(golden_dir / checkpoint), load_arrays(golden_dir / golden))


@pytest.mark.shared("golden/mini/moment_t200.npz")
def test_many_clips_equal_the_original_and_the_best_50_are_kept(
    golden_dir: Path, shared: Path
) -> None:
    arrays = load_arrays(shared)
    assert arrays["boundary"].shape == (50, 3)
    assert_inference(build_model(golden_dir / "moment.pth"), arrays)


@pytest.mark.shared("golden/full")
@pytest.mark.parametrize(
    ("checkpoint", "golden"),
    [("moment.pth", "moment_t12.npz"), ("highlight.pth", "highlight_t11.npz")],
)
def test_published_widths_equal_the_original(shared: Path, checkpoint: str, golden: str) -> None:
    assert_inference(build_model(shared / checkpoint), load_arrays(shared / golden))


@pytest.mark.parametrize(
    "key",
    [
        "adapter.gate",
        "adapter.scale",
        "adapter.tem.self_att.m.bias",
        "pooling.att.weight",
        "coef",
        "pyramid.blocks.2.6.weight",
    ],
)
def test_a_slightly_wrong_weight_fails_the_comparison(golden_dir: Path, key: str) -> None:
    model = build_model(golden_dir / "moment.pth")
    with torch.no_grad():
        model.get_parameter(key).mul_(1.01)
    with pytest.raises(AssertionError):
        assert_inference(model, load_arrays(golden_dir / "moment_t12.npz"))


def test_the_order_of_clip_layers_matters(golden_dir: Path) -> None:
    arrays = load_arrays(golden_dir / "moment_t5.npz")
    arrays["video"] = np.ascontiguousarray(arrays["video"][:, ::-1])
    with pytest.raises(AssertionError):
        assert_inference(build_model(golden_dir / "moment.pth"), arrays)


def test_moments_are_the_points_with_the_best_scores(golden_dir: Path) -> None:
    arrays = load_arrays(golden_dir / "moment_t12.npz")
    output = ground(build_model(golden_dir / "moment.pth"), arrays)
    fps = float(arrays["fps"])
    (best,) = decode_boundaries(output, fps=fps, limit=3)
    assert_golden(best, arrays["boundary"][:3], INFERENCE, "the best 3")
    (slow,) = decode_boundaries(output, fps=fps / 2, limit=3)
    assert_golden(slow[:, :2], 2 * arrays["boundary"][:3, :2], INFERENCE, "half the rate")


def test_a_model_without_coordinate_head_finds_no_moments(golden_dir: Path) -> None:
    arrays = load_arrays(golden_dir / "highlight_t11.npz")
    output = ground(build_model(golden_dir / "highlight.pth"), arrays)
    assert output.offsets is None
    with pytest.raises(ValueError, match="no coordinate head"):
        decode_boundaries(output, fps=1.0)
