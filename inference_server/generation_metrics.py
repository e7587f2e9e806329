"""What becomes of the requests to the engine, for Prometheus.

Names and buckets are OpenTelemetry's for generative AI where it has some, written the way its Prometheus exporter
does; the rest begins with `llm_server_`. Label values come from fixed sets. Made by `metrics`, fed by `generations`.
"""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram

from inference_server.engine.protocol import Finished, Usage

_CONVENTIONAL = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_OPERATION, _PROVIDER = "chat", "llm_server"
_FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 120)
_PER_TOKEN_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 327.68)
_TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)

CANCELLED = "cancelled"
FAILED = "failed"


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
