from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2rt.model.contract import level_lengths
from tests.stretching import highest
from training.model import (
    Padding,
    R2Config,
    R2Tuning,
    decode_boundaries,
    sine_positions,
    stretch_levels,
)
from training.model.adapter import temporal_endpoints
from training.model.temporal import DropPath

SMALL = {"width": 16, "layers": 3, "vision_width": 12, "text_width": 10, "heads": 4}
MOMENT = R2Config(**SMALL)  # type: ignore[arg-type]
HIGHLIGHT = R2Config(
    **SMALL,  # type: ignore[arg-type]
    strides=(1,),
    use_tef=False,
    has_offsets=False,
    merge_cls_sal=False,
)
PATCHES = 5


def random_model(config: R2Config, seed: int = 0) -> R2Tuning:
    torch.manual_seed(seed)
    model = R2Tuning(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def random_batch(
    config: R2Config, clips: list[int], tokens: list[int], seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Videos and queries of these lengths, padded with garbage, and their masks."""
    random = torch.Generator().manual_seed(seed)
    shape = (config.layers, PATCHES, config.vision_width)
    video = torch.randn((len(clips), max(clips), *shape), generator=random)
    query = torch.randn(
        (len(tokens), max(tokens), config.layers, config.text_width), generator=random
    )
    video_mask = torch.arange(max(clips)) < torch.tensor(clips)[:, None]
    query_mask = torch.arange(max(tokens)) < torch.tensor(tokens)[:, None]
    video[~video_mask] *= 1e3
    query[~query_mask] *= 1e3
    return video, query, video_mask, query_mask


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [MOMENT, HIGHLIGHT], ids=["moment", "highlight"])
@settings(max_examples=15)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(2, 9)), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_padding_changes_no_sample(
    config: R2Config, lengths: list[tuple[int, int]], seed: int
) -> None:
    clips, tokens = [t for t, _ in lengths], [n for _, n in lengths]
    model = random_model(config, seed)
    video, query, video_mask, query_mask = random_batch(config, clips, tokens, seed)
    with torch.no_grad():
        batch = model(video, query, video_mask, query_mask)
        for i, (t, n) in enumerate(lengths):
            alone = model(video[i : i + 1, :t], query[i : i + 1, :n])
            real = batch.point_mask[i]
            assert_same(batch.class_logits[i, real], alone.class_logits[0])
            assert_same(batch.saliency[i, :t], alone.saliency[0])
            assert not batch.saliency[i, t:].any()
            assert_same(batch.query_emb[i], alone.query_emb[0])
            assert_same(batch.layer_cls[:, i, :t], alone.layer_cls[:, 0])
            assert batch.points[real].tolist() == alone.points.tolist()
            if alone.offsets is not None:
                assert_same(batch.offsets[i, real], alone.offsets[0])
                assert_same(
                    decode_boundaries(batch, fps=0.5)[i][:, 2].sort().values,
                    decode_boundaries(alone, fps=0.5)[0][:, 2].sort().values,
                )


@pytest.mark.parametrize("padding", list(Padding))
def test_masks_of_ones_are_no_masks(padding: Padding) -> None:
    config = R2Config(**SMALL, padding=padding)  # type: ignore[arg-type]
    model = random_model(config)
    video, query, video_mask, query_mask = random_batch(config, [9, 9], [4, 4])
    with torch.no_grad():
        masked = model(video, query, video_mask.long(), query_mask.long())
        plain = model(video, query)
    torch.testing.assert_close(masked.class_logits, plain.class_logits)
    torch.testing.assert_close(masked.saliency, plain.saliency)
    assert masked.point_mask.all()
    assert plain.point_mask.all()


def test_a_shared_time_axis_depends_on_the_batch() -> None:
    config = R2Config(**SMALL, padding=Padding.SHARED)  # type: ignore[arg-type]
    model = random_model(config)
    video, query, video_mask, query_mask = random_batch(config, [16, 11], [4, 4])
    video[~video_mask] = 0
    with torch.no_grad():
        batch = model(video, query, video_mask, query_mask)
        alone = model(video[1:, :11], query[1:])
    assert not torch.allclose(batch.saliency[1, :11], alone.saliency[0], rtol=1e-3)
    # The point of stride 2 on clip 10 counts, though clip 11 is padding.
    assert batch.point_mask[1].sum() == 11 + 6 + 3 + 2


@pytest.mark.parametrize("config", [MOMENT, HIGHLIGHT], ids=["moment", "highlight"])
@pytest.mark.parametrize("clips", [1, 2, 3, 4, 5, 6, 7, 8, 9, 2500])
def test_any_number_of_clips(config: R2Config, clips: int) -> None:
    model = random_model(config)
    video, query, _, _ = random_batch(config, [clips], [3])
    with torch.no_grad():
        output = model(video, query)
    points = sum(level_lengths(clips, config.strides))
    assert output.class_logits.shape == (1, points)
    assert output.saliency.shape == (1, clips)
    assert output.points.shape == output.point_strides.shape == (points,)
    assert output.layer_cls.shape == (config.layers, 1, clips, config.width)
    assert output.layer_query.shape == (config.layers, 1, config.width)
    assert output.saliency.isfinite().all()
    if config.has_offsets:
        assert output.offsets is not None
        assert output.offsets.shape == (1, points, 2)
        (moments,) = decode_boundaries(output, fps=0.5)
        assert moments.shape == (min(points, 50), 3)
        assert all(a >= b for a, b in pairwise(moments[:, 2].tolist()))


def test_what_precedes_self_attention_is_local_to_a_frame() -> None:
    block = random_model(MOMENT).adapter
    video, query, _, _ = random_batch(MOMENT, [6], [4])
    positions = sine_positions(torch.tensor([6]), 6, MOMENT.width)
    endpoints = temporal_endpoints(torch.tensor([6]), 6, torch.float32)
    q = block.query_map(query[:, :, 0])

    def step(frames: slice) -> torch.Tensor:
        v = block.map_video(video[:, frames, 0], endpoints[:, frames])
        return block.tem.attend_query(block.pool_frame(v, q, 0), positions[:, frames], q)

    with torch.no_grad():
        torch.testing.assert_close(step(slice(2, 3)), step(slice(None))[:, 2:3])


def test_positions_are_sines_of_the_share_of_the_video() -> None:
    clips, width = 7, 8
    expected = np.empty((clips, width))
    for n in range(clips):
        x = 2 * math.pi * (n + 1) / (clips + 1e-6)
        for i in range(width // 2):
            angle = x / 10000 ** (2 * i / width)
            expected[n, 2 * i], expected[n, 2 * i + 1] = math.sin(angle), math.cos(angle)
    actual = sine_positions(torch.tensor([clips]), clips + 2, width)
    np.testing.assert_allclose(actual[0, :clips], expected, atol=1e-6)


def test_endpoints_are_shares_of_each_video() -> None:
    endpoints = temporal_endpoints(torch.tensor([4, 2]), 4, torch.float32)
    assert endpoints[0].tolist() == [[0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]]
    assert endpoints[1, :2].tolist() == [[0, 0.5], [0.5, 1]]


def test_levels_are_stretched_as_the_authors_do() -> None:
    """Every number of clips, alone and in a padded batch, where each video has its own length."""
    random = np.random.default_rng(0)
    strides, longest = (1, 2, 4, 8), 160
    lengths = torch.arange(1, longest + 1)
    points = [random.random((longest, longest // s)).astype(np.float32) for s in strides]
    padded = stretch_levels([torch.from_numpy(x) for x in points], strides, longest, lengths)
    for row, clips in enumerate(lengths.tolist()):
        levels = [x[row, : clips // s] for x, s in zip(points, strides, strict=True)]
        expected = highest(levels, clips)
        np.testing.assert_array_equal(padded[row, :clips], expected, err_msg=f"{clips} padded")
        present = [(x, s) for x, s in zip(levels, strides, strict=True) if len(x)]
        alone = stretch_levels(
            [torch.from_numpy(x)[None] for x, _ in present],
            [s for _, s in present],
            clips,
            torch.tensor([clips]),
        )
        np.testing.assert_array_equal(alone[0], expected, err_msg=f"{clips} alone")


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 3)
    dropped = drop.train()(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped.amin(dim=1) == dropped.amax(dim=1)).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)
    assert drop.eval()(x) is x


def test_dropout_acts_in_training_alone() -> None:
    model = random_model(MOMENT)
    video, query, _, _ = random_batch(MOMENT, [6], [4])
    with torch.no_grad():
        assert torch.equal(model(video, query).saliency, model(video, query).saliency)
        model.train()
        assert not torch.equal(model(video, query).saliency, model(video, query).saliency)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 20, "heads": 8}, "divide by 8 heads"),
        ({"strides": (1, 4)}, "without a gap"),
        ({"strides": ()}, "without a gap"),
        ({"layers": 0}, "positive"),
    ],
)
def test_contradictory_sizes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        R2Config(**{**SMALL, **change})  # type: ignore[arg-type]


def test_a_state_dict_reveals_its_sizes() -> None:
    for config in (MOMENT, HIGHLIGHT):
        state_dict = random_model(config).state_dict()
        assert R2Config.from_state_dict(state_dict, heads=4) == config
    overridden = R2Config.from_state_dict(
        random_model(MOMENT).state_dict(), heads=4, use_tef=False, merge_cls_sal=False
    )
    assert overridden.vision_width == MOMENT.vision_width + 2
    assert not overridden.merge_cls_sal


@pytest.mark.parametrize("padded", [False, True])
def test_queries_that_share_a_video_are_answered_as_alone(padded: bool) -> None:
    torch.manual_seed(0)
    model = R2Tuning(
        R2Config(width=16, layers=3, vision_width=12, text_width=10, heads=4, strides=(1, 2, 4))
    ).eval()
    with torch.no_grad():
        for parameter in (model.adapter.gate, model.adapter.scale):
            parameter.add_(torch.rand_like(parameter) - 0.5)
    video, query = torch.randn(2, 9, 3, 5, 12), torch.randn(6, 4, 3, 10)
    video_mask = torch.tensor([[True] * 9, [True] * 6 + [False] * 3]) if padded else None
    query_mask = (torch.arange(4) < torch.tensor([4, 2, 3, 1, 4, 3])[:, None]) if padded else None
    shared = model(video, query, video_mask, query_mask)
    repeated_mask = None if video_mask is None else video_mask.repeat_interleave(3, dim=0)
    alone = model(video.repeat_interleave(3, dim=0), query, repeated_mask, query_mask)
    for name in ("class_logits", "offsets", "saliency", "video_emb", "layer_cls", "layer_query"):
        torch.testing.assert_close(getattr(shared, name), getattr(alone, name), msg=name)
    assert torch.equal(shared.video_mask, alone.video_mask)
    with pytest.raises(ValueError, match="no equal number"):
        model(video, query[:5])
