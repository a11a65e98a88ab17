from __future__ import annotations

import json
import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

import export.verify
from export.exporter import export_bundle
from tests.export.tiny import tiny_towers
from tests.golden_data import GOLDEN
from tests.training.trainer.material import (
    OPTIONS,
    GoldenSamples,
    RandomSamples,
    golden_model,
    golden_recipe,
    small_model,
    small_recipe,
)
from training.checkpoint import build_model, load_checkpoint
from training.config import TrainOptions, recorded_config
from training.data.sample import collate
from training.errors import TrainingError
from training.losses import LossWeights
from training.model import R2Config, R2Tuning, decode_boundaries
from training.trainer import fit, read_progress

pytestmark = pytest.mark.slow

OFF = {"cls": 0.0, "reg": 0.0, "sal": 0.0, "video_cal": 0.0, "layer_cal": 0.0}
TERMS = [("moment", term) for term in OFF] + [("summary", term) for term in OFF if term != "reg"]


def options(**changes: Any) -> TrainOptions:
    return msgspec.structs.replace(OPTIONS, **changes)


def train(out: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Train the small model by 20 steps, or with `changes`; return weights and optimizer."""
    settings: dict[str, Any] = {
        "model": small_model(),
        "recipe": small_recipe(),
        "train_set": RandomSamples(),
        "options": OPTIONS,
        "quiet": True,
    } | changes
    fit(out=out, **settings)
    state: dict[str, torch.Tensor] = load_file(out / "state.safetensors")
    return state


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: weights, optimizer, and every loss of every step."""
    first, second = (load_file(out / "state.safetensors") for out in (a, b))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()


def test_twenty_steps_from_a_golden_checkpoint_come_out_the_same_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        # What else draws from the global generators has no say.
        torch.manual_seed(hash(name))
        fit(
            golden_model(),
            golden_recipe("moment"),
            GoldenSamples(),
            out=tmp_path / name,
            options=OPTIONS,
            quiet=True,
        )
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert len(lines(tmp_path / "a")) == 20
    before = load_checkpoint(GOLDEN / "moment.pth").state_dict
    after = load_checkpoint(tmp_path / "a" / "last.pth").state_dict
    assert sum(not torch.equal(before[name], after[name]) for name in before) > 40


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    train(tmp_path / "a", options=options(max_steps=2))
    train(tmp_path / "b", options=options(max_steps=2, seed=1))
    assert lines(tmp_path / "a")[0]["loss"] != lines(tmp_path / "b")[0]["loss"]


@pytest.mark.parametrize(("kind", "term"), TERMS)
def test_each_loss_falls_when_trained_alone(tmp_path: Path, kind: str, term: str) -> None:
    recipe = golden_recipe(kind, LossWeights(**(OFF | {term: 1.0})), lr=1e-3, epochs=25)
    fit(
        golden_model(kind, dropout=0.0, drop_path=0.0),
        recipe,
        GoldenSamples(GOLDEN / f"loss_{kind}"),
        out=tmp_path,
        options=OPTIONS,
        quiet=True,
    )
    logged = lines(tmp_path)
    assert logged[0][f"loss_{term}"] == pytest.approx(logged[0]["loss"])
    assert all(
        logged[-1][f"loss_{other}"] == 0
        for other in OFF
        if other != term and (kind, other) in TERMS
    )
    assert logged[-1][f"loss_{term}"] < 0.7 * logged[0][f"loss_{term}"]


def test_the_whole_loss_falls_and_the_moments_are_found(tmp_path: Path) -> None:
    model, samples = small_model(dropout=0.1), RandomSamples()
    fit(
        model,
        small_recipe(epochs=25, decay_epoch=None, lr=2e-3),
        samples,
        out=tmp_path,
        options=OPTIONS,
        quiet=True,
    )
    logged = lines(tmp_path)
    assert sum(line["loss"] for line in logged[-5:]) < 0.5 * sum(
        line["loss"] for line in logged[:5]
    )
    assert not model.training
    batch = collate([samples[index] for index in range(len(samples))])
    with torch.no_grad():
        output = model(batch.video.float(), batch.query.float(), batch.video_mask, batch.query_mask)
    for index, moments in enumerate(decode_boundaries(output, fps=0.5)):
        truth = samples[index].moments_s
        assert truth is not None
        start, end, _ = moments[0].tolist()
        inside = min(end, float(truth[0, 1])) - max(start, float(truth[0, 0]))
        assert inside / max(end - start, float(truth[0, 1] - truth[0, 0])) > 0.5


@pytest.mark.parametrize("done", [5, 7], ids=["between epochs", "mid-epoch"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, done: int) -> None:
    samples = RandomSamples(drawing=True)
    train(tmp_path / "whole", train_set=samples)
    train(tmp_path / "cut", train_set=samples, options=options(max_steps=done))
    progress = read_progress(tmp_path / "cut")
    assert progress is not None
    assert progress.step == done
    # Another model with other weights takes up where the run was.
    train(tmp_path / "cut", train_set=samples, model=small_model(seed=5), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    samples = RandomSamples(drawing=True)
    train(tmp_path / "alone", train_set=samples, options=options(max_steps=8))
    train(tmp_path / "helped", train_set=samples, options=options(max_steps=8, workers=2))
    assert_same_run(tmp_path / "alone", tmp_path / "helped")


def test_a_validation_that_draws_and_saves_in_between_changes_no_step(tmp_path: Path) -> None:
    def val(model: R2Tuning) -> dict[str, float]:
        assert not model.training
        return {"luck": float(torch.rand(()))}

    train(tmp_path / "plain")
    train(tmp_path / "checked", val=val, options=options(save_steps=1))
    logged = [line for line in lines(tmp_path / "checked") if "loss" in line]
    assert logged == lines(tmp_path / "plain")


def test_the_best_checkpoint_is_that_of_the_best_validation(tmp_path: Path) -> None:
    figures = iter([0.1, 0.7, 0.7, 0.3])
    kept: list[dict[str, torch.Tensor]] = []

    def val(model: R2Tuning) -> dict[str, float]:
        kept.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"other": 1.0, "mAP": next(figures)}

    best = fit(
        small_model(),
        small_recipe(),
        RandomSamples(),
        out=tmp_path,
        val=val,
        options=options(monitor="mAP"),
        quiet=True,
    )
    assert best == tmp_path / "best.pth"
    checkpoint = load_checkpoint(best)
    assert checkpoint.meta["step"] == 10
    for name, tensor in checkpoint.state_dict.items():
        assert torch.equal(tensor, kept[1][name]), name
    progress = read_progress(tmp_path)
    assert progress is not None
    assert (progress.best, progress.best_step, progress.finished) == (0.7, 10, True)


def test_a_figure_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    figures = iter([math.nan, 0.2, math.nan, 0.1])
    train(tmp_path, val=lambda _: {"mAP": next(figures)})
    progress = read_progress(tmp_path)
    assert progress is not None
    assert (progress.best, progress.best_step) == (0.2, 10)
    assert load_checkpoint(tmp_path / "best.pth").meta["step"] == 10
    # Readers of JSON other than Python's take no NaN.
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        msgspec.json.decode(line)


def test_a_figure_that_the_validation_does_not_give_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no figure 'mAP'; monitor one of loss"):
        train(tmp_path, val=lambda _: {"loss": 1.0}, options=options(monitor="mAP"))


def test_checkpoints_have_the_published_layout(tmp_path: Path) -> None:
    fit(
        golden_model(),
        golden_recipe("moment", epochs=2),
        GoldenSamples(),
        out=tmp_path,
        options=OPTIONS,
        quiet=True,
    )
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    published = torch.load(GOLDEN / "moment.pth", weights_only=True)
    assert content.keys() == published.keys() == {"meta", "state_dict"}
    assert content["meta"]["recipe"] == "qvhighlights"
    kept = recorded_config(content["meta"])
    assert kept is not None
    assert kept.recipe == golden_recipe("moment", epochs=2)
    assert recorded_config(published["meta"]) is None
    assert content["state_dict"].keys() == published["state_dict"].keys()
    for name, tensor in published["state_dict"].items():
        assert content["state_dict"][name].shape == tensor.shape
    assert isinstance(build_model(tmp_path / "last.pth"), R2Tuning)


@pytest.mark.slow
def test_a_trained_checkpoint_is_exported_by_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = golden_recipe("moment", epochs=1, fps=Fraction(1), unit_s=None)
    sample = GoldenSamples()[0]
    torch.manual_seed(0)
    config = R2Config(
        width=64,  # as the golden model: other tests export its graphs, too
        layers=sample.video.shape[1],
        vision_width=sample.video.shape[3],
        text_width=sample.query.shape[2],
        heads=4,
    )
    run: dict[str, Any] = {"out": tmp_path / "run", "options": OPTIONS, "quiet": True}
    checkpoint = fit(R2Tuning(config), recipe, GoldenSamples(), **run)
    # The graphs are those of any checkpoint, which the export's own tests try at every length.
    monkeypatch.setattr(export.verify, "_CLIPS", (1, 8))
    monkeypatch.setattr(export.verify, "_QUERIES", (3,))
    monkeypatch.setattr(export.verify, "_LENGTHS", (9,))
    exported = export_bundle(checkpoint, tmp_path / "bundle", clip=tiny_towers(), name="trained")
    manifest = exported.manifest
    # Every graph, and the whole, gives what the checkpoint gives in PyTorch.
    assert manifest.verification.passed
    assert manifest.provenance.checkpoint_sha256 == load_checkpoint(checkpoint).sha256
    # The weights do not hold these: the exporter reads them from the checkpoint.
    assert (manifest.heads, manifest.fps, manifest.unit_s) == (4, "1", None)


def test_learning_rate_and_gradient_are_those_of_the_recipe(tmp_path: Path) -> None:
    recipe = small_recipe(clip_norm=1e-3, lr=1.0, weight_decay=0.0, warmup_steps=4)
    before = small_model().state_dict()
    state = train(tmp_path, recipe=recipe, options=options(max_steps=1))
    first = lines(tmp_path)[0]
    assert first["lr"] == pytest.approx(1e-3)
    assert first["grad_norm"] > 1e-3
    # After one step AdamW's first moment is a tenth of the gradient, clipped by then.
    moments = [t for name, t in state.items() if name.endswith(".exp_avg")]
    norm = math.sqrt(sum(float(t.double().square().sum()) for t in moments)) / 0.1
    assert norm == pytest.approx(1e-3, rel=1e-3)
    moved = max(
        float((state[f"model.{name}"] - tensor).abs().max()) for name, tensor in before.items()
    )
    assert moved == pytest.approx(1e-3, rel=0.05)


def test_bf16_trains_in_fp32_weights(tmp_path: Path) -> None:
    state = train(tmp_path / "half", options=options(precision="bf16", max_steps=5))
    train(tmp_path / "full", options=options(max_steps=5))
    assert {t.dtype for t in state.values()} == {torch.float32}
    half, full = lines(tmp_path / "half"), lines(tmp_path / "full")
    assert half != full
    for a, b in zip(half, full, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.05)


@pytest.mark.slow
def test_the_triton_kernels_train_by_the_same_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend in ("torch", "triton"):
        monkeypatch.setenv("R2RT_KERNELS", backend)
        fit(
            golden_model(dropout=0.0, drop_path=0.0),
            golden_recipe("moment"),
            GoldenSamples(),
            out=tmp_path / backend,
            options=options(precision="bf16", max_steps=1),
            quiet=True,
        )
    plain, kernels = lines(tmp_path / "torch"), lines(tmp_path / "triton")
    assert plain != kernels
    for a, b in zip(plain, kernels, strict=True):
        for name in ("loss", "loss_reg", "loss_cls", "loss_sal", "grad_norm"):
            assert b[name] == pytest.approx(a[name], rel=0.05), name


def test_time_that_is_up_saves_and_returns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(
        small_model(),
        small_recipe(),
        RandomSamples(),
        out=tmp_path,
        options=options(max_minutes=1e-9),
    )
    progress = read_progress(tmp_path)
    assert progress is not None
    assert (progress.step, progress.finished) == (1, False)
    assert "time is up: saved at step 1 of 20" in capsys.readouterr().err
    train(tmp_path / "whole")
    train(tmp_path, resume=True)
    assert_same_run(tmp_path, tmp_path / "whole")


def test_a_run_that_ends_within_its_warm_up_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps, logged in ((5, True), (4, False)):
        recipe = small_recipe(warmup_steps=steps, epochs=1)
        train(tmp_path / str(steps), recipe=recipe, quiet=False)
        assert ("warm-up takes" in capsys.readouterr().err) is logged


def test_short_videos_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe(min_video_s=20.0)
    fit(small_model(), recipe, RandomSamples(), out=tmp_path, options=options(max_steps=1))
    assert "8 samples (2 of shorter videos left out), 4 steps an epoch" in capsys.readouterr().err
    with pytest.raises(TrainingError, match="none of at least 900 s"):
        train(tmp_path / "b", recipe=small_recipe(min_video_s=900.0))


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path, options=options(max_steps=1))
    with pytest.raises(TrainingError, match="a run is in it, at step 1 of 1; go on with --resume"):
        train(tmp_path)


@pytest.mark.parametrize("name", ["best.pth", "last.pth"])
def test_weights_whose_run_is_not_there_are_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"weights")
    for resume in (False, True):
        with pytest.raises(TrainingError, match=f"{name} is there, without a state of its run"):
            train(tmp_path, options=options(max_steps=1), resume=resume)
    assert (tmp_path / name).read_bytes() == b"weights"


