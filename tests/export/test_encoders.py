"""Encoders other than OpenAI's CLIPs: graphs, tokenizers and bundles against open_clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tokenizers
import torch
from torch import Tensor

from export import engines
from export.engines import build_engines
from export.exporter import export_bundle
from export.graphs import FrameTokens, QueryTokens, TextEncoder, VideoEncoder
from export.onnx_writer import module_weights
from export.templates import model_dims, template_of
from export.tokenizer import write_tokenizer
from r2rt.errors import QueryError
from r2rt.grounding.grounder import Grounder
from r2rt.grounding.tokenizer import Tokenizer
from r2rt.model.bundle import Bundle
from r2rt.model.contract import TEXT_ENCODER, VIDEO_ENCODER, GraphSpec
from r2rt.model.convert.template import write_graph
from tests.export.engine_bundle import FUSED, fake_plan, rtx
from tests.export.tiny import run, session, to_numpy
from tests.training import tokenizers_made
from tests.training.encoders import VOCABULARY, shrink
from training.clip import ClipTowers, towers_from_state_dict
from training.clip_config import ClipConfig, ClipError, TextKind
from training.config import ModelSettings, RunConfig, write_config
from training.model import R2Config, R2Tuning
from training.recipes import RECIPES

CLOSE: Any = {"rtol": 1e-4, "atol": 5e-5}
READ = (-1, -3)
SENTENCE = "a dog catches a frisbee"


def r2_model(config: ClipConfig) -> R2Tuning:
    torch.manual_seed(0)
    sizes = R2Config(
        width=32,
        layers=len(READ),
        read_layers=READ,
        vision_width=config.vision_width,
        text_width=config.text_width,
    )
    return R2Tuning(sizes).eval().requires_grad_(False)


@pytest.fixture(
    params=["ViT-B-16-SigLIP2", "PE-Core-B-16", "ViT-L-14-CLIPA"], ids=["SigLIP 2", "PE", "CLIPA"]
)
def encoder(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, ClipTowers]:
    model, config = shrink(monkeypatch)(request.param)
    return model, towers_from_state_dict(config, model.state_dict())


@pytest.mark.slow
def test_graphs_give_what_open_clip_gives(encoder: tuple[Any, ClipTowers], tmp_path: Path) -> None:
    model, towers = encoder
    config, block = towers.config, r2_model(towers.config)
    dims = model_dims(block, towers)

    def graph(name: str, module: torch.nn.Module) -> Any:
        path = tmp_path / f"{name}.onnx"
        write_graph(template_of(name, module.eval(), dims), module_weights(module), path)
        return session(path)

    size = config.image_size
    frames = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    pixels = (frames / 255 - torch.tensor(config.mean)) / torch.tensor(config.std)
    got = run(graph(VIDEO_ENCODER, VideoEncoder(block, towers)), {"frames": frames.numpy()})
    with torch.no_grad():
        want = model.encode_image(pixels.permute(0, 3, 1, 2))
        tokens = FrameTokens(block)(towers.encode_video(frames, READ))
    np.testing.assert_allclose(got["embedding"], want, **CLOSE)
    np.testing.assert_allclose(got["tokens"], tokens, **CLOSE)

    text = graph(TEXT_ENCODER, TextEncoder(block, towers))
    lengths = torch.tensor([3, 9])
    ids = torch.randint(3, VOCABULARY - 1, (2, 9))
    ids[0, 2] = ids[1, 8] = VOCABULARY - 1  # CLIP's end of text is the highest id
    mask = (torch.arange(9) < lengths[:, None]).float()
    # Behind the first text's end stands what the runtime pads with, or anything else.
    ids[0, 3:] = 0
    got = run(text, {"token_ids": ids.numpy(), "query_mask": mask.numpy()})
    padded = torch.full((2, config.context_length), config.text.pad_id)
    padded[:, :9] = torch.where(mask > 0, ids, config.text.pad_id)
    with torch.no_grad():
        want = model.encode_text(padded)
        q = QueryTokens(block)(towers.encode_text(ids, READ, lengths), mask)[0]
    np.testing.assert_allclose(got["embedding"], want, **CLOSE)
    np.testing.assert_allclose(got["q"], q, **CLOSE)
    # At the longest query nothing is left to pad.
    most = dims.context_length
    full = run(
        text,
        {
            "token_ids": to_numpy(padded[:, :most]),
            "query_mask": to_numpy((torch.arange(most) < lengths[:, None]).float()),
        },
    )
    np.testing.assert_allclose(full["embedding"], want, **CLOSE)


CONFIGS = {
    "gemma": TextKind(causal=False, pooling="last", cleaning="canonicalize", tokenizer="x"),
    "xlm": TextKind(cleaning="whitespace", pad_id=1, tokenizer="x"),
    "bert": TextKind(
        causal=False, pooling="last", cleaning="whitespace", tokenizer="x", unended=True
    ),
}


def small_config(kind: str, context: int = 16) -> ClipConfig:
    sizes: dict[str, Any] = dict.fromkeys(
        ("vision_width", "text_width", "vision_mlp_width", "text_mlp_width"), 64
    )
    sizes |= dict.fromkeys(("vision_layers", "text_layers", "vision_heads", "text_heads"), 1)
    return ClipConfig(
        name="small",
        image_size=32,
        patch_size=16,
        context_length=context,
        vocab_size=VOCABULARY,
        text=CONFIGS[kind],
        **sizes,
    )


class Wrapped:
    """What open_clip's tokenizer asks of the one from transformers, by the file alone."""

    def __init__(self, path: Path, pad_id: int) -> None:
        self.inner = tokenizers.Tokenizer.from_file(str(path))
        self.pad_id = pad_id
        self.sep_token_id = self.inner.token_to_id("[SEP]")

    def __call__(self, texts: list[str], *, max_length: int, **_: Any) -> Any:
        self.inner.enable_truncation(max_length)
        self.inner.enable_padding(length=max_length, pad_id=self.pad_id)
        ids = [self.inner.encode(text).ids for text in texts]

        class Found:
            input_ids = torch.tensor(ids)

        return Found


