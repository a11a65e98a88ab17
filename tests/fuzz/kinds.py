"""The kinds of input: how each is made from a seed, and what reads it.

A reader returns, or raises an error of ours; anything else is a fault. It returns True where more
than a twentieth of the video was lost and nothing said so.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import xxhash

from r2rt import Bundle, EncodedVideo, Grounder
from r2rt.grounding.many import find_videos, read_video_list
from r2rt.model.bundle import file_entry
from r2rt.model.graph_files import external_locations
from r2rt.model.manifest import MANIFEST_NAME, parse_manifest
from r2rt.queries import read_queries
from r2rt.video import open_source
from r2rt.video.bitstream import packet_reader
from tests.fuzz.mutate import damage, damage_json
from tests.r2rt.conftest import DEMO_BUNDLE

__all__ = ["KINDS", "Kind", "prepared"]

_FPS = Fraction(2)
_SIZE = (96, 64)
_FRAMES, _RATE = 60, 12


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        make: writes the sound original into a new folder.
        change: damages what is in a copy of that folder.
        read: reads it as the product does.
    """

    make: Callable[[Path], object]
    change: Callable[[Path, random.Random], object]
    read: Callable[[Path], bool | None]


def _file(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.is_file())


def _damage_file(folder: Path, rng: random.Random) -> None:
    path = _file(folder)
    path.write_bytes(damage(path.read_bytes(), rng))


def _damage_media(folder: Path, rng: random.Random) -> None:
    """Damage bytes here and there, or lose a large stretch in the middle."""
    if rng.random() < 0.7:
        _damage_file(folder, rng)
        return
    path = _file(folder)
    content = path.read_bytes()
    start = rng.randrange(len(content) // 2)
    size = int(len(content) * rng.uniform(0.02, 0.4))
    path.write_bytes(content[:start] + bytes(size * rng.randrange(2)) + content[start + size :])


def _damage_json_file(folder: Path, rng: random.Random) -> None:
    path = _file(folder)
    path.write_bytes(damage_json(path.read_bytes(), rng))


# Media


def _write_media(
    folder: Path,
    name: str,
    codec: str,
    pix_fmt: str,
    options: dict[str, str],
    muxer: dict[str, str],
) -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (_SIZE[1], _SIZE[0], 3), dtype=np.uint8)
    with av.open(str(folder / name), "w", options=muxer) as container:
        stream: Any = container.add_stream(codec, rate=_RATE, options=options)
        stream.width, stream.height = _SIZE
        stream.pix_fmt = pix_fmt
        for number in range(_FRAMES):
            pixels = np.roll(texture, (number, 2 * number), (0, 1))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _read_media(folder: Path) -> bool:
    path = _file(folder)
    clips = 0
    with open_source(path, fps=_FPS, image_size=32) as source:
        for frame in source:
            clips += frame.count
            if clips > 1_000_000:  # what a forged time may ask for; memory is bounded elsewhere
                break
        report = source.report
    if report.departures.warnings or report.fallback:
        return False
    times = _decodable_times(path)
    ticks = {int(time * _FPS) for time in times}
    return clips < 0.95 * len(ticks) - 1 or _has_gaps(times)


def _has_gaps(times: set[Fraction]) -> bool:
    """Whether more than a twentieth of the frames between the first and the last is missing.

    Where all frames are there, a forged time of one of them makes a gap, and nothing is lost.
    """
    if not times or len(times) > 0.95 * _FRAMES:
        return False
    steps = (max(times) - min(times)) * _RATE
    return 1.05 * len(times) + 1 < steps < 2 * _FRAMES  # farther apart is a clock that leaps


def _decodable_times(path: Path) -> set[Fraction]:
    """When the frames are that FFmpeg decodes, errors passed over."""
    times: set[Fraction] = set()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            base = stream.time_base or Fraction(1, 90_000)
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    continue
                times |= {frame.pts * base for frame in frames if frame.pts is not None}
    except (av.error.FFmpegError, IndexError, ValueError):
        pass
    return times


def _media(
    name: str,
    codec: str,
    pix_fmt: str = "yuv420p",
    muxer: dict[str, str] | None = None,
    **options: str,
) -> Kind:
    make = functools.partial(
        _write_media, name=name, codec=codec, pix_fmt=pix_fmt, options=options, muxer=muxer or {}
    )
    return Kind(make, _damage_media, _read_media)


# Bitstreams: packets and extradata as the demuxer would hand them over


def _write_packets(folder: Path, codec: str, name: str, options: dict[str, str]) -> None:
    media = folder.with_name(folder.name + ".media")
    media.mkdir(exist_ok=True)
    _write_media(media, name, codec, "yuv420p", options, {})
    with av.open(str(media / name)) as container:
        stream = container.streams.video[0]
        document = {
            "codec": stream.codec_context.codec.canonical_name,
            "extradata": (stream.codec_context.extradata or b"").hex(),
            "packets": [bytes(packet).hex() for packet in container.demux(stream)][:30],
        }
    shutil.rmtree(media)
    (folder / "packets.json").write_text(json.dumps(document))


