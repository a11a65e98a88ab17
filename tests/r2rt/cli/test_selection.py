"""`r2rt highlights` and `r2rt summarize` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest

from r2rt.cli.main import run
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO


def ask(
    command: str, *arguments: object, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    code = run([command, *map(str, arguments), "--model", str(DEMO_BUNDLE)])
    out, err = capsys.readouterr()
    return code, out, err


def result(command: str, *arguments: object, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code, out, err = ask(command, *arguments, "-f", "json", capsys=capsys)
    assert code == 0, err
    (found,) = json.loads(out)["results"]
    return dict(found)


def test_highlights_of_a_query(capsys: pytest.CaptureFixture[str]) -> None:
    found = result("highlights", DEMO_VIDEO, "a red ball", "--top", 2, capsys=capsys)
    assert found["query"] == "a red ball"
    assert 1 <= len(found["moments"]) <= 2
    scores = [moment["score"] for moment in found["moments"]]
    assert scores == sorted(scores, reverse=True)
    assert found == result("highlights", DEMO_VIDEO, "a red ball", "--top", 2, capsys=capsys)


def test_highlights_without_a_query_say_what_stands_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = ask("highlights", DEMO_VIDEO, "--length", "4s", capsys=capsys)
    assert code == 0
    assert "typical of the video" in out
    assert "no query, so clips are scored by how typical they are" in err
    found = result("highlights", DEMO_VIDEO, "--length", "4s", capsys=capsys)
    assert {moment["end_s"] - moment["start_s"] for moment in found["moments"]} == {4}


@pytest.mark.parametrize(("length", "most_s"), [("10s", 10), ("50%", 12), ("2s", 2), ("24s", 24)])
def test_summaries_keep_to_their_length(
    length: str, most_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result("summarize", DEMO_VIDEO, "a red ball", "--length", length, capsys=capsys)
    spans = [(moment["start_s"], moment["end_s"]) for moment in found["moments"]]
    assert spans == sorted(spans)
    assert 0 < sum(end - start for start, end in spans) <= most_s


def test_a_summary_as_a_video_lasts_as_long_as_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reel = tmp_path / "summary.mp4"
    found = result("summarize", DEMO_VIDEO, "--length", "6s", "--reel", reel, capsys=capsys)
    told_s = sum(moment["end_s"] - moment["start_s"] for moment in found["moments"])
    with av.open(str(reel)) as container:
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(told_s, abs=0.2)


def test_several_videos_each_have_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(DEMO_VIDEO.read_bytes())
    out = tmp_path / "out"
    code, _, err = ask(
        "summarize", tmp_path, "-q", "a ball", "-f", "csv", "--output-dir", out, capsys=capsys
    )
    assert code == 0, err
    assert sorted(path.name for path in out.glob("[!.]*")) == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("summarize", ("--length", "soon"), "no time"),
        ("summarize", ("--length", "0%"), "write 10%"),
        ("summarize", ("--length", "1s"), "at least a clip"),
        ("highlights", ("--length", "0"), "above 0"),
        ("highlights", ("--top", "0"), "top"),
        ("highlights", ("a ball", "a ring"), "2 queries"),
        ("highlights", (" ",), "no words"),
    ],
)
def test_what_makes_no_sense_is_a_line(
    command: str,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = ask(command, DEMO_VIDEO, *arguments, capsys=capsys)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
