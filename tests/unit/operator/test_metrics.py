import re
import time
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_operator import __version__
from llm_operator.health import metrics_server
from llm_operator.metrics import Metrics
from tests.unit.operator.recorded import everything_once, labels_by_name, samples

MANUAL = (Path(__file__).parents[3] / "docs/operator.md").read_text()


def test_what_happened_is_counted() -> None:
    found = samples(everything_once())
    assert found[("llmop_reconciles_total", "ok")] == 1
    assert found[("llmop_reconcile_duration_seconds_sum",)] == 0.3
    assert found[("llmop_queue_retries_total",)] == 1
    assert found[("llmop_api_requests_total", "200", "llmdeployments/status", "patch")] == 1
    assert found[("llmop_api_request_duration_seconds_count", "llmdeployments/status", "patch")] == 1
    assert found[("llmop_verdicts_total", "ImageNotFound", "rejected")] == 1
    assert found[("llmop_rollbacks_total", "ImageNotFound")] == 1
    assert found[("llmop_watch_events_total", "pods")] == 1
    assert found[("llmop_last_resync_timestamp_seconds",)] == pytest.approx(time.time(), abs=60)


def test_what_is_the_case_is_asked_for_at_the_scrape() -> None:
    leads, counts = False, {("Stalled", "True", "RolledBack"): 1}
    metrics = Metrics()
    metrics.observe_leadership(lambda: leads)
    metrics.observe_objects(lambda: counts)
    assert samples(metrics)[("llmop_is_leader",)] == 0
    assert samples(metrics)[("llmop_llmdeployments", "Stalled", "RolledBack", "True")] == 1
    leads, counts = True, {}
    assert samples(metrics)[("llmop_is_leader",)] == 1
    assert [key for key in samples(metrics) if key[0] == "llmop_llmdeployments"] == []
    found = samples(everything_once())
    assert (found[("llmop_queue_depth",)], found[("llmop_queue_oldest_age_seconds",)]) == (2, 7)


def test_before_anything_happened_results_are_zero_and_nobody_leads() -> None:
    found = samples(Metrics())
    assert [found[("llmop_reconciles_total", result)] for result in ("ok", "retry", "error")] == [0, 0, 0]
    assert (found[("llmop_is_leader",)], found[("llmop_queue_depth",)]) == (0, 0)
    assert [key[2] for key in found if key[0] == "llmop_build_info"] == [__version__]


def test_names_follow_the_conventions() -> None:
    for family in text_string_to_metric_families(everything_once().render().decode()):
        if family.name.startswith("llmop_") and not family.name.endswith("_created"):
            assert re.fullmatch(r"llmop_[a-z]+(_[a-z]+)*", family.name)
            assert family.documentation.endswith(".")
            assert family.type != "histogram" or family.name.endswith("_seconds")


@pytest.mark.parametrize("name", labels_by_name(everything_once()))
def test_every_metric_stands_in_the_docs_with_its_labels(name: str) -> None:
    shown = re.sub(r"_(bucket|sum|count)$", "", name)
    row = re.search(rf"^\| `{shown}` \| (.*?) \|", MANUAL, re.MULTILINE)
    assert row, f"docs/operator.md has no row for {shown}"
    labels = set(re.findall(r"`(\w+)`", row[1]))
    assert labels == labels_by_name(everything_once())[name] - {"le"}


async def test_a_scrape_gets_the_text_format() -> None:
    async with (
        metrics_server(everything_once(), 0) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "llmop_is_leader 1.0" in await answer.text()
