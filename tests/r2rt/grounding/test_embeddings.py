"""Embeddings of frames, images and sentences are those of the CLIP, and kept beside the tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from demo.make_random_bundle import CLIP, SEED
from r2rt import EncodedVideo, Grounder
from r2rt.errors import BundleSchemaError, NotAVideoError, QueryError, SourceNotFoundError
from r2rt.grounding.tokenizer import Tokenizer
from tests.r2rt.conftest import DEMO_VIDEO
from tests.r2rt.fakes import fake_grounder, frames_with_red
from training.clip import ClipTowers, random_towers

QUERIES = ["a dog", "two people are riding bikes along the river", "!"]


@pytest.fixture(scope="module")
def towers() -> ClipTowers:
    return random_towers(CLIP, SEED)


def square_frames(count: int) -> NDArray[np.uint8]:
    shape = (count, CLIP.image_size, CLIP.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_frames_and_images_have_the_embedding_of_the_clip(
    tiny_grounder: Grounder, towers: ClipTowers, tmp_path: Path
) -> None:
    frames = square_frames(3)
    want = towers.embed_frames(towers.encode_video(torch.from_numpy(frames), 1)).numpy()
    video = tiny_grounder.encode_frames(frames, tiny_grounder.bundle.fps)
    assert video.embeddings is not None
    np.testing.assert_allclose(video.embeddings, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tiny_grounder.embed_image(frames[1]), want[1], rtol=1e-4, atol=1e-4)
    Image.fromarray(frames[2]).save(tmp_path / "image.png")
    got = tiny_grounder.embed_image(tmp_path / "image.png")
    np.testing.assert_allclose(got, want[2], rtol=1e-4, atol=1e-4)


def test_sentences_have_the_embedding_of_the_clip(
    tiny_grounder: Grounder, towers: ClipTowers, tokenizer_file: Path
) -> None:
    tokenizer = Tokenizer.load(tokenizer_file, CLIP.context_length)
    want = []
    for query in QUERIES:  # one by one, so that nothing is padded
        ids = torch.from_numpy(tokenizer.encode(query).ids)[None]
        hidden = towers.encode_text(ids, 1)
        want.append(towers.embed_texts(hidden, torch.tensor([ids.shape[1]]))[0].numpy())
    got = tiny_grounder.embed_text(QUERIES)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_stream_gives_the_embeddings_of_the_file(tiny_grounder: Grounder) -> None:
    frames = square_frames(9)
    whole = tiny_grounder.encode_frames(frames, 1)
    stream = tiny_grounder.stream(window_s=6)
    stream.push_frames(frames, 1)
    last = stream.finish()
    assert whole.embeddings is not None
    assert last.embeddings is not None
    np.testing.assert_allclose(last.embeddings, whole.embeddings[-last.num_clips :], atol=1e-5)


def test_embeddings_are_saved(tiny_grounder: Grounder, tmp_path: Path) -> None:
    video = tiny_grounder.encode(DEMO_VIDEO)
    video.save(tmp_path / "video.r2rt")
    loaded = EncodedVideo.load(tmp_path / "video.r2rt")
    assert video.embeddings is not None
    assert video.embeddings.shape == (video.num_clips, tiny_grounder.bundle.dims.embedding_width)
    np.testing.assert_array_equal(loaded.embeddings, video.embeddings)


def test_a_model_without_embeddings_says_so(tmp_path: Path, tokenizer_file: Path) -> None:
    old = fake_grounder(tmp_path, tokenizer_file)
    assert old.encode_frames(frames_with_red([1, 2]), 0.5).embeddings is None
    with pytest.raises(BundleSchemaError, match="pull or export the model again"):
        old.embed_text(["a dog"])
    with pytest.raises(BundleSchemaError, match="pull or export the model again"):
        old.embed_image(square_frames(1)[0])


def test_what_is_no_image_or_sentence_is_refused(tiny_grounder: Grounder, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        tiny_grounder.embed_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(NotAVideoError):
        tiny_grounder.embed_image(tmp_path / "text.png")
    with pytest.raises(NotAVideoError, match=r"expected \(height, width, 3\) uint8"):
        tiny_grounder.embed_image(square_frames(2))
    with pytest.raises(QueryError):
        tiny_grounder.embed_text([])
