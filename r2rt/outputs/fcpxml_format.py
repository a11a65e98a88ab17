"""Final Cut Pro XML 1.10, which DaVinci Resolve reads too.

An event with the whole video, each moment a keyword range of its query, and a project that has the
moments one after another, in the video's order. Times are exact: whole frames as fractions of
seconds.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from fractions import Fraction

from r2rt.outputs.answers import Answers, Found
from r2rt.outputs.source import SourceFacts
from r2rt.printable import one_line

__all__ = ["render"]


def render(answers: Answers) -> str:
    """Return the document of a video's moments.

    Raises:
        R2rtError: the video cannot be read; see `Answers.source`.
    """
    source = answers.source
    name = one_line(answers.path.stem)
    root = ET.Element("fcpxml", version="1.10")
    _add_resources(_add(root, "resources"), source, name)
    event = _add(_add(root, "library"), "event", name=f"{name} moments")
    found = answers.found
    _add_whole(event, found, source, name)
    if found:  # a project must last
        _add_project(event, found, source, name)
    ET.indent(root)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n'
    return head + ET.tostring(root, encoding="unicode") + "\n"


def _add_resources(resources: ET.Element, source: SourceFacts, name: str) -> None:
    size = {}
    if source.width and source.height:
        size = {"width": str(source.width), "height": str(source.height)}
    lasts = _time(1, source.rate)
    _add(resources, "format", id="r1", frameDuration=lasts, **size)
    sound = {}
    if source.sound_channels:
        sound = {"hasAudio": "1", "audioSources": "1"}
        sound |= {"audioChannels": str(source.sound_channels)}
        sound |= {"audioRate": str(source.sound_rate)} if source.sound_rate else {}
    asset = _add(
        resources,
        "asset",
        id="r2",
        name=name,
        start=_time(source.start_frame, source.rate),
        duration=_time(source.frames, source.rate),
        hasVideo="1",
        format="r1",
        videoSources="1",
        **sound,
    )
    _add(asset, "media-rep", kind="original-media", src=source.uri)


def _add_whole(event: ET.Element, found: list[Found], source: SourceFacts, name: str) -> None:
    clip = _add(
        event,
        "asset-clip",
        ref="r2",
        name=name,
        start=_time(source.start_frame, source.rate),
        duration=_time(source.frames, source.rate),
        format="r1",
        tcFormat=_timecode_format(source),
    )
    for item in found:
        _add(clip, "keyword", value=_keyword(item), note=_note(item), **_span(item, source))


def _add_project(event: ET.Element, found: list[Found], source: SourceFacts, name: str) -> None:
    spans = [source.span(item.moment.start_s, item.moment.end_s) for item in found]
    total = sum(end - first for first, end in spans)
    project = _add(event, "project", name=f"{name} moments")
    sequence = _add(
        project,
        "sequence",
        format="r1",
        duration=_time(total, source.rate),
        tcStart="0s",
        tcFormat=_timecode_format(source),
    )
    spine = _add(sequence, "spine")
    offset = 0
    for item, (first, end) in zip(found, spans, strict=True):
        clip = _add(
            spine,
            "asset-clip",
            ref="r2",
            name=one_line(item.title),
            offset=_time(offset, source.rate),
            format="r1",
            tcFormat=_timecode_format(source),
            **_span(item, source),
        )
        _add(
            clip,
            "marker",
            start=_time(source.start_frame + first, source.rate),
            duration=_time(1, source.rate),
            value=one_line(item.query),
            note=_note(item),
        )
        offset += end - first


def _span(found: Found, source: SourceFacts) -> dict[str, str]:
    first, end = source.span(found.moment.start_s, found.moment.end_s)
    return {
        "start": _time(source.start_frame + first, source.rate),
        "duration": _time(end - first, source.rate),
    }


def _note(found: Found) -> str:
    moment = found.moment
    return (
        f"score {moment.score:.4f}, rank {found.rank}, {moment.start_s:.3f} to {moment.end_s:.3f} s"
    )


def _keyword(found: Found) -> str:
    return one_line(found.query).replace(",", " ")  # commas part keywords


def _timecode_format(source: SourceFacts) -> str:
    return "DF" if source.drop else "NDF"


def _add(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, tag, attributes)


def _time(frames: int, rate: Fraction) -> str:
    """Return a number of frames in seconds, as a fraction: `1001/30000s`, `5s`."""
    seconds = frames / rate
    if seconds.denominator == 1:
        return f"{seconds.numerator}s"
    return f"{frames * rate.denominator}/{rate.numerator}s"
