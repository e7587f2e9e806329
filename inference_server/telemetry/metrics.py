"""Metrics for Prometheus: of HTTP, of the engine, and of what becomes of requests to it.

Every label value comes from a fixed set: never from a request's path, headers or body. Names and buckets are
OpenTelemetry's for generative AI where it has some, written the way its Prometheus exporter does; the rest begins with
`llm_server_`.
"""

import platform
import time
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from inference_server import __version__
from inference_server.engine.protocol import EngineInfo, EngineStats, Finished, Usage
from inference_server.lifecycle import Lifecycle

# From a mock answer to a long one on a CPU.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_CONVENTIONAL = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_OPERATION, _PROVIDER = "chat", "llm_server"
_FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 120)
_PER_TOKEN_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 327.68)
_TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
CANCELLED = "cancelled"
FAILED = "failed"


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


class EngineCollector(Collector):
    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def collect(self) -> Iterator[Metric]:
        engine = self._lifecycle.engine
        stats = engine.stats()
        yield _info(engine.info)
        yield _gauge("ready", "1 while /readyz answers 200.", self._lifecycle.ready)
        yield _gauge("engine_load_progress_ratio", "How much of the model is loaded.", engine.load_progress())
        yield _gauge(
            "engine_heartbeat_age_seconds",
            "Seconds since the engine last made progress, 0 when it has nothing to do, +Inf when it has died.",
            engine.heartbeat(),
        )
        yield from _gauges(stats, engine.info)
        yield from _counters(stats)


def _gauges(stats: EngineStats, info: EngineInfo) -> Iterator[Metric]:
    yield _gauge("engine_active_requests", "Requests that the engine answers now: the batch.", stats.active_requests)
    yield _gauge("engine_queued_requests", "Requests that wait for their turn.", stats.queued_requests)
    yield _gauge("engine_tokens_per_second", "Of all answers together, lately.", stats.tokens_per_second)
    yield _gauge(
        "engine_batch_capacity", "Requests that can be answered together; 0: unknown.", info.concurrent_requests
    )
    yield _gauge("engine_queue_capacity", "Requests that can wait; 0: unknown.", info.queued_requests)


def _counters(stats: EngineStats) -> Iterator[Metric]:
    yield _counter("engine_prompt_tokens", "Tokens of prompts, the warm-up's included.", stats.prompt_tokens)
    yield _counter("engine_cached_prompt_tokens", "Of these: not computed again, but kept.", stats.cached_prompt_tokens)
    yield _counter("engine_completion_tokens", "Tokens generated, the warm-up's included.", stats.completion_tokens)
    yield _counter("engine_failed_requests", "Requests that failed in the engine.", stats.failed_requests)


def _info(info: EngineInfo) -> Metric:
    facts = {
        "mode": info.mode,
        "model": info.model,
        "revision": info.revision,
        "engine": info.engine,
        "device": info.device,
        "dtype": info.dtype,
        "quantization": info.quantization,
    }
    metric = GaugeMetricFamily("llm_server_engine_info", "What answers requests; always 1.", labels=list(facts))
    metric.add_metric([value or "" for value in facts.values()], 1)
    return metric


def _gauge(name: str, text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"llm_server_{name}", text, value=float(value or 0))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"llm_server_{name}", text, value=value)


