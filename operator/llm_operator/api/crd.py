"""Turns the API types into the CustomResourceDefinition; `python -m llm_operator.api.crd` prints its YAML.

pydantic's JSON schema is not yet a structural schema: references are inlined, `anyOf [X, null]` becomes
an optional X, titles go, and defaults of null go.
"""

import sys
from typing import Any

import yaml

from llm_operator.api.types import GROUP, KIND, PLURAL, PRINTER_COLUMNS, VERSION, LLMDeployment

HEADER = "# Generated from operator/llm_operator/api/types.py by `make generate`. Do not edit.\n"


def structural(node: Any, definitions: dict[str, Any]) -> Any:
    """Return `node` of a JSON schema as a Kubernetes structural schema."""
    if isinstance(node, list):
        return [structural(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    reference = node.pop("$ref", None)
    if reference is not None:
        node = {**definitions[reference.rsplit("/", 1)[1]], **node}
        return structural(node, definitions)
    if "x-kubernetes-int-or-string" in node:
        node.pop("anyOf", None)
    alternatives = [option for option in node.pop("anyOf", []) if option != {"type": "null"}]
    if alternatives:
        (only,) = alternatives
        return structural({**only, **node}, definitions)
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if isinstance(node.get("additionalProperties"), bool):
        del node["additionalProperties"]
    if node.get("default", ...) is None:
        del node["default"]
    properties = node.pop("properties", None)
    result = {key: structural(value, definitions) for key, value in node.items() if key not in ("title", "$defs")}
    if properties is not None:
        result["properties"] = {name: structural(value, definitions) for name, value in properties.items()}
    return result


def custom_resource_definition() -> dict[str, Any]:
    """The CRD as a plain manifest."""
    raw = LLMDeployment.model_json_schema(by_alias=True)
    schema = structural(raw, raw.get("$defs", {}))
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": f"Always {GROUP}/{VERSION}."},
        "kind": {"type": "string", "description": f"Always {KIND}."},
        "metadata": {"type": "object"},
        **schema["properties"],
    }
    schema["properties"]["status"]["default"] = {"observedGeneration": -1}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "plural": PLURAL,
                "singular": "llmdeployment",
                "kind": KIND,
                "listKind": f"{KIND}List",
                "shortNames": ["llmdep"],
                "categories": ["llm"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": PRINTER_COLUMNS,
                }
            ],
        },
    }


def crd_yaml() -> str:
    """The committed text of crds/llmdeployments.yaml."""
    body = yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=110, allow_unicode=True)
    return HEADER + body


if __name__ == "__main__":
    sys.stdout.write(crd_yaml())
