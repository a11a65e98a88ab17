"""`r2rt ground --clips` to `--report` as a user runs them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from r2rt.archive.result import Hit, SearchResult, SearchTimings
from r2rt.cli.hits_media import deliver_hits_media
from r2rt.cli.main import cli
from r2rt.cli.media import MediaOptions, best_of, deliver_media, deliver_reel
from r2rt.errors import MissingExtraError, OutputError, QueryError, R2rtError
from r2rt.grounding.grounder import Grounder
from r2rt.video.index import index_packets
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO
from tests.r2rt.media.footage import prediction, write_footage
from tests.r2rt.video.test_foreign_kinds import two_tracks

QUERY = "a red ball rolls to the right"


def ground(*arguments: object) -> str:
    """Run the command in this process and return what it says; errors are raised."""
    everything = ["ground", *map(str, arguments), "--model", str(DEMO_BUNDLE)]
    result = CliRunner().invoke(cli, everything, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_hits_in_videos_of_like_names_have_images_of_their_own(tmp_path: Path) -> None:
    names = ["my film.mp4", "my-film.mp4", f"{'a' * 90}.mp4", f"{'a' * 90}b.mp4"]
    first = write_footage(tmp_path / names[0], frames=10, sound=None)
    for name in names[1:]:
        shutil.copy(first, tmp_path / name)
    hits = tuple(
        Hit(path=str(tmp_path / name), start_s=0.0, end_s=0.4, score=0.5, duration_s=0.4)
        for name in names
    )
    timings = SearchTimings(query_s=0, first_s=0, second_s=0)
    found = SearchResult(query="a dog", hits=hits, timings=timings)
    deliver_hits_media(found, MediaOptions(thumbnails=tmp_path / "images"), quiet=True)
    assert len(list((tmp_path / "images").iterdir())) == len(names)


def test_everything_at_once(tmp_path: Path) -> None:
    video = Path(shutil.copy(DEMO_VIDEO, tmp_path))
    said = ground(
        *(video, QUERY, "-q", "a ring", "--top-k", 2),
        *("--clips", tmp_path / "clips", "--copy"),
        *("--reel", tmp_path / "reel.mp4", "--padding", "0.5s"),
        *("--thumbnails", tmp_path / "thumbs"),
        *("--contact-sheet", tmp_path / "sheet.png", "--plot", tmp_path / "plot.png"),
        *("--report", tmp_path / "out.html"),
    )
    assert len(list((tmp_path / "clips").iterdir())) == 4
    assert len(list((tmp_path / "thumbs").iterdir())) == 4
    for clip in (tmp_path / "clips").iterdir():
        assert clip.name in said  # how far it is off
    with av.open(str(tmp_path / "reel.mp4")) as container:
        assert container.duration
        assert f"{container.duration / 1e6:.2f} s" in said
    for name in ("sheet.png", "plot.png"):
        with Image.open(tmp_path / name) as picture:
            picture.load()
    assert '<video src="./shapes.mp4"' in (tmp_path / "out.html").read_text()


def test_a_command_indexes_a_video_once_and_opens_it_four_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass over the packets, then a reader each for what is read at the same time."""
    video = write_footage(tmp_path / "film.mp4")  # with sound
    opened: list[str] = []
    indexed: list[object] = []
    av_open = av.open

    def count_open(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).endswith("film.mp4"):
            opened.append(str(file))
        return av_open(file, *arguments, **options)

    def count_index(*arguments: Any, **options: Any) -> Any:
        indexed.append(arguments)
        return index_packets(*arguments, **options)

    monkeypatch.setattr(av, "open", count_open)
    monkeypatch.setattr("r2rt.video.inspection.index_packets", count_index)
    ground(
        *(video, QUERY, "-q", "a ring", "--top-k", 2, "--no-cache"),
        *("--output-dir", tmp_path / "out", "-f", "edl", "-f", "otio", "-f", "fcpxml"),
        # Into a folder that the command itself makes.
        *("--clips", tmp_path / "clips", "--reel", tmp_path / "out" / "reel.mp4"),
        *("--thumbnails", tmp_path / "thumbs", "--contact-sheet", tmp_path / "sheet.png"),
        *("--plot", tmp_path / "plot.png", "--report", tmp_path / "out.html"),
    )
    assert (tmp_path / "out" / "reel.mp4").is_file()
    assert len(indexed) == 1
    # The index; the decoder of the encoding; frames of all media; their sound, read beside them.
    assert len(opened) == 4


