"""Reads of the tests over kept connections: a kubectl for every look of a test that waits costs more than the test.

What a user types goes through the real kubectl (tests/kubectl.py); this only looks.
"""

import atexit
import http.client
import json
from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.cluster.api import Api

Manifest = dict[str, Any]
APPS, BATCH = "/apis/apps/v1", "/apis/batch/v1"
# What kubectl calls them: the group's path and the plural. Cluster-wide kinds are left to kubectl.
KINDS: dict[str, tuple[str, str]] = {
    name: (group, names[0])
    for group, *names in (
        ("/apis/llm.carepath.ai/v1alpha1", "llmdeployments", "llmdeployment", "llmdep"),
        (APPS, "deployments", "deployment"),
        (APPS, "replicasets", "replicaset"),
        (APPS, "controllerrevisions", "controllerrevision"),
        (BATCH, "jobs", "job"),
        ("/api/v1", "pods", "pod"),
        ("/api/v1", "services", "service"),
        ("/api/v1", "persistentvolumeclaims", "persistentvolumeclaim", "pvc"),
        ("/api/v1", "resourcequotas", "resourcequota", "quota"),
        ("/api/v1", "configmaps", "configmap"),
        ("/apis/coordination.k8s.io/v1", "leases", "lease"),
        ("/apis/events.k8s.io/v1", "events.events.k8s.io"),
    )
    for name in names
}
PLURALS = {"events.events.k8s.io": "events"}


class Unread(Exception):
    """Ask kubectl: it is not for here, or it went wrong, and kubectl says how."""


class Reader:
    """GET requests to the API server of one kubeconfig; any thread may ask."""

    def __init__(self, kubeconfig: Path) -> None:
        self._api = Api(kubeconfig)
        self._free: deque[http.client.HTTPSConnection] = deque()
        atexit.register(self.close)

    def close(self) -> None:
        """Nobody asks any more."""
        while self._free:
            self._free.pop().close()

    def get(self, path: str) -> Manifest | None:
        """The answer; None for 404 of an object. Raises Unread."""
        while True:
            fresh = not self._free
            try:
                connection = self._free.pop()
            except IndexError:
                connection = self._api.connect()
            try:
                connection.request("GET", path, headers={"Accept": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if fresh:
                    raise Unread(str(error)) from error
                continue  # The server had closed it.
            self._free.append(connection)
            if answer.status == 404 and content.startswith(b"{") and json.loads(content)["details"].get("name"):
                return None  # And not the kind, which is answered in plain text.
            if answer.status != 200:
                raise Unread(f"{answer.status}")
            found: Manifest = json.loads(content)
            return found


@lru_cache
def _reader(kubeconfig: Path, _changed: float) -> Reader:
    return Reader(kubeconfig)


def _of(kubeconfig: Path) -> Reader:
    try:
        return _reader(kubeconfig, kubeconfig.stat().st_mtime)
    except (KeyError, OSError) as error:
        raise Unread("no embedded certificates") from error


def get(kubeconfig: Path, namespace: str, kind: str, name: str) -> Manifest | None:
    """One object. Raises Unread."""
    found = _of(kubeconfig).get(f"{_collection(kind, namespace)}/{quote(name)}")
    return None if found is None else _shown(found)


def objects(kubeconfig: Path, namespace: str, kinds: str, selector: str) -> list[Manifest]:
    """All objects of the kinds in the namespace, in kubectl's order. Raises Unread."""
    found = []
    for kind in kinds.split(","):
        query = f"?labelSelector={quote(selector)}" if selector else ""
        listed = _of(kubeconfig).get(_collection(kind, namespace) + query)
        if listed is None:
            raise Unread(kind)
        named = {"apiVersion": listed["apiVersion"], "kind": listed["kind"].removesuffix("List")}
        found += [_shown({**named, **one}) for one in listed["items"]]
    return found


def _collection(kind: str, namespace: str) -> str:
    if kind not in KINDS:
        raise Unread(kind)
    group, plural = KINDS[kind]
    return f"{group}/namespaces/{namespace}/{PLURALS.get(plural, plural)}"


def _shown(live: Manifest) -> Manifest:
    """As kubectl shows it."""
    live["metadata"].pop("managedFields", None)
    return live
