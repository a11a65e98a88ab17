"""Fifty questions with known answers, asked by a script that uses the tools as an agent would.

The questions are everything that the generator of `demo/emoji.mp4` says of it and that is worth
asking by `training.world.videos.is_worth_asking`, pairs also the other way round, and for what is
seen twice the second time. The style of the video was not part of the training.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from mcp import Client

from r2rt.service.mcp.server import mcp_server
from r2rt.service.settings import Settings
from tests.conftest import CHECKOUT
from tests.r2rt.service.conftest import serving

QUESTIONS = json.loads(Path(__file__).with_name("questions.json").read_text())
CALLS = 4
LEAST_OVERLAP = 0.5  # intersection over union with a true span


class Agent:
    """Answers one question and counts its calls."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.calls = 0

    async def answer(self, query: str, time: int) -> tuple[float, float]:
        """Return the best moment, or of the best two the first or the second in time."""
        (video,) = (await self._call("list_videos"))["videos"]
        found = await self._call("ground", video=video["id"], queries=[query])
        moments = found["answers"][0]["moments"]
        if time:
            in_order = sorted(moments[:2], key=lambda moment: moment["start_s"])
            chosen = in_order[min(time, len(in_order)) - 1]
        else:
            chosen = moments[0]
        return chosen["start_s"], chosen["end_s"]

    async def _call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        self.calls += 1
        result = await self._client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        answer: dict[str, Any] | None = result.structured_content
        assert answer is not None
        return answer


def overlap(found: tuple[float, float], true: list[float]) -> float:
    shared = max(0.0, min(found[1], true[1]) - max(found[0], true[0]))
    return shared / (max(found[1], true[1]) - min(found[0], true[0]))


def test_forty_five_of_fifty_questions_end_at_the_right_moment(settings: Settings) -> None:
    async def main() -> list[str]:
        wrong = []
        async with serving(settings) as served:
            await served.add(CHECKOUT / "demo" / "emoji.mp4")
            server = mcp_server(served.client._transport.app)  # type: ignore[attr-defined]
            async with Client(server) as client:
                for question in QUESTIONS:
                    agent = Agent(client)
                    span = await agent.answer(question["query"], question["time"])
                    best = max(overlap(span, true) for true in question["true_s"])
                    if best < LEAST_OVERLAP or agent.calls > CALLS:
                        wrong.append(f"{question['query']} ({question['time']}): {span}")
        return wrong

    assert len(QUESTIONS) == 50
    wrong = asyncio.run(main())
    assert len(wrong) <= 5, wrong
