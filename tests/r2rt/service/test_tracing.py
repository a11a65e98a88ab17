"""Requests, answers and jobs are traced where OpenTelemetry's SDK is set up."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from r2rt.service import tracing
from tests.r2rt.service.conftest import DEMO_FOLDER, Run, Served

TRACE = "0af7651916cd43dd8448eb211c80319c"  # the example of W3C's recommendation


def test_requests_answers_and_jobs_are_spans(served: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("r2rt"))
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}

    async def test(it: Served) -> None:
        video = await it.add(DEMO_FOLDER / "shapes.mp4")
        await it.run("ground", videos=[video["id"]], queries=["a red circle"])
        body = {"queries": ["a red circle", "a square"]}
        await it.post(f"/videos/{video['id']}/ground", body, headers=headers)
        await it.get(f"/videos/{'0' * 16}")

    served(test)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    ground = spans["POST /videos/{video_id}/ground"]
    assert ground.kind == SpanKind.SERVER
    assert ground.context is not None
    assert f"{ground.context.trace_id:032x}" == TRACE  # the caller's trace
    assert ground.attributes is not None
    assert ground.attributes["http.response.status_code"] == 200
    missing = spans["GET /videos/{video_id}"]
    assert missing.attributes is not None
    assert missing.attributes["http.response.status_code"] == 404
    answer = spans["answer"]
    assert answer.attributes is not None
    assert answer.attributes["r2rt.queries"] == 2
    assert "job ground" in spans
