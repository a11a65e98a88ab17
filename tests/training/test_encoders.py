"""Encoders of every kind give the hidden states and embeddings of open_clip's own models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.encoders import KINDS, LAYERS, VOCABULARY, blocks_of, hidden_states, shrink
from training.clip import towers_from_state_dict
from training.clip_arch import arch_config
from training.clip_config import OPENAI_MEAN, ClipConfig, ClipError
from training.clip_towers import ClipTowers

# Sums are ordered differently in the attention, the pooling and the folded layers.
CLOSE: Any = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def pair(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, ClipTowers, ClipConfig]:
    """open_clip's model, ours with its weights, and the sizes."""
    model, config = shrink(monkeypatch)(request.param)
    return model, towers_from_state_dict(config, model.state_dict()), config


def frames_and_pixels(config: ClipConfig) -> tuple[Tensor, Tensor]:
    size = config.image_size
    frames = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    pixels = (frames / 255 - torch.tensor(config.mean)) / torch.tensor(config.std)
    return frames, pixels.permute(0, 3, 1, 2)


def test_frames(pair: tuple[Any, ClipTowers, ClipConfig]) -> None:
    model, towers, config = pair
    frames, pixels = frames_and_pixels(config)
    states = hidden_states(lambda: model.encode_image(pixels), blocks_of(model)[0])
    if config.vision.frame_token == "mean":
        patches = states[:, :, 1:] if config.vision.class_token else states
        states = torch.cat([patches.mean(dim=2, keepdim=True), patches], dim=2)
    found = towers.encode_video(frames, LAYERS)
    assert found.shape == (3, LAYERS, config.patches, config.vision_width)
    torch.testing.assert_close(found, states, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(towers.embed_frames(found), model.encode_image(pixels), **CLOSE)


def test_sentences(pair: tuple[Any, ClipTowers, ClipConfig]) -> None:
    model, towers, config = pair
    # Real tokens, the end of the text (the highest id of CLIP's tokenizer), padding.
    end = getattr(getattr(model, "text", model), "eos_id", 2) if config.text.tokenizer else 319
    lengths = torch.tensor([3, 9, config.context_length])
    ids = torch.randint(3, VOCABULARY - 1, (3, config.context_length))
    ids[torch.arange(3), lengths - 1] = end
    padded = torch.where(
        torch.arange(config.context_length) < lengths[:, None], ids, config.text.pad_id
    )
    states = hidden_states(lambda: model.encode_text(padded), blocks_of(model)[1])
    found = towers.encode_text(ids, LAYERS, lengths)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row, :, :length], states[row, :, :length], **CLOSE)
    with torch.no_grad():
        want = model.encode_text(padded)
    torch.testing.assert_close(towers.embed_texts(found, lengths), want, **CLOSE)
    # A batch that is cut to its longest query has the same states.
    cut = towers.encode_text(ids[:2, :9], LAYERS, lengths[:2])
    torch.testing.assert_close(cut[0, :, :3], states[0, :, :3], **CLOSE)
    torch.testing.assert_close(cut[1], states[1, :, :9], **CLOSE)


def test_blocks_are_read_in_the_order_that_is_asked_for() -> None:
    from tests.training.test_clip import TINY
    from training.clip import random_towers

    towers = random_towers(TINY, 0)
    frames = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    ids = torch.randint(0, 300, (2, 7))
    everything, texts = towers.encode_video(frames, 4), towers.encode_text(ids, 4)
    for read in ((-1, -2, -3, -4), (-1,) * 4, (-4, -2), (-1,)):
        places = [4 + place for place in read]
        assert torch.equal(towers.encode_video(frames, read), everything[:, places])
        assert torch.equal(towers.encode_text(ids, read), texts[:, places])
    for impossible in ((), (-6,), (0,)):
        with pytest.raises(ClipError, match="asked of a vision tower that has 5"):
            towers.encode_video(frames, impossible)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RN50", "its vision tower is a ResNet, whose layers are convolutions"),
        ("convnext_base", "convnext_base is a ConvNeXt, which has convolutions"),
        ("MobileCLIP-S1", "fastvit_mci1 is a FastVit, which has convolutions"),
        ("MobileCLIP2-B", "patches are made by a stack of convolutions"),
        ("ViTamin-S", "patches are made by a stack of convolutions"),
        ("swin_base_patch4_window7_224", "is a SwinTransformer, which has convolutions, "),
        ("EVA02-B-16", r"the MLP is gated \(SwiGLU\)"),
        ("EVA02-E-14", "norms stand behind the branches"),
        ("coca_ViT-B-32", "it is a CoCa"),
        ("xlm-roberta-base-ViT-B-32", "text tower xlm-roberta-base is one of transformers"),
        ("nllb-clip-base-siglip", "facebook/nllb-200-distilled-600M is one of transformers"),
    ],
)
def test_encoders_that_do_not_fit_are_refused_with_their_reason(name: str, reason: str) -> None:
    with pytest.raises(ClipError, match=rf"^{name} cannot be read layer by layer: .*{reason}"):
        arch_config(name)


@pytest.mark.parametrize(
    ("name", "sizes", "kind"),
    [
        # Widths, layers and heads of both towers, context, tokens a frame, vocabulary.
        ("ViT-B-16-SigLIP2", (768, 12, 12, 768, 12, 12, 64, 197, 256_000), "mean"),
        ("ViT-SO400M-14-SigLIP2-378", (1152, 27, 16, 1152, 27, 16, 64, 730, 256_000), "mean"),
        ("PE-Core-B-16", (768, 12, 12, 1024, 24, 16, 32, 197, 49_408), "class"),
        ("PE-Core-L-14-336", (1024, 24, 16, 1024, 24, 16, 32, 577, 49_408), "class"),
        ("ViT-L-14-worldwide-quickgelu", (1024, 24, 16, 768, 12, 12, 77, 257, 250_100), "class"),
        ("ViT-L-14-CLIPA", (1024, 24, 16, 768, 12, 12, 32, 257, 32_000), "mean"),
    ],
)
def test_true_sizes(name: str, sizes: tuple[int, ...], kind: str) -> None:
    config = arch_config(name)
    vision = (config.vision_width, config.vision_layers, config.vision_heads)
    text = (config.text_width, config.text_layers, config.text_heads)
    found = (*vision, *text, config.context_length, config.patches, config.vocab_size)
    assert found == sizes
    assert config.vision.frame_token == kind


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("ViT-B-16-SigLIP2", (0.5, 0.5, 0.5)),
        ("ViT-L-14-CLIPA", (0.485, 0.456, 0.406)),
        ("ViT-B-32-quickgelu", OPENAI_MEAN),
        # Published with two of them: a file of weights does not show which it wants.
        ("ViT-L-14", OPENAI_MEAN),
    ],
)
def test_frames_are_normalised_as_the_weights_of_an_architecture_want(
    name: str, mean: tuple[float, float, float]
) -> None:
    assert arch_config(name).mean == mean
