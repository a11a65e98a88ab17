"""The CLIP towers give the hidden states of open_clip's own model and of the golden data."""

from __future__ import annotations

import pwd
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import r2rt.model.download
from r2rt.errors import DownloadError, HashMismatchError
from tests.training.encoders import hidden_states
from training import clip_weights
from training.clip import (
    ClipConfig,
    ClipError,
    arch_config,
    infer_config,
    load_clip,
    random_towers,
    towers_from_state_dict,
)

open_clip = pytest.importorskip("open_clip")

TINY = ClipConfig(
    name="tiny",
    image_size=32,
    patch_size=8,
    vision_width=128,
    vision_layers=5,
    vision_heads=2,
    vision_mlp_width=512,
    text_width=64,
    text_layers=4,
    text_heads=1,
    text_mlp_width=256,
    vocab_size=300,
    embed_width=32,
)


def open_clip_model(config: ClipConfig, seed: int = 0) -> nn.Module:
    """open_clip's model of these sizes, with random weights in every parameter."""
    model: nn.Module = open_clip.CLIP(
        embed_dim=32,
        quick_gelu=config.quick_gelu,
        vision_cfg={
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "layers": config.vision_layers,
            "width": config.vision_width,
            "head_width": config.vision_width // config.vision_heads,
            "mlp_ratio": config.vision_mlp_width / config.vision_width,
        },
        text_cfg={
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "width": config.text_width,
            "heads": config.text_heads,
            "layers": config.text_layers,
            "mlp_ratio": config.text_mlp_width / config.text_width,
        },
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


def openai_state(config: ClipConfig = TINY) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in open_clip_model(config).state_dict().items()}


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quick_gelu": False},
        {"patch_size": 16, "image_size": 48},
        {"vision_heads": 4, "text_heads": 4, "vision_mlp_width": 320},
    ],
    ids=["quickgelu", "gelu", "patches", "heads"],
)
def test_hidden_states_are_those_of_open_clip(changes: dict[str, Any], layers: int) -> None:
    config = replace(TINY, **changes)
    model = open_clip_model(config)
    towers = towers_from_state_dict(config, model.state_dict())
    frames = torch.randint(0, 256, (3, config.image_size, config.image_size, 3), dtype=torch.uint8)
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    pixels = (frames / 255 - mean) / std
    expected = hidden_states(
        lambda: model.encode_image(pixels.permute(0, 3, 1, 2)),  # type: ignore[operator]
        model.visual.transformer.resblocks,  # type: ignore[union-attr,arg-type]
    )[:, -layers:]
    found = towers.encode_video(frames, layers)
    assert found.shape == (3, layers, config.patches, config.vision_width)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(towers.encode_video(pixels, layers), expected, rtol=1e-5, atol=1e-5)

    token_ids = torch.randint(0, config.vocab_size, (2, config.context_length))
    expected = hidden_states(
        lambda: model.encode_text(token_ids),  # type: ignore[operator]
        model.transformer.resblocks,  # type: ignore[union-attr,arg-type]
    )[:, -layers:]
    found = towers.encode_text(token_ids, layers)
    assert found.shape == (2, layers, config.context_length, config.text_width)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # The tower is causal: a query cut to its real tokens has the same states.
    cut = towers.encode_text(token_ids[:, :7], layers)
    torch.testing.assert_close(cut, expected[:, :, :7], rtol=1e-5, atol=1e-5)


@pytest.mark.shared("golden/mini/pixels_trimmed.npz")
def test_hidden_states_are_the_golden_ones(shared: Path) -> None:
    golden = np.load(shared)
    towers = load_clip(shared.with_name("clip_tiny.pt"))
    assert towers.config.patches == 50
    assert (towers.config.vision_layers, towers.config.text_layers) == (6, 5)
    assert (towers.config.vision_heads, towers.config.text_heads) == (1, 1)
    video = towers.encode_video(torch.from_numpy(golden["frames"][:2]), 4)
    length = len(golden["query_hidden_last"])
    query = towers.encode_text(torch.from_numpy(golden["tokens"][None, :length]), 4)
    for found, name in ((video[:, -1], "video_hidden_last"), (query[0, -1], "query_hidden_last")):
        expected = torch.from_numpy(golden[name])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_towers_are_frozen_fp32_and_share_no_memory_with_their_state_dict() -> None:
    state = {key: value.half() for key, value in openai_state().items()}
    towers = towers_from_state_dict(TINY, state)
    assert not towers.training
    assert not any(parameter.requires_grad for parameter in towers.parameters())
    assert {tensor.dtype for tensor in (*towers.parameters(), *towers.buffers())} == {torch.float32}
    assert towers.vision.class_embedding is not None
    before = towers.vision.class_embedding.clone()
    state["visual.class_embedding"].add_(1)
    torch.testing.assert_close(towers.vision.class_embedding.data, before)


