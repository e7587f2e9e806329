from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.api.conditions import MEANINGS, ConditionType, Reason
from llm_operator.api.crd import crd_yaml, custom_resource_definition
from llm_operator.api.reference import reference
from llm_operator.api.types import LLMDeployment, LLMDeploymentSpec
from llm_operator.core.revisions.declaration import DIGEST_LENGTH
from llm_operator.core.revisions.state import MESSAGE_LIMIT
from llm_operator.core.status.conditions import MESSAGE_SHOWN, REJECTED_SHOWN
from llm_operator.settings import OperatorSettings

ROOT = Path(__file__).parents[3]
SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def fields(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every field below a schema with its path, list items and map values included."""
    found = []
    for name, field in schema.get("properties", {}).items():
        found += [(f"{path}.{name}", field), *fields(field, f"{path}.{name}")]
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            found += [(f"{path}[]", {"description": "-", **schema[inner]}), *fields(schema[inner], f"{path}[]")]
    return found


ALL = [(path, field) for path, field in fields(SCHEMA) if not path.startswith((".apiVersion", ".kind", ".metadata"))]


def test_the_committed_crd_is_what_the_types_generate() -> None:
    assert (ROOT / "crds/llmdeployments.yaml").read_text() == crd_yaml(), "run `make generate`"


@pytest.mark.parametrize(("path", "field"), ALL, ids=[path for path, _ in ALL])
def test_every_field_has_a_description_and_bounds(path: str, field: dict[str, Any]) -> None:
    assert field.get("description"), "kubectl explain would print nothing"
    if field.get("type") == "string" and "enum" not in field and field.get("format") != "date-time":
        assert "maxLength" in field
    if field.get("type") == "array":
        assert "maxItems" in field
        assert "x-kubernetes-list-type" in field
    if field.get("type") == "integer" and path.startswith(".spec"):
        assert {"minimum", "maximum"} <= field.keys()
    if isinstance(field.get("additionalProperties"), dict):
        assert "maxProperties" in field
    assert field.get("type") != "number", "floats do not survive a round trip"


def test_an_object_nobody_has_looked_at_is_not_taken_for_healthy() -> None:
    assert SCHEMA["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_only_mode_is_required() -> None:
    assert SCHEMA["properties"]["spec"]["required"] == ["mode"]


def test_the_committed_api_reference_is_what_the_types_generate() -> None:
    assert (ROOT / "docs/api.md").read_text() == reference(), "run `make generate`"


def test_every_reason_and_condition_stands_in_the_reference() -> None:
    text = reference()
    assert MEANINGS.keys() == set(Reason)
    conditions, reasons = text.split("\n## Reasons\n")
    assert all(f"| `{word}` |" in conditions for word in ConditionType)
    assert all(f"| `{word}` |" in reasons for word in Reason)


@pytest.mark.parametrize("name", OperatorSettings.model_fields)
def test_every_setting_stands_in_the_docs(name: str) -> None:
    assert f"`LLMOP_{name.upper()}`" in (ROOT / "docs/operator.md").read_text()


def test_what_the_operator_writes_fits_the_bounds_of_the_status() -> None:
    status = SCHEMA["properties"]["status"]["properties"]
    rejected = status["rejected"]["items"]["properties"]
    assert status["rejected"]["maxItems"] == REJECTED_SHOWN
    assert rejected["message"]["maxLength"] >= MESSAGE_SHOWN
    assert MESSAGE_SHOWN >= MESSAGE_LIMIT, "a verdict's message is told as a whole"
    for revision in (status["desiredRevision"], status["activeRevision"], rejected["revision"]):
        assert revision["maxLength"] >= DIGEST_LENGTH


def test_an_empty_rollout_and_rollback_get_their_defaults_from_the_api_server() -> None:
    spec = SCHEMA["properties"]["spec"]["properties"]
    for name in ("rollout", "rollback"):
        defaults = {key: one["default"] for key, one in spec[name]["properties"].items() if "default" in one}
        assert spec[name]["default"] == defaults
        assert getattr(LLMDeploymentSpec.model_validate({"mode": "mock"}), name) == getattr(
            LLMDeploymentSpec.model_validate({"mode": "mock", name: defaults}), name
        )


def test_examples_are_valid() -> None:
    for path in (ROOT / "examples").glob("*.yaml"):
        for manifest in yaml.safe_load_all(path.read_text()):
            LLMDeployment.model_validate(manifest)
