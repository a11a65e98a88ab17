from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import training.train
from training.checkpoint import build_model, load_checkpoint
from training.config import RunConfig, find_recipe, recorded_config
from training.data.layouts import open_data
from training.metrics import Prediction
from training.recipes import RECIPES
from training.train import build_validation
from training.trainer import read_progress

K, P, CV, CT = 4, 5, 8, 6
SMALL = "width=16 heads=2 workers=0 tensorboard=false batch_size=2 max_steps=3 accelerator=cpu"


def layout(root: Path, files: dict[str, list[dict[str, Any]]], clips: int) -> Path:
    """Annotation files in the authors' layout, with features of their videos and queries."""
    rng = np.random.default_rng(0)
    for folder in ("clip_b32_vid_k4", "clip_b32_txt_k4"):
        (root / folder).mkdir(parents=True)
    for name, rows in files.items():
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            video = rng.standard_normal((clips, K, P, CV)).astype(np.float16)
            np.save(root / "clip_b32_vid_k4" / f"{row['vid']}.npy", video)
            query = rng.standard_normal((4, K, CT)).astype(np.float16)
            np.save(root / "clip_b32_txt_k4" / f"{row['qid']}.npy", query)
    return root


def moments(split: int, duration: float) -> list[dict[str, Any]]:
    return [
        {
            "qid": 10 * split + index,
            "vid": f"video{split}{index}",
            "query": "a query",
            "duration": duration,
            "relevant_windows": [[2 + index, 8]],
        }
        for index in range(4)
    ]


