"""/healthz and /readyz for the kubelet, and /metrics for Prometheus. Started by __main__.py."""

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from llm_operator.controller import Controller
from llm_operator.metrics import CONTENT_TYPE, Metrics


@asynccontextmanager
async def health_server(
    controller: Controller, port: int, *, standing_by: Callable[[], bool] = lambda: False
) -> AsyncIterator[int]:
    """Serve the probes while the block runs; yields the port. Who stands by for the leader is ready, too."""

    async def healthz(_: web.Request) -> web.Response:
        problem = controller.problem()
        return web.Response(status=200 if problem is None else 503, text=problem or "ok")

    async def readyz(_: web.Request) -> web.Response:
        ready = standing_by() or controller.ready()
        return web.Response(status=200 if ready else 503, text="ok" if ready else "first look at the cluster pending")

    async with _serving([web.get("/healthz", healthz), web.get("/readyz", readyz)], port) as opened:
        yield opened


@asynccontextmanager
async def metrics_server(metrics: Metrics, port: int) -> AsyncIterator[int]:
    """Serve /metrics while the block runs; yields the port. Apart from the probes, whose port need not be reachable."""

    async def render(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async with _serving([web.get("/metrics", render)], port) as opened:
        yield opened


@asynccontextmanager
async def _serving(routes: Sequence[web.RouteDef], port: int) -> AsyncIterator[int]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    with _listening(port) as listener:
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield int(listener.getsockname()[1])
        finally:
            await runner.cleanup()


def _listening(port: int) -> socket.socket:
    """One socket for IPv4 and IPv6: with one for each, "any free port" would be two different ones."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