def open_clip_ids(kind: str, path: Path, text: str, context: int) -> Tensor:
    """Token ids (context,) by open_clip's own code around a tokenizer's file."""
    config = CONFIGS[kind]
    found = open_clip.tokenizer.HFTokenizer.__new__(open_clip.tokenizer.HFTokenizer)
    found.tokenizer_mode, found.context_length = "", context
    found.clean_fn = open_clip.tokenizer.get_clean_fn(config.cleaning)
    found.strip_sep_token = config.unended
    found.tokenizer = Wrapped(path, config.pad_id)
    ids: Tensor = found([text])[0]
    return ids


TEXTS = (
    SENTENCE,
    "  Two   birds,\tflying — over_a lake!  ",
    "ein Hund fängt eine Scheibe",
    "犬がフリスビーを捕まえる",
    "&amp; un chat “dort” (sur) le canapé…",
    "someone rides a red bicycle over a lake and a dog catches two birds and a frisbee",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_token_ids_are_those_of_open_clip(kind: str, text: str, tmp_path: Path) -> None:
    config = small_config(kind)
    made = getattr(tokenizers_made, kind)(tmp_path / "made.json")
    want = open_clip_ids(kind, made, text, config.context_length)
    path = tmp_path / "tokenizer.json"
    write_tokenizer(path, config, made)
    tokenizer = Tokenizer.load(path, config.query_length, cleaning=config.text.cleaning)
    found = tokenizer.encode(text)
    pad = torch.full((config.context_length - len(found.ids),), config.text.pad_id)
    assert torch.cat([torch.from_numpy(found.ids), pad]).tolist() == want.tolist()
    assert found.truncated or text != TEXTS[-1]


def test_special_tokens_in_a_sentence_are_no_words_and_empty_sentences_are_refused(
    tmp_path: Path,
) -> None:
    made = tokenizers_made.xlm(tmp_path / "made.json")
    write_tokenizer(tmp_path / "tokenizer.json", small_config("xlm"), made)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json", 16, cleaning="whitespace")
    assert tokenizer.encode("a </s> dog").ids.tolist() == tokenizer.encode("a dog").ids.tolist()
    without = Tokenizer.load(tmp_path / "tokenizer.json", 16, cleaning="canonicalize")
    for text in ("", " \t ", "?!"):
        with pytest.raises(QueryError, match="has no words"):
            without.encode(text)


def test_files_that_are_no_tokenizers_of_the_encoder_are_refused(tmp_path: Path) -> None:
    made = tokenizers_made.gemma(tmp_path / "made.json", 330)
    with pytest.raises(ClipError, match=r"ids up to 329, the text tower of small has 320 rows"):
        write_tokenizer(tmp_path / "tokenizer.json", small_config("gemma"), made)
    (tmp_path / "page.json").write_text("<html>")
    with pytest.raises(ClipError, match=r"is not a tokenizer\.json"):
        write_tokenizer(tmp_path / "tokenizer.json", small_config("gemma"), tmp_path / "page.json")


@pytest.mark.slow
def test_a_bundle_on_siglip_2_grounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Export with layers of the run's own choice; the runtime gives open_clip's embeddings."""
    model, config = shrink(monkeypatch)("ViT-B-16-SigLIP2")
    towers = towers_from_state_dict(config, model.state_dict())
    settings = ModelSettings(width=32, layers=len(READ), read=READ)
    trained = RunConfig(recipe=RECIPES["qvhighlights"], model=settings)
    meta = {"config": json.loads(write_config(trained))}
    checkpoint, made = tmp_path / "best.pth", tokenizers_made.gemma(tmp_path / "gemma.json")
    torch.save({"state_dict": r2_model(config).state_dict(), "meta": meta}, checkpoint)
    exported = export_bundle(
        checkpoint, tmp_path / "bundle", clip=towers, name="siglip", tokenizer=made
    )
    assert exported.manifest.verification.passed
    bundle = Bundle.open(tmp_path / "bundle", verify="always")
    assert bundle.dims.read_layers == READ
    assert bundle.manifest.text_cleaning == "canonicalize"

    grounder = Grounder.load(tmp_path / "bundle", device="cpu", threads=1)
    size = config.image_size
    frames = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    video = grounder.encode_frames(frames, bundle.fps)
    pixels = (torch.from_numpy(frames) / 255 - torch.tensor(config.mean)) / torch.tensor(config.std)
    with torch.no_grad():
        want = model.encode_image(pixels.permute(0, 3, 1, 2))
    assert video.embeddings is not None
    np.testing.assert_allclose(video.embeddings, want, **CLOSE)
    found = grounder.embed_text([f"A {SENTENCE[2:]}!"])
    ids = open_clip_ids("gemma", made, SENTENCE, config.context_length)
    with torch.no_grad():
        want = model.encode_text(ids[None])
    np.testing.assert_allclose(found, want, **CLOSE)
    assert grounder.ground(video, SENTENCE).moments

    # In engines, the attention that pools a frame's tokens is a softmax of its own, as the query's.
    def build(
        _flavour: object, _onnx: bytes, spec: GraphSpec, *_: object, **_named: object
    ) -> bytes:
        return fake_plan(FUSED[spec.name], int(spec.name in (VIDEO_ENCODER, TEXT_ENCODER)))

    monkeypatch.setattr(engines, "build_plan", build)
    (engine,) = build_engines(bundle, rtx())
    assert engine.manifest.plans[VIDEO_ENCODER].kernels["softmax"] == 1
