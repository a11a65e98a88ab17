"""Final Cut Pro 7 XML (xmeml 5), which Premiere Pro and DaVinci Resolve import.

A project with a sequence of the moments one after another, in the video's order, and with the whole
video, on which each moment is a marker. Times are whole frames from the file's first.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from fractions import Fraction

from r2rt.outputs.answers import Answers
from r2rt.outputs.markers import Marker, markers, timeline_start
from r2rt.outputs.source import SourceFacts
from r2rt.printable import one_line
from r2rt.timecode import format_timecode

__all__ = ["render"]

_MOST_FRAMES = 240  # a second


def render(answers: Answers) -> str:
    """Return the document of a video's moments.

    Raises:
        R2rtError: the video cannot be read; see `Answers.source`.
    """
    source, found = markers(answers, most=_MOST_FRAMES)
    name = one_line(answers.path.stem)
    root = ET.Element("xmeml", version="5")
    project = ET.SubElement(root, "project")
    _text(project, name=f"{name} moments")
    children = ET.SubElement(project, "children")
    # The file is described where it is first named, which readers need, and named by its id then.
    _add_sequence(children, found, source, name)
    _add_whole(children, found, source, name)
    ET.indent(root)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE xmeml>\n'
    return head + ET.tostring(root, encoding="unicode") + "\n"


def _add_whole(children: ET.Element, found: list[Marker], source: SourceFacts, name: str) -> None:
    clip = ET.SubElement(children, "clip", id="masterclip-1")
    _text(clip, masterclipid="masterclip-1", ismasterclip="TRUE", name=name)
    _text(clip, duration=source.frames)
    _rate(clip, source.rate)
    media = ET.SubElement(clip, "media")
    track = ET.SubElement(ET.SubElement(media, "video"), "track")
    item = ET.SubElement(track, "clipitem", id="clipitem-whole")
    _text(item, masterclipid="masterclip-1", name=name)
    _rate(item, source.rate)
    _file(item, source, described=not found)
    for marker in found:
        _marker(clip, marker)


def _add_sequence(
    children: ET.Element, found: list[Marker], source: SourceFacts, name: str
) -> None:
    total = sum(marker.end - marker.first for marker in found)
    sequence = ET.SubElement(children, "sequence", id="sequence-1")
    _text(sequence, name=f"{name} moments", duration=total)
    _rate(sequence, source.rate)
    _timecode(sequence, timeline_start(source), source)
    media = ET.SubElement(sequence, "media")
    video = ET.SubElement(media, "video")
    if source.width and source.height:
        format_ = ET.SubElement(ET.SubElement(video, "format"), "samplecharacteristics")
        _rate(format_, source.rate)
        _text(format_, width=source.width, height=source.height, pixelaspectratio="square")
    # A track of frames, then one for each of the first two channels of sound.
    tracks = [("video", ET.SubElement(video, "track"))]
    if source.sound_channels:
        audio = ET.SubElement(media, "audio")
        channels = min(source.sound_channels, 2)
        tracks += [("audio", ET.SubElement(audio, "track")) for _ in range(channels)]
    at = 0
    for number, marker in enumerate(found, start=1):
        ids = [f"clipitem-{number}-{place}" for place in range(len(tracks))]
        for place, (kind, track) in enumerate(tracks):
            item = ET.SubElement(track, "clipitem", id=ids[place])
            _text(item, masterclipid="masterclip-1", name=marker.name, enabled="TRUE")
            _text(item, duration=source.frames)
            _rate(item, source.rate)
            _text(item, start=at, end=at + marker.end - marker.first)
            _text(item, **{"in": marker.first, "out": marker.end})
            _file(item, source, described=number == 1 and not place)
            if kind == "audio":
                _text(ET.SubElement(item, "sourcetrack"), mediatype=kind, trackindex=place)
            else:
                _marker(item, marker)
            _add_links(item, ids, number)
        at += marker.end - marker.first


def _add_links(item: ET.Element, ids: list[str], clip: int) -> None:
    """Tie frames and sound of a moment together, so that they are moved as one."""
    for place, name in enumerate(ids if len(ids) > 1 else ()):
        kind = "audio" if place else "video"
        link = ET.SubElement(item, "link")
        _text(link, linkclipref=name, mediatype=kind, trackindex=max(place, 1), clipindex=clip)


def _file(item: ET.Element, source: SourceFacts, *, described: bool) -> None:
    file = ET.SubElement(item, "file", id="file-1")
    if not described:
        return
    # A share of a network has a host of its own.
    address = re.sub(r"\Afile:///", "file://localhost/", source.uri)
    _text(file, name=one_line(source.path.name), pathurl=address)
    _rate(file, source.rate)
    _text(file, duration=source.frames)
    _timecode(file, source.start_frame, source)
    media = ET.SubElement(file, "media")
    video = ET.SubElement(media, "video")
    if source.width and source.height:
        facts = ET.SubElement(video, "samplecharacteristics")
        _text(facts, width=source.width, height=source.height)
    if source.sound_channels:
        audio = ET.SubElement(media, "audio")
        if source.sound_rate:
            _text(ET.SubElement(audio, "samplecharacteristics"), samplerate=source.sound_rate)
        _text(audio, channelcount=source.sound_channels)


def _marker(parent: ET.Element, marker: Marker) -> None:
    element = ET.SubElement(parent, "marker")
    _text(element, comment=marker.note, name=marker.name)
    _text(element, **{"in": marker.first, "out": marker.end})


def _timecode(parent: ET.Element, frame: int, source: SourceFacts) -> None:
    timecode = ET.SubElement(parent, "timecode")
    _rate(timecode, source.rate)
    _text(timecode, string=format_timecode(frame, source.rate, drop=source.drop), frame=frame)
    _text(timecode, displayformat="DF" if source.drop else "NDF")


def _rate(parent: ET.Element, rate: Fraction) -> None:
    is_ntsc = rate.denominator == 1001
    _text(ET.SubElement(parent, "rate"), timebase=round(rate), ntsc="TRUE" if is_ntsc else "FALSE")


def _text(parent: ET.Element, **children: object) -> None:
    for tag, value in children.items():
        ET.SubElement(parent, tag).text = str(value)
