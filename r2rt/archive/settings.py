"""What all rows of a library have in common: the model that made them, and how they are stored."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Self

import msgspec

from r2rt.errors import LibraryError, ModelMismatchError
from r2rt.model.contract import parse_clip_rate

if TYPE_CHECKING:
    from r2rt.model.bundle import Bundle

__all__ = ["SCHEMA_VERSION", "Settings"]

SCHEMA_VERSION = 1
# A vector of the first stage is the mean of this many clips: the measured ranking is the same for
# 1 to 3 clips, and 2,000 hours take half the space.
_CLIPS_PER_VECTOR = 2
# Far beyond every model: a window of a day at a thousand clips a second.
_MOST_NUMBERS, _MOST_CLIPS = 1 << 16, 86_400_000


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a library, written once when it is made.

    Attributes:
        schema: version of the tables.
        model: name or folder of the model, as it was given.
        model_fingerprint: `Bundle.fingerprint` of it.
        fps: clips a second, as a fraction.
        width: numbers E of a vector.
        clips_per_vector: how many clips a vector is the mean of.
        window_clips: clips of a window that the second stage grounds; None grounds whole videos.
        overlap_clips: clips that two windows have in common.
    """

    schema: int
    model: str
    model_fingerprint: str
    fps: str
    width: int
    clips_per_vector: int
    window_clips: int | None
    overlap_clips: int

    @classmethod
    def of(cls, bundle: Bundle, *, model: str, width: int) -> Self:
        """Return the settings of a new library.

        Args:
            bundle: the model.
            model: its name or folder, as it was given.
            width: numbers of an image embedding.
        """
        from r2rt.grounding.windows import window_size

        size = window_size("auto", None, model_window_s=bundle.manifest.window_s, fps=bundle.fps)
        return cls(
            schema=SCHEMA_VERSION,
            model=model,
            model_fingerprint=bundle.fingerprint,
            fps=str(bundle.fps),
            width=width,
            clips_per_vector=_CLIPS_PER_VECTOR,
            window_clips=None if size is None else size.clips,
            overlap_clips=0 if size is None else size.overlap,
        )

    @classmethod
    def parse(cls, text: bytes | None, library: str) -> Self:
        """Return the settings that a library holds.

        Raises:
            LibraryError: there are none, they are damaged, or of another schema.
        """
        if text is None:
            raise LibraryError(
                f"{library}: not a library; `r2rt index {library} VIDEO...` makes one"
            )
        try:
            found = msgspec.json.decode(text, type=cls)
            parse_clip_rate(found.fps)
        except (msgspec.DecodeError, ValueError) as error:
            raise LibraryError(f"{library}: its settings cannot be read ({error})") from error
        if found.schema != SCHEMA_VERSION:
            raise LibraryError(
                f"{library}: schema {found.schema}, this r2rt reads {SCHEMA_VERSION}; "
                "index the videos into a new library"
            )
        if not found._is_possible():
            raise LibraryError(f"{library}: its settings cannot be ({found})")
        return found

    def _is_possible(self) -> bool:
        window = 1 if self.window_clips is None else self.window_clips
        return (
            1 <= self.width <= _MOST_NUMBERS
            and 1 <= self.clips_per_vector <= _MOST_NUMBERS
            and 1 <= window <= _MOST_CLIPS
            and (0 <= self.overlap_clips < window)
        )

    def check_model(self, bundle: Bundle, library: str) -> None:
        """Raise `ModelMismatchError` unless this is the model of the library."""
        if bundle.fingerprint != self.model_fingerprint:
            raise ModelMismatchError(
                f"{library} was indexed with {self.model} ({self.model_fingerprint[:8]}), this "
                f"model is {bundle.manifest.name} ({bundle.fingerprint[:8]}); leave --model out, "
                "or index the videos into a new library"
            )

    @property
    def rate(self) -> Fraction:
        """Clips a second."""
        return parse_clip_rate(self.fps)