def test_the_video_track_that_was_read_is_the_one_that_is_exported(tmp_path: Path) -> None:
    """The first track is wide and of 25 frames a second, the second upright and of 50."""
    video = tmp_path / "film.mkv"
    with av.open(str(video), "w") as container:
        tracks: list[Any] = []
        for rate, size in ((25, (96, 64)), (50, (64, 96))):
            track: Any = container.add_stream("libx264", rate=rate)
            track.width, track.height = size
            track.pix_fmt = "yuv420p"
            tracks.append(track)
        for number in range(250):
            for track in tracks if number % 2 == 0 else tracks[1:]:
                picture = np.full((track.height, track.width, 3), number % 250, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 50)
                container.mux(track.encode(frame))
        for track in tracks:
            container.mux(track.encode(None))
    for chosen, size, usual in ((1, (96, 64), "25"), (2, (64, 96), "50")):
        out = tmp_path / str(chosen)
        ground(
            *(video, QUERY, "--video-track", chosen, "--top-k", 1),
            *("--output-dir", out, "-f", "otio", "--clips", out / "clips"),
            *("--reel", tmp_path / f"{chosen}.mp4"),
        )
        (clip,) = (out / "clips").iterdir()
        for made in (clip, tmp_path / f"{chosen}.mp4"):
            with av.open(str(made)) as container:
                stream = container.streams.video[0]
                assert (stream.width, stream.height) == size
        facts = json.loads((out / "film.otio").read_text())["metadata"]["r2rt"]
        assert facts["frame_rate"] == usual


def test_a_reel_of_several_videos_has_the_track_that_was_read(tmp_path: Path) -> None:
    """The second tracks are larger than the default ones."""
    videos = [two_tracks(tmp_path / name, default=0) for name in ("a.mkv", "b.mkv")]
    reel = tmp_path / "reel.mp4"
    ground(*videos, "-q", QUERY, "--video-track", 2, "--top-k", 1, "--reel", reel)
    with av.open(str(reel)) as container:
        assert container.streams.video[0].width == 192


def test_an_encoding_exports_from_the_track_that_it_was_made_of(tmp_path: Path) -> None:
    video = two_tracks(tmp_path / "two.mkv", default=0)
    kept, out = tmp_path / "two.r2rt", tmp_path / "out"
    encode = ["encode", str(video), str(kept), "--video-track", "2", "-m", str(DEMO_BUNDLE)]
    CliRunner().invoke(cli, encode, standalone_mode=False, catch_exceptions=False)
    media = ("--clips", out / "clips", "--reel", tmp_path / "reel.mp4")
    ground(kept, QUERY, "--top-k", 1, "--output-dir", out, "-f", "fcpxml", *media)
    ground("-i", kept, QUERY, "--top-k", 1, "--reel", tmp_path / "again.mp4")
    made = [*(out / "clips").iterdir(), tmp_path / "reel.mp4", tmp_path / "again.mp4"]
    assert len(made) == 3
    for path in made:
        with av.open(str(path)) as container:
            assert container.streams.video[0].width == 192
    assert 'width="192"' in (out / "two.fcpxml").read_text()


def test_a_cached_encoding_of_an_older_version_has_the_track_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_grounder: Grounder
) -> None:
    video = two_tracks(tmp_path / "two.mkv", default=0)
    old = dataclasses.replace(tiny_grounder.encode(video, video_track=2), video_track=None)
    monkeypatch.setattr("r2rt.grounding.encoding_cache.EncodingCache.get", lambda *_: old)
    ground(video, QUERY, "--video-track", 2, "--top-k", 1, "--clips", tmp_path / "clips")
    (clip,) = (tmp_path / "clips").iterdir()
    with av.open(str(clip)) as container:
        assert container.streams.video[0].width == 192


