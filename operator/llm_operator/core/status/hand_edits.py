"""Who changed a child by hand, and what to edit instead. Pure; called by reconcile.py for what is put back.

`kubectl set env`, `set image`, `scale`, `rollout undo` and the like succeed on a Deployment of ours, and are then put
back. Whoever typed them learns it from an event and from `status.reverted`. The API server keeps who wrote which field
in managedFields; a value that an admission webhook set belongs to whoever made the request, so to us, and is no edit.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm_operator.core import names
from llm_operator.core.diagnosis.remedies import FIELD_OF_SETTING
from llm_operator.core.names import Manifest

TEMPLATE = ("spec", "template")
POD = (*TEMPLATE, "spec")
SERVER = (*POD, "containers", {"name": names.SERVER_CONTAINER})
AUTOSCALER = "kube-controller-manager"
POINT_IT_HERE = "Let the autoscaler's scaleTargetRef name the LLMDeployment, which has a scale of its own."
NO_FIELD = "The LLMDeployment has no field for this variable."
NO_PAUSE = "A roll-out cannot be paused: to go back, set the spec of the LLMDeployment to what it was."

Path = tuple[str | dict[str, str], ...]  # A field by its name, an item of a list by its key.


@dataclass(frozen=True, slots=True)
class HandEdit:
    """A field of a child that somebody set and that was put back; `at` is RFC 3339 in UTC, where it is known."""

    kind: str
    name: str
    field: str
    manager: str
    at: str | None
    remedy: str

    @property
    def message(self) -> str:
        """What happened, and what to edit."""
        who = f"{self.manager} at {self.at}" if self.at else self.manager
        return f"{self.field} of {self.kind} {self.name} was set by {who} and is put back. {self.remedy}"


# Fields of a Deployment that follow from the LLMDeployment, and the field there.
FIELDS: tuple[tuple[Path, str | None], ...] = (
    (("spec", "paused"), None),
    (("spec", "replicas"), "spec.replicas"),
    (("spec", "strategy"), "spec.rollout.strategy"),
    (("spec", "minReadySeconds"), "spec.rollout.soakSeconds"),
    (("spec", "progressDeadlineSeconds"), "spec.rollout.progressDeadlineSeconds"),
    ((*SERVER, "image"), "spec.image"),
    ((*SERVER, "imagePullPolicy"), "spec.imagePullPolicy"),
    ((*SERVER, "resources"), "spec.resources"),
    ((*POD, "imagePullSecrets"), "spec.imagePullSecrets"),
    ((*POD, "nodeSelector"), "spec.nodeSelector"),
    ((*POD, "tolerations"), "spec.tolerations"),
    ((*POD, "affinity"), "spec.affinity"),
    ((*POD, "priorityClassName"), "spec.priorityClassName"),
)
# Variables of the server that follow from the LLMDeployment, and the field there.
VARIABLES = {**FIELD_OF_SETTING, "MODEL_PATH": "spec.model", "MODEL_CACHE_DIR": "spec.cache"}
UNDO = (*TEMPLATE, "metadata", "annotations", names.REVISION)


def hand_edit(desired: Manifest, live: Manifest) -> HandEdit | None:
    """The edit of a Deployment by somebody else that a write of `desired` puts back; None where there is none.

    Of several the one that was made last.
    """
    if desired["kind"] != "Deployment":
        return None
    if _value(desired, UNDO) != _value(live, UNDO):
        # The template as a whole is another one: what differs inside of it was not set by itself.
        return _by_somebody(live, UNDO, "spec.template", _go_back(desired, _value(live, UNDO)))
    changes = (*_variables(desired, live), *_fields(desired, live))
    edits = (_by_somebody(live, path, told, remedy) for path, told, remedy in changes)
    return max((edit for edit in edits if edit is not None), key=lambda edit: edit.at or "", default=None)


def _go_back(desired: Manifest, revision: str | None) -> str:
    """`kubectl rollout undo` puts in the template of an earlier ReplicaSet, whole."""
    name = desired["metadata"]["name"]
    return (
        f"To go back to revision {revision}, set the spec of the LLMDeployment to what it was: `kubectl get "
        f"controllerrevision {name}-{revision} -o jsonpath={{.data.fields}}` shows it."
    )


def _variables(desired: Manifest, live: Manifest) -> Iterator[tuple[Path, str, str]]:
    wanted, found = ({one["name"]: one for one in _value(each, (*SERVER, "env")) or []} for each in (desired, live))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            remedy = _edit_instead(desired, VARIABLES[name]) if name in VARIABLES else NO_FIELD
            yield (*SERVER, "env", {"name": name}), f"The variable {name}", remedy


def _fields(desired: Manifest, live: Manifest) -> Iterator[tuple[Path, str, str]]:
    for path, field in FIELDS:
        if _value(desired, path) != _value(live, path):
            yield path, _text(path), NO_PAUSE if field is None else _edit_instead(desired, field)


def _edit_instead(desired: Manifest, field: str) -> str:
    name = desired["metadata"]["name"]
    if field == "spec.replicas":
        return f"Scale the LLMDeployment: `kubectl scale llmdeployment {name} --replicas=N`."
    return f"Set {field} of the LLMDeployment: `kubectl edit llmdeployment {name}`."


def _by_somebody(live: Manifest, path: Path, field: str, remedy: str) -> HandEdit | None:
    """The edit, if somebody else than us made it."""
    owner = _owner(live, path)
    if owner is None:
        return None
    manager, at = owner
    if manager == AUTOSCALER:
        manager, remedy = "an autoscaler", POINT_IT_HERE
    return HandEdit(live["kind"], live["metadata"]["name"], field, manager, at, remedy)


def _owner(live: Manifest, path: Path) -> tuple[str, str | None] | None:
    """Who besides us set a field, or something inside of it, last, and when."""
    found = [
        (one.get("time") or "", str(one.get("manager", "somebody")))
        for one in live["metadata"].get("managedFields", [])
        if one.get("manager") != names.FIELD_MANAGER and one.get("subresource") != "status" and _owns(one, path)
    ]
    if not found:
        return None
    at, manager = max(found)
    return manager, at or None


def _owns(entry: Manifest, path: Path) -> bool:
    fields: Any = entry.get("fieldsV1", {})
    for part in path:
        key = f"f:{part}" if isinstance(part, str) else next((one for one in fields if _is_key(one, part)), "")
        fields = fields.get(key)
        if not isinstance(fields, dict):
            return False
    return True


def _is_key(text: str, item: dict[str, str]) -> bool:
    if not text.startswith("k:"):
        return False
    try:
        return bool(json.loads(text.removeprefix("k:")) == item)
    except ValueError:
        return False


def _value(manifest: Manifest, path: Path) -> Any:
    value: Any = manifest
    for part in path:
        if isinstance(part, str):
            value = value.get(part) if isinstance(value, dict) else None
        else:
            value = next((one for one in value or [] if part.items() <= one.items()), None)
    return value


def _text(path: Path) -> str:
    return ".".join(part for part in path if isinstance(part, str)).replace("containers.", "containers[server].")
