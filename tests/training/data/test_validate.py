from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import CHECKOUT
from training.data.__main__ import main
from training.data.checks import check_file
from training.data.kinds import KINDS
from training.data.videos import VideoFolder

GOOD: dict[str, Any] = {
    "qid": 1,
    "vid": "v1",
    "query": "a dog runs",
    "duration": 20,
    "relevant_windows": [[2, 8]],
}
QV = GOOD | {"relevant_clip_ids": [1, 2, 3], "saliency_scores": [[2, 3, 1], [4, 4, 4], [0, 0, 1]]}


def line(**changes: Any) -> str:
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...})


def qv(**changes: Any) -> str:
    return json.dumps(QV | changes)


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


# Kind, file's content, and what its message must say besides.
BROKEN: list[tuple[str, str | bytes, str]] = [
    ("beyond-duration", line(relevant_windows=[[2, 25]]), "relevant_windows[0]: ends at 25 s"),
    ("byte-order-mark", b"\xef\xbb\xbf" + line().encode(), "BOM"),
    ("clip-outside-video", qv(relevant_clip_ids=[1, 2, 10]), "clips 0 to 9"),
    ("clip-outside-video", qv(relevant_clip_ids=[1, 2, -3]), "clip -3"),
    ("duplicate-clip", qv(relevant_clip_ids=[1, 2, 1]), "relevant_clip_ids[2]: clip 1"),
    ("duplicate-field", '{"qid": 1, "qid": 2, "vid": "a", "query": "b"}', "qid stands twice"),
    ("duplicate-qid", lines(line(), line(vid="v2")), "line 1"),
    ("duplicate-qid", lines(line(), line(qid="1", vid="v2")), "line 1"),
    ("duplicate-query", lines(line(), line(qid=2)), "line 1"),
    ("duration-differs", lines(line(), line(qid=2, query="x", duration=30)), "20 s in line 1"),
    ("duration-not-positive", line(duration=0), "expected more than 0"),
    ("empty-file", "\n\n", "one JSON object a line"),
    ("empty-query", line(query=" \t"), "no words"),
    ("end-before-start", line(relevant_windows=[[8, 2]]), "swap"),
    ("end-before-start", line(relevant_windows=[[2, 8], [9, 9]]), "relevant_windows[1]"),
    ("long-query", line(query="a dog " * 40), "80 words"),
    ("missing-field", line(query=...), "query: missing"),
    (
        "mixed-labels",
        lines(line(), line(qid=2, query="x", relevant_windows=..., saliency=[1] * 10)),
        "no moments, line 1 has",
    ),
    ("missing-field", line(vid=...), "`vid` or `video`"),
    ("missing-field", line(relevant_windows=...), "relevant_windows: missing"),
    ("missing-field", line(saliency_scores=[[1, 1, 1]]), "relevant_clip_ids: missing"),
    ("misspelt-field", line(relevant_window=[[2, 8]], relevant_windows=...), "relevant_windows"),
    ("no-moments", line(relevant_windows=[]), "is empty"),
    ("nothing-relevant", line(relevant_windows=..., saliency=[0] * 10), "not trained on"),
    ("nothing-to-train-on", line(relevant_windows=..., saliency=[0] * 10), "add some"),
    ("not-a-window", line(relevant_windows=[2, 8]), "2 is not [start, end]"),
    ("not-a-window", line(relevant_windows=[[2, 8, 1]]), "[2, 8, 1] is not"),
    ("not-an-object", lines('"text"', line()), "JSON string"),
    ("not-finite", line(relevant_windows=[[float("nan"), 8]]), "relevant_windows[0][0]: is nan"),
    ("not-finite", line(duration=float("inf")), "is inf"),
    ("not-finite", line().replace("20", "1e999"), "is inf"),
    ("not-json", lines(line(), line(qid=2)[:-4]), ":2: error: not JSON"),
    ("not-json", line().replace('"', "'"), "column 2"),
    ("not-json", "[" * 100_000, "nested too deep"),
    ("not-json", line().replace("20", "9" * 5000), "not JSON that can be read"),
    ("not-utf8", line().encode("utf-16"), "UTF-16"),
    ("not-utf8", lines(line(), "x").encode() + b'{"query": "caf\xe9"}\n', ":3: error: byte 15"),
    ("not-utf8", line(query="a dog \ud83d"), r"query: character 7, '\ud83d', is half of one"),
    ("outside-range", qv(saliency_scores=[[2, 3, 1], [5, 4, 4], [0, 0, 1]]), "expected 0 to 4"),
    ("outside-range", line(saliency=[0.5] * 9 + [1.5]), "saliency[9]: 1.5"),
    ("outside-range", line(relevant_windows=..., match=[1, 0, 2]), "expected -1 to 1"),
    ("outside-range", line(relevant_windows=..., label=[[1, 2], [0, 2]]), "expected 1 to 5"),
    ("outside-video", line(relevant_windows=[[21, 25]]), "starts at 21 s"),
    ("overlapping-moments", line(relevant_windows=[[6, 9], [2, 8]]), "overlap"),
    ("predictions", json.dumps({"qid": 1, "pred_relevant_windows": [[1, 2, 0.5]]}), "evaluate"),
    ("saliency-length", qv(saliency_scores=[[1, 2, 3]]), "1 entries for 3 relevant_clip_ids"),
    ("saliency-length", line(saliency=[0.5] * 20), "expected 10"),
    ("saliency-length", line(relevant_windows=..., label=[[1, 2], [3]]), "label[1]"),
    ("saliency-length", line(relevant_windows=..., match=[1, 0], clip=[[0, 9]]), "2 ratings for 1"),
    ("short-moment", line(relevant_windows=[[2, 3]]), "shorter than a clip of 2 s"),
    ("short-video", line(duration=3, relevant_windows=[[0, 2]]), "3 s"),
    ("start-before-zero", line(relevant_windows=[[-1, 8]]), "starts at -1 s"),
    ("unsafe-name", line(vid="../v1"), "without `..`"),
    ("unsafe-name", line(vid="/data/v1.mp4"), "relative"),
    ("unsafe-name", line(qid="a/../../b"), "qid"),
    ("unsafe-name", line(vid="v\x00"), "inside the folder"),
    ("unsafe-name", line(vid="v\ud83d"), "inside the folder"),
    ("unsafe-name", line(qid="v\ud83d"), "qid"),
    ("wrong-type", line(query=5), "query: 5 is not text"),
    ("wrong-type", line(qid=1.5), "whole number"),
    ("wrong-type", line(qid=True), "whole number"),
    ("wrong-type", line(duration="20"), "'20' is not a number"),
    ("wrong-type", line(relevant_windows="2-8"), "not a list"),
    ("wrong-type", line(relevant_windows=[["2", 8]]), "relevant_windows[0][0]: '2'"),
    ("wrong-type", qv(relevant_clip_ids=[1, 2, 2.5]), "relevant_clip_ids[2]"),
]
ELSEWHERE = {
    "ambiguous-video",
    "empty-video",
    "not-charades",
    "query-left-out",
    "unknown-form",
    "unknown-video",
    "duration-not-of-file",
}
WARNINGS = {kind for kind, meaning in KINDS.items() if meaning.endswith("(warning)")}


