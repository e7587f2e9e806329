"""The LLMDeployments' events through kopf, and nothing else of kopf: each goes into the cache, its key into the queue.

No create, update or delete handlers, no timers and no daemons: so kopf sets no finalizer and no
annotation, and nothing is decided by the kind of an event (ADR 1). Used by process.py.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import kopf

from llm_operator.credentials import load_configuration, open_session
from llm_operator.kube import LLMDEPLOYMENTS
from llm_operator.reflector import EndlessBackoff, Reflector

LOGIN_PAUSE_SECONDS = 10.0


def build_registry(reflector: Reflector, opened: list[aiohttp.ClientSession]) -> kopf.OperatorRegistry:
    """A handler that gives every event to the reflector.

    Sessions that are opened go into `opened`: kopf does not close each of them.
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

    group, version = LLMDEPLOYMENTS.path.removeprefix("/apis/").split("/")

    @kopf.on.event(group, version, LLMDEPLOYMENTS.plural, registry=registry)
    async def changed(*, event: Mapping[str, Any], **_: Any) -> None:
        reflector.take(LLMDEPLOYMENTS, event)

    return registry


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
