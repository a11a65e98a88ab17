from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import counts
from benchmarks.peaks import fp32_gemms, int8_gemms, measure_bandwidth
from benchmarks.process import python, run_child
from export.graphs import Grounder
from r2rt.model.contract import ModelDims
from tests.golden_data import one_thread
from training.clip_config import ClipConfig
from training.model import R2Config, R2Tuning

DIMS = ModelDims(
    image_size=224,
    patches=50,
    layers=4,
    width=256,
    context_length=77,
    strides=(1, 2, 4, 8),
    use_tef=True,
    has_offsets=True,
)
CLIP = ClipConfig(
    name="ViT-B/32",
    image_size=224,
    patch_size=32,
    vision_width=768,
    vision_layers=12,
    vision_heads=12,
    vision_mlp_width=3072,
    text_width=512,
    text_layers=12,
    text_heads=8,
    text_mlp_width=2048,
)


def test_products_are_right_to_rounding() -> None:
    for gemm in (*fp32_gemms(64), *int8_gemms(64)):
        assert "right" in gemm.check()
        assert gemm.flops == 2 * 64**3


def test_wrong_product_is_reported() -> None:
    gemm = fp32_gemms(64)[0]
    wrong = type(gemm)(
        name=gemm.name, flops=gemm.flops, run=lambda: gemm.run() * 1.01, expected=gemm.expected
    )
    with pytest.raises(AssertionError, match="is off by"):
        wrong.check()


def test_bandwidth_is_positive() -> None:
    assert measure_bandwidth(1, repeats=1) > 0


def test_encoder_counts_are_the_published_ones() -> None:
    # ViT-B/32 at 224 pixels is known as 4.4 GMACs an image.
    work = counts.video_encoder(DIMS, CLIP, 1)
    assert work.flops / 2 == pytest.approx(4.4e9, rel=0.02)
    assert work.weights == pytest.approx(87e6, rel=0.02)
    assert counts.video_encoder(DIMS, CLIP, 8).flops == 8 * work.flops


@pytest.mark.parametrize("clips", [1, 12, 75])
def test_grounder_counts_are_those_of_pytorch(clips: int) -> None:
    queries, length = 2, 5
    model = R2Tuning(R2Config()).eval()
    graph = Grounder(model)
    v = torch.zeros(clips, 4, 50, 256)
    q = torch.zeros(queries, 4, length, 256)
    bias = torch.zeros(queries, length)
    patch_bias = torch.zeros(v.shape[:-1])
    with one_thread(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        video = graph.temporal(graph.pooling(v, q, q, bias, patch_bias), q, bias)
        # The graph pads time here, which is no work that had to be done.
        for level in model.pyramid(video):
            model.class_head(level)
            assert model.coord_head is not None
            model.coord_head(level)
    counted = counts.grounder(DIMS, clips, queries, length).flops
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_quick_run_ends_with_json_and_a_plot(media: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need pip install 'r2rt[bench]'")
    child = run_child(
        python("roofline.py", "--quick", "--repeats", "1", "--media", media, "--out", tmp_path),
        env={"OMP_NUM_THREADS": "1"},
    )
    record = json.loads(child.stdout.splitlines()[-1])
    assert record["benchmark"] == "roofline"
    assert record["agreements"]
    assert {"video_encoder, 8 frames"} <= {row["name"] for row in record["rows"]}
    assert (tmp_path / record["plot"]).is_file()
