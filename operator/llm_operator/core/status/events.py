"""Kubernetes Events, from what changes between two statuses. Pure; posted by act.py before the status is written.

Only transitions make events. The name of an event follows from the transition, so that one posted by a process
that died before it wrote the status is the same one when the next process comes to it.
"""

import hashlib
from datetime import datetime
from typing import Any

from llm_operator import __version__
from llm_operator.api.conditions import FINE, ConditionType, Reason
from llm_operator.api.types import API_VERSION, KIND
from llm_operator.core import names
from llm_operator.core.names import FIELD_MANAGER, Manifest
from llm_operator.core.observation import Parent

# The API server takes no longer one.
NOTE_LIMIT = 1024
FIELDS_TOLD = 5
# In this order: of several with the same reason the first is told. RolledBack and Reconciling repeat what Ready says.
TOLD = (
    ConditionType.READY,
    ConditionType.STALLED,
    ConditionType.DEGRADED,
    ConditionType.AVAILABLE,
)


def events_of(parent: Parent, status: Manifest, now: datetime) -> list[Manifest]:
    """The events of the change from the stored status to this one; at most one with a reason."""
    old = {one.get("type"): one for one in parent.status.get("conditions", [])}
    new = {one["type"]: one for one in status["conditions"]}
    told: dict[str, Manifest] = {}
    for kind in TOLD:
        before, after = old.get(kind, {}), new.get(kind)
        if after is not None and _is_worth_telling(kind, before, after):
            told.setdefault(after["reason"], _event(parent, status, kind, before, after, now))
    reverted = status.get("reverted")
    if reverted is not None and reverted != parent.status.get("reverted"):
        edit = {"status": "True", "reason": Reason.EDIT_REVERTED, "message": reverted["message"]}
        before = {"status": "False", "reason": reverted["time"]}
        told[Reason.EDIT_REVERTED] = _event(parent, status, reverted["field"], before, edit, now)
    return list(told.values())


def admission_event(parent: Parent, child: Manifest, paths: list[str], now: datetime) -> Manifest:
    """The event of fields that admission set otherwise than the operator did, at its own write."""
    what = f"{child['kind']} {child['metadata']['name']}"
    more = f" and {len(paths) - FIELDS_TOLD} more" if len(paths) > FIELDS_TOLD else ""
    told = {
        "status": "True",
        "reason": Reason.CHANGED_BY_ADMISSION,
        "message": (
            f"Admission (a webhook or a policy) set {', '.join(paths[:FIELDS_TOLD])}{more} of {what} otherwise than "
            "the operator does. That is accepted: the pods are judged as they run. To have the operator's values, "
            f"exempt {what} from it."
        ),
    }
    before = {"status": "False", "reason": repr((child["metadata"].get("uid"), names.revision_of(child), paths))}
    status = {"observedGeneration": parent.generation}
    return _event(parent, status, "Admission", before, told, now)


def _is_worth_telling(kind: ConditionType, before: Manifest, after: Manifest) -> bool:
    same = (before.get("status"), before.get("reason")) == (after["status"], after["reason"])
    if same:
        return False
    if kind is ConditionType.READY:
        # What was Ready before anything else was told has made no transition.
        if after["status"] == "True":
            return bool(before)
        return after["reason"] not in FINE
    if kind is ConditionType.AVAILABLE:
        # Not before the first pod ever answered.
        return after["status"] == "False" and before.get("status") == "True" and after["reason"] not in FINE
    return True


def _event(parent: Parent, status: Manifest, kind: str, before: Manifest, after: Manifest, now: datetime) -> Manifest:
    good = kind == ConditionType.READY and after["status"] == "True"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": _name(parent, status, kind, before, after), "namespace": parent.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "llm.carepath.ai/llm-operator",
        "reportingInstance": f"{FIELD_MANAGER}-{__version__}",
        "action": "Reconcile",
        "reason": after["reason"],
        "type": "Normal" if good else "Warning",
        "note": _shortened(after["message"]),
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": parent.name,
            "namespace": parent.namespace,
            "uid": parent.uid,
        },
    }


def _name(parent: Parent, status: Manifest, kind: str, before: Manifest, after: Manifest) -> str:
    came_from: tuple[Any, ...] = tuple(before.get(key) for key in ("status", "reason", "lastTransitionTime"))
    goes_to = (after["status"], after["reason"], status["observedGeneration"])
    digest = hashlib.sha256(repr((parent.uid, str(kind), came_from, goes_to)).encode()).hexdigest()[:16]
    return f"{parent.name}.{digest}"


def _shortened(message: str) -> str:
    text = message.encode()
    return message if len(text) <= NOTE_LIMIT else text[: NOTE_LIMIT - 4].decode(errors="ignore") + "…"
