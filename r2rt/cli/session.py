"""What commands share: opening the model, reading the video, telling of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r2rt.cli.console import printable, progress, stderr_console
from r2rt.errors import QueryError

if TYPE_CHECKING:
    from r2rt.engines import Device
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.encoding_cache import EncodingCache
    from r2rt.grounding.grounder import Grounder

__all__ = [
    "encode_source",
    "note",
    "open_model",
    "read_video",
    "show_log",
    "warn",
    "warn_of_unknown_words",
]


def open_model(model: str | None, device: Device, *, quiet: bool) -> Grounder:
    """Open the model asked for or the default one, and say which, and on what it runs."""
    from r2rt.grounding.grounder import Grounder
    from r2rt.model.installed import choose_default

    if model is None:
        chosen = choose_default()
        note(f"no --model was named, so this is {chosen.reason}", quiet=quiet)
        model = str(chosen.path)
    grounder = Grounder.load(model, device=device)
    manifest = grounder.bundle.manifest
    note(
        f"model {manifest.name} ({manifest.precision}) on {grounder.engine.name}"
        f" ({grounder.choice.reason})",
        quiet=quiet,
    )
    if manifest.provenance.random_weights:
        warn(
            f"{manifest.name} has random weights: it shows that everything runs, "
            "and its answers mean nothing"
        )
    return grounder


def warn_of_unknown_words(grounder: Grounder, queries: Iterable[str]) -> None:
    """Tell which words of the queries the model has never read, so that they mean nothing to it."""
    words = dict.fromkeys(word for query in queries for word in grounder.unknown_words(query))
    if words:
        listed = ", ".join(repr(word) for word in words)
        warn(
            f"the model {grounder.bundle.manifest.name} does not know: {listed}; "
            "its answers do not depend on what they mean"
        )


def encode_source(
    grounder: Grounder,
    video: str,
    options: Mapping[str, Any],
    *,
    cache: EncodingCache | None = None,
    quiet: bool,
    label: str = "encoding",
) -> EncodedVideo:
    """Encode a video under a progress bar, or take it from the cache, and warn of what was lost.

    Args:
        grounder: the session.
        video: the source.
        options: keyword arguments of `Grounder.encode`.
        cache: where encoded videos are kept; None keeps none.
        quiet: show no progress and no notes.
        label: what the progress bar says.
    """
    if cache is None or not Path(video).is_file():
        encoded = _encode(grounder, video, options, quiet=quiet, label=label)
    else:
        key = cache.key(Path(video), grounder.bundle.fingerprint, options)
        kept = cache.get(key, video)
        if kept is None:
            encoded = _encode(grounder, video, options, quiet=quiet, label=label)
            # Written while the query is answered; the process ends when both are done.
            threading.Thread(target=cache.put, args=(key, encoded)).start()
        else:
            encoded = kept
            note(f"{encoded.num_clips} clips of {encoded.duration_s:.1f} s, kept", quiet=quiet)
    if encoded.clips_similar:
        warn(
            f"{video}: {encoded.clips_similar} of {encoded.num_clips} clips were not encoded but "
            "took the tokens of a similar frame (--skip-similar)"
        )
    for text in encoded.departures.warnings:
        warn(f"{video}: {text}")
    for text in encoded.departures.notes:
        note(f"{video}: {text}", quiet=quiet)
    return encoded


def read_video(
    grounder: Grounder,
    video: str,
    encoding: dict[str, Any],
    *,
    cache: bool,
    quiet: bool,
    label: str,
) -> EncodedVideo:
    """Read a video, or what `r2rt encode` wrote of one, for which options to read by are of no use.

    Raises:
        QueryError: such options were given for a video that is encoded already.
        R2rtError: the video cannot be read.
    """
    from r2rt.grounding.encoded import EncodedVideo, is_encoded_video

    if not is_encoded_video(video):
        from r2rt.grounding.encoding_cache import EncodingCache

        kept = EncodingCache() if cache else None
        return encode_source(grounder, video, encoding, cache=kept, quiet=quiet, label=label)
    context = click.get_current_context()
    given = [
        name
        for name in encoding
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if given:
        raise QueryError(f"{', '.join(given)}: of no use with {video}, which is encoded already")
    return EncodedVideo.load(video)


def _encode(
    grounder: Grounder, video: str, options: Mapping[str, Any], *, quiet: bool, label: str
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
        text = printable(record.getMessage())
        if record.levelno >= logging.WARNING:
            warn(text)
        else:
            note(text, quiet=False)


def show_log() -> None:
    """Print the library's warnings on stderr from now on, and what it logs under `--verbose`."""
    logger = logging.getLogger("r2rt")
    if not any(isinstance(handler, _LogHandler) for handler in logger.handlers):
        logger.addHandler(_LogHandler())


def note(text: str, *, quiet: bool) -> None:
    """Tell something on stderr that is not needed to read the result."""
    if not quiet:
        stderr_console().print(f"r2rt: {text}", markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Tell on stderr what makes the result other than one might think; never silenced."""
    stderr_console().print(f"r2rt: warning: {text}", markup=False, highlight=False, soft_wrap=True)
