"""Every foreseen error of r2rt, and its exit code.

A message is one line: what was found, what was expected, what to do. The command line prints it
without a traceback and exits with the class's `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

__all__ = [
    "AccuracyError",
    "BackendUnavailableError",
    "BundleDamagedError",
    "BundleSchemaError",
    "ConversionError",
    "DownloadError",
    "EncodedVideoError",
    "GpuError",
    "HashMismatchError",
    "LibraryError",
    "LibraryFullError",
    "MemoryLimitError",
    "MissingExtraError",
    "ModelMismatchError",
    "ModelNotFoundError",
    "NoFramesError",
    "NoVideoStreamError",
    "NotAVideoError",
    "NotInVideoError",
    "OutputError",
    "QueryError",
    "R2rtError",
    "ServiceStateError",
    "SomeVideosFailedError",
    "SourceLostError",
    "SourceNotFoundError",
    "error_class",
    "exit_codes",
]


class R2rtError(Exception):
    """Base of all errors below; the message is one line meant for a person."""

    exit_code: ClassVar[int] = 1


class QueryError(R2rtError, ValueError):
    """A query or another argument that cannot be used, such as an empty sentence."""

    exit_code = 2


class NotInVideoError(R2rtError):
    """No query was found in the video, or in any of several videos."""

    exit_code = 3


class SomeVideosFailedError(R2rtError):
    """Some videos of several failed; the others were answered."""

    exit_code = 4


class SourceNotFoundError(R2rtError, FileNotFoundError):
    """The video, folder or file does not exist or cannot be read."""

    exit_code = 10


class NotAVideoError(R2rtError, ValueError):
    """The file exists, but no demuxer or image decoder understands it."""

    exit_code = 11


class NoVideoStreamError(R2rtError, ValueError):
    """A media file without a video stream, such as audio alone."""

    exit_code = 12


class NoFramesError(R2rtError, ValueError):
    """No frame of the video, or of the requested part, could be decoded."""

    exit_code = 13


class EncodedVideoError(R2rtError, ValueError):
    """An encoded video (a .r2rt file) that is damaged, truncated or of another schema."""

    exit_code = 14


class SourceLostError(R2rtError, ConnectionError):
    """A live source that cannot be reached, or was lost and did not come back."""

    exit_code = 15


class LibraryError(R2rtError, ValueError):
    """The folder is no library of videos, or one that this version does not read."""

    exit_code = 16


class ModelNotFoundError(R2rtError, FileNotFoundError):
    """No bundle of that name is installed, and no such folder exists."""

    exit_code = 20


class BundleDamagedError(R2rtError, ValueError):
    """A file of the bundle is missing, unreadable or inconsistent with its manifest."""

    exit_code = 21


class BundleSchemaError(R2rtError, ValueError):
    """The bundle has a schema that this version does not read, or lacks what is needed."""

    exit_code = 22


class HashMismatchError(R2rtError, ValueError):
    """A file's sha256 is not the expected one."""

    exit_code = 23


class DownloadError(R2rtError, OSError):
    """A model could not be fetched: no network, not on the mirror, or cut off."""

    exit_code = 24


class ModelMismatchError(R2rtError, ValueError):
    """An encoded video, or a library, was made with another model."""

    exit_code = 25


class ConversionError(R2rtError, ValueError):
    """A published checkpoint cannot be used, or could not be converted here."""

    exit_code = 26


class AccuracyError(R2rtError, ValueError):
    """A quantised bundle's answers differ too much from those of its fp32 origin."""

    exit_code = 27


class BackendUnavailableError(R2rtError, RuntimeError):
    """The requested device or engine is not installed or not usable on this machine."""

    exit_code = 30


class GpuError(R2rtError, RuntimeError):
    """The GPU refused a call, for instance for lack of memory."""

    exit_code = 31


class MemoryLimitError(R2rtError, MemoryError):
    """A video would need more memory than `--max-memory` permits."""

    exit_code = 32


class OutputError(R2rtError, OSError):
    """A result could not be written: disk full, no permission."""

    exit_code = 40


class LibraryFullError(R2rtError):
    """A library of videos has reached its quota."""

    exit_code = 42


class MissingExtraError(R2rtError, ImportError):
    """The command, option or source needs a package that is not installed."""

    exit_code = 41


class ServiceStateError(R2rtError, RuntimeError):
    """A service cannot start: its folder, address or access is not usable."""

    exit_code = 45


def exit_codes() -> dict[int, str]:
    """Return every exit code of the runtime with its meaning, in ascending order.

    The development tools have further codes of their own.
    """
    codes = {error.exit_code: (error.__doc__ or "").strip().splitlines()[0] for error in _errors()}
    codes |= {0: "Done.", 1: "A fault in r2rt itself; please report it.", 130: "Interrupted."}
    codes[2] = "Wrong usage: an unknown option, or a query that cannot be used."
    return dict(sorted(codes.items()))


def error_class(exit_code: int) -> type[R2rtError] | None:
    """Return the class of the errors that end a process with an exit code; None if none does."""
    return {error.exit_code: error for error in _errors()}.get(exit_code)


def _errors() -> Iterator[type[R2rtError]]:
    """Yield every class of this module; the development tools define more in theirs."""
    pending: list[type[R2rtError]] = [R2rtError]
    while pending:
        error = pending.pop()
        pending.extend(error.__subclasses__())
        if error.__module__ == __name__:
            yield error
