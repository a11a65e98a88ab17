"""Which files a service opens, and which of them browsers play.

A playlist names other files, which FFmpeg would open in its turn; whoever may upload one could read
what else is on the machine. So a file is opened by the demuxers alone that read nothing but it.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from r2rt.errors import NotAVideoError, SourceNotFoundError

__all__ = ["container_of", "media_type", "why_not_playable"]

_FORMATS = frozenset(
    (
        *("mov", "matroska", "mpegts", "avi", "flv", "mpeg", "asf", "ogg", "mxf", "gxf", "nut"),
        *("h264", "hevc", "m4v", "mpegvideo", "mjpeg", "ivf", "yuv4mpegpipe", "dv", "rm", "gif"),
        *("vc1", "obu", "av1", "wtv", "swf", "mpegtsraw", "apng", "webp_pipe"),
    )
)
_MP4_VIDEO = frozenset(("h264", "av1", "vp9", "libdav1d"))
_MP4_AUDIO = frozenset(("aac", "mp3", "mp3float", "opus", "flac", "ac3"))
_WEBM_VIDEO = frozenset(("vp8", "vp9", "av1", "libdav1d"))
_WEBM_AUDIO = frozenset(("opus", "vorbis"))


def container_of(path: Path) -> str:
    """Return FFmpeg's name of the format of a file that reads no other files.

    Raises:
        SourceNotFoundError: there is no such file.
        NotAVideoError: no allowed demuxer understands it.
    """
    from r2rt.video.container import open_input
    from r2rt.video.demux import CANNOT_OPEN

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise NotAVideoError(f"{path.name}: no regular file")
    except OSError as error:
        raise SourceNotFoundError(f"{path.name}: {error.strerror}") from error
    options = {"protocol_whitelist": "file", "format_whitelist": _format_names()}
    try:
        with open_input(str(path), container_options=options) as container:
            return str(container.format.name)
    except CANNOT_OPEN as error:
        raise NotAVideoError(
            f"{path.name}: no video that can be added (playlists and lists of images cannot)"
        ) from error


def _format_names() -> str:
    """Return FFmpeg's list of permitted demuxers; one name of a demuxer must be in it."""
    import av

    names = [name for name in av.formats_available if _FORMATS & set(name.split(","))]
    return ",".join(names)


def media_type(container: str) -> str:
    """Return the media type of a format by FFmpeg's name of it."""
    names = container.split(",")
    if "mp4" in names:
        return "video/mp4"
    for name, type_ in (("webm", "video/webm"), ("ogg", "video/ogg"), ("mpegts", "video/mp2t")):
        if name in names:
            return type_
    return "application/octet-stream"


def why_not_playable(facts: dict[str, Any]) -> str | None:
    """Return why browsers do not play a file; None if they do.

    Args:
        facts: see `r2rt.service.videos.file_facts`.
    """
    container, codec = facts["container"].split(","), facts["codec"]
    sounds = [item["codec"] for item in facts["audio"][:1]]
    if "mp4" in container:
        video, audio = _MP4_VIDEO, _MP4_AUDIO
    elif "webm" in container:
        video, audio = _WEBM_VIDEO | _MP4_VIDEO, _WEBM_AUDIO | _MP4_AUDIO
    elif "ogg" in container:
        video, audio = frozenset(("theora",)), _WEBM_AUDIO
    else:
        return f"browsers do not play files of the format {container[0]}"
    if codec not in video:
        return f"browsers do not play {codec} in {container[0]}"
    if any(sound not in audio for sound in sounds):
        return f"browsers do not play the sound, {sounds[0]}, in {container[0]}"
    return None
