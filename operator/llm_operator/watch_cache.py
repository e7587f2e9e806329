"""What the watches delivered: the newest version of each object, with no more of it than decisions need.

Reads come from here; whatever must not be decided on old news (condemning a revision, undoing an edit) is read
live (observe.py). An own write puts its answer here at once, so that nobody decides on the state before it. Whoever
puts something here that is news, its LLMDeployments are looked at: when the watch tells it again, it is none any more.

Versions only grow, until a cluster is set back to a backup. Then what a list shows contradicts what is known, which is
in doubt from then on: anything replaces it, and until then it stays, because what is not here would seem to be missing.
Filled by watch.py, controller.py (lists) and act.py.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llm_operator.core import names
from llm_operator.core.names import Manifest
from llm_operator.kube import (
    CLAIMS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    JOBS,
    LLMDEPLOYMENTS,
    PODS,
    SERVICES,
    Resource,
)

# Jobs before pods: which LLMDeployments the pod of a fetch belongs to says its Job.
KINDS = (LLMDEPLOYMENTS, DEPLOYMENTS, SERVICES, CONTROLLER_REVISIONS, CLAIMS, JOBS, PODS)
# Long enough for a list that was asked for before the deletion to arrive.
REMEMBER_DELETED_SECONDS = 600.0

# What says whose an object is.
KINSHIP = ("labels", "ownerReferences")

Place = tuple[str, str]  # namespace, name
_Kind = dict[Place, Manifest]
OnNews = Callable[[Resource, Manifest, Place | None], None]


class WatchCache:
    """Objects by kind and name, and children by the LLMDeployment, or the fetch, whose label they carry."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._objects: dict[Resource, _Kind] = {resource: {} for resource in KINDS}
        self._children: dict[Resource, defaultdict[Place, set[Place]]] = {
            resource: defaultdict(set) for resource in (CONTROLLER_REVISIONS, PODS, JOBS)
        }
        self._deleted: dict[str, tuple[int, float]] = {}  # uid: the version that was the last, and when it was told
        self._owed: dict[Resource, tuple[int, float]] = {}  # a version that the watch has still to deliver: since when
        self._on_news: OnNews = lambda *_: None
        self._doubted: dict[Resource, set[Place]] = {resource: set() for resource in KINDS}
        self._seen: dict[tuple[Resource, str | None], int] = {}  # The newest version that was heard of.

    def on_news(self, tell: OnNews) -> None:
        """Have this told of everything new but what is listed, and who sees it anyway."""
        self._on_news = tell

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """The newest known version of an object."""
        return self._objects[resource].get((namespace, name))

    def children(self, resource: Resource, namespace: str, parent: str) -> list[Manifest]:
        """The objects of a kind that belong to a parent, in the order of their names: by the label with its name,
        or with that of a fetch; Jobs, which have several, by the uid.
        """
        places = self._children[resource].get((namespace, parent), ())
        return [self._objects[resource][place] for place in sorted(places)]

    def every(self, resource: Resource) -> Iterator[Manifest]:
        """All objects of a kind."""
        return iter(list(self._objects[resource].values()))

    def put(self, resource: Resource, live: Manifest, *, watched: bool = False, reader: Place | None = None) -> bool:
        """Take a version unless a newer one is known; whether anything a decision looks at changed.

        The `reader` is the LLMDeployment that is being looked at, if the decision about it sees this version.
        """
        old = self.get(resource, live["metadata"]["namespace"], live["metadata"]["name"])
        news = self._put(resource, live, watched=watched)
        if news:
            self._on_news(resource, live, reader)
            if old is not None and any(old["metadata"].get(key) != live["metadata"].get(key) for key in KINSHIP):
                self._on_news(resource, old, reader)
        return news

    def _put(self, resource: Resource, live: Manifest, *, watched: bool = False) -> bool:
        version = _version(live)
        self._heard_of(resource, live)
        if watched:
            self.caught_up(resource, version)
        metadata = live["metadata"]
        # A watch also calls deleted what only lost its label.
        if version <= self._deleted.get(metadata["uid"], (0, 0.0))[0]:
            return False
        place = (metadata["namespace"], metadata["name"])
        old = self._objects[resource].get(place)
        if old is not None and version <= _version(old) and place not in self._doubted[resource]:
            return False
        new = COMPACT[resource](live)
        self._objects[resource][place] = new
        self._doubted[resource].discard(place)
        self._index(resource, place, old, new)
        return old is None or not _same(old, new)

    def knows_newer(self, resource: Resource, live: Manifest) -> bool:
        """Whether a newer version of this very object was told of before."""
        known = self.get(resource, live["metadata"]["namespace"], live["metadata"]["name"])
        if known is None or known["metadata"]["uid"] != live["metadata"]["uid"]:
            return False
        place = (live["metadata"]["namespace"], live["metadata"]["name"])
        return _version(known) > _version(live) and place not in self._doubted[resource]

    def listing(self, resource: Resource, namespace: str | None) -> "Listing":
        """Begin to take a list of all objects (of a namespace), before it is asked for."""
        return Listing(self, resource, namespace, asked=self._clock())

    def seen(self, resource: Resource, namespace: str | None) -> int:
        """The newest version that was heard of."""
        return self._seen.get((resource, namespace), 0)

    def saw(self, resource: Resource, namespace: str | None, version: int) -> None:
        """A list or the watch has told of a version."""
        self._seen[resource, namespace] = max(version, self.seen(resource, namespace))

    def contradicts(self, resource: Resource, page: Iterable[Manifest], version: int, asked: float) -> bool:
        """Whether a list of all objects, as they were at `version`, cannot be true if what is known is.

        It shows an object older than it was told of up to that version, or one that was gone before it was asked for.
        """
        for live in page:
            place = (live["metadata"]["namespace"], live["metadata"]["name"])
            old = self._objects[resource].get(place)
            if old is not None and place not in self._doubted[resource] and _version(live) < _version(old) <= version:
                return True
            last, told = self._deleted.get(live["metadata"]["uid"], (0, 0.0))
            if _version(live) <= last and told < asked:
                return True
        return False

    def set_back(self, resource: Resource, namespace: str | None, version: int) -> None:
        """The cluster was set back to a version: those of before say nothing any more."""
        self._seen[resource, namespace] = version
        places = self._objects[resource]
        self._doubted[resource] |= {place for place in places if namespace in (None, place[0])}
        self._deleted.clear()
        self._owed.pop(resource, None)

    def remove(self, resource: Resource, live: Manifest, *, watched: bool = False) -> None:
        """The object is gone. One of its name that was made since stays."""
        if watched:
            self.caught_up(resource, _version(live))
        self._heard_of(resource, live)
        uid = live["metadata"]["uid"]
        self._deleted[uid] = (_version(live), self._clock())
        place = (live["metadata"]["namespace"], live["metadata"]["name"])
        old = self._objects[resource].get(place)
        if old is not None and old["metadata"]["uid"] == uid:
            self._drop(resource, place)

    def take(self, resource: Resource, page: Iterable[Manifest]) -> set[Place]:
        """Take listed objects; returns where they stand.

        What is news to the watch cache the watch has still to deliver: `behind_seconds` tells if it never does.
        """
        listed = set()
        for live in page:
            listed.add((live["metadata"]["namespace"], live["metadata"]["name"]))
            # Everybody is looked at after a list.
            if self._put(resource, live):
                self._owe(resource, _version(live))
        return listed

    def drop_others(self, resource: Resource, namespace: str | None, listed: set[Place], version: int) -> None:
        """What a list of all objects (of a namespace), as they were at `version`, does not hold is gone."""
        for place, old in list(self._objects[resource].items()):
            if place in listed or namespace not in (None, place[0]):
                continue
            if place in self._doubted[resource]:
                self._drop(resource, place)
            elif _version(old) <= version:
                self.remove(resource, old)
        now = self._clock()
        kept = ((uid, last) for uid, last in self._deleted.items() if now - last[1] < REMEMBER_DELETED_SECONDS)
        self._deleted = dict(kept)

    def caught_up(self, resource: Resource, version: int) -> None:
        """The watch has delivered a version, or begins with what comes after it: what is older it does not owe."""
        if resource in self._owed and version >= self._owed[resource][0]:
            del self._owed[resource]

    def behind_seconds(self) -> float:
        """For how long a watch has owed what a list showed."""
        return max((self._clock() - since for _, since in self._owed.values()), default=0.0)

    def _drop(self, resource: Resource, place: Place) -> None:
        old = self._objects[resource].pop(place)
        self._doubted[resource].discard(place)
        self._index(resource, place, old, None)

    def _heard_of(self, resource: Resource, live: Manifest) -> None:
        for namespace in (None, live["metadata"]["namespace"]):
            self.saw(resource, namespace, _version(live))

    def _owe(self, resource: Resource, version: int) -> None:
        owed, since = self._owed.get(resource, (0, self._clock()))
        self._owed[resource] = (max(owed, version), since)

    def _index(self, resource: Resource, place: Place, old: Manifest | None, new: Manifest | None) -> None:
        if resource not in self._children:
            return
        index = self._children[resource]
        for live, change in ((old, set.discard), (new, set.add)):
            for parent in () if live is None else _parents(resource, live):
                change(index[place[0], parent], place)
                if not index[place[0], parent]:
                    del index[place[0], parent]


