"""Prometheus metrics. Every label value comes from a fixed set: never from a request's path, headers or body."""

import platform

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from inference_server import __version__
from inference_server.engine_metrics import EngineCollector
from inference_server.generation_metrics import GenerationMetrics
from inference_server.lifecycle import Lifecycle

# From a mock answer to a long one on a CPU.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """One registry per application, so that tests can hold several in one process."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._requests = Counter(
            "llm_server_http_requests",
            "HTTP requests answered; code 499 means that the client left first.",
            ["route", "method", "code"],
            registry=self._registry,
        )
        self._duration = Histogram(
            "llm_server_http_request_duration_seconds",
            "Seconds from a request's headers to the end of its answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._in_flight = Gauge(
            "llm_server_http_requests_in_flight",
            "HTTP requests being answered now.",
            registry=self._registry,
        )
        build = Gauge(
            "llm_server_build_info",
            "Version of the server; always 1.",
            ["version", "python_version"],
            registry=self._registry,
        )
        build.labels(__version__, platform.python_version()).set(1)
        self.generations = GenerationMetrics(self._registry, lambda: lifecycle.engine.info.model)
        self._registry.register(EngineCollector(lifecycle))

    def begin(self) -> None:
        self._in_flight.inc()

    def end(self, *, route: str, method: str, code: int, seconds: float) -> None:
        self._in_flight.dec()
        key = (route, method, code)
        if key not in self._of_route:
            # Looking them up by labels costs more than counting.
            self._of_route[key] = (self._requests.labels(route, method, str(code)), self._duration.labels(route))
        requests, duration = self._of_route[key]
        requests.inc()
        duration.observe(seconds)

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self._registry)
