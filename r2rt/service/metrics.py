"""Figures for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from r2rt.service.service import Service

__all__ = ["Metrics", "resident_bytes"]

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of the running service, and gauges that are read on request."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "r2rt_http_requests",
            "Requests.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "r2rt_http_seconds",
            "How long requests took.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = Histogram(
            "r2rt_stage_seconds",
            "How long stages took: text and ground of a batch, and jobs by their kind.",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "r2rt_batch_requests",
            "Requests that were answered together.",
            buckets=_REQUESTS,
            registry=self._registry,
        )
        self._registry.register(_Looked(service))

    def request(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count a request."""
        method = method if method in _METHODS else "other"  # clients may send any word
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(took_s)

    def stage(self, name: str, took_s: float) -> None:
        """Count a stage."""
        self._stages.labels(name).observe(took_s)

    def batch(self, requests: int) -> None:
        """Count requests that were answered together."""
        self._batches.observe(requests)

    def text(self) -> bytes:
        """Return everything in Prometheus' format."""
        return generate_latest(self._registry)


class _Looked(Collector):
    """What the parts of the service know themselves."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the figures."""
        service = self._service
        jobs = GaugeMetricFamily("r2rt_jobs", "Jobs by state.", labels=["state"])
        jobs.add_metric(["queued"], service.jobs.count("queued"))
        jobs.add_metric(["running"], service.jobs.count("running"))
        yield jobs
        caches = CounterMetricFamily(
            "r2rt_cache", "What was found in a cache and what was not.", labels=["cache", "outcome"]
        )
        for name, cache in (("encodings", service.computing.encodings), ("media", service.media)):
            caches.add_metric([name, "hit"], cache.hits)
            caches.add_metric([name, "miss"], cache.misses)
        yield caches
        for title, text, value in (
            ("r2rt_waiting", "Requests that wait for an answer.", service.answerer.waiting),
            ("r2rt_listeners", "Streams of events that are open.", service.hub.listeners),
            ("r2rt_models_loaded", "Models in memory.", service.models.loaded),
            ("r2rt_resident_bytes", "Memory of the process.", resident_bytes()),
        ):
            yield GaugeMetricFamily(title, text, value=value)
        yield CounterMetricFamily("r2rt_model_loads", "Models loaded.", value=service.models.loads)


def resident_bytes() -> int:
    """Return the memory that this process takes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0
