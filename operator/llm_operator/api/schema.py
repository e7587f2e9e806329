"""Building blocks of the API types: the frozen base model and the extras only Kubernetes knows.

Every type of the API derives from `ApiModel`; `crd.py` walks their JSON schema. CEL rules are attached
here because pydantic has no words for them.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """An immutable value of the API: snake_case in Python, camelCase on the wire."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        # A newer CRD may know more fields than this operator: ignore them here, the API server prunes.
        extra="ignore",
    )


def rule(expression: str, message: str, *, field_path: str | None = None, found: str | None = None) -> dict[str, Any]:
    """One CEL validation; `message` must say what is allowed.

    `found` is a CEL expression for the value that is not, which then stands before the message: of itself the API
    server tells only its type.
    """
    validation: dict[str, Any] = {"rule": expression, "message": message}
    if found is not None:
        words = json.dumps(f"': {message}")
        validation["messageExpression"] = f'"\'" + {found} + {words}'
    if field_path is not None:
        validation["fieldPath"] = field_path
    return validation


def rules(*validations: dict[str, Any]) -> dict[str, Any]:
    """Schema extra that carries CEL validations."""
    return {"x-kubernetes-validations": list(validations)}


def list_map(*keys: str) -> dict[str, Any]:
    """Schema extra of a list whose entries are told apart by `keys` (server-side apply merges them)."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


ATOMIC_LIST: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
