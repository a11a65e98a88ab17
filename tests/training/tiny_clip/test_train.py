from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from training.tiny_clip.data import make_batch, settings_at
from training.tiny_clip.model import TinyClip
from training.tiny_clip.train import Settings, losses, main, train
from training.tiny_clip.weights import WEIGHTS_NAME, load_model
from training.tiny_clip.zero_shot import (
    class_embeddings,
    score_images,
)
from training.world.sprites import Sprites


@pytest.mark.parametrize("term", ["class", "patch", "place", "colour", "word", "match"])
def test_each_loss_falls_when_trained_alone(toy_sprites: Sprites, term: str) -> None:
    torch.manual_seed(0)
    model = TinyClip()
    batch = make_batch(np.random.default_rng(0), toy_sprites, settings_at(0.1), 16)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    seen = []
    for _ in range(12):
        loss = losses(model, batch, text=1.0)[term]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen.append(loss.item())
    assert min(seen[-3:]) < 0.8 * seen[0]


def test_without_text_the_text_tower_is_left_alone(toy_sprites: Sprites) -> None:
    model = TinyClip()
    batch = make_batch(np.random.default_rng(0), toy_sprites, settings_at(0.0), 8)
    terms = losses(model, batch, text=0.0)
    assert set(terms) == {"class", "patch", "place", "colour"}
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in model.text.parameters())
    assert model.vision.conv1.weight.grad is not None


def test_what_is_not_looked_at_changes_nothing(toy_sprites: Sprites) -> None:
    torch.manual_seed(0)
    model = TinyClip().eval()
    batch = make_batch(np.random.default_rng(0), toy_sprites, settings_at(0.5), 4)
    patches = batch.patches.shape[1]
    assert patches == 64
    whole = losses(model, batch, text=0.5)
    # All of them, in whatever order: what a patch is called goes with it.
    order = torch.rand(4, patches, generator=torch.Generator().manual_seed(1)).argsort(dim=1)
    for name, loss in losses(model, batch, text=0.5, looked_at=order).items():
        torch.testing.assert_close(loss, whole[name], rtol=1e-4, atol=1e-5, msg=name)
    half = order[:, :32]
    seen = losses(model, batch, text=0.5, looked_at=half)
    hidden = torch.ones(4, patches, dtype=torch.bool).scatter(1, half, False)
    # (B, 8, 8) patches of 8 x 8 pixels.
    pixels = hidden.view(4, 8, 8).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    noise = torch.randint(0, 256, batch.frames.shape, dtype=torch.uint8)
    other = batch._replace(frames=torch.where(pixels[..., None], noise, batch.frames))
    for name, loss in losses(model, other, text=0.5, looked_at=half).items():
        assert torch.equal(loss, seen[name]), name
    assert not torch.equal(losses(model, other, text=0.5)["patch"], whole["patch"])


def test_a_training_may_end_early() -> None:
    """Until the rate falls, the end makes no difference; at the end it is nearly nothing."""
    whole, short = Settings(steps=1000), Settings(steps=1000, stop=500)
    assert (whole.last, short.last) == (1000, 500)
    assert [short.rate_at(step) for step in range(400)] == [
        whole.rate_at(step) for step in range(400)
    ]
    falling = [short.rate_at(step) for step in range(400, 500)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 0.02 * short.rate < whole.rate_at(499)


def test_a_folder_with_a_run_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"weights")
    arguments = ["--sprites", "absent.npz", "--out", str(tmp_path), "--steps", "1"]
    assert main(arguments) == 62
    assert "a run is in it; go on with --resume" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint(toy_file: Path, tmp_path: Path) -> None:
    def run(steps: int, resume: bool) -> None:
        settings = Settings(steps=10_000, batch=8, max_steps=steps, half=False)
        train(toy_file, tmp_path, settings, resume=resume)

    run(3, False)
    first = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    run(5, True)
    second = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (first["step"], first["images"]) == (3, 24)
    assert (second["step"], second["images"]) == (5, 40)
    assert second["elapsed_s"] > first["elapsed_s"]
    steps = [int(state["step"]) for state in second["optimizer"]["state"].values()]
    assert max(steps) == 5  # the optimiser's moments went on, they did not start anew
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "top-1, top-5" in record] == [3, 5]
    assert (
        load_model(tmp_path / "final" / WEIGHTS_NAME)
        .see(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        .image.isfinite()
        .all()
    )


@pytest.mark.slow
def test_a_run_starts_from_weights_with_the_whole_world(toy_file: Path, tmp_path: Path) -> None:
    def run(folder: Path, init: Path | None) -> TinyClip:
        settings = Settings(steps=2, batch=8, rate=1e-9, half=False)
        return train(toy_file, folder, settings, init=init)

    first = run(tmp_path / "first", None)
    second = run(tmp_path / "second", tmp_path / "first" / "final" / WEIGHTS_NAME)
    # At so small a rate nothing is learned: the towers are those that it started from.
    for one, two in zip(first.text.parameters(), second.text.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    for name in ("conv1.weight", "positional_embedding"):
        one, two = (model.vision.get_parameter(name) for model in (first, second))
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    torch.testing.assert_close(second.classes[:-1], class_embeddings(second), rtol=0, atol=1e-5)
    lines = (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()
    figures = json.loads(lines[-1])
    assert (figures["step"], figures["top-1, top-5"]["size"]) == (2, 64)


@pytest.mark.slow
def test_a_killed_run_leaves_a_whole_checkpoint(toy_file: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from training.tiny_clip.train import *; "
        "train(Path(sys.argv[1]), Path(sys.argv[2]), "
        "Settings(steps=10_000, batch=8, checkpoint_s=0.01))"
    )
    command = [sys.executable, "-c", script, str(toy_file), str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        checkpoint = tmp_path / "checkpoint.pt"
        while not checkpoint.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1.5)  # in the middle of a step, or of writing the next one
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] >= 1
    train(
        toy_file,
        tmp_path,
        Settings(steps=10_000, batch=8, max_steps=state["step"] + 1),
        resume=True,
    )
    assert torch.load(checkpoint, weights_only=True)["step"] == state["step"] + 1


def test_scores_count_ranks() -> None:
    classes = torch.eye(165)[:, :165]
    images = torch.stack([classes[3], 0.9 * classes[4] + classes[9], -classes[7]])
    score = score_images(images, classes, np.array([3, 4, 7]))
    assert (score.top1, score.top5, score.frames) == (1 / 3, 2 / 3, 3)
    assert list(score.by_concept.values()) == [1.0, 0.0, 0.0]