class Listing:
    """A list that is being taken page by page.

    One that does not name a version is of the newest, whichever API server answers, and however far its watches lag. So
    one of an older version than was seen before it was asked for, or that contradicts what is known, shows that the
    cluster was set back.
    """

    def __init__(self, watched: WatchCache, resource: Resource, namespace: str | None, *, asked: float) -> None:
        self._watched, self._resource, self._namespace = watched, resource, namespace
        self._asked, self._seen = asked, watched.seen(resource, namespace)
        self._listed: set[Place] = set()
        self._version = 0
        self.is_set_back = False

    def take(self, page: list[Manifest], version: int) -> None:
        """Take some of its objects as they were at a version, which is the same for all pages."""
        self._version = version
        # Another list may have found it out meanwhile.
        seen = min(self._seen, self._watched.seen(self._resource, self._namespace))
        contradicted = version < seen or self._watched.contradicts(self._resource, page, version, self._asked)
        if contradicted and not self.is_set_back:
            self.is_set_back = True
            self._watched.set_back(self._resource, self._namespace, version)
        self._listed |= self._watched.take(self._resource, page)

    def end(self) -> None:
        """That was all: what it does not hold is gone."""
        self._watched.drop_others(self._resource, self._namespace, self._listed, self._version)
        self._watched.saw(self._resource, self._namespace, self._version)