def _damage_packets(folder: Path, rng: random.Random) -> None:
    document = json.loads(_file(folder).read_bytes())
    if rng.random() < 0.5:
        document["extradata"] = damage(bytes.fromhex(document["extradata"]), rng).hex()
    for index, packet in enumerate(document["packets"]):
        if rng.random() < 0.5:
            # Headers decide: they are at the front.
            data = bytes.fromhex(packet)
            document["packets"][index] = (damage(data[:64], rng) + data[64:]).hex()
    _file(folder).write_text(json.dumps(document))


def _read_packets(folder: Path) -> None:
    document = json.loads(_file(folder).read_bytes())
    read = packet_reader(document["codec"], bytes.fromhex(document["extradata"]))
    assert read is not None
    for index, packet in enumerate(document["packets"]):
        flags = read(memoryview(bytes.fromhex(packet)), index == 0)
        assert isinstance(flags, int)


def _bitstream(codec: str, name: str, **options: str) -> Kind:
    make = functools.partial(_write_packets, codec=codec, name=name, options=options)
    return Kind(make, _damage_packets, _read_packets)


# Models and encodings


def _copy_manifest(folder: Path) -> None:
    shutil.copy(DEMO_BUNDLE / MANIFEST_NAME, folder)


def _read_manifest(folder: Path) -> None:
    path = _file(folder)
    parse_manifest(path.read_bytes(), where=str(path))


def _copy_bundle(folder: Path) -> None:
    for path in DEMO_BUNDLE.iterdir():
        if path.suffix in (".json", ".onnx"):
            shutil.copy(path, folder)


def _damage_bundle(folder: Path, rng: random.Random) -> None:
    """Damage one file, and let the manifest vouch for it."""
    manifest_path = folder / MANIFEST_NAME
    name = rng.choice(sorted(path.name for path in folder.iterdir()))
    path = folder / name
    if path.suffix == ".onnx":
        # Graphs, not weights: their names and numbers are at both ends.
        data, cut = path.read_bytes(), rng.choice((2000, 20_000, 10**9))
        path.write_bytes(damage(data[:cut], rng, same_size=rng.random() < 0.8) + data[cut:])
    elif name != MANIFEST_NAME:
        path.write_bytes(damage_json(path.read_bytes(), rng))
    document = json.loads(manifest_path.read_bytes())
    if name == MANIFEST_NAME:
        manifest_path.write_bytes(damage_json(manifest_path.read_bytes(), rng))
        return
    entry = file_entry(path)
    document["files"][name] = {"size": entry.size, "sha256": entry.sha256}
    manifest_path.write_text(json.dumps(document))


def _read_bundle(folder: Path) -> None:
    bundle = Bundle.open(folder, verify="always")
    size = bundle.dims.image_size
    if size > 256:
        return
    grounder = Grounder.load(folder, device="cpu", threads=1, verify="never")
    frames = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    encoded = grounder.encode_frames(frames, fps=float(bundle.fps))
    prediction = grounder.ground(encoded, "a red circle")
    assert np.isfinite(prediction.saliency).all()


def _read_graph(folder: Path) -> None:
    try:
        external_locations(_file(folder))
    except ValueError:
        return


@functools.cache
def _grounder() -> Grounder:
    return Grounder.load(DEMO_BUNDLE, device="cpu", threads=1)


def _write_encoding(folder: Path) -> None:
    grounder = _grounder()
    size = grounder.bundle.dims.image_size
    frames = np.random.default_rng(0).integers(0, 256, (12, size, size, 3), dtype=np.uint8)
    encoded = grounder.encode_frames(frames, fps=float(grounder.bundle.fps))
    encoded.save(folder / "video.r2rt")


def _damage_encoding(folder: Path, rng: random.Random) -> None:
    """Damage the record, the tokens or any byte; half of the time with a checksum that fits."""
    path = _file(folder)
    content = path.read_bytes()
    if rng.random() < 0.3:
        path.write_bytes(damage(content, rng))
        return
    length = int.from_bytes(content[:8], "little")
    header, tokens = json.loads(content[8 : 8 + length]), content[8 + length :]
    record = header["__metadata__"]["r2rt_encoded_video"].encode()
    if rng.random() < 0.7:
        record = damage_json(record, rng)
    if rng.random() < 0.5:
        tokens = damage(tokens, rng)[: len(tokens)].ljust(len(tokens), b"\xff")
    header["__metadata__"]["r2rt_encoded_video"] = record.decode(errors="replace")
    text = json.dumps(header)
    checksum = json.loads(content[8 : 8 + length])["__metadata__"]["r2rt_encoded_video"]
    digest = json.loads(checksum)["xxh3_128"]
    blank = text.replace(digest, "0" * 32).encode()
    fitting = xxhash.xxh3_128_hexdigest(blank + tokens)
    head = text.replace(digest, fitting).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + tokens)


