"""Features of encoders other than OpenAI's: they are open_clip's hidden states."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tokenizers
import torch
from safetensors.torch import save_file

from r2rt.video import open_source
from tests.training import encoders, tokenizers_made
from tests.training.encoders import blocks_of, hidden_states, shrink
from tests.training.extraction.material import write_videos
from training.data.features import query_name
from training.extract import main

QUERY = "a dog catches a frisbee"
K = 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "PE-Core-B-16"])
def test_features_are_hidden_states(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = tokenizers_made.gemma(tmp_path / "gemma.json") if "SigLIP" in name else None
    if made is None:
        monkeypatch.setattr(encoders, "VOCABULARY", 49_408)
    model, config = shrink(monkeypatch)(name)
    weights = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
    video = write_videos(tmp_path / "videos", 1) / "v0.mp4"
    (tmp_path / "own.jsonl").write_text(
        f'{{"video": "v0.mp4", "query": "{QUERY}", "relevant_windows": [[0, 2]]}}\n'
    )
    out = tmp_path / "out"
    arguments = [str(tmp_path / "own.jsonl"), "--videos", str(video.parent), "--out", str(out)]
    arguments += ["--model", str(weights), "--clip-arch", name, "--layers", str(K)]
    arguments += ["--workers", "0"]
    assert main(arguments if made is None else [*arguments, "--tokenizer", str(made)]) == 0

    size = config.image_size
    with open_source(video, fps=Fraction(1, 2), image_size=size) as source:
        frames = np.concatenate([[frame.pixels] * frame.count for frame in source])
    pixels = (torch.from_numpy(frames) / 255 - torch.tensor(config.mean)) / torch.tensor(config.std)
    pixels = pixels.permute(0, 3, 1, 2)
    expected = hidden_states(lambda: model.encode_image(pixels), blocks_of(model)[0])[:, -K:]
    if config.vision.frame_token == "mean":
        patches = expected[:, :, 1:] if config.vision.class_token else expected
        expected = torch.cat([patches.mean(dim=2, keepdim=True), patches], dim=2)
    found = np.load(next(out.glob("*_vid_k2/v0.npy")))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=4e-3)

    if made is None:
        ids = open_clip.SimpleTokenizer(context_length=config.context_length)([QUERY])[0]
        tokens = int(ids.argmax()) + 1
    else:
        # Padded to the context's length, as SigLIP 2's own file has it; 1 is the end.
        ids = torch.tensor(tokenizers.Tokenizer.from_file(str(made)).encode(QUERY).ids)
        assert len(ids) == config.context_length
        tokens = int((ids == 1).nonzero()[0, 0]) + 1
    states = hidden_states(lambda: model.encode_text(ids[None]), blocks_of(model)[1])[0, -K:]
    found = np.load(next(out.glob(f"*_txt_k2/{query_name(QUERY)}.npy")))
    assert found.shape == (tokens, K, config.text_width)
    np.testing.assert_allclose(found, states[:, :tokens].transpose(0, 1), rtol=2e-3, atol=4e-3)
