"""The first stage: the same windows by the vector index as by comparing everything, and counts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from r2rt.archive import candidates, indices
from r2rt.archive.candidates import FirstStage, num_windows
from r2rt.archive.piece import clips_table
from r2rt.archive.settings import SCHEMA_VERSION, Settings
from r2rt.archive.tables import Tables
from r2rt.archive.vectors import Floats, normalized
from r2rt.grounding.windows import WindowSize, plan_windows

WIDTH, VIDEOS, ROWS = 32, 60, 100
SETTINGS = Settings(
    schema=SCHEMA_VERSION,
    model="none",
    model_fingerprint="none",
    fps="1/2",
    width=WIDTH,
    clips_per_vector=2,
    window_clips=40,
    overlap_clips=20,
)


def entry(number: int) -> str:
    return f"video-{number:02d}"


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """Rows of videos, (V, R, E): shots of ten rows each, as videos have."""
    rng = np.random.default_rng(0)
    shots = np.repeat(rng.normal(size=(VIDEOS, ROWS // 10, WIDTH)), 10, axis=1)
    return normalized(shots + 0.5 * rng.normal(size=shots.shape))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, vectors: Floats) -> Tables:
    """A library whose vector index is larger than the part that a query reads."""
    tables = Tables.create(str(tmp_path_factory.mktemp("indexed") / "library"), SETTINGS)
    for number, rows in enumerate(vectors):
        tables.clips.append(clips_table(entry(number), rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indices, "_FEW_VECTORS", 1000)
        patch.setattr(indices, "ROWS_A_PARTITION", 200)
        indices.update_indices(tables, thorough=True)
    return tables


def cosines_of_windows(vectors: Floats, query: Floats) -> dict[tuple[str, int], float]:
    """Compare with every row: each window's greatest cosine; a row is of one window."""
    size = WindowSize(clips=40, overlap=20)
    plan = plan_windows(2 * ROWS, size)
    middles = np.array([(item.start_clip + item.end_clip) / 2 for item in plan])
    owner = np.abs(middles - (np.arange(ROWS)[:, None] + 0.5) * 2).argmin(axis=1)
    cosines = vectors @ normalized(query)
    return {
        (entry(video), plan[window].start_clip): float(cosines[video, owner == window].max())
        for video in range(VIDEOS)
        for window in range(len(plan))
    }


@pytest.mark.parametrize(("probed", "least"), [(VIDEOS * ROWS, 0.95), (4500, 0.75)])
def test_the_index_finds_what_comparing_with_all_rows_finds(
    indexed: Tables, vectors: Floats, monkeypatch: pytest.MonkeyPatch, probed: int, least: float
) -> None:
    """Nearly all of it where every partition is read, and most where a part of them is."""
    names = {index.name for index in indexed.clips.latest().describe_indices()}
    assert names == {indices.VECTOR_INDEX, "entry_index"}
    assert len(indexed.clips.latest().get_fragments()) == 1
    monkeypatch.setattr(candidates, "_PROBED_ROWS", probed)
    stage = FirstStage(indexed)
    clips = {entry(number): 2 * ROWS for number in range(VIDEOS)}
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(20):
        query = vectors[rng.integers(VIDEOS), rng.integers(ROWS)] + 0.3 * rng.normal(size=WIDTH)
        query = query.astype(np.float32)
        answer = stage.candidates(query[None], clips, windows=10, filtered=False)
        windows = {(item.entry, item.window.start_clip) for item in answer}
        assert len(windows) == 10
        truth = cosines_of_windows(vectors, query)
        for item in answer:  # less where the window's best row was not read
            assert item.cosine <= truth[item.entry, item.window.start_clip] + 2e-3
        best = set(sorted(truth, key=lambda window: -truth[window])[:10])
        shares.append(len(windows & best) / 10)
    assert np.mean(shares) >= least


def test_rows_that_are_newer_than_the_index_are_found(indexed: Tables, vectors: Floats) -> None:
    new = -vectors[0]
    indexed.clips.append(clips_table("new", new))
    clips = {entry(number): 2 * ROWS for number in range(VIDEOS)} | {"new": 2 * ROWS}
    best = FirstStage(indexed).candidates(new[5][None], clips, windows=5, filtered=False)[0]
    assert (best.entry, best.window.start_clip) == ("new", 0)
    only = {"video-07": 2 * ROWS}
    answer = FirstStage(indexed).candidates(new[5][None], only, windows=5, filtered=True)
    assert {item.entry for item in answer} == {"video-07"}


@pytest.mark.parametrize(
    "size", [None, WindowSize(clips=75, overlap=37), WindowSize(clips=4, overlap=3)]
)
def test_windows_are_counted_as_they_are_planned(size: WindowSize | None) -> None:
    lengths = [0, 1, 3, 4, 5, 74, 75, 76, 112, 113, 114, 150, 151, 1000]
    planned = sum(len(plan_windows(clips, size)) for clips in lengths if clips)
    assert num_windows(lengths, size) == planned


def test_files_that_are_large_enough_are_not_rewritten(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = msgspec.structs.replace(SETTINGS, width=3)
    tables = Tables.create(str(tmp_path_factory.mktemp("files") / "library"), settings)
    monkeypatch.setattr(indices, "_USUAL_ROWS_A_FILE", 50)
    for number, rows in enumerate((60, 20, 20)):
        tables.clips.append(clips_table(entry(number), np.ones((rows, 3), np.float32)))
    large = tables.clips.latest().get_fragments()[0].fragment_id
    indices.update_indices(tables, thorough=True)
    found = {part.fragment_id: part.count_rows() for part in tables.clips.latest().get_fragments()}
    assert found[large] == 60
    assert sorted(found.values()) == [40, 60]
