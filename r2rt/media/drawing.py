"""What drawn images share: colours, fonts, time axes."""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.errors import MissingExtraError
from r2rt.files import replacing

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFont import FreeTypeFont

__all__ = [
    "BLUE",
    "FAINT",
    "INK",
    "LINE",
    "ORANGE",
    "PAPER",
    "QUIET",
    "axis_clock",
    "font",
    "jpeg_bytes",
    "mix",
    "nice_ticks",
    "require_jinja",
    "require_pillow",
    "save_image",
    "shortened",
    "wrapped",
]

# Blue and orange of Okabe and Ito's palette can be distinguished under every colour blindness, and
# in grey: no colour here says what a position or a number does not say too.
BLUE, ORANGE = "#0072B2", "#E69F00"
PAPER, INK, QUIET, LINE, FAINT = "#FFFFFF", "#1B1F24", "#57606A", "#D0D7DE", "#F3F5F7"

# Pillow's own font is Latin; these, where they are installed, have most other scripts.
_OTHER_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "FreeSans.ttf",
)
_TICK_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


def require_pillow() -> None:
    """Check that images can be drawn.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "images and pages need Pillow; install it: pip install 'r2rt[media]'"
        ) from error


def require_jinja() -> None:
    """Check that pages can be written.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "reports need Jinja2; install it: pip install 'r2rt[media]'"
        ) from error


def font(size: int, text: str = "") -> FreeTypeFont:
    """Return a font of a size in pixels that has all characters of a text, if one is installed."""
    signs = frozenset(sign for sign in text if ord(sign) > 126 and not sign.isspace())
    return _font_for(size, signs)


@functools.lru_cache(maxsize=256)
def _font_for(size: int, signs: frozenset[str]) -> FreeTypeFont:
    best = _load(None, size)
    assert best is not None
    fewest = _missing(best, signs)
    for name in _OTHER_FONTS:
        if not fewest:
            break
        other = _load(name, size)
        missing = _missing(other, signs) if other is not None else fewest
        if other is not None and missing < fewest:
            best, fewest = other, missing
    return best


def _load(name: str | None, size: int) -> FreeTypeFont | None:
    from PIL import ImageFont

    if name is None:
        default: FreeTypeFont = ImageFont.load_default(size)  # type: ignore[assignment]
        return default
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _missing(letters: FreeTypeFont, signs: frozenset[str]) -> int:
    """Return how many characters the font lacks: they are drawn as its replacement box."""
    box = bytes(letters.getmask("\U0010ffff"))
    return sum(bytes(letters.getmask(sign)) == box for sign in signs)


def shortened(text: str, letters: FreeTypeFont, width: float) -> str:
    """Return as much of a text as fits, with an ellipsis where it was cut."""
    if letters.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if letters.getlength(text[:middle].rstrip() + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


def wrapped(text: str, letters: FreeTypeFont, width: float, lines: int) -> list[str]:
    """Return a text broken between words into at most some lines, the last one shortened."""
    words = text.split()
    broken: list[str] = []
    while words and len(broken) < lines - 1:
        line = words.pop(0)
        while words and letters.getlength(f"{line} {words[0]}") <= width:
            line = f"{line} {words.pop(0)}"
        broken.append(shortened(line, letters, width))
    if words:
        broken.append(shortened(" ".join(words), letters, width))
    return broken or [""]


def nice_ticks(start_s: float, end_s: float, most: int) -> list[float]:
    """Return round times between two, at most so many of them."""
    length = max(end_s - start_s, 1e-3)
    step = next(
        (step for step in _TICK_STEPS_S if length / step <= most),
        math.ceil(length / most / 3600) * 3600,
    )
    first = math.ceil(start_s / step - 1e-9)
    last = math.floor(end_s / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def axis_clock(seconds: float, step_s: float) -> str:
    """Return `1:15` or `1:01:15`, with tenths where ticks are closer than a second."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{rest // 10:02d}" + (f".{rest % 10}" if step_s < 1 else "")
    return f"{hours}:{minutes:02d}:{clock}" if hours else f"{minutes}:{clock}"


def mix(color: str, other: str, share: float) -> str:
    """Return a colour between two: `share` of the first, the rest of the second."""
    pairs = ((int(color[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(a * share + b * (1 - share)):02X}" for a, b in pairs)


def jpeg_bytes(image: Image.Image, quality: int = 82) -> bytes:
    """Return an image as a progressive JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image, whole or not at all, in the format of its suffix: JPEG, WebP or else PNG.

    Raises:
        OutputError: disk full, no permission, no such folder.
    """
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(path.suffix.lower(), "PNG")
    # The smallest PNG takes seconds where an image is large, and saves little.
    small = image.width * image.height < 3_000_000
    with replacing(path) as temporary:
        if kind == "PNG":
            image.save(temporary, kind, optimize=small)
        else:
            image.save(temporary, kind, quality=90)
