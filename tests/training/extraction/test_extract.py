from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import asdict, replace
from open_clip.tokenizer import SimpleTokenizer
from safetensors.numpy import load_file

from r2rt import EncodedVideo, Grounder
from r2rt.errors import QueryError
from r2rt.model.contract import GROUNDER
from r2rt.video import open_source
from tests.conftest import CHECKOUT
from tests.training.extraction.material import ANNOTATIONS, PATCHES, write_clip, write_videos
from tests.unmerged import unmerged
from training.clip import ClipError, load_clip
from training.data.errors import FeatureError
from training.data.features import MANIFEST, query_name
from training.data.layouts import open_data
from training.extract import main
from training.extraction import pipeline
from training.extraction.encoders import Settings, make_manifest
from training.extraction.errors import ExtractionError
from training.extraction.jobs import Job, Shard, plan_jobs
from training.extraction.pipeline import gpu_of, workers_on
from training.extraction.worker import Outcome, Setup, Worker
from training.recipes import RECIPES

BUNDLE = CHECKOUT / "demo" / "random-tiny"
HALF = Fraction(1, 2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.safetensors")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of annotations with their videos."""
    folder = write_videos(tmp_path_factory.mktemp("material"))
    (folder / "own.jsonl").write_text(ANNOTATIONS)
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Do the jobs in this process; returns those that were done."""
    done: list[Job] = []
    work = Worker.work

    def noted(worker: Worker, job: Job) -> Outcome:
        done.append(job)
        return work(worker, job)

    monkeypatch.setattr(Worker, "work", noted)
    monkeypatch.setattr(
        pipeline, "_run_processes", lambda jobs, setup, *_: map(Worker(setup).work, jobs)
    )
    return done


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_authors_features_are_clips_hidden_states(
    clip: Path, material: Path, tmp_path: Path, here: list[Job]
) -> None:
    out = tmp_path / "out"
    assert main([str(material / "own.jsonl"), "--model", str(clip), "--out", str(out)]) == 0
    towers = load_clip(clip)
    videos, queries = out / "clip_w64_p16_32px_vid_k4", out / "clip_w64_p16_32px_txt_k4"
    assert sorted(path.name for path in videos.glob("*.npy")) == ["v0.npy", "v1.npy"]
    named = {f"{query_name(text)}.npy" for text in ("a dog! runs", "a cat", "a bird")}
    assert {path.name for path in queries.iterdir()} == named
    for vid, clips in (("v0", 2), ("v1", 3)):
        found = np.load(videos / f"{vid}.npy")
        assert found.dtype == np.float16
        assert found.shape == (clips, 4, PATCHES, 64)
        with open_source(material / f"{vid}.mp4", fps=HALF, image_size=32) as frames:
            pixels = np.concatenate([[frame.pixels] * frame.count for frame in frames])
        with torch.inference_mode():
            expected = towers.encode_video(torch.from_numpy(pixels), 4)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)

    ids = SimpleTokenizer()(["a dog! runs"])[0]
    tokens = 6  # start, four words of which one is `!`, whose id is 0, and end
    assert ids[tokens - 1] == 49407
    with torch.inference_mode():
        expected = towers.encode_text(ids[None, :tokens], 4)[0].transpose(0, 1)
    found = np.load(queries / f"{query_name('a dog! runs')}.npy")
    assert found.shape == (tokens, 4, 64)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)

    # And training reads them.
    data = open_data(RECIPES["qvhighlights"], out, "train", annotations=material / "own.jsonl")
    assert [data[index].video.shape[0] for index in range(3)] == [2, 3, 3]
    assert len(here) == 3


def test_tokens_are_those_that_the_runtime_grounds_in(
    material: Path, tmp_path: Path, here: list[Job]
) -> None:
    out = tmp_path / "out"
    arguments = [str(material / "own.jsonl"), "--model", str(BUNDLE), "--out", str(out)]
    assert main([*arguments, "--format", "tokens"]) == 0
    grounder = Grounder.load(BUNDLE, device="cpu", threads=1)
    layers = grounder.bundle.dims.layers
    encoded = EncodedVideo.load(out / f"tokens_vid_k{layers}" / "v1.r2rt")
    direct = grounder.encode(str(material / "v1.mp4"))
    assert np.array_equal(encoded.tokens, direct.tokens)
    assert (encoded.source, encoded.encode_s) == ("v1", 0.0)

    query = load_file(out / f"tokens_txt_k{layers}" / f"{query_name('a cat')}.safetensors")
    prediction = grounder.ground(encoded, "a cat")
    answer = grounder.engine.run(
        GROUNDER,
        {
            **unmerged(grounder.finalize_tokens(encoded.tokens)),
            "q": query["q"][None],
            "q_key": query["q_key"][None],
            "pooled": query["pooled"][None],
            "query_mask": np.ones((1, query["q"].shape[1]), np.float32),
        },
    )
    np.testing.assert_allclose(answer["saliency"][0], prediction.saliency, rtol=1e-5, atol=1e-6)


def test_tokens_have_the_bundle_s_rate_whatever_the_ratings_have(
    material: Path, tmp_path: Path, here: list[Job]
) -> None:
    youtube, out = tmp_path / "youtube.jsonl", tmp_path / "out"
    row = {"vid": "v1", "query": "dog", "duration": 6, "match": [1] * 9}
    youtube.write_text(json.dumps(row))
    arguments = [str(youtube), "--videos", str(material), "--model", str(BUNDLE)]
    assert main([*arguments, "--out", str(out), "--format", "tokens"]) == 0
    assert [job.fps for job in here if job.vid] == ["1/2"]


@pytest.mark.parametrize("format_", ["authors", "tokens"])
def test_what_is_there_is_kept_and_what_is_missing_made_the_same(
    format_: str, clip: Path, material: Path, tmp_path: Path, here: list[Job]
) -> None:
    out = tmp_path / "out"
    model = clip if format_ == "authors" else BUNDLE
    arguments = [str(material / "own.jsonl"), "--model", str(model), "--out", str(out)]
    arguments += ["--format", format_]
    assert main(arguments) == 0
    whole = contents(out)
    assert len(whole) == 8
    here.clear()
    assert main(arguments) == 0
    assert not here
    # What a kill leaves: files that are missing, and half-written ones beside them.
    (video,) = {*out.glob("*_vid_*/v1.*")} - {*out.glob("*_vid_*/*.source")}
    (query,) = out.glob(f"*_txt_*/{query_name('a bird')}.*")
    other = video.with_name(f".another{video.suffix}.abcd1234")
    for path in (video, query):
        path.unlink()
        path.with_name(f".{path.name}.x1y2z3").write_bytes(b"half")
    other.write_bytes(b"another shard's")
    assert main(arguments) == 0
    assert len(here) == 2
    other.unlink()
    assert contents(out) == whole


def test_a_folder_holds_one_models_features(
    clip: Path,
    material: Path,
    tmp_path: Path,
    here: list[Job],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = [str(material / "own.jsonl"), "--out", str(out), "--only", "queries", "--model"]
    assert main([*arguments, str(clip)]) == 0
    # The same weights under another name are the same model.
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(clip.read_bytes())
    before = contents(out)
    other = write_clip(tmp_path / "other.safetensors", seed=1)
    for model, more, says in (
        (other, [], "fingerprint"),
        (clip, ["--layers", "3"], "layers 4 instead of 3"),
        (clip, ["--fps", "1"], "fps 1/2 instead of 1"),
        (clip, ["--sampling", "nearest"], "sampling exact instead of nearest"),
        (BUNDLE, ["--format", "tokens"], "format authors instead of tokens"),
    ):
        assert main([*arguments, str(model), *more]) == 63
        assert says in capsys.readouterr().err
    (out / MANIFEST).write_text("{}")
    assert main([*arguments, str(clip)]) == 63
    assert "not a manifest" in capsys.readouterr().err
    (out / MANIFEST).write_bytes(before[MANIFEST])
    assert main([*arguments, str(clip)]) == 0
    first = make_manifest(Settings(format="authors", model=str(clip)))
    second = make_manifest(Settings(format="authors", model=str(copy)))
    assert first.fingerprint == second.fingerprint


def test_what_cannot_be_made_is_reported_and_the_rest_is_made(
    clip: Path,
    material: Path,
    tmp_path: Path,
    here: list[Job],
    capsys: pytest.CaptureFixture[str],
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "v0.mp4").write_bytes((material / "v0.mp4").read_bytes())
    (videos / "broken.mp4").write_bytes(b"no video")
    rows = [{"vid": vid, "query": "x", "qid": vid} for vid in ("v0", "broken", "absent")]
    annotations = tmp_path / "own.jsonl"
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    arguments = [str(annotations), "--videos", str(videos), "--model", str(clip)]
    assert main([*arguments, "--out", str(out)]) == 63
    said = capsys.readouterr().err
    assert "not made: absent: not in" in said
    assert "not made: broken: " in said
    assert "2 could not be made" in said
    assert [path.name for path in out.glob("*_vid_*/*.npy")] == ["v0.npy"]
    # Three annotations ask the same.
    assert len(list(out.glob("*_txt_*/*"))) == 1
    # Put right, the same command makes the rest.
    for name in ("broken", "absent"):
        (videos / f"{name}.mp4").write_bytes((material / "v1.mp4").read_bytes())
    here.clear()
    assert main([*arguments, "--out", str(out)]) == 0
    assert [job.vid for job in here] == ["absent", "broken"]


def test_shards_are_disjoint_and_together_all(material: Path) -> None:
    rows = [{"vid": "v0", "query": f"q{n}", "qid": n} for n in range(300)]
    rows += [{"vid": "v1", "query": "x", "qid": "last"}]
    annotations = material / "many.jsonl"
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def jobs(shard: str) -> list[Job]:
        found, missing = plan_jobs(annotations, videos=None, fps=HALF, shard=Shard.parse(shard))
        assert not missing
        return found

    whole = jobs("1/1")
    assert {job.vid for job in whole if job.vid} == {"v0", "v1"}
    assert sum(len(job.queries) for job in whole) == 301
    parts = [jobs(f"{index}/3") for index in (1, 2, 3)]
    assert sorted([job for part in parts for job in part], key=repr) == sorted(whole, key=repr)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0"):
        with pytest.raises(QueryError, match="shard"):
            Shard.parse(wrong)


def test_folders_of_videos_and_rates_of_labels(material: Path, tmp_path: Path) -> None:
    jobs, _ = plan_jobs(material, videos=None, fps=Fraction(1), shard=Shard())
    assert [(job.vid, job.fps) for job in jobs] == [("v0", "1"), ("v1", "1")]
    (only,), _ = plan_jobs(material / "v0.mp4", videos=None, fps=HALF, shard=Shard())
    assert only.vid == "v0"
    # YouTube Highlights: as many clips as ratings.
    youtube = tmp_path / "youtube.jsonl"
    row = {"vid": "v1", "query": "dog", "duration": 6, "match": [1] * 9}
    youtube.write_text(json.dumps(row))
    jobs, _ = plan_jobs(youtube, videos=material, fps=HALF, shard=Shard())
    assert jobs[0].fps == "3/2"
    twice = tmp_path / "twice"
    twice.mkdir()
    for suffix in ("mp4", "mkv"):
        (twice / f"a.{suffix}").write_bytes(b"x")
    with pytest.raises(ExtractionError, match="share one file"):
        plan_jobs(twice, videos=None, fps=HALF, shard=Shard())
    (twice / "a.mp4").unlink()
    (twice / "a.mkv").unlink()
    with pytest.raises(ExtractionError, match="nothing to extract"):
        plan_jobs(twice, videos=None, fps=HALF, shard=Shard())


def opened(out: Path, annotations: Path) -> list[np.ndarray]:
    """The queries' features as training reads them."""
    data = open_data(RECIPES["qvhighlights"], out, "train", annotations=annotations)
    return [data[index].query.numpy() for index in range(len(data))]


def test_a_sentence_never_takes_the_features_of_another(
    clip: Path, material: Path, tmp_path: Path, here: list[Job]
) -> None:
    """The qid is the line's number, so an inserted line moves it, and a second file repeats it."""
    row = '{{"video": "v1", "query": "{}", "relevant_windows": [[0, 2]]}}\n'
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text(row.format("a dog") + row.format("a cat"))
    second.write_text(row.format("a horse"))
    out = tmp_path / "out"
    options = ["--videos", str(material), "--model", str(clip), "--out", str(out)]
    assert main([str(first), *options]) == 0
    dog, cat = opened(out, first)
    with pytest.raises(FeatureError, match="no features of query 1, 'a horse'"):
        opened(out, second)
    assert main([str(second), *options]) == 0
    (horse,) = opened(out, second)
    first.write_text(row.format("a horse") + first.read_text())
    for found, expected in zip(opened(out, first), (horse, dog, cat), strict=True):
        assert np.array_equal(found, expected)
    assert not np.array_equal(horse, dog)


def test_a_video_never_takes_the_features_of_another(
    clip: Path,
    material: Path,
    tmp_path: Path,
    here: list[Job],
    capsys: pytest.CaptureFixture[str],
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    video = videos / "v0.mp4"
    video.write_bytes((material / "v0.mp4").read_bytes())
    arguments = [str(videos), "--model", str(clip), "--out", str(out)]
    assert main(arguments) == 0
    (features,) = out.glob("*_vid_*/v0.npy")
    before = features.read_bytes()
    # Another date for the same content is no change.
    video.touch()
    here.clear()
    assert main(arguments) == 0
    assert not here

    video.write_bytes((material / "v1.mp4").read_bytes())
    assert main(arguments) == 63
    assert "was made of another video" in capsys.readouterr().err
    assert features.read_bytes() == before
    assert main([*arguments, "--replace"]) == 0
    assert len(np.load(features)) == 3
    assert main(arguments) == 0

    # Nor those that it had before, where it cannot be read any more.
    video.write_bytes(b"no video")
    assert main([*arguments, "--replace"]) == 63
    assert not features.exists()


def test_features_of_unknown_origin_are_neither_kept_nor_overwritten(
    clip: Path, material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "clip_w64_p16_32px_vid_k4" / "v0.npy"
    published.parent.mkdir()
    published.write_bytes(b"published")
    assert main([str(material), "--model", str(clip), "--out", str(tmp_path)]) == 63
    assert "no " in capsys.readouterr().err
    assert published.read_bytes() == b"published"


def test_features_are_read_at_the_rate_they_were_made_at(
    clip: Path, material: Path, tmp_path: Path, here: list[Job]
) -> None:
    options = ["--model", str(clip), "--out", str(tmp_path), "--fps", "2"]
    assert main([str(material / "own.jsonl"), *options]) == 0
    with pytest.raises(FeatureError, match="extracted at 2 clips a second, the recipe has 1/2"):
        opened(tmp_path, material / "own.jsonl")


def test_without_workers_this_process_makes_them(
    clip: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes' features are compared in test_resume.py."""
    monkeypatch.setitem(sys.modules, "ray", None)  # cannot be imported
    source, options = str(material / "own.jsonl"), ["--model", str(clip), "--workers", "0"]
    for name in ("first", "second"):
        assert main([source, *options, "--threads", "1", "--out", str(tmp_path / name)]) == 0
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert len(contents(tmp_path / "first")) == 8


def test_workers_are_as_many_as_the_gpus_take(
    clip: Path,
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the number of cores, and on those GPUs alone that the command was given."""
    assert [workers_on(2, gpus) for gpus in (0.3, 0.5, 1, 2, 3)] == [6, 4, 2, 1, 0]
    assert [gpu_of(index, 0.3, None) for index in range(6)] == ["0"] * 3 + ["1"] * 3
    assert [gpu_of(index, 0.5, "3, 5") for index in range(4)] == ["3", "3", "5", "5"]
    assert [gpu_of(index, 2, "0,1,6,7") for index in range(2)] == ["0", "6"]

    asked: list[int] = []

    def run_jobs(jobs: list[Job], setup: Setup, *, workers: int, **_: object) -> Iterator[Outcome]:
        asked.append(workers)
        return map(Worker(Setup(**asdict(setup) | {"settings": on_cpu(setup)})).work, jobs)

    def on_cpu(setup: Setup) -> Settings:
        return replace(setup.settings, device="cpu")

    monkeypatch.setattr(pipeline, "run_jobs", run_jobs)
    monkeypatch.setattr("r2rt.portable._CGROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    command = [str(material / "own.jsonl"), "--model", str(clip), "--out", str(tmp_path / "out")]
    assert main([*command, "--gpus", "0.5"]) == 0
    assert asked == [2]
    assert main([*command, "--gpus", "0.5", "--workers", "3"]) == 2
    assert "PyTorch sees 1 GPUs here, which take 2" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main([*command, "--gpus", "1"]) == 30
    assert "PyTorch sees 0 GPUs here" in capsys.readouterr().err


def test_a_system_that_counts_its_processors_alone(
    clip: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS and Windows do not say which of them a process may run on."""
    asked: list[int] = []

    def run_jobs(_jobs: list[Job], _setup: Setup, *, workers: int, **_: object) -> list[Outcome]:
        asked.append(workers)
        return []

    monkeypatch.setattr(pipeline, "run_jobs", run_jobs)
    monkeypatch.setattr("r2rt.portable._CGROUPS", tmp_path)
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    command = [str(material / "own.jsonl"), "--model", str(clip), "--out", str(tmp_path)]
    assert main(command) == 63  # nothing was done
    assert asked == [5]


def test_the_packages_own_clip_by_name_by_file_and_by_its_bundle(
    clip: Path, tmp_path: Path
) -> None:
    weights = CHECKOUT / "training" / "demo" / "weights" / "r2rt-tiny.safetensors"
    manifests = [
        make_manifest(Settings(format="authors", model=str(model)))
        for model in ("r2rt-tiny", weights, CHECKOUT / "r2rt" / "demo")
    ]
    assert manifests[0] == manifests[1] == manifests[2]
    assert manifests[0].prefix == "clip_w128_p8_64px"
    towers = load_clip("r2rt-tiny")
    expected = load_file(weights)["token_embedding.weight"]
    ids = SimpleTokenizer()(["dog"])[0]
    vector = towers.text.token_embedding.weight[ids[1]].numpy()
    assert (expected == vector).all(axis=1).sum() == 1
    with pytest.raises(ClipError, match="name the CLIP that it was made with"):
        load_clip(BUNDLE)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.jsonl"], 10, "none.jsonl: No such file"),
        (["own.jsonl", "--shard", "9/8"], 2, "expected 1/8 to 8/8"),
        (["own.jsonl", "--fps", "0"], 2, "--fps '0'"),
        (["own.jsonl", "--recipe", "nope"], 2, "no recipe 'nope'"),
        (["own.jsonl", "--workers", "-1"], 2, "0 or more"),
        (["own.jsonl", "--threads", "0"], 2, "1 or more"),
        (["own.jsonl", "--model", "none/clip.safetensors"], 65, "is no file"),
        (["own.jsonl", "--videos", "nowhere"], 10, "nowhere: no such folder"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_a_line(
    arguments: list[str],
    code: int,
    says: str,
    clip: Path,
    material: Path,
    tmp_path: Path,
    here: list[Job],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, *rest = arguments
    options = {"--model": str(clip), "--out": str(tmp_path / "out")}
    options |= dict(zip(rest[::2], rest[1::2], strict=True))
    flat = [text for pair in options.items() for text in pair]
    assert main([str(material / source), *flat]) == code
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert not here
