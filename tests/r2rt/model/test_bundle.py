"""Opening bundles: what is good, what is damaged, and what someone hostile might have made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.errors import (
    BundleDamagedError,
    BundleSchemaError,
    HashMismatchError,
    ModelNotFoundError,
    OutputError,
    R2rtError,
)
from r2rt.model.bundle import Bundle
from r2rt.model.bundle_writer import staged_folder, write_manifest
from r2rt.model.contract import ModelDims
from r2rt.model.manifest import (
    GRAPH_REVISION,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    Nms,
    Preprocessing,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)
from tests.r2rt.bundles import DIMS, fake_files, write_bundle
from tests.r2rt.permissions import permitting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


class TestGood:
    def test_it_opens_with_what_was_written(self, tmp_path: Path) -> None:
        manifest = write_bundle(tmp_path)
        bundle = Bundle.open(tmp_path)
        assert bundle.manifest == manifest
        assert bundle.dims == DIMS
        assert bundle.fps == Fraction(1, 2)
        assert set(bundle.graphs) == {
            "video_encoder",
            "video_finalizer",
            "text_encoder",
            "grounder",
        }
        assert bundle.file("grounder.onnx") == tmp_path / "grounder.onnx"

    def test_what_nothing_could_open_takes_no_place(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        wrong = msgspec.structs.replace(manifest, fps="2000")
        with (
            pytest.raises(OutputError, match=r"^nothing could open the bundle: bundle\.json: fps"),
            staged_folder(folder, force=True) as staged,
        ):
            write_manifest(staged, wrong)
        assert read_manifest(folder) == manifest

    def test_the_manifest_is_text_that_says_the_same_twice(self, tmp_path: Path) -> None:
        manifest = write_bundle(tmp_path)
        text = manifest_bytes(manifest)
        assert text == manifest_bytes(parse_manifest(text, where="here"))
        assert text.endswith(b"}\n")

    def test_without_endpoint_features_there_is_no_finalizer(self, tmp_path: Path) -> None:
        dims = ModelDims(
            image_size=32,
            patches=5,
            layers=2,
            width=8,
            context_length=77,
            strides=(1,),
            use_tef=False,
            has_offsets=False,
        )
        write_bundle(tmp_path, fake_files(dims), dims=dims)
        assert "video_finalizer" not in Bundle.open(tmp_path).graphs

    def test_more_files_may_be_listed(self, tmp_path: Path) -> None:
        files = {**fake_files(), "engines/rtx-sm_89-fp16/grounder.engine": b"engine"}
        write_bundle(tmp_path, files)
        bundle = Bundle.open(tmp_path)
        assert bundle.file("engines/rtx-sm_89-fp16/grounder.engine").read_bytes() == b"engine"

    def test_what_is_not_listed_is_not_given(self, folder: Path) -> None:
        (folder / "extra.bin").write_bytes(b"x")
        with pytest.raises(BundleDamagedError, match=r"lists no file extra\.bin"):
            Bundle.open(folder).file("extra.bin")

    @pytest.mark.parametrize(
        ("text", "value"),
        [("1/2", Fraction(1, 2)), ("1", Fraction(1)), ("29.97", Fraction("29.97"))],
    )
    def test_fps_is_exact(self, tmp_path: Path, text: str, value: Fraction) -> None:
        write_bundle(tmp_path, fps=text)
        assert Bundle.open(tmp_path).fps == value


class TestAbsent:
    @pytest.mark.parametrize("name", ["nothing", "empty", "file", "file/below"])
    def test_no_manifest_is_no_model(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(ModelNotFoundError, match=r"bundle\.json"):
            Bundle.open(tmp_path / name)

    def test_a_missing_file_is_named(self, folder: Path) -> None:
        (folder / "grounder.onnx").unlink()
        with pytest.raises(BundleDamagedError, match=r"grounder\.onnx: No such file"):
            Bundle.open(folder)

    @pytest.mark.parametrize("name", [MANIFEST_NAME, "grounder.onnx"])
    def test_a_file_that_may_not_be_read(self, folder: Path, name: str) -> None:
        with (
            permitting(folder / name, 0),
            pytest.raises(BundleDamagedError, match="Permission denied"),
        ):
            Bundle.open(folder)
        Bundle.open(folder)

    def test_a_folder_in_the_place_of_the_manifest(self, tmp_path: Path) -> None:
        (tmp_path / MANIFEST_NAME).mkdir()
        with pytest.raises(BundleDamagedError, match="cannot be read"):
            Bundle.open(tmp_path)


class TestDamaged:
    @pytest.mark.parametrize("part", ["", "dims", "provenance"])
    def test_a_field_that_is_not_known_may_change_the_meaning(
        self, folder: Path, part: str
    ) -> None:
        edit(folder, lambda found: (found[part] if part else found).update(future=7))
        with pytest.raises(BundleDamagedError, match="unknown field"):
            Bundle.open(folder)

    @pytest.mark.parametrize("content", [b"", b"short", b"x" * 10_000])
    def test_another_size_is_seen_without_hashing(self, folder: Path, content: bytes) -> None:
        (folder / "grounder.onnx").write_bytes(content)
        with pytest.raises(BundleDamagedError, match=f"{len(content)} bytes, expected"):
            Bundle.open(folder, verify="never")

    def test_one_changed_bit_is_seen_by_its_hash(self, folder: Path) -> None:
        path = folder / "text_encoder.onnx"
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        with pytest.raises(HashMismatchError, match=r"text_encoder\.onnx: sha256"):
            Bundle.open(folder)
        Bundle.open(folder, verify="never")

    def test_a_pipe_does_not_make_it_wait(self, folder: Path) -> None:
        edit(folder, lambda d: d["files"]["grounder.onnx"].update(size=0))
        (folder / "grounder.onnx").unlink()
        os.mkfifo(folder / "grounder.onnx")
        with pytest.raises(BundleDamagedError, match="not a regular file"):
            Bundle.open(folder)

    def test_a_folder_in_the_place_of_a_file(self, folder: Path) -> None:
        (folder / "grounder.onnx").unlink()
        (folder / "grounder.onnx").mkdir()
        with pytest.raises(BundleDamagedError, match="not a regular file"):
            Bundle.open(folder)


class TestHostileText:
    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"\x00" * 100,
            b"\xff\xfe{}",
            b"not json",
            b"[]",
            b"null",
            b'"text"',
            b"{}",
            b'{"schema": null}',
            b'{"schema": "1"}',
            b'{"schema": 1}',
            b'{"schema": 1,',
            b'{"schema": 1, "name": "\xff\xff"}',
            b'{"schema": 1, "name": "\\ud800"}',
            b'{"schema": 1, "x": ' + b"[" * 200_000,
            b'{"schema": 1, "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            b'{"schema": 1, "files": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
            b'{"schema": ' + b"9" * 5000 + b"}",
            b'{"schema": 1e400}',
            b"\x80\x04\x95.",
        ],
        ids=lambda text: repr(text[:24]),
    )
    def test_what_is_no_manifest(self, tmp_path: Path, text: bytes) -> None:
        (tmp_path / MANIFEST_NAME).write_bytes(text)
        with pytest.raises(BundleDamagedError) as raised:
            Bundle.open(tmp_path)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("schema", [0, 4, -1, 10**12])
    def test_another_schema_says_so_whatever_else_it_holds(
        self, tmp_path: Path, schema: int
    ) -> None:
        (tmp_path / MANIFEST_NAME).write_text(json.dumps({"schema": schema, "new": [1]}))
        with pytest.raises(
            BundleSchemaError, match=f"schema {schema}, this r2rt reads schema 1 to 3"
        ):
            Bundle.open(tmp_path)

    @given(data=st.data())
    def test_no_edit_of_the_text_ends_otherwise_than_in_an_error_of_ours(
        self, folder: Path, data: st.DataObject
    ) -> None:
        text = bytearray((folder / MANIFEST_NAME).read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(text) - 1))
            text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        try:
            manifest = parse_manifest(bytes(text), where="here")
        except R2rtError:
            return
        assert manifest.schema in (1, 2, 3)


@dataclass(frozen=True)
class Change:
    path: tuple[str, ...]
    to: object

    def __call__(self, document: dict[str, Any]) -> None:
        for key in self.path[:-1]:
            document = document[key]
        document[self.path[-1]] = self.to

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}={self.to!r}"[:60]


def change(*path: str, to: object) -> Change:
    return Change(path, to)


class TestHostileFields:
    @pytest.mark.parametrize(
        ("edited", "message"),
        [
            (change("extra", to=1), "extra"),
            (change("name", to=5), "name"),
            (change("name", to=None), "name"),
            (change("heads", to="8"), "heads"),
            (change("heads", to=8.5), "heads"),
            (change("heads", to=0), "positive"),
            (change("max_moments", to=0), "positive"),
            (change("dims", "width", to=-1), "positive"),
            (change("dims", "image_size", to=0), "positive"),
            (change("dims", "strides", to=[]), "strides"),
            (change("dims", "strides", to=[2, 4]), "strides"),
            (change("dims", "strides", to=[1, 4, 2]), "strides"),
            (change("dims", "strides", to=[1, 2, 2]), "strides"),
            (change("dims", "strides", to="1248"), "strides"),
            (change("dims", "strides", to=[1, 2**60]), "strides"),
            (change("dims", "strides", to=list(range(1, 100))), "strides"),
            (change("dims", "image_size", to=30_000), "image_size at most"),
            (change("dims", "patches", to=2**60), "patches at most"),
            (lambda d: d["dims"].update(patches=2**14, width=2**14), r"takes \d+ bytes"),
            (change("heads", to=2**40), "heads at most"),
            (change("vision_width", to=0), "vision_width"),
            (change("max_moments", to=2**40), "max_moments at most"),
            (change("window_s", to=1e300), "window_s"),
            (change("unit_s", to=1e300), "unit_s"),
            (change("name", to=""), "name"),
            (change("name", to="a\x1b[2J"), "name"),
            (change("name", to="a" * 100_000), "name"),
            (change("files", "a/" * 50_000 + "a", to={"size": 0, "sha256": "0" * 64}), "name"),
            (change("fps", to="0"), "fps"),
            (change("fps", to="1/99999999"), "fps"),
            (change("fps", to="99999"), "fps"),
            (change("fps", to="1/0"), "fps"),
            (change("fps", to="-1/2"), "fps"),
            (change("fps", to="1e999999999"), "fps"),
            (change("fps", to="nan"), "fps"),
            (change("fps", to="1" * 10_000), "fps"),
            (change("fps", to=0.5), "fps"),
            (change("unit_s", to=0), "unit_s"),
            (change("unit_s", to=-2.0), "unit_s"),
            (change("window_s", to=0.0), "window_s"),
            (change("window_s", to=-150), "window_s"),
            (change("precision", to="fp8"), "precision"),
            (change("nms", "kind", to="hard"), "kind"),
            (change("nms", "sigma", to=0), "sigma"),
            (change("nms", "iou_threshold", to=1.5), "iou_threshold"),
            (change("preprocessing", "std", to=[0, 1, 1]), "std"),
            (change("preprocessing", "std", to=[1, 1]), "std"),
            (change("preprocessing", "mean", to=[1e300, 1, 1]), "mean"),
            (change("preprocessing", "resize", to="nearest"), "resize"),
            (change("files", "grounder.onnx", "size", to=-1), "grounder"),
            (change("files", "grounder.onnx", "size", to=2**70), "bytes"),
            (change("files", "grounder.onnx", "sha256", to="0" * 63), "grounder"),
            (change("files", "grounder.onnx", "sha256", to="G" * 64), "grounder"),
            (change("files", "grounder.onnx", "sha256", to=None), "sha256"),
            (change("files", "grounder.onnx", "mode", to=0o755), "mode"),
            (change("files", to={}), "not listed"),
            (change("files", to=[]), "files"),
        ],
        ids=lambda value: str(value) if isinstance(value, Change) else "",
    )
    @pytest.mark.timeout(10)
    def test_what_makes_no_sense_is_refused(
        self, folder: Path, edited: Change, message: str
    ) -> None:
        edit(folder, edited)
        with pytest.raises(BundleDamagedError, match=message) as raised:
            Bundle.open(folder)
        assert len(str(raised.value)) < 600

    @pytest.mark.parametrize(
        "name",
        [
            "../outside",
            "..",
            ".",
            "",
            "/etc/passwd",
            "a/../../b",
            "a//b",
            "a/",
            "./a",
            ".hidden",
            "a/.hidden",
            "-option",
            "a\\b",
            "..\\b",
            "C:b",
            "a\x00b",
            "a\nb",
            "a b",
            "ä",
            MANIFEST_NAME,
            "grounder.onnx/below",
        ],
    )
    def test_names_that_could_leave_the_folder_are_refused(self, folder: Path, name: str) -> None:
        edit(folder, change("files", name, to={"size": 0, "sha256": "0" * 64}))
        with pytest.raises(BundleDamagedError, match="file") as raised:
            read_manifest(folder)
        assert "\n" not in str(raised.value)

    def test_a_name_beyond_what_the_disk_takes(self, folder: Path) -> None:
        edit(folder, change("files", "a" * 5000, to={"size": 0, "sha256": "0" * 64}))
        with pytest.raises(BundleDamagedError):
            Bundle.open(folder)

    @pytest.mark.parametrize("name", ["video_finalizer.onnx", "tokenizer.json"])
    def test_every_graph_must_be_listed(self, folder: Path, name: str) -> None:
        edit(folder, lambda d: d["files"].pop(name))
        with pytest.raises(BundleDamagedError, match=f"{name} are not listed"):
            Bundle.open(folder)


class TestFingerprint:
    def test_it_is_the_same_for_what_computes_the_same(self, tmp_path: Path) -> None:
        first = write_bundle(tmp_path / "a")
        origin = msgspec.structs.replace(first.provenance, exporter="another")
        write_bundle(tmp_path / "b", name="other", provenance=origin, known_words=("dog",))
        files = dict(reversed(first.files.items()))
        assert msgspec.structs.replace(first, files=files) == first
        fingerprints = {Bundle.open(tmp_path / name).fingerprint for name in "ab"}
        assert len(fingerprints) == 1
        assert len(fingerprints.pop()) == 32

    def test_it_does_not_change_from_run_to_run(self) -> None:
        """What was encoded last year must still be known by the bundle that encoded it."""
        manifest = pinned_manifest()
        assert Bundle(Path("x"), manifest).fingerprint == "b3e13c05da0b9d4a0bed310507d46792"

    @pytest.mark.parametrize(
        "changes",
        [
            {"fps": "1"},
            {"unit_s": None},
            {"window_s": None},
            {"max_moments": 5},
            {"merge_cls_sal": False},
            {"heads": 4},
            {"precision": "fp16"},
            {"clip": "other"},
            {"nms": Nms(kind="linear")},
            {"preprocessing": Preprocessing(mean=(0.1, 0.5, 0.5), std=(1, 1, 1))},
            {"files": {"grounder.onnx": FileEntry(size=1, sha256="1" * 64)}},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_it_changes_with_what_changes_answers(self, changes: dict[str, Any]) -> None:
        manifest = pinned_manifest()
        changed = msgspec.structs.replace(manifest, **changes)
        here = Path("x")
        assert Bundle(here, changed).fingerprint != Bundle(here, manifest).fingerprint


class TestOutdated:
    """Manifests without a graph revision are of before scores were stretched as the authors do."""

    def test_a_bundle_of_an_older_exporter_says_so(self) -> None:
        manifest = pinned_manifest()
        assert manifest.graph_revision == 1
        assert Bundle(Path("x"), manifest).outdated == (
            "fake was exported by an older r2rt, and its saliency is off by up to 0.07 in videos "
            "of 10 to 63 clips; fetch or export it again"
        )

    def test_one_level_was_never_stretched(self) -> None:
        manifest = pinned_manifest()
        single = replace(manifest.dims, strides=(1,))
        assert Bundle(Path("x"), msgspec.structs.replace(manifest, dims=single)).outdated is None

    def test_a_bundle_of_today_is_not(self) -> None:
        manifest = msgspec.structs.replace(pinned_manifest(), graph_revision=GRAPH_REVISION)
        assert Bundle(Path("x"), manifest).outdated is None

    def test_a_bundle_without_embeddings_is_not_outdated_for_that(self) -> None:
        manifest = msgspec.structs.replace(pinned_manifest(), graph_revision=2)
        assert manifest.dims.embedding_width is None
        assert Bundle(Path("x"), manifest).outdated is None

    def test_what_was_encoded_before_stays_valid(self) -> None:
        old = Bundle(Path("x"), pinned_manifest())
        new = msgspec.structs.replace(old.manifest, graph_revision=GRAPH_REVISION)
        assert Bundle(Path("x"), new).fingerprint == old.fingerprint


def pinned_manifest() -> Manifest:
    text = Path(__file__).with_name("manifest_schema_1.json").read_bytes()
    return parse_manifest(text, where="manifest_schema_1.json")
