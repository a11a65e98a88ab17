from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu_checks.samples import in_double
from kernels import frame_step, layer_pool, query_maps, time_attention, time_step
from kernels.r2_block import r2_block
from kernels.reference.r2_block import r2_block as reference
from kernels.tolerances import assert_close
from kernels.weights import R2BlockWeights, pack_finalize, pack_r2_block
from tests.golden_data import assert_inference, load_arrays
from tests.kernels.block_inputs import random_inputs, random_model
from training.checkpoint import build_model
from training.model import R2Tuning
from training.model.adapter import AdapterOutput, temporal_endpoints

pytestmark = pytest.mark.slow


class KernelBlock(nn.Module):
    """The R² block of a model, its recurrence run by the kernels on the grounder's inputs."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.block = model.adapter
        self.weights = pack_r2_block(
            model.state_dict(), heads=model.config.heads, dtype=torch.float32, device="cpu"
        )

    def forward(
        self, video: Tensor, query: Tensor, lengths: Tensor, *_: Tensor | None
    ) -> AdapterOutput:
        block, clips = self.block, video.shape[1]
        endpoints = temporal_endpoints(lengths, clips, video.dtype)
        layers = [block.map_video(video[:, :, i], endpoints)[0] for i in range(block.layers)]
        v = torch.stack(layers, dim=1)  # (T, K, P, D)
        q = block.query_map(query).transpose(1, 2)  # (1, K, L, D)
        q_key = block.q_map(q) @ block.v_map.weight / math.sqrt(v.shape[-1])
        return AdapterOutput(
            video_emb=r2_block(v, q, q_key, torch.ones(1, q.shape[2]), self.weights),
            layer_cls=tuple(v[None, :, i, 0] for i in range(block.layers)),
            layer_query=tuple(q[:, i] for i in range(block.layers)),
        )


@pytest.mark.parametrize("golden", ["moment_t5.npz", "moment_t12.npz"])
def test_moments_and_saliency_equal_the_original_implementation(
    golden_dir: Path, golden: str
) -> None:
    model = build_model(golden_dir / "moment.pth")
    model.adapter = KernelBlock(model)  # type: ignore[assignment]
    assert_inference(model, load_arrays(golden_dir / golden))


@pytest.mark.parametrize(
    ("dtype", "parts"), [(torch.float32, None), (torch.float32, 3), (torch.float16, 8)], ids=str
)
def test_padded_queries_equal_fp64(dtype: torch.dtype, parts: int | None) -> None:
    inputs = random_inputs(clips=3, patches=5, queries=2, length=5, width=32, layers=2).to(dtype)
    weights = _two_layers(dtype)
    exact = replace(
        weights,
        scales=weights.scales.double(),
        query=in_double(weights.query),
        frame=in_double(weights.frame),
        time=in_double(weights.time),
    )
    actual = r2_block(inputs.v, inputs.q, inputs.q_key, inputs.query_mask, weights, parts=parts)
    wide = inputs.to(torch.float64)
    expected = reference(wide.v, wide.q, wide.q_key, wide.query_mask, exact)
    assert_close(actual, expected, dtype, "video_emb")


def test_a_query_is_the_same_alone_and_beside_others() -> None:
    inputs = random_inputs(clips=2, patches=5, queries=3, length=4, width=32, layers=2)
    weights = _two_layers(torch.float32)
    together = r2_block(inputs.v, inputs.q, inputs.q_key, inputs.query_mask, weights)
    alone = r2_block(inputs.v, inputs.q[1:2, :, :2], inputs.q_key[1:2, :, :2], None, weights)
    assert_close(together[1:2], alone, torch.float32, "video_emb")


def test_what_no_step_depends_on_is_two_launches_and_a_step_is_three(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launches = []

    class Recorder:
        def __init__(self, name: str, kernel: object) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid: object) -> object:
            launches.append(self.name)
            return self.kernel[grid]  # type: ignore[index]

    kernels = (
        (query_maps, "_query_maps"),
        (layer_pool, "_layer_pool"),
        (frame_step, "_frame_step"),
        (time_attention, "_time_attention"),
        (time_step, "_time_step"),
        (time_step, "_settle"),
    )
    for module, name in kernels:
        monkeypatch.setattr(module, name, Recorder(name, getattr(module, name)))
    inputs = random_inputs(clips=1, patches=2, queries=1, length=1, width=32, layers=2)
    r2_block(inputs.v, inputs.q, inputs.q_key, None, _two_layers(torch.float32))
    step = ["_frame_step", "_time_attention", "_time_step"]
    assert launches == ["_query_maps", "_layer_pool", *step * 2, "_settle"]


def test_what_does_not_fit_the_weights_is_refused() -> None:
    inputs = random_inputs(clips=1, patches=2, queries=1, length=2, width=32, layers=2)
    weights = _two_layers(torch.float32)
    with pytest.raises(ValueError, match=r"expected v \(T, 2, P, 32\), not empty; got \(1, 1,"):
        r2_block(inputs.v[:, :1], inputs.q, inputs.q_key, None, weights)
    with pytest.raises(ValueError, match=r"expected q \(N, 2, L, 32\), not empty; got \(1, 2, 0"):
        r2_block(inputs.v, inputs.q[:, :, :0], inputs.q_key, None, weights)
    with pytest.raises(ValueError, match=r"expected query_mask \(1, 2\), got \(1, 3\)"):
        r2_block(inputs.v, inputs.q, inputs.q_key, torch.ones(1, 3), weights)
    with pytest.raises(ValueError, match=r"weights' torch\.float32, got torch\.float16"):
        r2_block(inputs.v.half(), inputs.q, inputs.q_key, None, weights)


def test_weights_are_read_from_every_parameter_but_the_biases_of_keys() -> None:
    model = random_model(32)
    before = _packed(model)
    unused = {"adapter.tem.cross_att.k.bias"}
    elsewhere = ("query_map", "q_map", "v_map")
    for name, parameter in model.named_parameters():
        if not name.startswith("adapter.") or name.split(".")[1] in elsewhere:
            continue
        with torch.no_grad():
            parameter.add_(1)
        same = all(torch.equal(a, b) for a, b in zip(before, _packed(model), strict=True))
        assert same == (name in unused), name
        with torch.no_grad():
            parameter.sub_(1)
        before = _packed(model)


def _two_layers(dtype: torch.dtype) -> R2BlockWeights:
    packed = pack_r2_block(
        random_model(32, heads=2).state_dict(), heads=2, dtype=dtype, device="cpu"
    )
    return replace(packed, scales=packed.scales[:2], gates=(packed.gates[0], 1.0))


def _packed(model: R2Tuning) -> list[Tensor]:
    state = model.state_dict()
    block = pack_r2_block(state, heads=8, dtype=torch.float32, device="cpu")
    final = pack_finalize(state, dtype=torch.float32, device="cpu")
    tensors = [block.scales, torch.tensor(block.gates)]
    for weights in (block.query, block.frame, block.time, final):
        tensors += [x for x in vars(weights).values() if isinstance(x, Tensor)]
    return tensors
