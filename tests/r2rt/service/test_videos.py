"""Videos from being added to being removed: their files, their facts, the jobs that encode them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from r2rt.errors import OutputError
from r2rt.retry import TransientError
from r2rt.service.encodings import Encodings
from r2rt.service.jobs.store import JobStore
from r2rt.service.settings import Settings
from tests.r2rt.service.conftest import DEMO_FOLDER, Run, Served, serving

SHAPES = DEMO_FOLDER / "shapes.mp4"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were encoded, at no cost."""
    paths: list[Path] = []

    def encode(_: Any, path: Path, model: str | None, update: Any) -> tuple[int, float]:
        paths.append(path)
        update(1, 1)
        return 1, 2.0

    monkeypatch.setattr("r2rt.service.computing.Computing.encode", encode)
    return paths


@pytest.mark.parametrize("end", ["fails", "cancelled"])
def test_a_video_whose_job_ended_with_the_process_is_encoded_when_it_is_added_again(
    settings: Settings, encoded: list[Path], end: str
) -> None:
    async def test() -> None:
        async with serving(settings) as it:
            video = await it.add(SHAPES, encode=False)
            # As a process that is killed leaves it.
            request = {"kind": "encode", "video": video["id"], "model": None}
            it.service.runner.close()
            it.service.submit("encode", request, owner="local", video=video["id"])
            claimed = it.service.jobs.claim()
            assert claimed is not None
            it.service.videos.set_state(video["id"], "encoding")
        most = 1 if end == "fails" else 2
        restarted = dataclasses.replace(settings, max_attempts=most, workers=0)
        async with serving(restarted) as it:
            job = it.service.runner.cancel(claimed.id)
            assert job.state == ("failed" if end == "fails" else "cancelled")
            listed = (await it.get("/videos")).json()
            assert [item["state"] for item in listed] == ["new"]
        async with serving(settings) as it:
            await it.add(SHAPES)
            assert it.service.videos.get(video["id"]).state == "ready"

    asyncio.run(test())
    assert encoded == [SHAPES.resolve()]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address from which a video is fetched, without a network."""
    monkeypatch.setattr("r2rt.service.fetching.fetch", lambda _, path, *__: _copy(path))
    return "https://example.org/shapes.mp4"


def _copy(path: Path) -> None:
    path.parent.mkdir(parents=True)
    shutil.copy(SHAPES, path)


def test_an_address_is_only_fetched_where_no_encoding_is_wanted(
    served: Run, encoded: list[Path], fetched: str
) -> None:
    async def test(it: Served) -> None:
        video = (await it.post("/videos", {"url": fetched, "encode": False})).json()
        assert (await it.finished(video["job"]))["state"] == "done"
        seen = (await it.get(f"/videos/{video['id']}")).json()
        assert (seen["state"], seen["duration_s"] > 0, seen["job"]) == ("new", True, None)
        assert encoded == []
        assert (await it.run("encode", video=video["id"]))["state"] == "done"

    served(test)
    assert len(encoded) == 1


def test_a_sentence_for_a_video_that_is_still_fetched_is_told_of_its_job(
    served: Run, encoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    come = threading.Event()

    def fetch(_: str, path: Path, *__: object) -> None:
        come.wait(60)
        _copy(path)

    monkeypatch.setattr("r2rt.service.fetching.fetch", fetch)

    async def test(it: Served) -> None:
        video = (await it.post("/videos", {"url": "https://example.org/shapes.mp4"})).json()
        early = await it.post(f"/videos/{video['id']}/ground", {"queries": ["x"]})
        come.set()
        assert (early.status_code, early.json()["code"]) == (409, "not-encoded")
        assert early.json()["job"] == video["job"]
        assert (await it.finished(video["job"]))["state"] == "done"

    served(test)


@pytest.mark.parametrize("model", [None, "demo"])
def test_a_video_that_is_encoded_to_be_answered_about_is_ready(
    served: Run, encoded: list[Path], monkeypatch: pytest.MonkeyPatch, model: str | None
) -> None:
    monkeypatch.setattr("r2rt.service.jobs.work.as_document", lambda *_, **__: {})
    monkeypatch.setattr(
        "r2rt.service.computing.Computing.answer", lambda *_: [SimpleNamespace(model="demo")]
    )

    async def test(it: Served) -> None:
        video = (await it.add(SHAPES, encode=False))["id"]
        job = await it.run("ground", videos=[video], queries=["a dog"], model=model)
        assert job["state"] == "done"
        seen = (await it.get(f"/videos/{video}")).json()
        assert seen["state"] == ("ready" if model is None else "new")  # of the default model

    served(test)


@pytest.mark.parametrize("passes", [True, False])
def test_a_video_that_failed_too_often_says_why(
    served: Run, monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    tries: list[Path] = []

    def encode(_: Any, path: Path, *__: Any) -> tuple[int, float]:
        tries.append(path)
        if passes and len(tries) == 3:
            return 1, 2.0
        raise TransientError("shapes.mp4: changed while it was encoded")

    monkeypatch.setattr("r2rt.service.computing.Computing.encode", encode)

    async def test(it: Served) -> None:
        video = (await it.post("/videos", {"path": str(SHAPES)})).json()
        await it.finished(video["job"])
        seen = (await it.get(f"/videos/{video['id']}")).json()
        expected = (
            ("ready", None) if passes else ("failed", "shapes.mp4: changed while it was encoded")
        )
        assert (seen["state"], seen["error"]) == expected
        assert len(tries) == 3

    served(test)


def test_a_video_whose_encoding_has_a_fault_says_so(
    served: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("r2rt.service.computing.Computing.encode", encode)

    async def test(it: Served) -> None:
        video = (await it.post("/videos", {"path": str(SHAPES)})).json()
        await it.finished(video["job"])
        seen = (await it.get(f"/videos/{video['id']}")).json()
        expected = ("failed", "a fault in r2rt itself (ZeroDivisionError)")
        assert (seen["state"], seen["error"]) == expected

    served(test)


def test_a_file_that_was_replaced_is_looked_at_and_encoded_again(
    settings: Settings, encoded: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "film.mp4"
    shutil.copy(SHAPES, file)

    async def test() -> None:
        async with serving(dataclasses.replace(settings, roots=(tmp_path,))) as it:
            first = await it.add(file)
            shutil.copy(DEMO_FOLDER / "emoji.mp4", file)
            seen = (await it.get(f"/videos/{first['id']}")).json()
            assert (seen["state"], seen["duration_s"]) == ("new", 80.0)
            (listed,) = (await it.get("/videos")).json()
            assert None is not first["version"] != seen["version"] == listed["version"]
            assert (await it.add(file))["id"] == first["id"]
            assert it.service.videos.get(first["id"]).state == "ready"
            file.unlink()
            seen = (await it.get(f"/videos/{first['id']}")).json()
            assert (seen["duration_s"], seen["version"]) == (80.0, None)

    asyncio.run(test())
    assert encoded == [file, file]


@pytest.mark.parametrize("kind", ["relative", "link"])
def test_a_fetched_file_is_removed_with_its_video_wherever_the_state_is(
    settings: Settings,
    encoded: list[Path],
    fetched: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("state") if kind == "relative" else tmp_path / "link"
    if kind == "link":
        (tmp_path / "state").mkdir()
        folder.symlink_to(tmp_path / "state")

    async def test() -> None:
        async with serving(dataclasses.replace(settings, folder=folder)) as it:
            video = (await it.post("/videos", {"url": fetched})).json()
            assert (await it.finished(video["job"]))["state"] == "done"
            assert len(list(folder.rglob("*.mp4"))) == 1
            removed = await it.client.delete(f"/api/v1/videos/{video['id']}")
            assert removed.status_code == 204
            assert list(folder.rglob("*.mp4")) == []

    asyncio.run(test())


def opened(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one of this listing
            found.append(str(descriptor.readlink()))
    return [name for name in found if name.startswith(str(folder.resolve()))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are not listed here")
def test_a_file_that_is_removed_takes_no_space_any_more(
    settings: Settings, served: Run, encoded: list[Path], fetched: str
) -> None:
    folder = settings.folder / "videos"

    async def test(it: Served) -> None:
        video = (await it.post("/videos", {"url": fetched})).json()
        await it.finished(video["job"])
        address = f"/videos/{video['id']}"
        assert (await it.get(f"{address}/frame", params={"time_s": 1})).status_code == 200
        assert len(opened(folder)) == 1
        assert (await it.client.delete(f"/api/v1{address}")).status_code == 204
        assert opened(folder) == []

    served(test)


def test_the_folder_of_the_state_can_be_moved(
    settings: Settings, encoded: list[Path], fetched: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with serving(settings) as it:
            video = (await it.post("/videos", {"url": fetched})).json()
            await it.finished(video["job"])
        moved = settings.folder.rename(tmp_path / "moved")
        async with serving(dataclasses.replace(settings, folder=moved)) as it:
            file = await it.get(f"/videos/{video['id']}/file")
            assert (file.status_code, file.content) == (200, SHAPES.read_bytes())

    asyncio.run(test())


def test_a_video_has_one_job_for_each_model_however_many_ask_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = JobStore.active

    def slow(*arguments: Any) -> Any:
        found = active(*arguments)
        time.sleep(0.05)  # the others ask meanwhile
        return found

    monkeypatch.setattr(JobStore, "active", slow)

    async def test() -> None:
        async with serving(dataclasses.replace(settings, workers=0)) as it:
            video = it.service.videos.get((await it.add(SHAPES, encode=False))["id"])

            def ask(model: str | None) -> str:
                return it.service.encode_soon(video, owner="local", model=model).id

            models = (None, "other") * 4
            ids = await asyncio.gather(*(asyncio.to_thread(ask, model) for model in models))
            assert len(set(ids)) == len(it.service.jobs.all("queued")) == 2
            assert ids == [*ids[:2]] * 4
            await it.client.delete(f"/api/v1/videos/{video.id}")
            assert it.service.jobs.all("queued") == []

    asyncio.run(test())


def test_a_video_that_two_jobs_need_is_encoded_once() -> None:
    kept: dict[str, Any] = {}
    asked, both_looked = itertools.count(), threading.Barrier(2, timeout=60)
    made: list[Path] = []

    class Cache:
        max_bytes = 1

        def key(self, path: Path, *_: Any) -> str:
            return str(path)

        def get(self, key: str, _: str) -> Any:
            found = kept.get(key)
            if next(asked) < 2:
                both_looked.wait()
            return found

        def put(self, key: str, encoded: Any) -> bool:
            kept[key] = encoded
            return True

    class Model:
        bundle = SimpleNamespace(fingerprint="f")

        def encode(self, path: Path, *_: Any, **__: Any) -> Any:
            made.append(path)
            return SimpleNamespace(tokens=None)

    encodings = Encodings(1)
    encodings._cache = cast("Any", Cache())
    threads = [
        threading.Thread(
            target=encodings.encode, args=(cast("Any", Model()), Path("film.mp4"), lambda *_: None)
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert made == [Path("film.mp4")]


class Reader:
    """A model whose encoding of a file is what it reads of it."""

    bundle = SimpleNamespace(fingerprint="f")

    def __init__(self) -> None:
        self.reads = threading.Event()
        self.goes_on = threading.Event()

    def encode(self, path: Path, *_: Any, **__: Any) -> Any:
        content = path.read_bytes()
        self.reads.set()
        assert self.goes_on.wait(60)
        return SimpleNamespace(content=content, tokens=None, nbytes=1)


class Kept:
    """A cache whose keys are the contents of files."""

    max_bytes = 1

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    def key(self, path: Path, *_: Any) -> str:
        return path.read_text()

    def get(self, key: str, _: str) -> Any:
        return self.entries.get(key)

    def put(self, key: str, encoded: Any) -> bool:
        self.entries[key] = encoded
        return True


def encodings_of(kept: Kept) -> Encodings:
    encodings = Encodings(1)
    encodings._cache = cast("Any", kept)
    return encodings


def test_a_file_that_is_still_copied_is_not_kept_as_the_whole(tmp_path: Path) -> None:
    file, model, kept = tmp_path / "film.mp4", Reader(), Kept()
    file.write_text("a half")
    encode = partial(encodings_of(kept).encode, cast("Any", model), file, lambda *_: None)
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(encode)
        assert model.reads.wait(60)
        file.write_text("a half and the other")
        model.goes_on.set()
        with pytest.raises(TransientError, match=r"film\.mp4: changed while it was encoded"):
            early.result(60)
        assert kept.entries == {}
        whole: Any = pool.submit(encode).result(60)
        assert whole.content == b"a half and the other"


def test_a_full_disk_is_not_said_to_be_a_small_cache(tmp_path: Path) -> None:
    class Full(Kept):
        max_bytes = 1 << 30
        folder = tmp_path

        def put(self, key: str, encoded: Any) -> bool:
            return False

    file, model = tmp_path / "film.mp4", Reader()
    file.touch()
    model.goes_on.set()
    with pytest.raises(OutputError, match="free some space"):
        encodings_of(Full()).encode(cast("Any", model), file, lambda *_: None)


def test_answers_that_would_fill_the_memory_are_refused(
    served: Run, encoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    saliency = {"query": "a dog", "saliency": {"values": [0.5] * 100}}
    monkeypatch.setattr("r2rt.service.jobs.work._MOST_RESULT_BYTES", 1000)
    monkeypatch.setattr("r2rt.service.jobs.work.as_document", lambda *_, **__: saliency)
    monkeypatch.setattr(
        "r2rt.service.computing.Computing.answer", lambda *_: [SimpleNamespace(model="demo")]
    )

    async def test(it: Served) -> None:
        videos = [(await it.add(DEMO_FOLDER / name))["id"] for name in ("shapes.mp4", "emoji.mp4")]
        few = await it.run("ground", videos=videos, queries=["a dog"])
        assert few["state"] == "done"
        many = await it.run("ground", videos=videos * 2, queries=["a dog"])
        assert many["error"]["code"] == "too-large"
        assert many["result"] is None

    served(test)


def test_what_waits_for_its_turn_to_be_encoded_is_cancelled_at_once(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.mp4", "two.mp4")]
    for file in files:
        file.write_text(file.name)
    model = Reader()
    encodings = encodings_of(Kept())

    class EndedError(Exception):
        pass

    def cancelled(*_: Any) -> None:
        raise EndedError

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(encodings.encode, cast("Any", model), files[0], lambda *_: None)
        assert model.reads.wait(60)
        second = pool.submit(encodings.encode, cast("Any", model), files[1], cancelled)
        try:
            with pytest.raises(EndedError):
                second.result(5)
            assert not first.done()
        finally:
            model.goes_on.set()
        first.result(60)
