"""Watches through kopf, and nothing else of kopf: every event goes into the store, its key into the queue.

No create, update or delete handlers, no timers and no daemons: so kopf sets no finalizer and no
annotation, and nothing is decided by the kind of an event (ADR 0001). Used by __main__.py.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import aiohttp
import kopf

from llm_operator.api.types import KIND
from llm_operator.core import names
from llm_operator.core.names import Manifest
from llm_operator.credentials import load_configuration, open_session
from llm_operator.kube import LLMDEPLOYMENTS, Resource
from llm_operator.reconcile import Key
from llm_operator.store import KINDS, Store

Enqueue = Callable[[Key], None]

LOGIN_PAUSE_SECONDS = 10.0


def build_registry(
    store: Store, enqueue: Enqueue, on_event: Callable[[str], None], opened: list[aiohttp.ClientSession]
) -> kopf.OperatorRegistry:
    """Handlers that keep the store, and enqueue an LLMDeployment when something changed for it.

    `on_event` is told the plural of each object that an event is about. Sessions that are opened go into `opened`:
    kopf does not close each of them.
    """
    registry = kopf.OperatorRegistry()

    last_login = float("-inf")

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        # kopf asks again after every 401, and would ask without pause while credentials are refused.
        nonlocal last_login
        clock = asyncio.get_running_loop()
        await asyncio.sleep(last_login + LOGIN_PAUSE_SECONDS - clock.time())
        last_login = clock.time()
        configuration = await load_configuration()
        opened.append(open_session(configuration))
        return kopf.AiohttpSession(server=configuration.host, aiohttp_session=opened[-1])

    for resource in KINDS:
        kopf.on.event(*_names(resource), registry=registry)(_handler(resource, store, enqueue, on_event))
    return registry


def _names(resource: Resource) -> tuple[str, str, str]:
    """Group, version, plural."""
    *group, version = resource.path.removeprefix("/apis/").removeprefix("/api/").split("/")
    return (group[0] if group else "", version, resource.plural)


def _handler(
    resource: Resource, store: Store, enqueue: Enqueue, on_event: Callable[[str], None]
) -> Callable[..., Coroutine[Any, Any, None]]:
    async def changed(*, event: Mapping[str, Any], **_: Any) -> None:
        on_event(resource.plural)
        live: Manifest = event["object"]
        if event["type"] == "DELETED":
            store.remove(resource, live, watched=True)
        elif not store.put(resource, live, watched=True):
            return
        for parent in _parents(resource, live["metadata"]):
            enqueue((live["metadata"]["namespace"], parent))

    return changed


def _parents(resource: Resource, metadata: Mapping[str, Any]) -> set[str]:
    """Names of LLMDeployments an object belongs to: by its owner, and by its label (pods have another owner)."""
    if resource is LLMDEPLOYMENTS:
        return {metadata["name"]}
    owners = {one["name"] for one in metadata.get("ownerReferences", []) if one["kind"] == KIND}
    label = metadata.get("labels", {}).get(names.INSTANCE)
    return owners | ({label} if label else set())


def build_settings() -> kopf.OperatorSettings:
    """kopf as a transport: no peering, no scanning for new kinds, no events, patient with the network."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    # Without these kopf copies every object of every event twice, for handlers that there are none of.
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = EndlessBackoff()
    settings.watching.connect_timeout = 5
    settings.watching.server_timeout = 300
    for resource in KINDS:
        if resource is not LLMDEPLOYMENTS:
            settings.watching.label_selectors[_names(resource)] = names.MANAGED_SELECTOR
    settings.process.ultimate_exiting_timeout = 20
    return settings


class _NoDiffBase(kopf.DiffBaseStorage):
    """Nothing is compared with what was handled last."""

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """No handler has any progress."""

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        pass

    def purge(self, **_: object) -> None:
        pass

    def touch(self, **_: object) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


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