def validate(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = main(["validate", str(path), *options])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize(("kind", "content", "says"), BROKEN)
def test_every_broken_annotation_is_reported(
    kind: str, content: str | bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out = validate(path, capsys, "--fps", "1/2")
    checked = check_file(path, fps=Fraction(1, 2), min_video_s=5)
    found = [problem for problem in checked.problems if problem.kind == kind]
    assert found, out
    assert any(says in str(problem) for problem in found), out
    assert all(str(problem) in out for problem in found)
    assert {problem.severity for problem in found} == {"warning" if kind in WARNINGS else "error"}
    expected = 60 if checked.errors else 0
    assert code == expected
    assert (kind in WARNINGS) == (found[0] not in checked.errors)
    # The file, and the line where there is one, begin the message.
    assert all(str(problem).startswith(f"{path}:") for problem in found)


def test_every_kind_has_a_broken_example() -> None:
    assert {kind for kind, _, _ in BROKEN} | ELSEWHERE == KINDS.keys()


def test_what_is_right_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.jsonl"
    own = {"video": "clips/a.mp4", "query": "für alle, ein Hund", "relevant_windows": [[0, 4.5]]}
    rated = {"video": "b.mkv", "query": "x", "duration": 8, "saliency": [0, 0.5, 1, 0]}
    rated["relevant_windows"] = [[2, 6]]
    path.write_text(lines(qv(), json.dumps(own), "", json.dumps(rated)), encoding="utf-8")
    code, out = validate(path, capsys, "--fps", "0.5")
    assert code == 0
    assert out == f"{path}: 3 annotations, 0 errors, 0 warnings\n"
    first, second, third = check_file(path).annotations
    assert first.saliency is not None
    np.testing.assert_allclose(first.saliency, [0, 6 / 12, 1, 1 / 12], rtol=1e-6)
    assert [second.vid, second.qid, second.place] == ["clips/a", 2, "2"]
    assert [second.duration_s, second.moments_s] == [None, ((0, 4.5),)]
    # Its line's number, as evaluation and the documentation count.
    assert [third.moments_s, third.place, third.qid] == [((2.0, 6.0),), "4", 4]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        ("1/2", [0, 6, 12, 1]),
        ("1", [0, 0, 6, 6, 12, 12, 1, 1]),
        # Clips of 4 s, and of 3 s, of which the second meets the clips from 2 to 6 s.
        ("1/4", [6, 12]),
        ("1/3", [6, 12, 1]),
    ],
)
def test_clips_of_qvhighlights_last_two_seconds_at_any_rate(
    tmp_path: Path, fps: str, expected: list[int]
) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(qv())
    (found,) = check_file(path, fps=Fraction(fps)).annotations
    assert found.saliency is not None
    np.testing.assert_allclose(found.saliency, np.array(expected) / 12, rtol=1e-6)
    path.write_text(qv(relevant_clip_ids=[1, 2, 10]))
    checked = check_file(path, fps=Fraction(fps))
    assert [problem.kind for problem in checked.errors] == ["clip-outside-video"]


