"""Live video for an hour: latency, memory, drops, and a server that dies and comes back.

    python benchmarks/live.py --minutes 60 --interruptions 3

A server on this machine plays a video at its own rate: GStreamer's by RTSP, or PyAV's by MPEG-TS
over TCP. `r2rt watch` is a process of its own that is asked to report every change. Latencies,
drops and reconnects are those that it reports itself; its memory is read from the system meanwhile.
"""

from __future__ import annotations

import sys
import tempfile
from fractions import Fraction
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import av
import click

from benchmarks.harness import Options, Report, common_options
from benchmarks.live_servers import RTSP_PACKAGES, LiveServer, RtspServer, TsServer, rtsp_lacks
from benchmarks.live_watch import Watch, Watched, watch_server
from benchmarks.machine import CHECKOUT
from benchmarks.material import VideoSpec, find_source, looped, make_video
from benchmarks.plots import stacked_lines
from benchmarks.results import Row, Value, summarize
from r2rt.model.manifest import read_manifest

__all__ = ["main"]

_MB = 1e6
_DEMO_VIDEO = CHECKOUT / "demo" / "emoji.mp4"
_DEMO_MODEL = CHECKOUT / "r2rt" / "demo"
_DEMO_QUERIES = ("a penguin", "a panda", "a strawberry moving down")
# Rows over time; a multiple of four, so that one of them ends with a quarter of it.
_PARTS = 24
_SERVERS: dict[str, type[LiveServer]] = {"rtsp": RtspServer, "ts": TsServer}


@click.command()
@common_options
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="How long is watched.  [default: 60]",
)
@click.option(
    "--interruptions",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How often the server is killed and brought back.",
)
@click.option(
    "--away",
    "away_s",
    type=float,
    default=5.0,
    show_default=True,
    help="Seconds that it stays away.",
)
@click.option(
    "--server",
    "servers",
    type=click.Choice(list(_SERVERS)),
    multiple=True,
    help="RTSP, or MPEG-TS over TCP; repeatable.  [default: rtsp where it can be had, else ts]",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, exists=True),
    default=_DEMO_MODEL,
    help="The model.  [default: the demo's]",
)
@click.option(
    "--video",
    type=click.Path(path_type=Path, exists=True),
    help="H.264 that is played in a loop.  [default: demo/emoji.mp4]",
)
@click.option(
    "--size",
    metavar="WIDTHxHEIGHT",
    help="Play the other benchmarks' video of this size, 25 frames a second, instead.",
)
@click.option("--query", "-q", "queries", multiple=True, default=_DEMO_QUERIES, help="Repeatable.")
def main(
    options: Options,
    minutes: float | None,
    interruptions: int,
    away_s: float,
    servers: tuple[str, ...],
    bundle: Path,
    video: Path | None,
    size: str | None,
    queries: tuple[str, ...],
) -> None:
    """Measure `r2rt watch` on live video."""
    if video is not None and size is not None:
        raise click.UsageError("--video and --size: give one of them")
    total_s = 60 * (minutes or (0.3 if options.quick else 60.0))
    report = Report(
        "live",
        options,
        minutes=total_s / 60,
        interruptions=interruptions,
        away_s=away_s,
        bundle=bundle,
        queries=list(queries),
    )
    if size is not None:
        video = _material(size, options)
    report.settings["video"] = video = video or _DEMO_VIDEO
    for name in servers or ("rtsp", "ts"):
        if name == "rtsp" and (lack := rtsp_lacks()):
            report.skip("live", name, f"{lack}; apt-get install {RTSP_PACKAGES}")
            continue
        report.say(f"{name}: {total_s / 60:g} minutes")
        with tempfile.TemporaryDirectory() as folder:
            # What is played again and again is one long file, since servers play theirs once.
            playing = looped(video, total_s + 60, Path(folder) / "playing.mp4")
            watched = watch_server(
                Watch(
                    server=_SERVERS[name],
                    video=playing,
                    bundle=bundle,
                    queries=queries,
                    total_s=total_s,
                    interruptions=interruptions,
                    away_s=away_s,
                    every_s=total_s / _PARTS,
                )
            )
        _add_result(report, name, watched, rate=_rate(video), interruptions=interruptions)
        if not servers:
            break
    if not report.rows:
        raise click.ClickException("nothing could be measured; see above")
    panels = {"resident MB": ("resident MB",), "from frame to answer, ms": ("p50 ms", "p95 ms")}
    report.finish(stacked_lines("over time", "minute", panels))


def _material(size: str, options: Options) -> Path:
    try:
        width, height = map(int, size.split("x"))
    except ValueError:
        raise click.UsageError(f"--size {size}: expected WIDTHxHEIGHT, such as 1280x720") from None
    spec = VideoSpec(seconds=60, width=width, height=height, keyint=50)
    return make_video(spec, options.media, find_source())


def _rate(video: Path) -> Fraction:
    with av.open(str(video)) as opened:
        rate = opened.streams.video[0].average_rate
    assert rate is not None
    return rate


def _add_result(
    report: Report, name: str, watched: Watched, *, rate: Fraction, interruptions: int
) -> None:
    """Put down what was found, over time and in all, and what it must show."""
    summary = watched.summary
    frames = float(rate) * (summary.stream_s - summary.missing_s)
    silent = frames - summary.frames - summary.frames_dropped - summary.packets_lost
    report.add(Row(group="watched", name=name, values=summary.watched()))
    report.add(Row(group="dropped", name=name, values=summary.dropped()))
    for part in watched.parts:
        values: dict[str, Value] = {
            "minute": round(part.end_s / 60, 2),
            "resident MB": round(part.resident_bytes / _MB, 1),
            "answers reported": len(part.latencies_s),
        }
        if part.latencies_s:
            latency = summarize(part.latencies_s)
            values["p50 ms"] = round(1e3 * latency.p50_s, 1)
            values["p95 ms"] = round(1e3 * latency.p95_s, 1)
        report.add(Row(group="over time", name=name, values=values))
    p95_s = summary.p95_ms / 1e3
    report.target(
        f"{name}: p95 from a frame's arrival to its answer, s", p95_s, "<=", summary.clip_s
    )
    _hold_memory(report, name, watched)
    report.target(f"{name}: dropped and not reported", watched.unreported, "<=", 0)
    unseen = 100 * silent / frames
    report.target(f"{name}: frames neither seen nor reported, %", unseen, "<=", 1)
    report.target(f"{name}: reconnects", summary.reconnects, ">=", interruptions)


def _hold_memory(report: Report, name: str, watched: Watched) -> None:
    """Compare the end with a quarter of the time, if by then the window is full."""
    window_s = read_manifest(report.settings["bundle"]).window_s or 0.0
    quarter, end = (watched.parts[at] for at in (_PARTS // 4 - 1, -1))
    what = f"{name}: memory at the end, times that at a quarter"
    if quarter.end_s < window_s:
        reason = f"memory grows until {window_s:g} s are kept; take {window_s / 15:g} minutes"
        report.skip("live", what, reason)
        return
    report.target(what, end.resident_bytes / quarter.resident_bytes, "<=", 1.05)


if __name__ == "__main__":
    main()
