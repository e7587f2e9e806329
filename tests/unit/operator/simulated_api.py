"""An API server for random walks: versions, preconditions, JSON patches, and admission that refuses or changes.

The operator's real client talks to it over a real socket (operator_at_work.py).
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from llm_operator.core.names import Manifest
from tests.unit.operator.api_server import KINDS

PLURALS = {kind: plural for plural, (_, kind) in KINDS.items()}


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True)
class Write:
    """A write that is about to be stored: None stands for what is not there."""

    plural: str
    old: Manifest | None
    new: Manifest | None


@dataclass
class Api:
    """Objects of one namespace by resource and name.

    `admit` gets what is about to be stored, and may raise Refused or answer with something else; `watched` is told of
    each write of the operator before it is stored, `stored` after that. Once `dies_after` writes are done, nobody is
    answered any more.
    """

    objects: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    version: int = 1
    admit: Callable[[str, Manifest], Manifest] = lambda _, manifest: manifest
    about_to: Callable[[Write], None] = lambda _: None
    done: Callable[[Write], None] = lambda _: None
    dies_after: int | None = None
    writes: int = 0
    # What a promise that was broken amid a request says: the operator is not told.
    broken: Exception | None = None

    def get(self, plural: str, name: str) -> Manifest | None:
        return self.objects.get((plural, name))

    def every(self, plural: str) -> list[Manifest]:
        return [one for (kind, _), one in self.objects.items() if kind == plural]

    def put(self, live: Manifest) -> Manifest:
        """Store a version, whoever writes it."""
        self.version += 1
        metadata = {**live["metadata"], "resourceVersion": str(self.version)}
        stored = {**live, "metadata": metadata}
        self.objects[PLURALS[live["kind"]], metadata["name"]] = stored
        return stored

    def remove(self, plural: str, name: str) -> None:
        self.version += 1
        self.objects.pop((plural, name), None)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.split("/namespaces/clinic/")[1].split("/")
        plural, name, rest = parts[0], parts[1] if len(parts) > 1 else "", parts[2:]
        text = await request.text()
        if request.method != "GET" and self.dies_after is not None and self.writes >= self.dies_after:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        try:
            return web.json_response(self._do(request.method, plural, name, rest, json.loads(text) if text else None))
        except Refused as refused:
            return web.json_response({"reason": refused.reason, "message": refused.message}, status=refused.status)
        except Exception as broken:
            self.broken = self.broken or broken
            return web.json_response({"reason": "Broken", "message": str(broken)}, status=500)

    def _do(self, method: str, plural: str, name: str, rest: list[str], body: Any) -> Manifest:
        if plural == "events":
            return dict(body)
        if method == "POST":
            name = body["metadata"]["name"]
        live = self.objects.get((plural, name))
        if method == "POST":
            if live is not None:
                raise Refused(409, "AlreadyExists", name)
            return self._write(plural, None, body)
        if live is None:
            raise Refused(404, "NotFound", name)
        match method:
            case "PATCH":
                return self._patch(plural, live, rest, body)
            case "DELETE":
                return self._delete(plural, name, live, body)
        return live

    def _patch(self, plural: str, live: Manifest, rest: list[str], body: Any) -> Manifest:
        if body[0]["value"] != live["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", live["metadata"]["name"])
        return self._write(plural, live, patched(live, body[1:]), is_status=rest == ["status"])

    def _delete(self, plural: str, name: str, live: Manifest, body: Any) -> Manifest:
        metadata = live["metadata"]
        if body["preconditions"] != {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}:
            raise Refused(409, "Conflict", name)
        write = Write(plural, live, None)
        self.about_to(write)
        self.remove(plural, name)
        self.writes += 1
        self.done(write)
        return live

    def _write(self, plural: str, old: Manifest | None, new: Manifest, *, is_status: bool = False) -> Manifest:
        admitted = self.admit(f"{plural}/status" if is_status else plural, copy.deepcopy(new))
        if old is not None and old == admitted:
            return old
        self.about_to(Write(plural, old, admitted))
        stored = self.put(admitted)
        self.writes += 1
        self.done(Write(plural, old, stored))
        return stored


def patched(live: Manifest, operations: list[Manifest]) -> Manifest:
    """What a JSON patch (RFC 6902) makes of an object; Refused where a path leads nowhere."""
    changed = copy.deepcopy(live)
    for operation in operations:
        try:
            _operate(changed, operation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Refused(422, "Invalid", f"{operation['path']}: {error!r}") from error
    return changed


def _operate(changed: Manifest, operation: Manifest) -> None:
    *parents, last = (one.replace("~1", "/").replace("~0", "~") for one in operation["path"].split("/")[1:])
    place: Any = changed
    for one in parents:
        place = place[int(one)] if isinstance(place, list) else place[one]
    kind, value = operation["op"], copy.deepcopy(operation.get("value"))
    if isinstance(place, list):
        if kind == "add":
            place.insert(len(place) if last == "-" else int(last), value)
        elif kind == "remove":
            del place[int(last)]
        else:
            _same_or_set(kind, place, int(last), value)
    elif kind == "add":
        place[last] = value
    elif kind == "remove":
        del place[last]
    else:
        _same_or_set(kind, place, last, value)


def _same_or_set(kind: str, place: Any, last: Any, value: Any) -> None:
    if kind == "test" and place[last] != value:
        raise ValueError(f"{place[last]!r} is not {value!r}")
    if kind == "replace":
        place[last]
        place[last] = value