def test_media_leave_the_result_itself_as_it_was(tmp_path: Path) -> None:
    plain = ground(DEMO_VIDEO, QUERY, "--format", "jsonl", "--quiet", "-o", tmp_path / "a.jsonl")
    thumbs = tmp_path / "thumbs"
    more = ground(
        *(DEMO_VIDEO, QUERY, "--format", "jsonl", "--quiet", "-o", tmp_path / "b.jsonl"),
        *("--thumbnails", thumbs),
    )
    assert plain == more
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert 0 < len(list(thumbs.iterdir())) <= 20


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--copy"], QueryError, "give --clips"),
        (["--padding", "1s"], QueryError, "give --clips or --reel"),
        (["--reel", "film.avi"], QueryError, "ends in .mp4"),
        (["--plot", "plot.pdf"], QueryError, "ends in .png"),
        (["--report", "page.txt"], QueryError, "ends in .html"),
        (["--report", "no/such/page.html"], OutputError, "make it first"),
        (
            ["--plot", "a.png", "--contact-sheet", "./a.png"],
            QueryError,
            "sheet and --plot are both",
        ),
        (["-f", "csv", "-o", "r.html", "--report", "r.html"], QueryError, "has this suffix"),
    ],
)
def test_what_makes_no_sense_is_reported_before_anything_is_done(
    arguments: list[str], error: type[R2rtError], words: str
) -> None:
    with pytest.raises(error, match=words):
        ground("there-is-no-such-video.mp4", QUERY, *arguments)


def test_without_pillow_images_are_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        ground("there-is-no-such-video.mp4", QUERY, "--plot", tmp_path / "plot.png")


def test_clips_need_the_video_itself(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (64, 48)).save(images / "0001.png")
    with pytest.raises(QueryError, match=r"--clips: .* is not a video file here"):
        ground(images, QUERY, "--clips", tmp_path / "clips")
    options = MediaOptions(thumbnails=tmp_path / "thumbs", reel=tmp_path / "reel.mp4")
    with pytest.raises(QueryError, match="--reel, --thumbnails"):
        deliver_media(tmp_path / "gone.mp4", [prediction((1, 2, 0.5))], options, True)


def test_a_timeline_goes_without_the_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = MediaOptions(plot=tmp_path / "plot.png", report=tmp_path / "out.html")
    deliver_media(tmp_path / "gone.mp4", [prediction((1, 2, 0.5))], options, True)
    assert "no frames of it" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"plot.png", "out.html"}


def test_several_videos_share_folders_and_a_reel(tmp_path: Path) -> None:
    options = MediaOptions(
        clips=tmp_path / "clips", reel=tmp_path / "reel.mp4", plot=tmp_path / "plot.png"
    )
    asked = [prediction((0.2, 0.8, 0.9), duration_s=2, fps=Fraction(1))]
    videos = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        video = write_footage(tmp_path / folder / "film.mp4", frames=50, sound=None)
        deliver_media(video, asked, options, True, label=f"{folder} film")
        videos.append((video, asked))
    deliver_reel(videos, options, True)
    assert sorted(path.name.split(".")[0] for path in options.clips.iterdir()) == [  # type: ignore[union-attr]
        "one-film",
        "two-film",
    ]
    assert (tmp_path / "plot.one-film.png").exists()
    assert (tmp_path / "plot.two-film.png").exists()
    with av.open(str(tmp_path / "reel.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 30


def test_no_moment_makes_no_reel_and_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = MediaOptions(reel=tmp_path / "reel.mp4", clips=tmp_path / "clips")
    deliver_media(DEMO_VIDEO, [prediction()], options, False)
    said = capsys.readouterr().err
    assert "no moment was found" in said
    assert "0 clips" in said
    assert not (tmp_path / "reel.mp4").exists()


def test_the_best_of_predictions() -> None:
    (answer,) = best_of([prediction((0, 1, 0.9), (0.5, 2, 0.8), (2, 3, 0.46), (3, 4, 0.44))])
    assert [moment.score for moment in answer.moments] == [0.9, 0.46]
