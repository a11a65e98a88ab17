from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from training import demo
from training.clip import ClipError, load_clip, towers_from_state_dict
from training.demo.clip import load_tiny_clip
from training.tiny_clip.model import CONFIG_PATH, TinyClip, tiny_config
from training.tiny_clip.rows import encode, motion_rows, row_map
from training.tiny_clip.weights import (
    WEIGHTS_NAME,
    load_model,
    write_compact,
    write_weights,
)

TEXTS = ("a dog", "the red car driving to the left", "pizza next to a guitar")


@pytest.fixture(scope="module")
def model() -> TinyClip:
    torch.manual_seed(3)
    model = TinyClip()
    with torch.no_grad():  # gains and biases of their own, so that a forgotten one shows
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_open_clip_loads_the_weights_and_agrees(model: TinyClip, frames: torch.Tensor) -> None:
    import open_clip

    reference = open_clip.CLIP(**json.loads(CONFIG_PATH.read_text())).eval()
    # Its attention mask is no weight.
    left = reference.load_state_dict(model.open_clip_state(), strict=False)
    assert (left.missing_keys, left.unexpected_keys) in ((["attn_mask"], []), ([], []))
    vision = model.vision
    pixels = ((frames.float() - vision.mean) / vision.std).permute(0, 3, 1, 2)
    image = reference.encode_image(pixels, normalize=True)
    text = reference.encode_text(open_clip.get_tokenizer("ViT-B-32")(list(TEXTS)), normalize=True)
    torch.testing.assert_close(model.see(frames).image, image, rtol=0, atol=2e-6)
    torch.testing.assert_close(model.read(encode(TEXTS)), text, rtol=0, atol=2e-6)


@torch.no_grad()
def test_the_towers_load_the_weights_as_they_are(
    model: TinyClip, frames: torch.Tensor, tmp_path: Path
) -> None:
    path = write_weights(model, tmp_path / "final")
    assert path.name == WEIGHTS_NAME
    assert (path.parent / CONFIG_PATH.name).read_bytes() == CONFIG_PATH.read_bytes()
    towers = load_clip(path)
    for name in ("image_size", "patch_size", "vision_heads", "text_heads", "quick_gelu"):
        assert getattr(towers.config, name) == getattr(tiny_config(), name)
    last = towers.encode_video(frames, 1)[:, 0, 0]
    unit = torch.nn.functional.normalize(model.ln_post(last) @ model.proj, dim=-1)
    torch.testing.assert_close(unit, model.see(frames).image, rtol=0, atol=2e-6)


@torch.no_grad()
def test_weights_come_back(model: TinyClip, frames: torch.Tensor, tmp_path: Path) -> None:
    again = load_model(write_weights(model, tmp_path))
    torch.testing.assert_close(again.see(frames).image, model.see(frames).image, rtol=0, atol=0)
    torch.testing.assert_close(again.read(encode(TEXTS)), model.read(encode(TEXTS)), rtol=0, atol=0)


def test_other_weights_are_refused(model: TinyClip, tmp_path: Path) -> None:
    state = model.open_clip_state()
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ClipError, match="more"):
        load_model(tmp_path / "more.safetensors")
    save_file({**state, "visual.proj": torch.zeros(128, 64)}, tmp_path / "other.safetensors")
    with pytest.raises(ClipError, match="proj"):
        load_model(tmp_path / "other.safetensors")
    with pytest.raises(ClipError, match="is no file"):
        load_model(tmp_path / "none.safetensors")


@pytest.mark.parametrize("size", [40, 48, 64])
def test_frames_of_any_size_are_seen(model: TinyClip, size: int) -> None:
    seen = model.see(torch.zeros(2, size, size, 3, dtype=torch.uint8))
    assert seen.image.shape == (2, 128)
    assert seen.patches.shape == (2, (size // 8) ** 2, 128)
    assert seen.colours.shape[:2] == seen.patches.shape[:2]
    torch.testing.assert_close(seen.image.norm(dim=-1), torch.ones(2))


@torch.no_grad()
def test_what_stands_behind_the_end_changes_nothing(model: TinyClip) -> None:
    short = model.read(encode(TEXTS[:1]))
    long = model.read(encode(TEXTS))[:1]  # padded to the longest
    torch.testing.assert_close(short, long, rtol=0, atol=2e-6)


def test_the_text_tower_alone_needs_no_class_matrix(model: TinyClip) -> None:
    state = model.open_clip_state()
    assert "classes" not in state
    assert not any("colour" in name for name in state)
    towers_from_state_dict(tiny_config(), state)


@torch.no_grad()
def test_compact_weights_are_the_same_but_for_rounding(model: TinyClip, tmp_path: Path) -> None:
    whole = write_weights(model, tmp_path)
    compact = tmp_path / "compact.safetensors"
    write_compact(whole, compact)
    assert compact.stat().st_size < whole.stat().st_size / 4
    again = load_model(compact)
    for name, parameter in again.vision.named_parameters():
        assert torch.equal(parameter, model.vision.get_parameter(name).half().float()), name
    torch.testing.assert_close(
        again.read(encode(TEXTS)), model.read(encode(TEXTS)), rtol=0, atol=5e-3
    )


@torch.no_grad()
def test_words_of_motion_are_set_apart_and_nothing_else(model: TinyClip, tmp_path: Path) -> None:
    whole, plain, apart, again = (tmp_path / name for name in ("w", "plain", "apart", "again"))
    whole = write_weights(model, whole)
    write_compact(whole, plain)
    for path in (apart, again):
        write_compact(whole, path, motion_words=4.0)
    assert apart.read_bytes() == again.read_bytes()
    one, other = load_file(plain), load_file(apart)
    changed = [name for name in one if not torch.equal(one[name], other[name])]
    assert changed == ["token_embedding.weight"]
    moved = (one[changed[0]] != other[changed[0]]).any(dim=1).nonzero().flatten().tolist()
    rows = row_map()
    assert moved == sorted(motion_rows())
    words = {int(rows[encode([word])[0, 1]]) for word in ("left", "right", "growing", "shrinks")}
    assert words < set(moved)
    for word in ("dog", "red", "next", "dragonfly", "a"):
        assert not {int(rows[piece]) for piece in encode([word])[0, 1:-1]} & set(moved)
    lengths = other[changed[0]][moved].float().norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 4.0), rtol=1e-3, atol=0)


@torch.no_grad()
def test_the_kept_clip_tells_motions_apart_and_names_things_as_without_them() -> None:
    """Trained on frames alone, its states of "left" and of "right" differed by a hundredth."""
    weights = Path(demo.__file__).parent / "weights" / "r2rt-tiny.safetensors"
    towers, model = load_tiny_clip(weights), load_model(weights)
    ways = ("left", "right", "up", "down")
    states = towers.encode_text(encode([f"a dog moving {way}" for way in ways]), 4)[:, :, 4]
    typical = states.norm(dim=-1).mean(dim=0)  # of each layer
    for one, other in itertools.combinations(range(len(ways)), 2):
        assert ((states[one] - states[other]).norm(dim=-1) > 0.2 * typical).all(), (one, other)
    plain, *moving = F.normalize(
        model.read(encode(["a red dog", *(f"a red dog moving {way}" for way in ways)])), dim=-1
    )
    assert min(float(plain @ each) for each in moving) > 0.99
