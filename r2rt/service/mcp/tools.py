"""The tools: at most eight, each one question or one step of work."""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from r2rt.files import replacing
from r2rt.outputs.formats import FormatName
from r2rt.service.mcp.api import Api, Report, checked
from r2rt.service.mcp.documents import (
    Answer,
    Answers,
    ClipMade,
    Event,
    Exported,
    Found,
    JobStatus,
    LibraryAnswer,
    Moment,
    PickedMoment,
    VideoItem,
    VideoList,
    Watched,
)

__all__ = ["Tools"]

_KEYFRAME_HEIGHT = 240
_MOST_KEYFRAMES = 6

Video = Annotated[str, Field(description="Id of a video, or its name if only one has it.")]
WaitS = Annotated[float, Field(ge=0, le=3600, description="Seconds to wait for the work at most.")]


class Tools:
    """The tools over one application.

    Args:
        app: the service's application.
        output: the folder in which clips and exports are saved as well; None saves none.
    """

    def __init__(self, app: ASGIApp, output: Path | None = None) -> None:
        self._app = app
        self._output = output

    async def list_videos(self, context: Context[Any, Any]) -> VideoList:
        """List the videos of the service. Begin here: the other tools take their ids or names."""
        videos = await Api(self._app, context).get("videos")
        return VideoList(videos=[VideoItem(**video) for video in videos])

    async def add_video(
        self,
        context: Context[Any, Any],
        path: Annotated[
            str | None, Field(description="A file in a folder that the service allows.")
        ] = None,
        url: Annotated[str | None, Field(description="Or an http(s) address of a video.")] = None,
        wait_s: WaitS = 300.0,
    ) -> VideoItem:
        """Add a video and wait until it is encoded, so that it can be asked about.

        If it is not done within wait_s, `job` names the job: ask job_status until it is done.
        """
        api = Api(self._app, context)
        video = checked(await api.begin("videos", {"path": path, "url": url}, "job")).json()
        if video["job"] is not None:
            job = await api.finished(video["job"], wait_s, _reporter(context))
            if job["state"] == "failed":
                raise ToolError(f"{video['name']}: {job['error']['detail']}")
        return VideoItem(**await api.get(f"videos/{video['id']}"))

    async def search_library(
        self,
        query: Annotated[str, Field(min_length=1, max_length=2000)],
        context: Context[Any, Any],
        top: Annotated[int, Field(ge=1, le=100)] = 10,
    ) -> LibraryAnswer:
        """Find the best moments for a sentence in the whole library that the service serves."""
        answer = await Api(self._app, context).get("search", q=query, top=top)
        results = [Found(**{"name": item.get("path", ""), **item}) for item in answer["results"]]
        return LibraryAnswer(query=query, unknown_words=answer["unknown_words"], results=results)

    async def ground(
        self,
        video: Video,
        queries: Annotated[list[str], Field(min_length=1, max_length=64)],
        context: Context[Any, Any],
        top: Annotated[int, Field(ge=1, le=100, description="Moments a query at most.")] = 5,
        keyframes: Annotated[
            bool, Field(description="Whether to return the middle frame of the best moments.")
        ] = False,
        wait_s: WaitS = 300.0,
    ) -> Annotated[CallToolResult, Answers]:
        """Find when each sentence happens in one video: moments in seconds, the best first.

        Moments that overlap a better one or score less than half of the best are left out.
        """
        api = Api(self._app, context)
        item = await self._video(api, video)
        body = {"queries": queries, "saliency": False}
        response = await api.begin(f"videos/{item.id}/ground", body, "job")
        if response.status_code == 409 and "job" in response.json():
            job = await api.finished(response.json()["job"], wait_s, _reporter(context))
            if job["state"] == "failed":
                raise ToolError(f"{item.name}: {job['error']['detail']}")
            if job["state"] != "done":
                raise ToolError(
                    f"{item.name} is still being encoded; ask job_status about {job['id']} until "
                    "it is done, and then ground again"
                )
            response = await api.try_fetch("POST", f"videos/{item.id}/ground", json=body)
        answers = [
            Answer(
                query=prediction["query"],
                present=prediction["present"],
                unknown_words=prediction["unknown_words"],
                moments=_good(prediction["moments"])[:top],
            )
            for prediction in checked(response).json()["predictions"]
        ]
        result = Answers(video=item.id, name=item.name, duration_s=item.duration_s, answers=answers)
        images: list[ContentBlock] = []
        if keyframes:
            best = [answer.moments[0] for answer in answers if answer.moments][:_MOST_KEYFRAMES]
            for moment in best:
                middle_s = (moment.start_s + moment.end_s) / 2
                images.append(await _frame(api, item.id, middle_s))
        return _result(result, images)

    async def watch(
        self,
        source: Annotated[
            str, Field(description="rtsp://, rtmp://, http(s):// or srt:// address.")
        ],
        queries: Annotated[list[str], Field(min_length=1, max_length=16)],
        context: Context[Any, Any],
        seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0,
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.5,
    ) -> Watched:
        """Watch live video for some seconds and return when each sentence began and ended."""
        api = Api(self._app, context)
        body = {"source": source, "queries": queries, "threshold": threshold}
        watch = checked(await api.begin("watches", body, "watch")).json()
        began, ended, events = time.monotonic(), False, list[Event]()
        report = _reporter(context)
        try:
            async with (
                asyncio.timeout(seconds),
                aclosing(api.events(f"watches/{watch['id']}/events")) as stream,
            ):
                async for name, data in stream:
                    if name == "failed":
                        raise ToolError(data["error"])
                    if name == "ended":
                        ended = True
                        break
                    events.append(Event(**data))
                    share = min(1.0, (time.monotonic() - began) / seconds)
                    await report(share, f"{name}: {data.get('query', '')}")
        except TimeoutError:
            pass
        finally:
            await asyncio.shield(api.try_fetch("DELETE", f"watches/{watch['id']}"))
        watched_s = round(time.monotonic() - began, 1)
        return Watched(source=watch["source"], watched_s=watched_s, ended=ended, events=events)

    async def clip(
        self,
        video: Video,
        start_s: Annotated[float, Field(ge=0)],
        end_s: Annotated[float, Field(gt=0)],
        context: Context[Any, Any],
    ) -> Annotated[CallToolResult, ClipMade]:
        """Cut a span of a video, exact to the frame: a resource, and its middle frame."""
        api = Api(self._app, context)
        item = await self._video(api, video)
        span = {"start_s": start_s, "end_s": end_s}
        content = (await api.fetch("GET", f"videos/{item.id}/clip", params=span)).content
        uri = f"r2rt://videos/{item.id}/clips/{start_s:.3f}-{end_s:.3f}.mp4"
        name = f"{Path(item.name).stem} {start_s:.2f}-{end_s:.2f}.mp4"
        made = ClipMade(
            video=item.id,
            start_s=start_s,
            end_s=end_s,
            size_bytes=len(content),
            uri=uri,
            path=self._save(name, content),
        )
        link = ResourceLink(type="resource_link", uri=uri, name=name, mime_type="video/mp4")
        return _result(made, [link, await _frame(api, item.id, (start_s + end_s) / 2)])

    async def export(
        self,
        video: Video,
        moments: Annotated[list[PickedMoment], Field(min_length=1, max_length=1000)],
        context: Context[Any, Any],
        format: FormatName = "edl",  # noqa: A002
    ) -> Exported:
        """Write moments for an editing program: subtitles, markers, an edit list or a table."""
        api = Api(self._app, context)
        item = await self._video(api, video)
        body = {
            "video": item.id,
            "format": format,
            "moments": [moment.model_dump() for moment in moments],
        }
        text = (await api.fetch("POST", "export", json=body)).text
        from r2rt.outputs.formats import FORMATS

        name = f"{Path(item.name).stem}{FORMATS[format].suffix}"
        return Exported(name=name, text=text, path=self._save(name, text.encode()))

    async def job_status(
        self,
        job: str,
        context: Context[Any, Any],
        cancel: bool = False,
    ) -> JobStatus:
        """Return how far a job is, and its result once it is done; or cancel it."""
        api = Api(self._app, context)
        method = "DELETE" if cancel else "GET"
        # Quoted, or it could name a video, and cancelling would remove the video.
        document = (await api.fetch(method, f"jobs/{quote(job, safe='')}")).json()
        error = document.pop("error")
        return JobStatus(**document, error=None if error is None else error["detail"])

    async def _video(self, api: Api, text: str) -> VideoItem:
        """Return the video of an id or a name."""
        videos = [VideoItem(**item) for item in await api.get("videos")]
        found = [item for item in videos if text == item.id] or [
            item for item in videos if text in (item.name, Path(item.name).stem)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(item.id for item in found)
            raise ToolError(f"{len(found)} videos are called {text!r}; give an id: {ids}")
        names = ", ".join(item.name for item in videos[:20]) or "none; add_video adds one"
        raise ToolError(f"there is no video {text!r}; there are: {names}")

    def _save(self, name: str, content: bytes) -> str | None:
        """Save a file in the folder for files, under a name that is free."""
        if self._output is None:
            return None
        from r2rt.service.names import stored_name

        path = self._output / stored_name(name)
        for number in range(2, 10_000):
            if not path.exists():
                break
            path = path.with_name(f"{Path(stored_name(name)).stem}-{number}{path.suffix}")
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        return str(path)


def _reporter(context: Context[Any, Any]) -> Report:
    last = -1.0

    async def report(share: float, line: str) -> None:
        nonlocal last
        if share > last:  # progress must grow
            last = share
            await context.report_progress(share, 1.0, line)

    return report


def _good(moments: list[dict[str, Any]]) -> list[Moment]:
    from r2rt.grounding.prediction import Moment as Span
    from r2rt.selection.worthwhile import good_moments

    spans = [Span(**moment) for moment in moments]
    return [
        Moment(start_s=round(x.start_s, 3), end_s=round(x.end_s, 3), score=round(x.score, 4))
        for x in good_moments(spans)
    ]


async def _frame(api: Api, video: str, time_s: float) -> ImageContent:
    at = {"time_s": round(time_s, 3), "height": _KEYFRAME_HEIGHT}
    content = (await api.fetch("GET", f"videos/{video}/frame", params=at)).content
    data = base64.b64encode(content).decode()
    return ImageContent(type="image", data=data, mime_type="image/jpeg")


def _result(document: BaseModel, extra: list[ContentBlock]) -> CallToolResult:
    text = TextContent(type="text", text=document.model_dump_json())
    return CallToolResult(
        content=[text, *extra], structured_content=document.model_dump(mode="json")
    )
