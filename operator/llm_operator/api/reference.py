"""Turns the API types into docs/api.md; `python -m llm_operator.api.reference` prints it."""

import sys
from collections.abc import Iterator
from typing import Any

from llm_operator.api.conditions import CONDITIONS, MEANINGS
from llm_operator.api.crd import custom_resource_definition
from llm_operator.api.types import API_VERSION, KIND

INTRODUCTION = f"""\
<!-- Generated from operator/llm_operator/api/ by `make generate`. Do not edit. -->
# The {KIND} API (`{API_VERSION}`)

The same descriptions are in the cluster, a level at a time: `kubectl explain llmdeployment.spec`, then
`kubectl explain llmdeployment.spec.model` and so on; `--recursive` lists the names and types of all fields. What is not
listed here is refused by `kubectl apply`. Every field but `spec.mode` is optional.
"""

REFUSALS = """\
## What `kubectl apply` says

A value that is not allowed is refused with what is. Where the type of a value is wrong, or the name of a field, the API
server looks no further, and its words are its own:

| it says | that means |
|---|---|
| `must be of type string: "number"` | put the value in quotes: `temperature: "0.7"` |
| `must be of type integer: "string"` | no quotes: `replicas: 2`; an `accessor error` says the same once more |
| `must be of type integer,string: "number"` | a decimal in quotes, or in thousandths: `cpu: "0.5"` or `cpu: 500m` |
| `unknown field "spec.` | a misspelt field, or one at a wrong level; `kubectl explain llmdeployment.spec` lists all |
| `some validation rules were not checked` | no mistake of its own: correct the others |
| `Invalid value: "object"` | not the value, but its type: what is wrong with it stands behind |
"""

INTRODUCTION_TO_CONDITIONS = """\
## Conditions

They follow the Kubernetes API conventions and kstatus: Flux, Argo CD, Helm and `kubectl wait` read them rightly.
Each carries `observedGeneration`, so that a wait right after `kubectl edit` does not return the answer about the
object before the edit.

| type | meaning |
|---|---|
"""

REASONS = """\
## Reasons

| reason | meaning |
|---|---|
"""


def reference() -> str:
    """The text of docs/api.md."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    parts = [INTRODUCTION]
    for part in ("spec", "status"):
        parts.append(f"\n## {part}\n\n| field | type | default | allowed | description |\n|---|---|---|---|---|\n")
        parts += [_row(path, field) for path, field in _fields(schema["properties"][part], part)]
    parts.append("\n## Rules across fields\n\n")
    messages = dict.fromkeys(_rules(schema))
    parts += [f"- {message}.\n" for message in messages]
    parts.append("\n" + REFUSALS)
    parts.append("\n" + INTRODUCTION_TO_CONDITIONS)
    parts += [f"| `{kind}` | {meaning} |\n" for kind, meaning in CONDITIONS.items()]
    parts.append("\n" + REASONS)
    parts += [f"| `{reason}` | {meaning} |\n" for reason, meaning in MEANINGS.items()]
    return "".join(parts)


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, field
        yield from _fields(field, here)
        yield from _fields(field.get("items", {}), f"{here}[]")


def _rules(schema: dict[str, Any]) -> Iterator[str]:
    yield from (one["message"] for one in schema.get("x-kubernetes-validations", []))
    for inner in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from _rules(inner)


def _row(path: str, field: dict[str, Any]) -> str:
    default = f"`{field['default']}`" if "default" in field else ""
    text = field["description"].replace("|", "\\|")
    return f"| `{path}` | {_type(field)} | {default} | {_allowed(field)} | {text} |\n"


def _type(field: dict[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"map of {_type(field['additionalProperties'])}"
    return str(field["type"])


def _allowed(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "minimum" in field and "maximum" in field:
        return f"{field['minimum']} to {field['maximum']}"
    limits = (("maxItems", "entries"), ("maxProperties", "entries"), ("maxLength", "characters"))
    return next((f"at most {field[key]} {what}" for key, what in limits if key in field), "")


if __name__ == "__main__":
    sys.stdout.write(reference())
