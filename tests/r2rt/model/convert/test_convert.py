"""A published checkpoint and CLIP become a bundle without PyTorch; what does not fit is refused.

The true architecture is large, so the package's own templates are filled by a slow test; others use
small graphs that the exporter made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from r2rt.errors import ConversionError, DownloadError, HashMismatchError, SourceNotFoundError
from r2rt.model import registry
from r2rt.model.convert import reference
from r2rt.model.convert.architecture import published_architecture
from r2rt.model.convert.clip_files import clip_folder, fetch_clip
from r2rt.model.convert.convert import published_templates
from r2rt.model.convert.template import slots, write_graph
from r2rt.model.convert.weights import read_checkpoint, read_clip
from r2rt.model.graph_files import external_locations
from r2rt.model.onnx_graph import OnnxGraph
from r2rt.model.registry import FAMILIES, PUBLISHED, ClipSource
from tests.golden_data import GOLDEN, load_arrays
from tests.r2rt.hub import Hub, Step, running_hub
from training.clip import arch_config
from training.recipes import RECIPES


@pytest.mark.parametrize(
    ("checkpoint", "case"),
    [
        ("moment", "moment_t5"),
        ("moment", "moment_t12"),
        ("moment", "stretch_t10"),
        ("moment", "stretch_t23"),
        ("highlight", "highlight_t11"),
        ("patch16", "patch16_t6"),
    ],
)
def test_the_reference_gives_the_golden_answers(checkpoint: str, case: str) -> None:
    weights = read_checkpoint(GOLDEN / f"{checkpoint}.pth")
    arrays = load_arrays(GOLDEN / f"{case}.npz")
    moments = "coord_head.module.1.weight" in weights
    video, query = arrays["video"].astype(np.float64), arrays["query"].astype(np.float64)
    layers = range(video.shape[1])
    answer = reference.ground(
        weights,
        [reference.map_video(weights, video[:, k], use_tef=moments) for k in layers],
        [reference.map_query(weights, query[:, k]) for k in layers],
        heads=8,
        merge_cls_sal=moments,
    )
    np.testing.assert_allclose(answer.saliency, arrays["saliency"], rtol=1e-4, atol=1e-5)
    assert (answer.offsets is not None) == moments


class TestPublishedSettings:
    @pytest.mark.parametrize("name", list(PUBLISHED))
    def test_they_are_those_of_the_training_recipe(self, name: str) -> None:
        model, recipe = PUBLISHED[name], RECIPES[name]
        family = FAMILIES[model.family]
        assert (model.fps, model.unit_s, model.window_s) == (
            str(recipe.fps),
            recipe.unit_s,
            recipe.window_s,
        )
        assert model.nms == (recipe.nms.kind if recipe.nms else "normal")
        assert family.strides == recipe.strides
        assert (family.moments,) * 3 == (recipe.use_tef, recipe.has_offsets, recipe.merge_cls_sal)

    def test_the_architecture_is_that_of_the_named_clip(self) -> None:
        clip, ours = arch_config(registry.CLIP_ARCHITECTURE), published_architecture("moments")
        assert ours.dims.patches == clip.patches
        for name in (
            "image_size",
            "patch_size",
            "vision_width",
            "vision_heads",
            "text_width",
            "text_heads",
            "context_length",
            "mean",
            "std",
        ):
            assert getattr(ours, name) == getattr(clip, name), name
        assert ours.vision_blocks == clip.vision_layers
        assert ours.text_blocks == clip.text_layers


class TestTemplates:
    @pytest.mark.parametrize("family", list(FAMILIES))
    def test_what_is_shipped_is_small_and_holds_no_weights(self, family: str) -> None:
        templates = published_templates(family)
        assert sum(map(len, templates.values())) < 200_000
        sizes = {graph: sum(x.size for x in slots(t).values()) for graph, t in templates.items()}
        # CLIP's towers in fp32: 87.5 and 63.2 million numbers, less what hidden states do not read.
        assert 345e6 < sizes["video_encoder"] < 355e6
        assert 250e6 < sizes["text_encoder"] < 256e6

    def test_weights_of_other_shapes_names_and_types_are_refused(self, tmp_path: Path) -> None:
        template = published_templates("highlights")["grounder"]
        right: dict[str, NDArray[Any]] = {
            name: np.zeros(slot.shape, slot.dtype) for name, slot in slots(template).items()
        }
        write_graph(template, right, tmp_path / "graph.onnx")
        scale = "pooling.scale"
        for wrong, message in (
            ({x: y for x, y in right.items() if x != scale}, "not those of the graph.*scale"),
            (right | {"another": right[scale]}, "not those of the graph: another"),
            (right | {scale: right[scale][:2]}, r"scale has shape \(2, 1, 1, 1\)"),
            (right | {scale: right[scale].astype(np.float64)}, "type float64"),
        ):
            with pytest.raises(ConversionError, match=message):
                write_graph(template, wrong, tmp_path / "wrong.onnx")
            assert not (tmp_path / "wrong.onnx").exists()

    def test_a_graph_that_is_too_large_for_one_file_has_its_numbers_beside_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graph = published_templates("highlights")["grounder"]
        random = np.random.default_rng(0)
        weights: dict[str, NDArray[Any]] = {
            name: random.standard_normal(slot.shape).astype(slot.dtype)
            for name, slot in slots(graph).items()
        }
        monkeypatch.setattr("r2rt.model.convert.template._LARGEST_FILE", 1 << 20)
        write_graph(graph, weights, tmp_path / "split.onnx")
        assert (tmp_path / "split.onnx").stat().st_size < 1 << 20
        assert external_locations(tmp_path / "split.onnx") == {"split.onnx.data"}
        ours = OnnxGraph.read(tmp_path / "split.onnx").constants
        onnxs = {x.name: x for x in onnx.load_model(tmp_path / "split.onnx").graph.initializer}
        for name, array in weights.items():
            np.testing.assert_array_equal(ours[name], array)
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(onnxs[name]), array)


class TestFiles:
    def test_a_web_page_is_no_checkpoint(self, tmp_path: Path) -> None:
        for text in ("<!DOCTYPE html><html>Sign in", "\n  <html>404"):
            (tmp_path / "page.pth").write_text(text)
            for read in (read_checkpoint, read_clip):
                with pytest.raises(ConversionError, match=r"page\.pth is no .* web page"):
                    read(tmp_path / "page.pth")

    @pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\x02}.", b"\x20" + bytes(7) + b"{"])
    def test_what_is_no_checkpoint_is_one_line(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "odd.pth").write_bytes(content)
        with pytest.raises(ConversionError, match=r"odd\.pth is no checkpoint") as raised:
            read_checkpoint(tmp_path / "odd.pth")
        assert "\n" not in str(raised.value)

    def test_tensors_that_claim_more_than_the_file_holds(self, tmp_path: Path) -> None:
        torch.save({"coef": torch.zeros(1).expand(2**24)}, tmp_path / "claims.pth")
        with pytest.raises(ConversionError, match="more numbers than the file has bytes"):
            read_checkpoint(tmp_path / "claims.pth")

    def test_what_is_no_tensor(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {"coef": "text"}}, tmp_path / "text.pth")
        with pytest.raises(ConversionError, match="'coef' is no tensor"):
            read_checkpoint(tmp_path / "text.pth")

    def test_safetensors_and_state_dicts_are_the_same_weights(self, tmp_path: Path) -> None:
        weights: dict[str, NDArray[Any]] = {
            "a": np.arange(6, dtype=np.float32).reshape(2, 3),
            "b": np.ones(2, np.float16),
        }
        save_file(weights, tmp_path / "clip.safetensors")
        torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, tmp_path / "clip.pt")
        for name in ("clip.safetensors", "clip.pt"):
            read = read_clip(tmp_path / name)
            assert set(read) == set(weights)
            for key, array in weights.items():
                assert read[key].dtype == array.dtype
                assert np.array_equal(read[key], array)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


class TestClipFiles:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
        for name in ("R2RT_CLIP", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_HOME", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)

        def source(filename: str, url: str) -> ClipSource:
            content = filename.encode()
            sha256 = hashlib.sha256(content).hexdigest()
            return ClipSource(filename=filename, urls=(url,), sha256=sha256, size=len(content))

        sources = (source("one.safetensors", "{hub}/one"), source("two.pt", f"{hub.url}/two"))
        monkeypatch.setattr(registry, "CLIP_SOURCES", sources)
        hub.add("one", b"one.safetensors")
        hub.add("two", b"two.pt")

    def test_the_first_place_is_asked_and_then_no_more(self, hub: Hub) -> None:
        said: list[str] = []
        path = fetch_clip(say=said.append)
        assert path == clip_folder() / "one.safetensors"
        assert said == [f"fetching CLIP from {hub.url}/one (0 MB)"]
        assert fetch_clip(say=said.append) == path
        assert len(hub.requests) == 1

    @pytest.mark.parametrize("step", [Step(status=404), Step(corrupt=True)])
    def test_the_next_place_is_asked_where_one_fails(self, hub: Hub, step: Step) -> None:
        hub.always["one"] = step
        assert fetch_clip(say=lambda _: None).name == "two.pt"

    def test_all_places_failing_says_what_to_do(self, hub: Hub) -> None:
        hub.files.clear()
        with pytest.raises(DownloadError, match=r"404.*bring one.safetensors or two.pt.*--clip"):
            fetch_clip(say=lambda _: None)

    def test_offline_nothing_is_asked(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE is set.*--clip FILE"):
            fetch_clip(say=lambda _: None)
        assert not hub.requests

    def test_a_file_that_others_fetched_is_taken(self, hub: Hub, tmp_path: Path) -> None:
        cache = tmp_path / ".cache" / "clip"
        cache.mkdir(parents=True)
        (cache / "two.pt").write_bytes(b"two.pt")
        assert fetch_clip(say=lambda _: None) == cache / "two.pt"
        (cache / "two.pt").write_bytes(b"damaged")
        assert fetch_clip(say=lambda _: None).name == "one.safetensors"

    def test_a_named_file_or_folder_is_held_to_the_known_hashes(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mine.bin").write_bytes(b"two.pt")
        (tmp_path / "two.pt").write_bytes(b"two.pt")
        assert fetch_clip(str(tmp_path / "mine.bin"), say=print) == tmp_path / "mine.bin"
        assert fetch_clip(str(tmp_path), say=print) == tmp_path / "two.pt"
        monkeypatch.setenv("R2RT_CLIP", str(tmp_path / "two.pt"))
        assert fetch_clip(say=print) == tmp_path / "two.pt"
        (tmp_path / "two.pt").write_bytes(b"another")
        with pytest.raises(HashMismatchError, match="none of CLIP ViT-B/32's known files"):
            fetch_clip(say=print)
        with pytest.raises(SourceNotFoundError, match="no such file"):
            fetch_clip(str(tmp_path / "nowhere"), say=print)
        assert not hub.requests

    def test_a_mirror_is_asked_by_the_files_names(self, hub: Hub) -> None:
        hub.add("mirror/two.pt", b"two.pt")
        assert fetch_clip(f"{hub.url}/mirror", say=print).name == "two.pt"
        assert [x.path for x in hub.requests] == ["mirror/one.safetensors", "mirror/two.pt"]

    def test_an_address_that_cannot_be_read_is_no_folder(self, hub: Hub) -> None:
        with pytest.raises(DownloadError, match="cannot be read"):
            fetch_clip("http://[/two.pt", say=lambda _: None)
        assert not hub.requests

    @pytest.mark.parametrize("query", ["", "?download=true"])
    def test_the_address_of_a_file_is_asked_as_it_is(self, hub: Hub, query: str) -> None:
        address = hub.add("mirror/two.pt", b"two.pt") + query
        assert fetch_clip(address, say=print).name == "two.pt"
        assert [x.path for x in hub.requests] == ["mirror/two.pt"]
