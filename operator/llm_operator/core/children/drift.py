"""Does a live object still say all that we declare? Finds what does not, and the object with that put right. Pure.

    declared, and there otherwise    drift: put right, unless admission made it so at our own write (admission.py)
    not declared, and there          left alone (defaults, other people's additions), unless it is harmful (foreign.py)
    another revision's template      replaced whole, in one write

The API server adds defaults, and others may add what we do not declare (a policy engine's toleration, `kubectl rollout
restart`'s annotation): both are left alone, but for what would break the server or its roll-out (foreign.py). A
difference that admission made at our own write is accepted (admission.py). Lists that the API merges by key are
compared by that key, tolerations as a set, all others as a whole.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from llm_operator.core import names, quantity
from llm_operator.core.children import foreign
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Accepted

# The field whose lists the API server merges by key, with the key; everything else is atomic.
MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "ports": "name",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
SETS = ("tolerations",)
# Taken as a whole: a difference in them is put right by ours in the place of theirs. Merged they might be invalid (two
# kinds of probe, a request above its limit), or mean something else.
WHOLE = ("strategy", "resources", "startupProbe", "livenessProbe", "readinessProbe", "preStop", "env[]", "volumes[]")
# And nothing may be added to these.
EXACT = ("securityContext", "selector")
QUANTITY_MAPS = ("requests", "limits")
QUANTITY_FIELDS = ("sizeLimit",)
# What of an object's metadata is declared.
METADATA = ("labels", "annotations", "ownerReferences")
# What is not there.
NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that is not as declared, with digests of both values: "" stands for what is not there."""

    path: str
    ours: str
    theirs: str


