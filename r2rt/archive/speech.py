"""Words that are spoken, transcribed by faster-whisper (extra `[speech]`)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2rt.archive.subtitles import Line
from r2rt.archive.tables import require_package
from r2rt.errors import ModelNotFoundError
from r2rt.user_folders import user_path

__all__ = ["load_speech_model", "spoken_lines"]


@functools.lru_cache(maxsize=1)
def load_speech_model(name: str) -> Any:
    """Return faster-whisper's model of a name or folder; the last one is kept.

    Raises:
        MissingExtraError: faster-whisper is not installed.
        ModelNotFoundError: there are no such weights.
    """
    require_package("faster_whisper", "--speech")
    from faster_whisper import WhisperModel

    try:
        return WhisperModel(str(user_path(name)))
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ModelNotFoundError(
            f"--speech {name}: {reason}; name a folder of faster-whisper's weights"
        ) from error


def spoken_lines(video: Path, model: str) -> Iterator[Line]:
    """Yield the spoken lines of a video, in order; none where it has no sound.

    Args:
        video: a file.
        model: name or folder of faster-whisper's weights.

    Raises:
        MissingExtraError, ModelNotFoundError: see `load_speech_model`.
    """
    import av

    from r2rt.video.container import open_input

    whisper = load_speech_model(model)
    try:
        with open_input(str(video)) as container:
            if not container.streams.audio:
                return
            sound = container.streams.audio[0]
            # The model counts from the first sample, lines from the start of the file.
            begins_s = float((sound.start_time or 0) * (sound.time_base or 0))
            begins_s -= (container.start_time or 0) / av.time_base
        segments, info = whisper.transcribe(str(video), vad_filter=True)
        for segment in segments:
            if text := " ".join(segment.text.split()):
                yield Line(
                    start_s=begins_s + segment.start,
                    end_s=begins_s + segment.end,
                    text=text,
                    language=info.language or "",
                )
    except (av.error.FFmpegError, OSError, ValueError, IndexError):
        return  # sound that cannot be decoded; the video is searched by its images anyway
