"""Lists, and watches of the children: they keep the watch cache up to date and say which LLMDeployments to look at.

Of ten events nine are about children, and kopf, which brings those of the LLMDeployments (watch.py), takes ten times
as long for an event as it takes to read one (ADR 1). Used by controller.py, and by watch.py for what kopf brings.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from llm_operator.api.types import KIND
from llm_operator.core import names
from llm_operator.core.names import Manifest
from llm_operator.kube import CLAIMS, JOBS, LLMDEPLOYMENTS, WATCH_BROKEN, ApiError, Kube, Resource
from llm_operator.watch_cache import Place, WatchCache

log = logging.getLogger(__name__)

# A watch that lasted so long was not refused: the next one need not wait long.
LASTED_SECONDS = 10.0
# Told of a kind in a namespace, and the version it was set back to.
OnSetBack = Callable[[Resource, str | None, int], None]


class Enqueue(Protocol):
    """Has an LLMDeployment looked at, soon or after those that cannot wait."""

    def __call__(self, place: Place, /, *, can_wait: bool = False) -> None: ...


class Reflector:
    """Fills the watch cache from lists and events; `enqueue` is told the LLMDeployment of each change in it.

    What can wait is a new LLMDeployment, and what nothing but a look at all of them asks for.
    """

    def __init__(
        self,
        kube: Kube,
        watched: WatchCache,
        enqueue: Enqueue,
        on_event: Callable[[str], None],
        on_set_back: OnSetBack = lambda *_: None,
    ) -> None:
        self._kube = kube
        self._watched = watched
        self._enqueue = enqueue
        self._on_event = on_event
        self._on_set_back = on_set_back
        watched.on_news(self._tell)

    async def fill(self, resource: Resource, namespace: str | None) -> int:
        """List all objects of a kind into the watch cache; the version that the list is of. Raises ApiError."""
        listing = self._watched.listing(resource, namespace)
        version = 0
        async for page, version in self._kube.pages(resource, namespace, label_selector=_selector(resource)):
            listing.take(page, version)
        listing.end()
        if listing.is_set_back:
            self._on_set_back(resource, namespace, version)
        return version

    async def reflect(self, resource: Resource, namespace: str | None, version: int | None) -> None:
        """Take the events after a version, for ever; None lists first, as it is done when the version is too old."""
        clock, pauses = asyncio.get_running_loop(), iter(EndlessBackoff())
        while True:
            began = clock.time()
            try:
                if version is None:
                    # First what the children belong to: nothing is to be done for an LLMDeployment that went with them.
                    await self.fill(LLMDEPLOYMENTS, namespace)
                    version = await self.fill(resource, namespace)
                    self.enqueue_all(namespace)
                self._watched.caught_up(resource, version)
                selector = _selector(resource)
                async for event in self._kube.watch(resource, namespace, label_selector=selector, version=version):
                    told = int(event["object"]["metadata"]["resourceVersion"])
                    if told < version:
                        raise ApiError(410, "Expired", f"version {told} after {version}")
                    self.take(resource, event)
                    version = told
                    self._watched.saw(resource, namespace, version)
            except ApiError as error:
                log.warning("watch of %s: %s", resource.plural, error)
                # The version may be too old, or not there yet: who was away may be back with an older state.
                if error.reason != WATCH_BROKEN and error.status != 429:
                    version = None
            except Exception:
                log.exception("watch of %s", resource.plural)
                version = None
            if clock.time() - began > LASTED_SECONDS:
                pauses = iter(EndlessBackoff())
            await asyncio.sleep(next(pauses))

    def take(self, resource: Resource, event: Mapping[str, Any]) -> None:
        """Take an event, and have its LLMDeployments looked at if it tells anything new."""
        live: Manifest = event["object"]
        if event["type"] == "BOOKMARK":
            return
        self._on_event(resource.plural)
        if event["type"] == "DELETED":
            self._watched.remove(resource, live, watched=True)
            self._tell(resource, live)
        else:
            self._watched.put(resource, live, watched=True)

    def _tell(self, resource: Resource, live: Manifest, reader: Place | None = None) -> None:
        # Of one that has no condition yet nothing was told: whoever is under way is finished first.
        can_wait = resource is LLMDEPLOYMENTS and "conditions" not in live.get("status", {})
        for parent in self._parents(resource, live["metadata"]):
            place = (live["metadata"]["namespace"], parent)
            if place != reader:
                self._enqueue(place, can_wait=can_wait)

    def _parents(self, resource: Resource, metadata: Mapping[str, Any]) -> set[str]:
        """Names of LLMDeployments an object belongs to.

        By its owner, by its label (pods have another owner), by the Job of a fetch, or because they name the claim.
        """
        namespace, name = metadata["namespace"], metadata["name"]
        if resource is LLMDEPLOYMENTS:
            return {name}
        if resource is CLAIMS:
            everybody = self._watched.every(LLMDEPLOYMENTS)
            here = (one for one in everybody if one["metadata"]["namespace"] == namespace)
            return {one["metadata"]["name"] for one in here if _claim_of(one) == name}
        labels = metadata.get("labels", {})
        if names.FETCH in labels:
            job = self._watched.get(JOBS, namespace, labels[names.FETCH])
            return _owners(metadata) | (set() if job is None else _owners(job["metadata"]))
        label = labels.get(names.INSTANCE)
        return _owners(metadata) | ({label} if label else set())

    def enqueue_all(self, namespace: str | None) -> None:
        """Have every LLMDeployment of a namespace looked at."""
        for live in self._watched.every(LLMDEPLOYMENTS):
            if namespace in (None, live["metadata"]["namespace"]):
                self._enqueue((live["metadata"]["namespace"], live["metadata"]["name"]), can_wait=True)


def _selector(resource: Resource) -> str:
    return "" if resource is LLMDEPLOYMENTS else names.MANAGED_SELECTOR


def _owners(metadata: Mapping[str, Any]) -> set[str]:
    return {one["name"] for one in metadata.get("ownerReferences", []) if one["kind"] == KIND}


def _claim_of(live: Manifest) -> str | None:
    """The claim that an LLMDeployment names, whether it uses it or not."""
    cache = live.get("spec", {}).get("cache")
    return None if cache is None else cache.get("claimName")


class EndlessBackoff:
    """Delays between attempts to reach the API server: 1, 2, 4 ... 30 s with jitter, and never the end.

    With kopf's own list the process would exit after a minute of outage and then sit in CrashLoopBackOff
    long after the API server is back.
    """

    def __iter__(self) -> Iterator[float]:
        delay = 1.0
        while True:
            yield delay * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            delay = min(delay * 2, 30.0)