def test_attention_is_one_scaled_dot_product_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[torch.Size, bool]] = []
    attention = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool) -> Tensor:
        calls.append((q.shape, is_causal))
        return attention(q, k, v, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    towers = random_towers(TINY, 0)
    towers.encode_video(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), 1)
    assert calls == [((2, 2, 17, 64), False)] * 5
    calls.clear()
    towers.encode_text(torch.zeros(3, 9, dtype=torch.int64), 1)
    assert calls == [((3, 1, 9, 64), True)] * 4


@pytest.mark.slow
def test_random_towers_depend_on_the_seed_alone_and_neither_explode_nor_vanish() -> None:
    deep = replace(TINY, vision_layers=24, text_layers=24)
    first, again, other = random_towers(deep, 1), random_towers(deep, 1), random_towers(deep, 2)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert not torch.equal(tensor, other.state_dict()[name])
    frames = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    video = first.encode_video(frames, 24)
    text = first.encode_text(torch.randint(0, 300, (2, 12)), 24)
    for states in (video, text):
        scales = states.std(dim=(0, 2, 3))
        assert scales.min() > 0.3
        assert scales.max() < 3
    # A fixed number, so that another process or version that draws otherwise shows.
    assert first.vision.class_embedding is not None
    assert first.vision.class_embedding[0].item() == pytest.approx(0.118869044, abs=1e-8)


@pytest.mark.slow
def test_random_full_size_towers_by_name() -> None:
    towers = load_clip("random:3")
    assert towers.config == replace(
        arch_config("ViT-B-32-quickgelu"), weights_source="random:3:ViT-B-32-quickgelu"
    )
    video = towers.encode_video(torch.full((1, 224, 224, 3), 90, dtype=torch.uint8), 4)
    assert video.shape == (1, 4, 50, 768)
    assert towers.encode_text(torch.tensor([[49406, 320, 49407]]), 4).shape == (1, 4, 3, 512)


@pytest.mark.parametrize(
    ("name", "patches", "vision", "text"),
    [
        ("ViT-B-32-quickgelu", 50, (768, 12, 12), (512, 12, 8)),
        ("ViT-B-16-quickgelu", 197, (768, 12, 12), (512, 12, 8)),
        ("ViT-L-14-quickgelu", 257, (1024, 24, 16), (768, 12, 12)),
        ("ViT-L-14-336-quickgelu", 577, (1024, 24, 16), (768, 12, 12)),
        ("ViT-H-14", 257, (1280, 32, 16), (1024, 24, 16)),
    ],
)
def test_architectures_of_open_clip(
    name: str, patches: int, vision: tuple[int, int, int], text: tuple[int, int, int]
) -> None:
    config = arch_config(name)
    assert config.patches == patches
    assert (config.vision_width, config.vision_layers, config.vision_heads) == vision
    assert (config.text_width, config.text_layers, config.text_heads) == text
    assert config.quick_gelu is name.endswith("quickgelu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-Z-99", "has no architecture 'ViT-Z-99'"),
        ("RN50", "convolutions"),
        ("convnext_base", "convolutions"),
    ],
)
def test_architectures_that_are_no_plain_clip_are_refused(name: str, message: str) -> None:
    with pytest.raises(ClipError, match=message):
        arch_config(name)


def test_embeddings_are_those_of_open_clip() -> None:
    model = open_clip_model(TINY)
    towers = towers_from_state_dict(TINY, model.state_dict())
    frames = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    pixels = (frames / 255 - torch.tensor(TINY.mean)) / torch.tensor(TINY.std)
    with torch.no_grad():
        want = model.encode_image(pixels.permute(0, 3, 1, 2))  # type: ignore[operator]
    found = towers.embed_frames(towers.encode_video(frames, 2))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)

    # open_clip finds the end of a text as its highest id.
    lengths = torch.tensor([3, 9, TINY.context_length])
    token_ids = torch.randint(0, 298, (3, TINY.context_length))
    token_ids[torch.arange(3), lengths - 1] = 299
    with torch.no_grad():
        want = model.encode_text(token_ids)  # type: ignore[operator]
    found = towers.embed_texts(towers.encode_text(token_ids, 2), lengths)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