def test_counts_and_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.jsonl"
    rows = [line(qid=index, query=f"q{index}", relevant_windows=[[8, 2]]) for index in range(7)]
    path.write_text(lines(*rows, line(qid=9, query="z", duration=3, relevant_windows=[[0, 2]])))
    code, out = validate(path, capsys, "--most", "2")
    assert code == 60
    assert out.count("swap them") == 2
    assert "7 more; --most 0" in out
    assert "7 × error end-before-start" in out
    assert "8 annotations, 8 errors, 1 warnings" in out  # a second duration besides
    assert validate(path, capsys, "--most", "0")[1].count("swap them") == 7
    assert "warning: " not in validate(path, capsys, "--no-warnings", "--most", "0")[1]


def test_unlabelled_queries_are_for_tests_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(line(relevant_windows=...))
    assert validate(path, capsys)[0] == 60
    assert validate(path, capsys, "--unlabelled")[0] == 0


def test_videos_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = tmp_path / "videos"
    names = ("v1.mp4", "a/same.mp4", "b/same.avi", "empty.mkv", "s30-d52-cam-002.avi", "00001.MTS")
    for name in names:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_bytes(b"" if "empty" in name else b"x")
    path = tmp_path / "own.jsonl"
    vids = ["v1", "v1.mp4", "s30-d52", "a/same", "same", "empty", "v11", "elsewhere", "00001.MTS"]
    path.write_text(
        lines(*(line(qid=n, query=f"q{n}", vid=vid) for n, vid in enumerate(vids, start=1)))
    )
    code, out = validate(path, capsys, "--videos", str(videos))
    assert code == 60
    problems = check_file(path, videos=VideoFolder(videos)).problems
    assert [(p.kind, p.place) for p in problems] == [
        ("ambiguous-video", "5"),
        ("empty-video", "6"),
        ("unknown-video", "7"),
        ("unknown-video", "8"),
    ]
    assert "did you mean 'v1'?" in out
    assert validate(path, capsys, "--videos", str(tmp_path / "none"))[0] == 10
    assert validate(tmp_path / "none.jsonl", capsys)[0] == 10
    # A path from the folder on is that file, though another one below has its name.
    (videos / "a" / "v1.mp4").write_bytes(b"x")
    assert VideoFolder(videos).candidates("v1") == [videos / "v1.mp4"]
    assert VideoFolder(videos).candidates("a/v1") == [videos / "a" / "v1.mp4"]


