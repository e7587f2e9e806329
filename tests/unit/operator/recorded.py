"""Metrics of an operator to which everything has happened once, and what a scrape of them says."""

from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

from llm_operator.metrics import Metrics

PREFIX = "llmop_"


class Queue:
    """Two keys wait, the older for 7 s."""

    def depth(self) -> int:
        return 2

    def oldest_age(self) -> float:
        return 7.0


def everything_once() -> Metrics:
    metrics = Metrics()
    metrics.reconciled("ok", 0.3)
    metrics.retried()
    metrics.requested("patch", "llmdeployments/status", 200, 0.02)
    metrics.judged("rejected", "ImageNotFound")
    metrics.rolled_back("ImageNotFound")
    metrics.event("pods")
    metrics.resynced()
    metrics.observe_queue(Queue())
    metrics.observe_leadership(lambda: True)
    metrics.observe_objects(lambda: {("Ready", "True", "AllReplicasReady"): 3})
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """{(name, label values in the order of their names…): value}"""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def labels_by_name(metrics: Metrics) -> dict[str, set[str]]:
    """{name as a query writes it: label names}, without the times of creation."""
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name.startswith(PREFIX) and not sample.name.endswith("_created"):
                found[sample.name] |= sample.labels.keys()
    return found
