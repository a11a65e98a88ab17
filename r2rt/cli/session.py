"""What commands share: opening the model, reading a video, showing what the library logs."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from r2rt.cli.console import note, progress, warn
from r2rt.cli.first_run import choose_model
from r2rt.cli.options import asked_precision, is_yes_given
from r2rt.errors import QueryError
from r2rt.grounding.many import kind_of
from r2rt.video.remote import RemoteVideo, VideoPath, is_remote, shown_address, video_path

if TYPE_CHECKING:
    from r2rt.cli.options import Encoding
    from r2rt.engines import Device
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.encoding_cache import EncodingCache
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.options import EncodeOptions

__all__ = [
    "encode_source",
    "note",
    "open_model",
    "read_video",
    "show_log",
    "source_state",
    "warn",
    "warn_of_unknown_words",
    "warn_of_video",
]


def open_model(
    model: str | None, device: Device, *, quiet: bool, any_form: bool = True
) -> Grounder:
    """Open the named model or the default one, and print its name and what it runs on.

    `--yes` of the command lets it fetch a published model that is not installed, `--precision`
    names its form. Without `any_form` the bundle is taken as it is.
    """
    from r2rt.grounding.grounder import Grounder

    folder = choose_model(model, yes=is_yes_given(), quiet=quiet)
    precision = asked_precision() if any_form else None
    grounder = Grounder.load(folder, device=device, precision=precision)
    manifest = grounder.bundle.manifest
    note(
        f"model {manifest.name} ({manifest.precision}) on {grounder.engine.name}"
        f" ({grounder.choice.reason})",
        quiet=quiet,
    )
    if manifest.provenance.random_weights:
        warn(
            f"{manifest.name} has random weights: it is for trying things out, "
            "and its answers mean nothing"
        )
    return grounder


def warn_of_unknown_words(grounder: Grounder, queries: Iterable[str]) -> None:
    """Warn of words that were not in the model's training data; they do not change its answers."""
    queries, name = list(dict.fromkeys(queries)), grounder.bundle.manifest.name
    for query in queries:
        if not grounder.knows(query):
            warn(f"the model {name} knows no word of {query!r}, so it cannot find it")
    words = dict.fromkeys(
        word for query in queries if grounder.knows(query) for word in grounder.unknown_words(query)
    )
    if words:
        listed = ", ".join(repr(word) for word in words)
        warn(f"the model {name} does not know: {listed}; it ignores what they mean")


def warn_of_video(path: str, reason: str) -> None:
    """Warn of a video that a command goes on without."""
    name = shown_address(path)
    warn(reason if name in reason else f"{name}: {reason}")


def encode_source(
    grounder: Grounder,
    video: str,
    options: EncodeOptions,
    *,
    cache: EncodingCache | None = None,
    quiet: bool,
    label: str = "encoding",
) -> EncodedVideo:
    """Encode a video under a progress bar, or take it from the cache, and warn of lost packets.

    Args:
        grounder: the session.
        video: the source.
        options: keyword arguments of `Grounder.encode`.
        cache: where encoded videos are kept; None keeps none.
        quiet: show no progress and no notes.
        label: what the progress bar says.
    """
    from r2rt.video.fingerprint import is_playlist

    name = shown_address(video)
    # One object, so that a server is asked about the file once.
    source = video_path(video) if is_remote(video) else video
    state = None if cache is None else source_state(source)
    # What a playlist shows is in other files, and its own bytes do not say whether they changed.
    if cache is None or state is None or is_playlist(video_path(source)):
        encoded = _encode(grounder, source, options, quiet=quiet, label=label)
    else:
        key = cache.key(video_path(source), grounder.bundle.fingerprint, options)
        kept = cache.get(key, name)
        if kept is None:
            encoded = _encode(grounder, source, options, quiet=quiet, label=label)
            if source_state(video) == state:  # else the key belongs to other content
                # Written while the query is answered; the process ends when both are done.
                threading.Thread(target=cache.put, args=(key, encoded)).start()
        else:
            # Entries of older versions do not say which track it was; the key has it.
            encoded = dataclasses.replace(kept, video_track=options.get("video_track"))
            note(
                f"{encoded.num_clips} clips of {encoded.duration_s:.1f} s from the cache",
                quiet=quiet,
            )
    for text in encoded.departures.warnings:
        warn(f"{name}: {text}")
    for text in encoded.departures.notes:
        note(f"{name}: {text}", quiet=quiet)
    return encoded


def source_state(source: str | VideoPath) -> tuple[int, ...] | None:
    """Return what changes with a file's content; None where nothing does, or there is no file."""
    path = video_path(source)
    try:
        if not isinstance(path, RemoteVideo) and not path.is_file():
            return None
        status = path.stat()
        version = path.version() if isinstance(path, RemoteVideo) else status.st_mtime_ns
    except (OSError, ValueError):  # such as a name too long
        return None
    return None if version is None else (status.st_size, version, status.st_ino)


def read_video(
    grounder: Grounder,
    video: str,
    encoding: Encoding,
    *,
    cache: bool,
    quiet: bool,
) -> EncodedVideo:
    """Encode a video, or load an encoded one, for which encoding options are rejected.

    Raises:
        QueryError: encoding options were given for an encoded video.
        R2rtError: the video cannot be read.
    """
    from r2rt.grounding.encoded import EncodedVideo, is_encoded_video

    if kind_of(video) != "file" or not is_encoded_video(video):
        from r2rt.grounding.encoding_cache import EncodingCache

        kept = EncodingCache() if cache else None
        options = encoding.options_for(video)
        return encode_source(grounder, video, options, cache=kept, quiet=quiet)
    if encoding.given:
        raise QueryError(
            f"{', '.join(encoding.given)}: cannot be used with {video}, which is already encoded"
        )
    return dataclasses.replace(EncodedVideo.load(video), encode_s=0.0)  # not by this command


def _encode(
    grounder: Grounder,
    video: str | os.PathLike[str],
    options: EncodeOptions,
    *,
    quiet: bool,
    label: str,
) -> EncodedVideo:
    with progress(label, unit="clips", quiet=quiet) as update:
        encoded = grounder.encode(video, update, **options)
    note(
        f"{encoded.num_clips} clips of {encoded.duration_s:.1f} s in {encoded.encode_s:.2f} s",
        quiet=quiet,
    )
    return encoded


class _LogHandler(logging.Handler):
    """Prints what the library logs as the commands print their own notes and warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            warn(text)
        else:
            note(text, quiet=False)


def show_log() -> None:
    """Print the library's warnings on stderr from now on, and what it logs under `--verbose`."""
    logger = logging.getLogger("r2rt")
    if not any(isinstance(handler, _LogHandler) for handler in logger.handlers):
        logger.addHandler(_LogHandler())