def test_a_name_of_several_videos_says_what_to_do(tmp_path: Path) -> None:
    for name in ("holiday/beach.mp4", "holiday/beach.mov", "a/dog.mp4", "b/dog.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    path = tmp_path / "own.jsonl"
    vids = ("holiday/beach.mp4", "dog")
    path.write_text(lines(*(line(qid=n, query=f"q{n}", vid=vid) for n, vid in enumerate(vids))))
    beach, dog = check_file(path, videos=VideoFolder(tmp_path)).problems
    assert beach.message.endswith("holiday/beach.mp4; rename or move all but one")
    assert dog.message.endswith("b/dog.mp4; name one by its path")


def test_accents_may_be_written_either_way(tmp_path: Path) -> None:
    """macOS writes them as characters of their own (NFD), annotations mostly do not (NFC)."""
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    for name in (f"{nfd}.mp4", f"\u212b/{nfd} 2.mp4", f"{nfd} 3.mp4", f"{nfc} 3.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    videos = VideoFolder(tmp_path)
    for vid in (nfc, nfd):
        assert videos.candidates(vid) == [tmp_path / f"{nfd}.mp4"]
        assert videos.candidates(f"{vid} 2") == [tmp_path / f"\u212b/{nfd} 2.mp4"]
        assert videos.candidates(f"A\u030a/{vid} 2") == [tmp_path / f"\u212b/{nfd} 2.mp4"]
        assert videos.candidates(f"{vid} 3") == [tmp_path / f"{vid} 3.mp4"]
    assert not videos.candidates("cafe")
    (tmp_path / "A\u030a.mp4").write_bytes(b"x")
    (tmp_path / "\u00c5.mp4").write_bytes(b"x")
    path = tmp_path / "own.jsonl"
    path.write_text(line(vid="\u212b"), encoding="utf-8")
    (problem,) = check_file(path, videos=VideoFolder(tmp_path)).problems
    assert problem.kind == "ambiguous-video"


@pytest.mark.parametrize(("duration", "code"), [(24, 0), (23.2, 0), (24.9, 0), (126, 60), (20, 60)])
def test_durations_are_those_of_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], duration: float, code: int
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(CHECKOUT / "demo" / "shapes.mp4", videos / "abc.mp4")  # 24 s
    path = tmp_path / "own.jsonl"
    path.write_text(line(vid="abc", duration=duration, relevant_windows=[[2, 6]]))
    got, out = validate(path, capsys, "--videos", str(videos))
    assert got == code
    assert ("duration-not-of-file" in out) == bool(code)
    assert validate(path, capsys)[0] == 0


def test_charades_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "charades_sta_train.txt"
    path.write_text("AO8RW 0.0 6.9##a person is putting a book on a shelf.\n3MSZA 24.3 30.4##x\n")
    checked = check_file(path)
    assert not checked.problems
    assert [(a.qid, a.vid, a.moments_s) for a in checked.annotations] == [
        (1, "AO8RW", ((0.0, 6.9),)),
        (2, "3MSZA", ((24.3, 30.4),)),
    ]
    path.write_text("AO8RW 0.0 6.9 a person\nAO8RW zero 6.9##b\nAO8RW 7 6.9##c\n")
    code, out = validate(path, capsys)
    assert code == 60
    kinds = {problem.place: problem.kind for problem in check_file(path).problems}
    assert kinds == {"1": "not-charades", "2": "wrong-type", "3": "end-before-start"}
    assert f"{path}:1: error: 'AO8RW 0.0 6.9 a person' is not of the form" in out


def test_official_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nlq = tmp_path / "nlq_train.json"
    query = {"query": "where is the cup?", "clip_start_sec": 3.5, "clip_end_sec": 6.5}
    clip = {
        "clip_uid": "c1",
        "video_start_sec": 100.0,
        "video_end_sec": 580.0,
        "annotations": [{"annotation_uid": "u", "language_queries": [query, {"query": 7}]}],
    }
    nlq.write_text(json.dumps({"version": "1", "videos": [{"video_uid": "v", "clips": [clip]}]}))
    checked = check_file(nlq)
    (only,) = checked.annotations
    assert (only.qid, only.vid, only.duration_s) == ("u_0", "c1", 480.0)
    assert only.moments_s == ((3.5, 6.5),)
    assert {(p.kind, p.place, p.field) for p in checked.problems} == {
        ("wrong-type", "u_1", "query")
    }

    tacos = tmp_path / "train.json"
    tacos.write_text(
        json.dumps(
            {
                "s13-d21.avi": {
                    "timestamps": [[294, 588], [588, 100]],
                    "sentences": ["She cuts.", "She peels."],
                    "num_frames": 2940,
                    "fps": 29.4,
                }
            }
        )
    )
    checked = check_file(tacos)
    assert [(a.qid, a.vid) for a in checked.annotations] == [
        ("s13-d21_0", "s13-d21"),
        ("s13-d21_1", "s13-d21"),
    ]
    first = checked.annotations[0]
    assert first.duration_s == pytest.approx(100)
    np.testing.assert_allclose(first.moments_s or (), [[10, 20]])
    assert [p.kind for p in checked.problems] == ["end-before-start"]

    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    assert validate(other, capsys)[0] == 60
    assert [p.kind for p in check_file(other).problems] == ["unknown-form"]
    other.write_text(json.dumps([GOOD, GOOD | {"qid": 2, "vid": "b"}]))
    assert len(check_file(other).annotations) == 2


def test_authors_documents_of_highlights(tmp_path: Path) -> None:
    tvsum = tmp_path / "tvsum_anno.json"
    rows = [[1] * 20, [5] * 20, [3] * 20]
    tvsum.write_text(json.dumps({"WxtbjNsCQ8A": {"title": "How to", "anno": rows}}))
    (only,) = check_file(tvsum).annotations
    assert (only.query, only.labels, only.fps, only.duration_s) == (
        "How to",
        "tvsum",
        Fraction(1, 2),
        6.0,
    )
    assert only.saliency is not None
    assert only.saliency.tolist() == [0, 1, 0.5]

    youtube = tmp_path / "youtube_anno.json"
    fields = {"match": [-1, 0, 1, 1], "info": [0, 0, 0, 0, 0, "dog"], "frames": 240, "fps": 30.0}
    youtube.write_text(json.dumps({"a": fields}))
    (only,) = check_file(youtube).annotations
    assert (only.query, only.labels, only.domain) == ("dog", "youtube", "dog")
    assert only.fps == Fraction(1, 2)
    assert only.saliency is not None
    assert only.saliency.tolist() == [0, 0.5, 1, 1]


@pytest.mark.shared("annotations")
def test_published_annotations_are_accepted(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {
        "qvhighlights_val": 1550,
        "charades_test": 3720,
        "tacos_test": 4001,
        "tvsum_val": 10,
        "youtube_val": 152,
    }
    for name, count in expected.items():
        code, out = validate(shared / f"{name}.jsonl", capsys, "--no-warnings")
        assert code == 0, out
        assert f"{count} annotations, 0 errors" in out
    code, out = validate(shared / "tvsum_val_preds.jsonl", capsys)
    assert code == 60
    assert "predictions" in out


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(
    fields=st.dictionaries(
        st.sampled_from([*QV, "label", "match", "saliency", "video", "clip", "domain", "frames"]),
        _VALUES,
    ),
    suffix=st.sampled_from([".jsonl", ".json"]),
)
@settings(max_examples=80)
def test_nothing_in_a_field_breaks_the_checks(
    fields: dict[str, Any], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / f"own{suffix}"
    path.write_text(json.dumps(QV | fields))
    checked = check_file(path, fps=Fraction(1, 2))
    assert checked.annotations or checked.errors
    for annotation in checked.annotations:
        assert annotation.query.strip()
        if annotation.saliency is not None:
            assert np.isfinite(annotation.saliency).all()


@given(content=st.binary(max_size=300))
@settings(max_examples=60)
def test_no_bytes_break_the_checks(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for suffix in (".jsonl", ".json", ".txt"):
        path = tmp_path_factory.mktemp("any") / f"own{suffix}"
        path.write_bytes(content)
        checked = check_file(path)
        assert checked.annotations or checked.errors
