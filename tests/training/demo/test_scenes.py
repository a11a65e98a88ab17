from __future__ import annotations

import copy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.clip import ClipTowers
from training.demo import scenes as scenes_module
from training.demo.scenes import Pool, draw_pool, encode_frames, encode_pool, sample_pool
from training.demo.train import Budget, train
from training.demo.train import main as train_main
from training.errors import TrainingError
from training.tiny_clip.model import TinyClip
from training.world.sprites import Sprites
from training.world.videos import Painter


def test_a_pool_is_its_seed_s(toy_sprites: Sprites) -> None:
    assert sample_pool(3, 5, toy_sprites) == sample_pool(3, 5, toy_sprites)
    assert sample_pool(3, 5, toy_sprites) == sample_pool(3, 9, toy_sprites)[:5]
    assert sample_pool(3, 5, toy_sprites) != sample_pool(4, 5, toy_sprites)


def test_a_scene_s_hidden_states_are_those_of_its_frames(
    pool: Pool, towers: ClipTowers, toy_sprites: Sprites
) -> None:
    painter = Painter(toy_sprites, 64)
    for index in (0, 17, 39):
        scene = pool.scenes[index]
        clips = round(scene.duration_s / 2)
        frames = np.stack([painter.draw(scene, 2.0 * clip + 1.0) for clip in range(clips)])
        with torch.no_grad():
            expected = towers.encode_video(torch.from_numpy(frames), 4)
        torch.testing.assert_close(
            torch.from_numpy(np.array(pool.hidden_of(index))).float(),
            expected,
            rtol=2e-3,
            atol=5e-3,
        )


def test_patches_are_averaged_two_by_two(pool: Pool, tmp_path: Path) -> None:
    folder = Path(str(pool.hidden.filename)).parent  # type: ignore[attr-defined]
    for name in ("scenes.json", "hidden.npy"):
        (tmp_path / name).symlink_to(folder / name)
    pooled = Pool.open_coarse(tmp_path)
    assert pooled.hidden.shape == (len(pool.hidden), 4, 1 + 16, 128)
    clip, layer = 7, 2
    whole = pool.hidden[clip, layer].astype(np.float64)
    assert np.array_equal(pooled.hidden[clip, layer, 0], whole[0])
    # Row 1, column 2 of the four by four: rows 2 and 3, columns 4 and 5 of the eight by eight.
    patches = [whole[1 + 8 * row + column] for row in (2, 3) for column in (4, 5)]
    np.testing.assert_allclose(
        pooled.hidden[clip, layer, 1 + 4 + 2], np.mean(patches, axis=0), rtol=1e-3, atol=1e-3
    )


def test_encoding_goes_on_where_it_was_stopped(
    toy_sprites: Sprites,
    towers: ClipTowers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenes = sample_pool(1, 6, toy_sprites)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        draw_pool(folder, scenes, toy_sprites, 64)
    encode_pool(whole, towers, parts=4)
    calls = 0

    def failing(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return encode_frames(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scenes_module, "encode_frames", failing)
    with pytest.raises(KeyboardInterrupt):
        encode_pool(stopped, towers, parts=4)
    assert not (stopped / "hidden.npy").exists()
    encode_pool(stopped, towers, parts=4)
    assert calls == 5  # two parts, the one that failed, and the other two
    np.testing.assert_array_equal(Pool.open(stopped).hidden, Pool.open(whole).hidden)


def test_deleted_hidden_states_are_encoded_again(
    pool: Pool, towers: ClipTowers, tmp_path: Path
) -> None:
    folder = Path(str(pool.hidden.filename)).parent  # type: ignore[attr-defined]
    for name in ("scenes.json", "frames.npy"):
        (tmp_path / name).symlink_to(folder / name)
    shutil.copy(folder / "hidden.json", tmp_path)
    encode_pool(tmp_path, towers)
    np.testing.assert_array_equal(Pool.open(tmp_path).hidden, pool.hidden)


def test_scenes_are_not_taken_for_those_of_another_clip_or_number(
    pool: Pool,
    towers: ClipTowers,
    toy_sprites: Sprites,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(str(pool.hidden.filename)).parent  # type: ignore[attr-defined]
    assert len(Pool.open(folder, towers).scenes) == 40
    other = copy.copy(towers)
    other.config = replace(towers.config, weights_sha256="0", weights_source="another")
    for open_pool in (Pool.open, Pool.open_coarse):
        with pytest.raises(TrainingError, match="another CLIP than another encoded its scenes"):
            open_pool(folder, other)
    with pytest.raises(TrainingError, match="40 scenes are drawn there, not 3; take --scenes 40"):
        draw_pool(folder, sample_pool(0, 3, toy_sprites), toy_sprites, 64)
    arguments = ["scenes", "--art", "absent", "--out", str(folder), "--scenes", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        scenes_module.main()
    assert "take --scenes 40" in capsys.readouterr().err


def test_a_training_takes_the_clip_that_encoded_the_scenes(
    pool: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "checkpoint.pt"
    torch.save({"average": TinyClip().state_dict()}, clip)
    arguments = ["--scenes", str(Path(str(pool.hidden.filename)).parent)]  # type: ignore[attr-defined]
    arguments += ["--clip", str(clip), "--steps", "1", "--threads", "1"]
    assert train_main([*arguments, "--out", str(tmp_path / "block")]) == 62
    assert "another CLIP" in capsys.readouterr().err


def test_a_training_is_not_begun_where_there_is_one(
    pool: Pool, towers: ClipTowers, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"weights")
    with pytest.raises(TrainingError, match="a run is in it; go on with --resume"):
        train(pool, towers, tmp_path, Budget(steps=1))
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"weights"