# In the place of a digest of theirs: every value is accepted.
ANY = "*"
NONE: Accepted = {}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs and is not accepted, and the live object with all of that put right."""

    differences: tuple[Difference, ...]
    put_right: Any

    @property
    def path(self) -> str | None:
        """The first field that is not as declared."""
        return self.differences[0].path if self.differences else None


def compare(desired: Manifest, live: Manifest, accepted: Accepted = NONE) -> Comparison:
    """What of a child is not as declared. Another revision's template is none that could be put right: it is replaced
    whole, so that the cluster only ever sees templates that are recorded.
    """
    look = _Look(accepted)
    if desired["kind"] != "Deployment" or _runs(desired) == _runs(live):
        return look.result(look.value("", desired, live))
    template = desired["spec"]["template"]
    rest = {**desired, "spec": {key: value for key, value in desired["spec"].items() if key != "template"}}
    put_right = look.value("", rest, live)
    look.found.insert(0, Difference("spec.template", _digest(_runs(desired)), _digest(_runs(live))))
    return look.result({**put_right, "spec": {**put_right["spec"], "template": template}})


def change(live: Manifest, put_right: Manifest) -> tuple[Manifest, ...]:
    """The JSON patch that makes the one of the other."""
    return (
        *_of_section("metadata", {key: live["metadata"].get(key) for key in METADATA}, put_right["metadata"]),
        *_of_section("spec", {**dict.fromkeys(put_right["spec"]), **live["spec"]}, put_right["spec"]),
    )


def first_difference(desired: Any, live: Any, path: str = "") -> str | None:
    """Path of the first field of `desired` that `live` does not have with the same value, or None."""
    look = _Look(NONE)
    return look.result(look.value(path, desired, live)).path


def _of_section(section: str, before: Manifest, after: Manifest) -> list[Manifest]:
    operations: list[Manifest] = []
    for key in before:
        if before[key] == after.get(key):
            continue
        place = {"path": f"/{section}/{key}"}
        operations.append(
            {"op": "remove", **place} if key not in after else {"op": "add", **place, "value": after[key]}
        )
    return operations


def _runs(deployment: Manifest) -> str | None:
    return names.revision_of(deployment["spec"]["template"])


def _digest(value: Any) -> str:
    if value is NOTHING:
        return ""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class _Look:
    """One comparison: each method answers with what is to be live, and notes what is not."""

    def __init__(self, accepted: Accepted) -> None:
        self.accepted = accepted
        self.found: list[Difference] = []

    def result(self, put_right: Any) -> Comparison:
        return Comparison(tuple(self.found), put_right)

    def value(self, path: str, ours: Any, theirs: Any) -> Any:
        # Most of an object is the same to the letter, and told so at once.
        if ours == theirs or (theirs in (NOTHING, None) and ours in (None, {}, [])):
            return theirs
        field = foreign.shape(path).rsplit(".", 1)[-1]
        if field in EXACT or (field in WHOLE and _differs(field, ours, theirs)):
            return self._settled(path, ours, theirs)
        if field == "ports" and _numbers(ours) != _numbers(theirs):
            return self._settled(path, ours, theirs)
        if field in QUANTITY_FIELDS and quantity.equal(ours, theirs):
            return theirs
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return self._map(path, ours, theirs, of_quantities=field in QUANTITY_MAPS)
        if isinstance(ours, list) and isinstance(theirs, list):
            return self._list(path, field, ours, theirs)
        return self._settled(path, ours, theirs)

    def _settled(self, path: str, ours: Any, theirs: Any) -> Any:
        difference = Difference(path, _digest(ours), _digest(theirs))
        if self.accepted.get(path) in ((difference.ours, difference.theirs), (difference.ours, ANY)):
            return theirs
        self.found.append(difference)
        return ours

    def _map(self, path: str, ours: Manifest, theirs: Manifest, *, of_quantities: bool) -> Manifest:
        merged: Manifest = {}
        for key in (*theirs, *(key for key in ours if key not in theirs)):
            here = f"{path}.{key}" if path else key
            mine, other = ours.get(key, NOTHING), theirs.get(key, NOTHING)
            if mine is NOTHING:
                is_harmful = foreign.is_harmful(here, other)
                mine = self._settled(here, mine, other) if is_harmful else other
            elif not (of_quantities and quantity.equal(mine, other)):
                mine = self.value(here, mine, other)
            else:
                mine = other
            merged |= {} if mine is NOTHING else {key: mine}
        return merged

    def _list(self, path: str, field: str, ours: list[Any], theirs: list[Any]) -> list[Any]:
        if field in MERGE_KEYS:
            return self._keyed(path, MERGE_KEYS[field], ours, theirs)
        if field in SETS:
            missing = [
                (f"{path}[{at}]", one)
                for at, one in enumerate(ours)
                if all(first_difference(one, other) is not None for other in theirs)
            ]
            added = [self._settled(here, one, NOTHING) for here, one in missing]
            return [*theirs, *(one for one in added if one is not NOTHING)]
        same = len(ours) == len(theirs) and not any(
            first_difference(one, other) is not None for one, other in zip(ours, theirs, strict=True)
        )
        return theirs if same else list(self._settled(path, ours, theirs))

    def _keyed(self, path: str, key: str, ours: list[Manifest], theirs: list[Manifest]) -> list[Manifest]:
        wanted = {one.get(key): one for one in ours}
        merged = []
        for other in theirs:
            here, mine = f"{path}[{other.get(key)}]", wanted.pop(other.get(key), NOTHING)
            if mine is NOTHING:
                merged.append(self._settled(here, mine, other) if foreign.is_harmful(here, other) else other)
            else:
                merged.append(self.value(here, mine, other))
        merged += [self._settled(f"{path}[{name}]", one, NOTHING) for name, one in wanted.items()]
        return [one for one in merged if one is not NOTHING]


def _differs(field: str, ours: Any, theirs: Any) -> bool:
    """Whether something is to be replaced as a whole; a volume has one source."""
    if field == "volumes[]" and ours.keys() != theirs.keys():
        return True
    look = _Look(NONE)
    look.value("", ours, theirs)
    return bool(look.found)


def _numbers(ports: Any) -> set[tuple[object, ...]]:
    found = ports if isinstance(ports, list) else []
    parts = ("port", "containerPort", "protocol", "hostPort", "hostIP")
    return {tuple(one.get(part) for part in parts) for one in found}
