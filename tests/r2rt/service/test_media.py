"""Images and clips of videos: what is kept of them, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt.errors import QueryError
from r2rt.service.media import Media
from tests.r2rt.service.conftest import DEMO_FOLDER

EMOJI = DEMO_FOLDER / "emoji.mp4"  # as wide as it is high


@pytest.fixture
def media(tmp_path: Path) -> Iterator[Media]:
    opened = Media(tmp_path / "media", 1)
    yield opened
    opened.close()


def test_a_strip_that_is_wider_than_a_jpeg_can_be_is_refused(media: Media) -> None:
    with pytest.raises(QueryError, match="65600 pixels wide"):
        media.filmstrip(EMOJI, 0.0, 1.0, 200, 328)