def _read_encoding(folder: Path) -> None:
    encoded = EncodedVideo.load(_file(folder))
    prediction = _grounder().ground(encoded, "a red circle")
    assert np.isfinite(prediction.saliency).all()


# Texts


def _write_queries(folder: Path) -> None:
    rows = [{"qid": n, "query": f"a dog number {n}", "vid": "v"} for n in range(20)]
    (folder / "queries.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def _write_list(folder: Path) -> None:
    (folder / "videos.txt").write_text("\n".join(f"folder/a video {n}.mp4" for n in range(20)))


def _damage_lines(folder: Path, rng: random.Random) -> None:
    path = _file(folder)
    lines = path.read_bytes().split(b"\n")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines))
        lines[at] = (
            damage_json(lines[at], rng) if path.suffix == ".jsonl" else damage(lines[at], rng)
        )
    path.write_bytes(rng.choice((b"\n", b"\r\n", b"\r", b"\n\n")).join(lines))


def _read_queries(folder: Path) -> None:
    read_queries(_file(folder))


def _read_list(folder: Path) -> None:
    find_videos(read_video_list(_file(folder)))


def _write_annotations(folder: Path) -> None:
    rows = [
        {
            "qid": n,
            "query": f"a dog number {n}",
            "vid": f"v{n}",
            "duration": 150,
            "relevant_windows": [[10, 20], [30, 44]],
            "relevant_clip_ids": [5, 6, 7],
            "saliency_scores": [[1, 2, 3], [4, 4, 4], [0, 1, 2]],
        }
        for n in range(10)
    ]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def _read_annotations(folder: Path) -> None:
    from training.data.checks import check_file

    for problem in check_file(_file(folder), fps=Fraction(1, 2)).problems:
        str(problem)


KINDS: dict[str, Kind] = {
    "packets of H.264": _bitstream("libx264", "a.mp4", bf="2"),
    "packets of HEVC": _bitstream("libx265", "a.mp4", tune="fastdecode"),
    "packets of MPEG-2": _bitstream("mpeg2video", "a.ts"),
    "packets of MPEG-4": _bitstream("mpeg4", "a.avi", bf="2"),
    "packets of VP9": _bitstream("libvpx-vp9", "a.webm", deadline="realtime"),
    "packets of AV1": _bitstream("libsvtav1", "a.mkv", preset="12"),
    "MP4, H.264": _media("a.mp4", "libx264", bf="2"),
    "MP4 in fragments": _media(
        "a.mp4", "libx264", muxer={"movflags": "frag_keyframe+empty_moov"}, g="12"
    ),
    "MP4, HEVC": _media("a.mp4", "libx265", tune="fastdecode"),
    "MPEG-TS, H.264": _media("a.ts", "libx264", g="12"),
    "MPEG-TS, MPEG-2": _media("a.ts", "mpeg2video"),
    "Matroska, H.264": _media("a.mkv", "libx264"),
    "WebM, VP8": _media("a.webm", "libvpx", deadline="realtime"),
    "Ogg, VP8": _media("a.ogg", "libvpx", deadline="realtime"),
    "FLV, H.264": _media("a.flv", "libx264"),
    "AVI, MPEG-4": _media("a.avi", "mpeg4"),
    "GIF": _media("a.gif", "gif", "rgb8"),
    "raw H.264": _media("a.h264", "libx264"),
    "manifest": Kind(_copy_manifest, _damage_json_file, _read_manifest),
    "bundle": Kind(_copy_bundle, _damage_bundle, _read_bundle),
    "ONNX graph": Kind(
        lambda folder: shutil.copy(DEMO_BUNDLE / "grounder.onnx", folder), _damage_file, _read_graph
    ),
    "encoding": Kind(_write_encoding, _damage_encoding, _read_encoding),
    "queries, JSON lines": Kind(_write_queries, _damage_lines, _read_queries),
    "list of videos": Kind(_write_list, _damage_lines, _read_list),
    "annotations": Kind(_write_annotations, _damage_lines, _read_annotations),
}


def prepared(root: Path, name: str) -> Path:
    """Return the folder of a kind's original, which is made once."""
    folder = root / f"original {list(KINDS).index(name)}"
    if not folder.exists():
        temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
        temporary.mkdir(parents=True)
        KINDS[name].make(temporary)
        temporary.rename(folder)
    return folder