def test_weights_without_projections_make_towers_without_embeddings() -> None:
    state = openai_state()
    for key in list(state):
        if re.match(r"visual\.(ln_post|proj)|ln_final|text_projection", key):
            del state[key]
    assert infer_config(state).embed_width is None
    towers = towers_from_state_dict(TINY, state)
    assert towers.config == replace(TINY, embed_width=None)
    with pytest.raises(ClipError, match="no projection"):
        towers.embed_frames(torch.zeros(1, 1, 17, 128))


def test_sizes_are_read_off_the_shapes() -> None:
    inferred = infer_config(openai_state())
    assert replace(inferred, name="tiny") == TINY
    with torch.device("meta"):
        full = open_clip.CLIP(**open_clip.get_model_config("ViT-B-16-quickgelu")).state_dict()
    assert infer_config(full) == arch_config("ViT-B-16-quickgelu")


def drop(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(key)


def put(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({key: value})


BLOCK = "visual.transformer.resblocks.3."


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop(BLOCK + "ln_1.bias"), rf"missing {re.escape(BLOCK)}ln_1.bias"),
        (drop("positional_embedding"), "missing positional_embedding"),
        (drop("visual.proj"), "missing visual.proj"),
        (put("visual.extra.weight", torch.zeros(1)), "unexpected visual.extra.weight"),
        (
            put("visual.ln_pre.bias", torch.zeros(64)),
            r"visual.ln_pre.bias \(64,\) instead of \(128,\)",
        ),
        (put("visual.ln_pre.bias", torch.zeros(128, dtype=torch.int8)), "not floating point"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    damage: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = openai_state()
    damage(state)
    with pytest.raises(ClipError, match=message):
        towers_from_state_dict(TINY, state)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("visual.conv1.weight"), "lack visual.conv1.weight"),
        (put("visual.conv1.weight", torch.zeros(128, 3)), "expected 4 dimensions"),
        (put("visual.conv1.weight", torch.zeros(128, 3, 0, 0)), "is empty"),
        (put("visual.conv1.weight", torch.zeros(100, 3, 8, 8)), "no multiple of 64"),
    ],
)
def test_shapes_that_tell_no_sizes_are_refused(
    damage: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = openai_state()
    damage(state)
    with pytest.raises(ClipError, match=message):
        infer_config(state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt.pt"])
def test_weights_are_read_from_files(suffix: str, tmp_path: Path) -> None:
    state = openai_state()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".pt":
        torch.save(state, path)
    else:
        training = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
        torch.save({"epoch": 3, **training}, path)
    towers = load_clip(path)
    assert towers.config.weights_source == path.name
    assert towers.config.weights_sha256 is not None
    expected = towers_from_state_dict(TINY, state)
    for name, tensor in towers.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name])
    with pytest.raises(ClipError, match="do not fit ViT-B-32-quickgelu"):
        load_clip(path, arch="ViT-B-32-quickgelu")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x80\x02cos\nsystem\n."])
def test_files_that_hold_no_weights_are_refused(
    content: bytes, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ClipError, match="holds no CLIP weights"):
        load_clip(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent/weights.pt", "is no file"),
        ("ViT-B-32.pt", "is no file"),
        ("ViT-B-32-quickgelu@unheard", "no weights 'unheard'"),
        ("ViT-B-32@openai", "ask for ViT-B-32-quickgelu"),
        ("random:x", "no architecture"),
    ],
)
def test_specs_that_name_nothing_are_refused(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=message):
        load_clip(spec, cache_dir=tmp_path, mirror=tmp_path)


