"""Watches through kopf, and nothing else of kopf: every event becomes a key in the queue.

No create, update or delete handlers, no timers and no daemons: so kopf sets no finalizer and no
annotation, and nothing is decided by the kind of an event (ADR 0001). Used by __main__.py.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import aiohttp
import kopf
from kubernetes.aio.client import Configuration

from llm_operator.api.types import GROUP, KIND, PLURAL, VERSION
from llm_operator.core import names
from llm_operator.kube import USER_AGENT, load_configuration
from llm_operator.reconcile import Key

Enqueue = Callable[[Key], None]

LOGIN_PAUSE_SECONDS = 10.0
CHILDREN = (("apps", "deployments"), ("", "services"), ("", "pods"))


def build_registry(enqueue: Enqueue) -> kopf.OperatorRegistry:
    """Handlers that put the key of an event's LLMDeployment into the queue."""
    registry = kopf.OperatorRegistry()

    last_login = float("-inf")

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        # kopf asks again after every 401, and would ask without pause while credentials are refused.
        nonlocal last_login
        clock = asyncio.get_running_loop()
        await asyncio.sleep(last_login + LOGIN_PAUSE_SECONDS - clock.time())
        last_login = clock.time()
        return _session(await load_configuration())

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def parent_changed(*, namespace: str | None, name: str | None, **_: Any) -> None:
        if namespace is not None and name is not None:
            enqueue((namespace, name))

    async def child_changed(*, namespace: str | None, meta: kopf.Meta, **_: Any) -> None:
        for parent in _parents(meta):
            if namespace is not None:
                enqueue((namespace, parent))

    for group, plural in CHILDREN:
        kopf.on.event(group, "v1", plural, registry=registry)(child_changed)
    return registry


def _parents(meta: Mapping[str, Any]) -> set[str]:
    """Names of LLMDeployments an object belongs to: by its owner, and by its label (pods have another owner)."""
    owners = {one["name"] for one in meta.get("ownerReferences", []) if one["kind"] == KIND}
    label = meta.get("labels", {}).get(names.INSTANCE)
    return owners | ({label} if label else set())


def build_settings() -> kopf.OperatorSettings:
    """kopf as a transport: no peering, no scanning for new kinds, no events, patient with the network."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = EndlessBackoff()
    settings.watching.connect_timeout = 5
    settings.watching.server_timeout = 300
    for group, plural in CHILDREN:
        settings.watching.label_selectors[group, "v1", plural] = names.MANAGED_SELECTOR
    settings.process.ultimate_exiting_timeout = 20
    return settings


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


def _session(configuration: Configuration) -> kopf.AiohttpSession:
    """An HTTP session for kopf with the credentials, their refresh, and the name of our own client."""
    context = ssl.create_default_context(
        cafile=configuration.ssl_ca_cert, cadata=getattr(configuration, "ca_cert_data", None)
    )
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    async def authorize(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        # For each request, since a service account's token changes every hour.
        token = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            request.headers["Authorization"] = token
        return await handler(request)

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        headers={"User-Agent": USER_AGENT},
        middlewares=(authorize,),
        proxy=configuration.proxy,
        trust_env=True,
    )
    return kopf.AiohttpSession(server=configuration.host, aiohttp_session=session)