def ratings(split: int, videos: list[str], clips: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(split)
    return [
        {
            "qid": 10 * split + index,
            "vid": vid,
            "query": "a title",
            "duration": 2.0 * clips,
            "domain": "BK",
            "label": rng.integers(1, 6, (clips, 20)).tolist(),
        }
        for index, vid in enumerate(videos)
    ]


@pytest.fixture
def charades(tmp_path: Path) -> Path:
    files = {"charades_train.jsonl": moments(1, 12.0), "charades_test.jsonl": moments(2, 12.0)}
    return layout(tmp_path / "charades", files, clips=12)


def run(*arguments: object) -> int:
    return training.train.main([str(argument) for argument in arguments])


def small(*more: str) -> list[str]:
    return [part for setting in (*SMALL.split(), *more) for part in ("--set", setting)]


@pytest.mark.slow
def test_a_recipe_is_trained_validated_and_resumed(
    charades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["charades", "--data", charades, "--out", out, *small()]
    assert run(*command) == 0
    printed = capsys.readouterr().err
    assert "charades: 4 samples, 2 steps an epoch, 3 in all, 1 process on cpu, fp32" in printed
    assert "MR-full-mAP" in printed
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # After the first epoch, and at the end in the middle of the second.
    assert [line["step"] for line in lines if "validation" in line] == [2, 3]
    assert {"loss_reg", "loss_cls", "loss_sal", "loss_video_cal", "loss_layer_cal"} <= lines[
        0
    ].keys()
    model = build_model(out / "best.pth")
    assert (model.config.width, model.config.vision_width, model.config.text_width) == (16, CV, CT)

    assert run(*command) == 62
    assert "go on with --resume" in capsys.readouterr().err
    assert run(*command, "--resume", "--set", "max_steps=5") == 0
    progress = read_progress(out)
    assert progress is not None
    assert (progress.step, progress.finished) == (5, True)


@pytest.mark.parametrize("quiet", [False, True])
def test_which_kernels_run_is_shown_unless_it_is_to_be_quiet(quiet: bool) -> None:
    kernels = logging.getLogger("kernels")
    before = kernels.level
    try:
        training.train._log_to_stderr(quiet)
        assert kernels.isEnabledFor(logging.INFO) is not quiet
    finally:
        kernels.setLevel(before)


def test_which_layers_are_read_is_a_setting_that_is_kept(
    charades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["charades", "--data", charades, "--out", tmp_path / "run", "--no-val"]
    assert run(*command, *small("read=[-1,-3,-1]")) == 0
    config = recorded_config(load_checkpoint(tmp_path / "run" / "last.pth").meta)
    assert config is not None
    assert config.model.read == (-1, -3, -1)
    model = build_model(tmp_path / "run" / "last.pth", heads=2, read_layers=config.model.read)
    assert (model.config.layers, model.config.read) == (3, (-1, -3, -1))

    recipe, stored = RECIPES["charades"], np.load(charades / "clip_b32_vid_k4" / "video10.npy")
    sample = open_data(recipe, charades, "train", layers=(-1, -3, -1))[0]
    np.testing.assert_array_equal(sample.video.numpy(), stored[:, [3, 1, 3]])
    assert sample.query.shape[1] == 3

    capsys.readouterr()
    for impossible, message in (
        ("[]", "read is []"),
        ("[0]", "read is [0]"),
        ("[-5]", "the model reads 5"),
    ):
        out = ["--out", tmp_path / impossible]
        assert run(*command[:3], *out, *small(f"read={impossible}")) != 0
        assert message in capsys.readouterr().err


def test_a_figure_to_monitor_is_checked_before_training(
    charades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["charades", "--data", charades, "--out", out]
    assert run(*command, *small("monitor=MR-full-map")) == 62
    printed = capsys.readouterr().err
    assert "no figure 'MR-full-map'; monitor one of MR-full-mAP, MR-full-R1@0.3" in printed
    assert not out.exists()
    assert run(*command, *small("monitor=MR-full-R1@0.7", "max_steps=2")) == 0
    assert (out / "best.pth").exists()


def test_weights_to_start_from_and_settings_of_a_run(charades: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("charades", "--data", charades, "--out", first, *small(), "--no-val") == 0
    arguments = ["--data", charades, "--out", second, "--init", first / "last.pth", "--no-val"]
    arguments += ["--config", first / "config.json", "--set", "lr=1e-12", "--set", "weight_decay=0"]
    assert run(*arguments, "--quiet") == 0
    before, after = (load_checkpoint(out / "last.pth").state_dict for out in (first, second))
    assert not (second / "best.pth").exists()
    for name, tensor in before.items():
        np.testing.assert_allclose(tensor, after[name], atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    "changed", ["width=32", "heads=4", "read=[-1,-3,-1,-2]", "layers=2"], ids=lambda x: x[:5]
)
def test_weights_of_another_model_are_not_trained_on(
    charades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    """Weights show neither heads nor layers, and the same number of each fits everywhere."""
    first = tmp_path / "first"
    command = ["charades", "--data", charades, "--no-val", "--quiet"]
    assert run(*command, "--out", first, *small(changed)) == 0
    again = [*command, "--out", tmp_path / "second", "--init", first / "last.pth"]
    assert run(*again, *small()) == 62
    needed = capsys.readouterr().err.rpartition("; add --set ")[2].strip()
    assert needed.strip("'").replace(" ", "") == (
        "read=[-2,-1]" if changed == "layers=2" else changed
    )
    assert run(*again, *small(needed.strip("'"))) == 0
    assert run(*again, *small(changed), "--resume") == 0


def test_highlights_are_trained_and_validated(tmp_path: Path) -> None:
    # Two of the published training videos of BK, and one that it is evaluated on.
    splits = json.loads((Path(training.train.__file__).parent / "data/splits.json").read_text())
    parts = splits["tvsum"]["BK"]
    files = {
        "tvsum_train.jsonl": ratings(1, parts["train"][:2], 12),
        "tvsum_val.jsonl": ratings(2, parts["val"][:1], 12),
    }
    data, out = layout(tmp_path / "tvsum", files, clips=12), tmp_path / "run"
    assert run("tvsum_bk", "--data", data, "--out", out, *small("monitor=all"), "--quiet") == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert not any("loss_reg" in line for line in lines)
    figures = [line["validation"] for line in lines if "validation" in line]
    assert figures
    assert all(0 <= each["all"] <= 1 for each in figures)


@pytest.mark.parametrize(("name", "domain", "clips"), [("tvsum", "BK", 9), ("youtube", "dog", 8)])
def test_ratings_may_go_on_behind_the_features(
    tmp_path: Path, name: str, domain: str, clips: int
) -> None:
    """Training takes up to four clips more, the metric of the benchmark one."""
    splits = json.loads((Path(training.train.__file__).parent / "data/splits.json").read_text())
    rows = ratings(2, splits[name][domain]["val"][:2], 12)
    if name == "youtube":
        rows = [
            {**row, "domain": domain, "label": None, "match": [1] * 6 + [-1] * 6} for row in rows
        ]
    data = layout(tmp_path / name, {f"{name}_val.jsonl": rows}, clips=clips)
    config = RunConfig(recipe=find_recipe(f"{name}_{domain.lower()}"))
    validation = build_validation(config, data)
    assert validation is not None
    answers = [
        Prediction(qid=row["qid"], pred_saliency_scores=list(map(float, range(clips, 0, -1))))
        for row in rows
    ]
    assert validation._figures(answers)["all"] > 0
    validation.check_monitor("all")


def test_qvhighlights_is_validated_by_its_highlights_too(tmp_path: Path) -> None:
    rows = [
        row | {"relevant_clip_ids": [1, 2], "saliency_scores": [[4, 2, 3], [0, 1, 4]]}
        for row in moments(2, 12.0)
    ]
    files = {"qvhighlights_train.jsonl": moments(1, 12.0), "qvhighlights_val.jsonl": rows}
    data = layout(tmp_path / "qv", files, clips=6)
    config = RunConfig(recipe=find_recipe("qvhighlights"))
    validation = build_validation(config, data)
    assert validation is not None
    validation.check_monitor("HL-min-VeryGood-Hit1")
    # A model that is most certain of the second clip, which one annotator finds very good.
    answers = [
        Prediction(
            qid=row["qid"], pred_relevant_windows=[(2, 8, 1.0)], pred_saliency_scores=[0, 1, 0.5]
        )
        for row in rows
    ]
    figures = validation._figures(answers)
    assert figures["HL-min-VeryGood-Hit1"] == figures["HL-min-Fair-Hit1"] == 100.0
    # Of the three annotators one has no clip that is very good; the others' is first or second.
    assert figures["HL-min-VeryGood-mAP"] == 50.0


def test_moments_alone_are_no_validation_of_highlights(tmp_path: Path) -> None:
    """Its metric would refuse them, after the first epoch."""
    data = layout(tmp_path / "own", {"own.jsonl": moments(1, 12.0)}, clips=7)
    config = RunConfig(recipe=find_recipe("youtube_dog"))
    assert build_validation(config, data, annotations=data / "own.jsonl") is None


def test_an_interruption_does_not_deny_what_was_saved(
    charades: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first Ctrl-C waits for the end of the step; a second one comes out here."""

    def fit(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.trainer, "fit", fit)
    assert run("charades", "--data", charades, "--out", tmp_path / "run", *small()) == 130
    assert "what was saved stays" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["charades", "--set", "lrr=1"], 62, "Error: no setting 'lrr'; did you mean lr?\n"),
        (["charade"], 62, "Error: no recipe 'charade'; did you mean charades?\n"),
        (["charades", "--set", "heads=3"], 62, "width 256 must be even and divide by 3 heads"),
        (["charades", "--max-minutes", "-1"], 62, "max_minutes is -1.0: expected `float` > 0.0"),
        (["qvhighlights"], 60, "no annotations of qvhighlights, train"),
        (["charades", "--annotations", "absent.jsonl"], 10, "absent.jsonl"),
        (["charades", "--init", "absent.pth"], 10, "absent.pth"),
        ([], 2, "name a RECIPE"),
    ],
)
def test_what_cannot_be_trained_is_reported(
    charades: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    out = tmp_path / "run"
    assert run(*arguments, "--data", charades, "--out", out) == code
    assert message in capsys.readouterr().err
    assert not (out / "state.safetensors").exists()


def test_a_checkpoint_of_another_clip_is_refused(
    charades: Path, tmp_path: Path, golden_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", charades, "--out", tmp_path / "run"]
    assert run("charades", *arguments, "--init", golden_dir / "moment.pth") == 62
    assert "the data has 8 and 6" in capsys.readouterr().err


def test_the_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    assert run("tacos", "--show", "--set", "lr=0.5") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["recipe"]["lr"] == 0.5
    assert shown["recipe"]["loss_weights"]["sal"] == 0.05


def test_help_lists_the_exit_codes() -> None:
    result = CliRunner().invoke(training.train.train, ["--help"])
    assert "62 training cannot start or go on" in " ".join(result.output.split())