def test_a_run_that_was_killed_before_its_first_state_begins_anew(tmp_path: Path) -> None:
    def kill(_: R2Tuning) -> dict[str, float]:
        (tmp_path / "best.pth").write_bytes(b"weights")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, options=options(max_steps=1), val=kill)
    train(tmp_path, options=options(max_steps=1), resume=True)
    assert {path.name for path in tmp_path.glob("*.pth")} == {"last.pth"}
    # Whoever deletes the large state of a finished run keeps its weights.
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"last\.pth is there"):
        train(tmp_path, options=options(max_steps=1), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": small_recipe(lr=1e-3)}, "its run has lr = 0.0005, now it is 0.001"),
        ({"options": options(seed=3)}, "its run has seed = 0, now it is 3"),
        ({"options": options(monitor="mAP")}, "its run has monitor = None, now it is mAP"),
        ({"train_set": RandomSamples(11)}, "its run has 10 samples, now there are 11"),
    ],
)
def test_a_run_is_not_resumed_as_another(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    train(tmp_path, options=options(max_steps=1))
    with pytest.raises(TrainingError, match=message):
        train(tmp_path, resume=True, **changes)


def test_a_finished_run_is_resumed_to_more_epochs_only(tmp_path: Path) -> None:
    train(tmp_path)
    before = lines(tmp_path)
    train(tmp_path, resume=True)
    assert lines(tmp_path) == before
    train(tmp_path, resume=True, recipe=small_recipe(epochs=5))
    assert lines(tmp_path)[:20] == before
    assert len(lines(tmp_path)) == 25


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_damaged_state_is_refused(tmp_path: Path, keep: float) -> None:
    train(tmp_path, options=options(max_steps=1))
    state = tmp_path / "state.safetensors"
    content = state.read_bytes()
    state.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(
        TrainingError, match=r"state\.safetensors: cannot be resumed, it is damaged"
    ):
        train(tmp_path, resume=True)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has_offsets = True, the recipe tvsum_bk False"):
        train(tmp_path, recipe=golden_recipe("summary"))


def test_what_the_machine_lacks_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        train(tmp_path, options=options(precision="fp16"))
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="PyTorch sees no GPU here"):
            train(tmp_path, options=options(accelerator="cuda"))


def test_a_run_leaves_a_plot_and_event_files(tmp_path: Path) -> None:
    train(tmp_path, options=options(tensorboard=True, log_steps=1), val=lambda _: {"mAP": 0.5})
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    events = _events(tmp_path / "tensorboard")
    assert [step for step, _ in events["train/loss"]] == list(range(1, 21))
    assert events["train/loss"][4][1] == pytest.approx(
        next(line["loss"] for line in lines(tmp_path) if line["step"] == 5)
    )
    assert [step for step, _ in events["val/mAP"]] == [5, 10, 15, 20]


def _events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(os.fspath(folder))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}