class GenerationMetrics:
    """`model` is asked at every use: an engine may know its model only after loading."""

    def __init__(self, registry: CollectorRegistry, model: Callable[[], str]) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, (*_CONVENTIONAL, *labels), buckets=buckets, registry=registry)

        self._model = model
        self._first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Seconds from the request to its first token, reasoning included where the engine tells.",
            _FIRST_TOKEN_BUCKETS,
        )
        self._per_token = histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Seconds per token after the first, of one answer.",
            _PER_TOKEN_BUCKETS,
        )
        self._duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "Seconds from the request to the end of its answer; error_type is empty for those that came to an end.",
            _DURATION_BUCKETS,
            "error_type",
        )
        self._tokens = histogram(
            "gen_ai_client_token_usage",
            "Tokens per answer: input, or output with the reasoning.",
            _TOKEN_BUCKETS,
            "gen_ai_token_type",
        )
        self._queued = Histogram(
            "llm_server_queue_seconds",
            "Seconds that a request waited for its turn.",
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self._pause = Histogram(
            "llm_server_longest_pause_seconds",
            "The longest time between two pieces of one answer.",
            buckets=_PER_TOKEN_BUCKETS,
            registry=registry,
        )
        self._ended = Counter(
            "llm_server_generations",
            "Answers that ended: stop, length, deadline, shutdown, cancelled (the client left), failed.",
            ["outcome"],
            registry=registry,
        )
        self._rejected = Counter(
            "llm_server_rejected",
            "Requests that the engine did not take: queue_full, unavailable, prompt_too_long.",
            ["reason"],
            registry=registry,
        )
        self._truncated = Counter(
            "llm_server_thinking_truncated", "Answers whose reasoning was closed at its budget.", registry=registry
        )
        self._of_outcome: dict[str, Counter] = {}
        self._of_model: tuple[str, _Children] | None = None

    def begin(self) -> "Observation":
        return Observation(self)

    def refused(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def ended(self, seen: "Observation", end: Finished | None, outcome: str) -> None:
        now, children = time.perf_counter(), self._children()
        if outcome not in self._of_outcome:
            self._of_outcome[outcome] = self._ended.labels(outcome)
        self._of_outcome[outcome].inc()
        if end is None:
            self._duration.labels(*children.labels, outcome).observe(now - seen.began)
            return
        children.duration.observe(now - seen.began)
        if end.thinking_truncated:
            self._truncated.inc()
        if end.timing is not None:
            self._queued.observe(end.timing.queued)
        if seen.longest_pause is not None:
            self._pause.observe(seen.longest_pause)
        first_token = seen.first_token(end)
        if first_token is not None:
            children.first_token.observe(first_token)
        if end.usage is not None:
            children.observe_usage(end.usage, first_token, now - seen.began)

    def _children(self) -> "_Children":
        model = self._model()
        if self._of_model is None or self._of_model[0] != model:
            labels = (_OPERATION, _PROVIDER, model)
            children = _Children(
                labels,
                first_token=self._first_token.labels(*labels),
                per_token=self._per_token.labels(*labels),
                duration=self._duration.labels(*labels, ""),
                tokens_in=self._tokens.labels(*labels, "input"),
                tokens_out=self._tokens.labels(*labels, "output"),
            )
            self._of_model = (model, children)
        return self._of_model[1]


class _Children:
    """The metrics of one model: looking them up by labels costs more than counting."""

    def __init__(
        self,
        labels: tuple[str, ...],
        *,
        first_token: Histogram,
        per_token: Histogram,
        duration: Histogram,
        tokens_in: Histogram,
        tokens_out: Histogram,
    ) -> None:
        self.labels = labels
        self.first_token = first_token
        self.duration = duration
        self._per_token = per_token
        self._tokens_in = tokens_in
        self._tokens_out = tokens_out

    def observe_usage(self, usage: Usage, first_token: float | None, duration: float) -> None:
        self._tokens_in.observe(usage.prompt_tokens)
        self._tokens_out.observe(usage.completion_tokens)
        if first_token is not None and usage.completion_tokens > 1:
            self._per_token.observe((duration - first_token) / (usage.completion_tokens - 1))


class Observation:
    """One request, while it runs."""

    __slots__ = ("_first", "_last", "_metrics", "began", "longest_pause")

    def __init__(self, metrics: GenerationMetrics) -> None:
        self._metrics = metrics
        self.began = time.perf_counter()
        self.longest_pause: float | None = None
        self._first: float | None = None
        self._last = 0.0

    def piece(self) -> None:
        """Something of the answer came."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        elif self.longest_pause is None or now - self._last > self.longest_pause:
            self.longest_pause = now - self._last
        self._last = now

    def finished(self, end: Finished) -> None:
        self._metrics.ended(self, end, end.reason)

    def first_token(self, end: Finished) -> float | None:
        if end.timing is not None:
            return end.timing.first_token
        return None if self._first is None else self._first - self.began

    def stopped(self, outcome: str) -> None:
        """It ended without a Finished event."""
        self._metrics.ended(self, None, outcome)

    def refused(self, reason: str) -> None:
        self._metrics.refused(reason)
