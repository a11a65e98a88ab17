"""The interface end to end, over the demo's video and model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from r2rt import Grounder
from tests.conftest import CHECKOUT
from tests.r2rt.service.conftest import Run, Served

EMOJI = CHECKOUT / "demo" / "emoji.mp4"


def test_a_video_is_added_encoded_and_answered_about_as_the_library_does(served: Run) -> None:
    async def ask(it: Served) -> Any:
        video = await it.add(EMOJI)
        assert (video["name"], video["duration_s"], video["width"]) == ("emoji.mp4", 80.0, 320)
        assert (await it.get(f"/videos/{video['id']}")).json()["state"] == "ready"
        body = {"queries": ["a panda", "a dog catches a frisbee"], "top_k": 3}
        response = await it.post(f"/videos/{video['id']}/ground", body)
        assert response.status_code == 200, response.text
        job = await it.run("ground", videos=[video["id"]], **body)
        assert job["result"]["videos"] == [response.json()]
        return response.json()

    answer = served(ask)
    with Grounder.load("demo", device="cpu") as grounder:
        expected = grounder.ground(
            grounder.encode(EMOJI), ["a panda", "a dog catches a frisbee"], top_k=3
        )
    for got, want in zip(answer["predictions"], expected, strict=True):
        assert got["query"] == want.query
        spans = [(m.start_s, m.end_s) for m in want.moments]
        assert [(m["start_s"], m["end_s"]) for m in got["moments"]] == spans
        assert len(got["saliency"]["values"]) == 40
    unknown = [prediction["unknown_words"] for prediction in answer["predictions"]]
    assert unknown == [[], ["catches", "frisbee"]]


def test_media_of_a_video(served: Run, tmp_path: Path) -> None:
    async def ask(it: Served) -> None:
        video = (await it.add(EMOJI, encode=False))["id"]
        strip = await it.get(f"/videos/{video}/filmstrip", params={"count": 5, "height": 48})
        assert Image.open(io.BytesIO(strip.content)).size == (5 * 48, 48)
        part = await it.get(f"/videos/{video}/file", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, EMOJI.read_bytes()[10:20])
        clip = await it.get(f"/videos/{video}/clip", params={"start_s": 2, "end_s": 4})
        (tmp_path / "clip.mp4").write_bytes(clip.content)
        peaks = (await it.get(f"/videos/{video}/peaks", params={"count": 7})).json()
        assert peaks["min"] == peaks["max"] == [0.0] * 7  # it is silent

    served(ask)
    import av

    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.duration == 2_000_000