def _parents(resource: Resource, live: Manifest) -> list[str]:
    if resource == JOBS:
        return [one["uid"] for one in live["metadata"].get("ownerReferences", [])]
    group = names.group_of(live["metadata"].get("labels", {}))
    return [] if group is None else [group]


def _version(live: Manifest) -> int:
    # Comparable by the rules of Kubernetes 1.35, and in fact ever since.
    return int(live["metadata"]["resourceVersion"])


def _same(old: Manifest, new: Manifest) -> bool:
    return {**old, "metadata": {**old["metadata"], "resourceVersion": ""}} == {
        **new,
        "metadata": {**new["metadata"], "resourceVersion": ""},
    }


def _interned(value: Any) -> Any:
    """A copy whose keys, the same in thousands of objects, are in memory once."""
    if isinstance(value, dict):
        return {sys.intern(key): _interned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_interned(one) for one in value]
    if isinstance(value, str) and len(value) < 64:
        return sys.intern(value)
    return value


def _slim(live: Manifest) -> Manifest:
    """Without what only an apply needs; before one everything is read live."""
    metadata = {key: value for key, value in live["metadata"].items() if key != "managedFields"}
    if "annotations" in metadata:
        annotations = metadata["annotations"].items()
        metadata["annotations"] = {key: one for key, one in annotations if not key.startswith("kubectl.kubernetes.io/")}
    compact: Manifest = _interned({**live, "metadata": metadata})
    return compact


def _slim_deployment(live: Manifest) -> Manifest:
    status = {key: value for key, value in live.get("status", {}).items() if key != "conditions"}
    conditions = [
        {key: one[key] for key in ("type", "status", "reason") if key in one}
        for one in live.get("status", {}).get("conditions", [])
        if one["type"] == "ReplicaFailure" or one.get("reason") == "ProgressDeadlineExceeded"
    ]
    return _slim({**live, "status": {**status, "conditions": conditions}})


def _slim_job(live: Manifest) -> Manifest:
    """Without the counts, which change with every pod."""
    conditions = live.get("status", {}).get("conditions", [])
    return _slim({**live, "spec": {}, "status": {"conditions": conditions}})


def _slim_pod(live: Manifest) -> Manifest:
    metadata, spec, status = live["metadata"], live.get("spec", {}), live.get("status", {})
    revision = names.revision_of(live)
    kept = (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "labels",
        "ownerReferences",
    )
    slim: Manifest = {
        "kind": "Pod",
        "metadata": {
            **{key: metadata[key] for key in kept if key in metadata},
            "annotations": {} if revision is None else {names.REVISION: revision},
        },
        "spec": {
            **{key: spec[key] for key in ("schedulingGates", "imagePullSecrets") if key in spec},
            **{
                group: [{"name": one["name"], "resources": one.get("resources", {})} for one in spec[group]]
                for group in ("initContainers", "containers")
                if group in spec
            },
        },
        "status": {
            **{key: status[key] for key in ("phase", "reason", "message") if key in status},
            "conditions": [
                {key: one[key] for key in ("type", "status", "reason", "message") if key in one}
                for one in status.get("conditions", [])
                if one["type"] in ("Ready", "PodScheduled")
            ],
            **{key: status[key] for key in ("initContainerStatuses", "containerStatuses") if key in status},
        },
    }
    compact: Manifest = _interned(slim)
    return compact


COMPACT: dict[Resource, Callable[[Manifest], Manifest]] = {
    LLMDEPLOYMENTS: _slim,
    DEPLOYMENTS: _slim_deployment,
    SERVICES: _slim,
    CLAIMS: _slim,
    JOBS: _slim_job,
    CONTROLLER_REVISIONS: _slim,
    PODS: _slim_pod,
}