def test_layers_and_shapes_out_of_range_are_refused() -> None:
    towers = random_towers(TINY, 0)
    frames = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    for layers in (0, 6):
        with pytest.raises(ClipError, match="has 5"):
            towers.encode_video(frames, layers)
    with pytest.raises(ClipError, match=r"not \(B, 32, 32, 3\)"):
        towers.encode_video(frames.permute(0, 3, 1, 2), 1)
    with pytest.raises(ClipError, match="at most 77"):
        towers.encode_text(torch.zeros(1, 78, dtype=torch.int64), 1)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny weights under the name of OpenAI's file; its hash in open_clip's table."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    torch.save(openai_state(), folder / "ViT-B-32.pt")
    sha256 = clip_weights.read_weights(folder / "ViT-B-32.pt")[1]
    entry = {
        "url": f"https://example.org/{sha256}/ViT-B-32.pt",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: entry)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def test_weights_are_fetched_from_a_mirror_once(mirror: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = clip_weights.fetch_clip("ViT-B-32-quickgelu", mirror=mirror, cache_dir=cache)
    assert path == cache / "ViT-B-32.pt"
    assert path.read_bytes() == (mirror / "ViT-B-32.pt").read_bytes()
    (mirror / "ViT-B-32.pt").unlink()
    assert clip_weights.fetch_clip("ViT-B-32-quickgelu", mirror=mirror, cache_dir=cache) == path


def test_weights_are_kept_where_the_runtime_keeps_them(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of settings and images of containers name the home by `~`, which no shell expands."""
    monkeypatch.setenv("R2RT_HOME", "~/r2rt")
    path = clip_weights.fetch_clip("ViT-B-32-quickgelu", mirror=mirror)
    assert path == tmp_path / "r2rt" / "clip" / "ViT-B-32.pt"


def test_a_user_without_a_home_has_weights(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container's often is, whose number no line of its passwd has."""

    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    path = clip_weights.fetch_clip("ViT-B-32-quickgelu", mirror=mirror, cache_dir=tmp_path)
    assert path == tmp_path / "ViT-B-32.pt"


def test_weights_come_from_the_hub_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(url: str, path: Path, **_: object) -> Path:
        asked.append(url)
        return path

    monkeypatch.setattr(r2rt.model.download, "download", download)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"hf_hub": "timm/a/"})
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    clip_weights.fetch_clip("ViT-B-16-SigLIP2@webli", cache_dir=tmp_path)
    clip_weights.fetch_tokenizer("timm/a", cache_dir=tmp_path)
    assert {url.removeprefix("https://hub.example/timm/a/resolve/main/") for url in asked} == {
        "open_clip_model.safetensors",
        "tokenizer.json",
    }


def test_a_repository_may_hold_a_plain_state_dict_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of DFN do, without safetensors."""
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"hf_hub": "apple/DFN2B/"})
    cache, folder = tmp_path / "cache", tmp_path / "mirror"
    folder.mkdir()
    with pytest.raises(DownloadError):
        clip_weights.fetch_clip("ViT-B-16@dfn2b", mirror=folder, cache_dir=cache)
    torch.save(openai_state(), folder / "apple--DFN2B.bin")
    path = clip_weights.fetch_clip("ViT-B-16@dfn2b", mirror=folder, cache_dir=cache)
    assert path == cache / "apple--DFN2B.bin"
    tensors, _ = clip_weights.read_weights(path)
    assert tensors.keys() == openai_state().keys()


def test_a_damaged_cache_is_fetched_again_and_a_wrong_mirror_is_refused(
    mirror: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    path = clip_weights.fetch_clip("ViT-B-32-quickgelu", mirror=mirror, cache_dir=cache)
    path.write_bytes(b"damaged")
    clip_weights.fetch_clip("ViT-B-32-quickgelu", mirror=mirror, cache_dir=cache)
    assert path.read_bytes() == (mirror / "ViT-B-32.pt").read_bytes()
    path.unlink()
    (mirror / "ViT-B-32.pt").write_bytes(b"another file")
    with pytest.raises(HashMismatchError):
        clip_weights.fetch_clip("ViT-B-32-quickgelu", mirror=mirror, cache_dir=cache)
    assert not path.exists()


def test_a_named_architecture_has_the_weights_and_pixel_statistics_of_its_tag(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.clip.arch_config", lambda name: replace(TINY, name=name))
    towers = load_clip("ViT-B-32-quickgelu", mirror=mirror, cache_dir=tmp_path / "cache")
    assert towers.config.mean == (0.5, 0.5, 0.5)
    torch.testing.assert_close(towers.vision.std, torch.full((3,), 63.75))
    assert towers.config.weights_source == "open_clip ViT-B-32-quickgelu / openai (ViT-B-32.pt)"


def test_open_clips_table_promises_a_hash_for_all_weights_of_openai() -> None:
    for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"):
        url = open_clip.get_pretrained_cfg(f"{name}-quickgelu", "openai")["url"]
        assert re.search(r"/[0-9a-f]{64}/ViT-[^/]+\.pt$", url)
