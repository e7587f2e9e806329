"""What Prometheus can ask the operator. Filled by the shell, never by core; served by health.py.

Every label value comes from a fixed set: no name of a namespace or an object, and nothing a user has written. So the
number of series does not grow with the cluster.
"""

import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from llm_operator import __version__

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Result = Literal["ok", "retry", "error"]
Verdict = Literal["good", "rejected"]
# {(condition type, status, reason): number of LLMDeployments}
ConditionCounts = Mapping[tuple[str, str, str], int]

# One request answers in milliseconds or runs into its time-out of 30 s; a reconcile is some ten of them.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RECONCILE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)


class QueueState(Protocol):
    """What is asked of the queue at each scrape."""

    def depth(self) -> int:
        """Keys that wait for a worker."""

    def oldest_age(self) -> float:
        """Seconds the oldest of them has waited; 0 if none waits."""


class Metrics:
    """One registry per process, so that tests can hold several."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._add_work()
        self._add_requests()
        self._add_outcomes()
        self._add_state()

    def reconciled(self, result: Result, seconds: float) -> None:
        """One pass over one LLMDeployment has ended."""
        self._reconciles.labels(result).inc()
        self._reconcile_seconds.observe(seconds)

    def retried(self) -> None:
        """A key was put back into the queue with a back-off."""
        self._retries.inc()

    def requested(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """One request to the API server has ended; code 0 without an answer.

        The verb is the HTTP method in lower case, the resource is named as in the audit log: "llmdeployments/status".
        """
        self._requests.labels(verb, resource, str(code)).inc()
        self._request_seconds.labels(verb, resource).observe(seconds)

    def judged(self, verdict: Verdict, reason: str) -> None:
        """A revision got its verdict; the reason is one of api/conditions.py."""
        self._verdicts.labels(verdict, reason).inc()

    def rolled_back(self, reason: str) -> None:
        """The last good revision was put back because of a rejected one."""
        self._rollbacks.labels(reason).inc()

    def event(self, resource: str) -> None:
        """A watch told of an object; the resource is its plural."""
        self._events.labels(resource).inc()

    def resynced(self) -> None:
        """Every LLMDeployment was listed."""
        self._resync.set_to_current_time()

    def observe_queue(self, queue: QueueState) -> None:
        """From now on ask this queue at each scrape."""
        self._depth.set_function(lambda: float(queue.depth()))
        self._oldest_age.set_function(queue.oldest_age)

    def observe_leadership(self, valid: Callable[[], bool]) -> None:
        """From now on ask at each scrape whether this process leads."""
        self._leader.set_function(lambda: float(valid()))

    def observe_objects(self, counts: Callable[[], ConditionCounts]) -> None:
        """From now on count the LLMDeployments by condition at each scrape."""
        self._registry.register(_ObjectsCollector(counts))

    def render(self) -> bytes:
        """All of it in the text format of `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _add_work(self) -> None:
        self._reconciles = Counter(
            "llmop_reconciles",
            "Passes over one LLMDeployment by result: ok, retry (something must be waited for) or error.",
            ["result"],
            registry=self._registry,
        )
        for result in ("ok", "retry", "error"):
            self._reconciles.labels(result)
        self._reconcile_seconds = Histogram(
            "llmop_reconcile_duration_seconds",
            "Seconds one pass over one LLMDeployment took.",
            buckets=_RECONCILE_BUCKETS,
            registry=self._registry,
        )
        self._depth = Gauge("llmop_queue_depth", "LLMDeployments that wait to be looked at.", registry=self._registry)
        self._oldest_age = Gauge(
            "llmop_queue_oldest_age_seconds",
            "Seconds the one that has waited longest has waited.",
            registry=self._registry,
        )
        self._retries = Counter(
            "llmop_queue_retries", "LLMDeployments put back to be looked at again later.", registry=self._registry
        )

    def _add_requests(self) -> None:
        self._requests = Counter(
            "llmop_api_requests",
            "Requests to the API server, without watches; code 0 means that no answer came.",
            ["verb", "resource", "code"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "llmop_api_request_duration_seconds",
            "Seconds from a request to the end of its answer.",
            ["verb", "resource"],
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        self._events = Counter(
            "llmop_watch_events", "Objects that watches told of.", ["resource"], registry=self._registry
        )
        self._resync = Gauge(
            "llmop_last_resync_timestamp_seconds",
            "Unix time at which every LLMDeployment was last listed; 0 before the first time.",
            registry=self._registry,
        )

    def _add_outcomes(self) -> None:
        self._verdicts = Counter(
            "llmop_verdicts",
            "Revisions judged good or rejected, and why.",
            ["verdict", "reason"],
            registry=self._registry,
        )
        self._rollbacks = Counter(
            "llmop_rollbacks",
            "Returns to the last good revision, by why the other one was rejected.",
            ["reason"],
            registry=self._registry,
        )

    def _add_state(self) -> None:
        self._leader = Gauge(
            "llmop_is_leader", "1 while this process holds the lease and works.", registry=self._registry
        )
        build = Gauge(
            "llmop_build_info",
            "Version of the operator; always 1.",
            ["version", "python_version"],
            registry=self._registry,
        )
        build.labels(__version__, platform.python_version()).set(1)


class _ObjectsCollector(Collector):
    """Made anew at each scrape: a series whose last object is gone must go too."""

    def __init__(self, counts: Callable[[], ConditionCounts]) -> None:
        self._counts = counts

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Only the name: the registry must not ask for counts before the scrape."""
        return [self._family()]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The counts of this moment."""
        family = self._family()
        for labels, count in self._counts().items():
            family.add_metric(labels, count)
        return [family]

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "llmop_llmdeployments",
            "LLMDeployments by condition, its status and its reason.",
            labels=["condition", "status", "reason"],
        )
