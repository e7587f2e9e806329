"""Alerts ask for what the operator exports, in a language Prometheus understands, and say what to do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from llm_operator.api.conditions import ConditionType, Reason
from tests.unit.operator.recorded import everything_once, labels_by_name

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "monitoring"
MANUAL = (ROOT / "docs" / "operator.md").read_text()
# Put in by Prometheus for the pod it asked.
TARGET_LABELS = {"namespace"}

Rule = dict[str, Any]


def the_rules() -> list[Rule]:
    manifest = yaml.safe_load((FOLDER / "rules.yaml").read_text())
    return [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]


@pytest.fixture(params=the_rules(), ids=lambda rule: rule["alert"])
def rule(request: pytest.FixtureRequest) -> Rule:
    asked: Rule = request.param
    return asked


def parts(expression: Any) -> Iterator[Any]:
    """The expression and all within it."""
    yield expression
    inner = [getattr(expression, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
    for one in [*(part for part in inner if part is not None), *getattr(expression, "args", [])]:
        yield from parts(one)


def selectors(rule: Rule) -> list[Any]:
    found = [
        part for part in parts(promql_parser.parse(rule["expr"])) if isinstance(part, promql_parser.VectorSelector)
    ]
    assert found
    return found


def test_every_metric_that_is_asked_for_exists_with_its_labels(rule: Rule) -> None:
    known = labels_by_name(everything_once())
    for selector in selectors(rule):
        assert selector.name in known
        assert {matcher.name for matcher in selector.matchers.matchers} <= known[selector.name]


def test_what_is_grouped_by_is_a_label_of_every_target(rule: Rule) -> None:
    for part in parts(promql_parser.parse(rule["expr"])):
        if isinstance(part, promql_parser.AggregateExpr):
            assert part.modifier is not None
            assert set(part.modifier.labels) == TARGET_LABELS


def test_conditions_and_reasons_are_those_of_the_api(rule: Rule) -> None:
    words = {"condition": set(ConditionType), "reason": set(Reason), "status": {"True", "False"}}
    for selector in selectors(rule):
        for matcher in selector.matchers.matchers:
            assert matcher.value in words.get(matcher.name, {matcher.value})


def test_counters_are_rated_and_gauges_are_not(rule: Rule) -> None:
    for part in parts(promql_parser.parse(rule["expr"])):
        if isinstance(part, promql_parser.Call) and part.func.name in ("rate", "increase"):
            (matrix,) = part.args
            assert matrix.vector_selector.name.endswith("_total")
    plain = re.sub(r"\b(rate|increase)\([^)]*\)", "", rule["expr"])
    assert "_total" not in plain


def test_an_alert_says_what_is_wrong_and_what_to_do(rule: Rule) -> None:
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description", "remedy"}
    assert all(len(text) > 20 for text in rule["annotations"].values())
    assert f"| `{rule['alert']}` | {rule['labels']['severity']} |" in MANUAL


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in the_rules()]
    assert len(set(names)) == len(names)


def test_what_is_scraped_is_what_the_base_serves() -> None:
    monitor = yaml.safe_load((FOLDER / "service_monitor.yaml").read_text())["spec"]
    service = yaml.safe_load((ROOT / "deploy/kustomize/base/metrics_service.yaml").read_text())
    # The name's label comes from kustomization.yaml, there and here.
    labels = {"app.kubernetes.io/name": "llm-operator", **service["metadata"]["labels"]}
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert [end["port"] for end in monitor["endpoints"]] == [port["name"] for port in service["spec"]["ports"]]
