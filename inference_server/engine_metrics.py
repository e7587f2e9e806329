"""What the engine says of itself, read at every scrape, for Prometheus. Made by `metrics`."""

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from inference_server.engine.protocol import EngineInfo, EngineStats
from inference_server.lifecycle import Lifecycle


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
