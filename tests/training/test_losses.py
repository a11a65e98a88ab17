from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden_data import (
    DIFFERENCES,
    GRADIENTS,
    LOSSES,
    LossGolden,
    assert_golden,
    load_loss_golden,
)
from training.checkpoint import build_model
from training.losses import (
    LossTargets,
    LossWeights,
    calibration_loss,
    compute_losses,
    focal_loss,
    point_targets,
    sampled_nce,
)
from training.model import Padding, R2Tuning

KINDS = ["moment", "summary"]
# Of the parameters whose gradient the original cannot compute: one of each part.
UNKNOWN_GRADIENTS = [
    "adapter.gate",
    "adapter.scale",
    "adapter.video_map.2.weight",
    "adapter.query_map.6.bias",
    "adapter.q_map.weight",
    "adapter.tem.self_att.q.weight",
    "adapter.tem.ffn.mapping.0.weight",
    "pooling.att.weight",
]


def run(model: R2Tuning, golden: LossGolden) -> dict[str, torch.Tensor]:
    output = model(golden.video, golden.query, golden.video_mask, golden.query_mask)
    return compute_losses(model, output, golden.targets)


def check_losses(folder: Path, kind: str) -> None:
    model = build_model(folder / f"{kind}.pth", padding=Padding.SHARED)
    golden = load_loss_golden(folder / f"loss_{kind}")
    losses = run(model, golden)
    assert losses.keys() == golden.losses.keys()
    for name, expected in golden.losses.items():
        assert_golden(losses[name], expected, LOSSES, name)

    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    norms = {
        name: parameter.grad.norm().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    assert norms.keys() == golden.grad_norms.keys()
    for name, expected in golden.grad_norms.items():
        assert math.isfinite(norms[name]), name
        if math.isfinite(expected):
            assert_golden(norms[name], expected, GRADIENTS, name)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_equal_the_original(golden_dir: Path, kind: str) -> None:
    check_losses(golden_dir, kind)


@pytest.mark.shared("golden/full")
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_equal_the_original_at_full_width(shared: Path, kind: str) -> None:
    check_losses(shared, kind)


@pytest.mark.parametrize("name", UNKNOWN_GRADIENTS)
def test_gradients_that_the_original_lacks_equal_finite_differences(
    golden_dir: Path, name: str
) -> None:
    golden = load_loss_golden(golden_dir / "loss_moment")
    assert math.isnan(golden.grad_norms[name])
    model = build_model(golden_dir / "moment.pth", padding=Padding.SHARED)
    torch.autograd.backward(torch.stack(list(run(model, golden).values())).sum())
    found = model.get_parameter(name).grad
    assert found is not None
    gradient = found.double()
    torch.manual_seed(0)
    # Half along the gradient, so that the derivative is not lost in rounding.
    direction = torch.nn.functional.normalize(torch.randn_like(gradient).flatten(), dim=0)
    direction += torch.nn.functional.normalize(gradient.flatten(), dim=0)

    precise = model.double()
    exact = load_loss_golden(golden_dir / "loss_moment", torch.float64)
    parameter, step = precise.get_parameter(name), 1e-6

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            moved = distance * direction.view_as(parameter)
            parameter.add_(moved)
            total = torch.stack(list(run(precise, exact).values())).sum().item()
            parameter.sub_(moved)
        return total

    difference = (loss_at(step) - loss_at(-step)) / (2 * step)
    assert_golden(gradient.flatten() @ direction, difference, DIFFERENCES, name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_term_falls_when_it_alone_is_minimised(golden_dir: Path, kind: str) -> None:
    golden = load_loss_golden(golden_dir / f"loss_{kind}")
    for name in golden.losses:
        model = build_model(golden_dir / f"{kind}.pth")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        history = []
        for _ in range(5):
            loss = run(model, golden)[name]
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            history.append(loss.item())
        assert history[-1] < 0.95 * history[0], (name, history)


def test_weights_scale_their_terms(golden_dir: Path) -> None:
    golden = load_loss_golden(golden_dir / "loss_moment")
    model = build_model(golden_dir / "moment.pth")
    with torch.no_grad():
        output = model(golden.video, golden.query, golden.video_mask, golden.query_mask)
        default = compute_losses(model, output, golden.targets)
        weights = LossWeights(cls=2.0, reg=0.4, sal=0.05, video_cal=0.3, layer_cal=0.0)
        scaled = compute_losses(model, output, golden.targets, weights)
    factors = {
        "loss_cls": 2.0,
        "loss_reg": 2.0,
        "loss_sal": 0.5,
        "loss_video_cal": 3.0,
        "loss_layer_cal": 0.0,
    }
    for name, factor in factors.items():
        assert scaled[name].item() == pytest.approx(factor * default[name].item(), rel=1e-5)


def test_moments_are_needed_to_learn_moments(golden_dir: Path) -> None:
    golden = load_loss_golden(golden_dir / "loss_moment")
    model = build_model(golden_dir / "moment.pth")
    output = model(golden.video, golden.query, golden.video_mask, golden.query_mask)
    targets = LossTargets(saliency=golden.targets.saliency, pos_clip=golden.targets.pos_clip)
    with pytest.raises(ValueError, match="boundary_s and fps"):
        compute_losses(model, output, targets)


@pytest.mark.parametrize("padding", list(Padding))
def test_a_moment_that_ends_with_the_shorter_video(golden_dir: Path, padding: Padding) -> None:
    """The published loss_reg counts a point behind the video's end, which loss_cls leaves out."""
    golden = load_loss_golden(golden_dir / "loss_moment")
    model = build_model(golden_dir / "moment.pth", padding=padding)
    # Both levels that the moment's length fits have a point at 8, which is padding in the first.
    lengths, fps = [8, 20], 0.5
    moments = [[6.0, 8.0], [4.0, 8.0]]
    mask = torch.arange(20) < torch.tensor(lengths)[:, None]
    video = torch.randn(2, 20, *golden.video.shape[2:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model(video, golden.query[:2], mask, golden.query_mask[:2])
        targets = LossTargets(
            saliency=mask.float(),
            pos_clip=torch.tensor([7, 6]),
            boundary_s=torch.tensor(moments)[:, None] / fps,
            fps=torch.full((2,), fps),
        )
        losses = compute_losses(model, output, targets)
    assert output.offsets is not None

    strides = output.point_strides.tolist()
    differences, entropies, behind = [], [], 0
    for b, (start, end) in enumerate(moments):
        for index, point in enumerate(output.points.tolist()):
            stride = strides[index]
            low, high = 0 if stride == 1 else stride, math.inf if stride == 8 else 2 * stride
            first = max(start, (start + end) / 2 - 1.5 * stride)
            last = min(end, (start + end) / 2 + 1.5 * stride)
            within = low <= max(point - start, end - point) <= high
            positive = first <= point <= last and within
            inside = point < lengths[b]
            if padding is Padding.EXACT:
                inside = point + stride <= lengths[b]
                positive = positive and inside
            if positive:
                expected = np.array([point - start, end - point]) / stride
                differences.append(abs(output.offsets[b, index].numpy() - expected))
                behind += not inside
            if inside:
                p = output.class_logits[b, index].double().sigmoid().item()
                truth = p if positive else 1 - p
                entropies.append(-((1 - truth) ** 2) * math.log(truth))
    assert behind == (2 if padding is Padding.SHARED else 0)
    assert losses["loss_reg"].item() == pytest.approx(0.2 * np.mean(differences), rel=1e-5)
    assert losses["loss_cls"].item() == pytest.approx(np.mean(entropies), rel=1e-5)


def test_a_batch_without_moments_has_a_finite_loss(golden_dir: Path) -> None:
    golden = load_loss_golden(golden_dir / "loss_moment")
    model = build_model(golden_dir / "moment.pth")
    output = model(golden.video, golden.query, golden.video_mask, golden.query_mask)
    targets = LossTargets(
        saliency=golden.targets.saliency,
        pos_clip=golden.targets.pos_clip,
        boundary_s=torch.full((3, 1, 2), math.inf),
        fps=golden.targets.fps,
    )
    losses = compute_losses(model, output, targets)
    assert losses["loss_reg"].item() == 0
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


_MOMENTS = st.lists(
    st.tuples(st.floats(0, 24, width=32), st.floats(0, 16, width=32)), min_size=1, max_size=3
)


@given(moments=_MOMENTS)
@settings(max_examples=60)
def test_points_get_the_shortest_moment_of_their_level(
    moments: list[tuple[float, float]],
) -> None:
    strides = (1, 2, 4, 8)
    points = torch.cat([torch.arange(24 // s) * s for s in strides])
    levels = torch.cat([torch.full((24 // s,), s) for s in strides])
    spans = np.array([[s, s + n] for s, n in moments] + [[math.inf, math.inf]], dtype=np.float32)
    positive, distances = point_targets(points, levels, torch.from_numpy(spans)[None])

    for index, (point, stride) in enumerate(zip(points.tolist(), levels.tolist(), strict=True)):
        low = 0 if stride == 1 else stride
        high = math.inf if stride == 8 else 2 * stride
        candidates = []
        for start, end in spans[:-1]:
            before, after = np.float32(point) - start, end - np.float32(point)
            centred = abs(np.float32(point) - (start + end) / np.float32(2)) <= 1.5 * stride
            if min(before, after) >= 0 and centred and low <= max(before, after) <= high:
                candidates.append((end - start, before / stride, after / stride))
        assert bool(positive[0, index]) == bool(candidates)
        expected = min(candidates, key=lambda c: c[0])[1:] if candidates else (0.0, 0.0)
        assert distances[0, index].tolist() == pytest.approx(expected)


def test_focal_loss_is_its_formula() -> None:
    logits = torch.tensor([-3.0, 0.5, 0.5, 4.0], dtype=torch.float64)
    targets = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    truth = np.where(targets == 1, 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits)))
    np.testing.assert_allclose(focal_loss(logits, targets), -((1 - truth) ** 2) * np.log(truth))


def nce_by_hand(
    video: np.ndarray, query: np.ndarray, lengths: list[int], saliency: np.ndarray, pos: list[int]
) -> tuple[float, float]:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    def eligible(b: int, t: int) -> bool:
        return t < lengths[b] and bool(saliency[b, t] <= saliency[b, pos[b]])

    rows, columns = [], []
    for b, p in enumerate(pos):
        score = cosine(video[b, p], query[b]) / 0.07
        row = [cosine(video[b, t], query[b]) / 0.07 for t in range(len(video[b])) if eligible(b, t)]
        column = [cosine(video[o, p], query[o]) / 0.07 for o in range(len(video)) if eligible(o, p)]
        rows.append(np.log(np.exp(row).sum()) - score)
        columns.append(np.log(np.exp(column).sum()) - score)
    return float(np.mean(rows)), float(np.mean(columns))


def test_sampled_nce_is_its_formula_where_whole_columns_are_ineligible() -> None:
    random = np.random.default_rng(0)
    video, query = random.normal(size=(3, 6, 4)), random.normal(size=(3, 4))
    lengths, pos = [5, 4, 4], [1, 3, 0]
    saliency = random.random((3, 6))
    # Clip 2 is more salient than the positive in every video, clip 5 is padding in every one.
    saliency[:, 2] = 2.0
    rows, columns = nce_by_hand(video, query, lengths, saliency, pos)
    clips = torch.from_numpy(video).requires_grad_()
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]

    def loss(across_batch: bool) -> torch.Tensor:
        return sampled_nce(
            clips,
            torch.from_numpy(query),
            mask,
            torch.from_numpy(saliency),
            torch.tensor(pos),
            torch.tensor([1 / 0.07], dtype=torch.float64),
            across_batch=across_batch,
        )

    assert loss(False).item() == pytest.approx(rows)
    assert loss(True).item() == pytest.approx(rows + columns)
    torch.autograd.backward(loss(True))
    assert clips.grad is not None
    assert clips.grad.isfinite().all()
    assert not clips.grad[:, 2].any()
    assert not clips.grad[~mask].any()
    assert clips.grad[:, 0].any()


def test_calibration_is_info_nce_both_ways() -> None:
    random = np.random.default_rng(1)
    clips, queries = random.normal(size=(2, 3, 5)), random.normal(size=(2, 3, 5))
    terms = []
    for group in range(2):
        unit = [
            x / np.linalg.norm(x, axis=1, keepdims=True) for x in (clips[group], queries[group])
        ]
        similarity = unit[0] @ unit[1].T / 0.07
        terms += [
            -np.diag(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))
            for scores in (similarity, similarity.T)
        ]
    actual = calibration_loss(torch.from_numpy(clips), torch.from_numpy(queries))
    assert actual.item() == pytest.approx(np.mean(terms))


def test_losses_do_not_see_padding(golden_dir: Path) -> None:
    golden = load_loss_golden(golden_dir / "loss_moment")
    model = build_model(golden_dir / "moment.pth")
    with torch.no_grad():
        clean = run(model, golden)
        golden.video[~golden.video_mask] = 7.0
        golden.query[~golden.query_mask] = -7.0
        golden.targets.saliency[~golden.video_mask] = 0.9
        dirty = run(model, golden)
    for name, value in clean.items():
        assert dirty[name].item() == pytest.approx(value.item(), rel=1e-5), name
