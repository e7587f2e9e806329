"""`kubectl rollout restart`, across changes of the revision. Pure; called by steps/children.py.

It writes the time into the pod template. A revision that comes back must have its template as it was when it ran, or
all its pods, which serve, would be made anew. So the Deployment notes, beside the template, with which time each
revision ran; and a restart that was asked for while a bad one was coming up is done once the good one is back.
"""

import json
from dataclasses import dataclass, field

from llm_operator.core import names
from llm_operator.core.children.rollout import is_rolled_out
from llm_operator.core.names import Manifest
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State


@dataclass(frozen=True, slots=True)
class Restarts:
    """By revision: the time it ran with, and the one it is still to be restarted with."""

    ran: dict[str, str] = field(default_factory=dict)
    owed: dict[str, str] = field(default_factory=dict)


def with_restarts(desired: Manifest, live: Manifest | None, target: Revision, known: dict[str, State]) -> Manifest:
    """The Deployment that is to be written, with the restarts that it has to have or to remember.

    `known` are the revisions that may come back, and what is known of them.
    """
    if live is None:
        return desired
    noted, left, at = _noted(live), names.revision_of(live["spec"]["template"]), _restarted_at(live)
    if left == target.hash:
        due = noted.owed.get(target.hash)
        if due is None or target.state is not State.GOOD or not is_rolled_out(live):
            return desired
        rest = {key: value for key, value in noted.owed.items() if key != target.hash}
        return _with(desired, due, Restarts(noted.ran, rest))
    ran, owed = dict(noted.ran), dict(noted.owed)
    if left is not None and at is not None:
        ran[left] = at
        is_new = at != noted.ran.get(left)
        if is_new and target.state is State.GOOD and known.get(left) is not State.GOOD:
            owed[target.hash] = at
    kept = Restarts(*({key: value for key, value in one.items() if key in known} for one in (ran, owed)))
    is_noted = names.RESTARTS in live["metadata"].get("annotations", {})
    if not is_noted and kept == Restarts():
        return desired
    return _with(desired, kept.ran.get(target.hash), kept)


def without_restart(template: Manifest) -> Manifest:
    """A template that runs, as it was before it was restarted: declared, the time would undo the next restart."""
    annotations = {
        key: value for key, value in template["metadata"]["annotations"].items() if key != names.RESTARTED_AT
    }
    return {**template, "metadata": {**template["metadata"], "annotations": annotations}}


def _with(desired: Manifest, at: str | None, noted: Restarts) -> Manifest:
    metadata, template = desired["metadata"], desired["spec"]["template"]
    text = json.dumps({"ran": noted.ran, "owed": noted.owed}, sort_keys=True)
    metadata = {**metadata, "annotations": {**metadata["annotations"], names.RESTARTS: text}}
    if at is not None:
        inner = {**template["metadata"], "annotations": {**template["metadata"]["annotations"], names.RESTARTED_AT: at}}
        template = {**template, "metadata": inner}
    return {**desired, "metadata": metadata, "spec": {**desired["spec"], "template": template}}


def _restarted_at(deployment: Manifest) -> str | None:
    annotations = deployment["spec"]["template"]["metadata"].get("annotations", {})
    at = annotations.get(names.RESTARTED_AT)
    return None if at is None else str(at)


def _noted(deployment: Manifest) -> Restarts:
    """Anybody may have edited the annotation: what cannot be read was never noted."""
    try:
        found = json.loads(deployment["metadata"].get("annotations", {}).get(names.RESTARTS, "{}"))
        ran, owed = ({str(key): str(value) for key, value in found.get(part, {}).items()} for part in ("ran", "owed"))
        return Restarts(ran, owed)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Restarts()
