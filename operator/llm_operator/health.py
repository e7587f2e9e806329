"""/healthz and /readyz for the kubelet. Started by __main__.py."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from llm_operator.controller import Controller


@asynccontextmanager
async def health_server(controller: Controller, port: int) -> AsyncIterator[int]:
    """Serve the probes while the block runs; yields the port."""

    async def healthz(_: web.Request) -> web.Response:
        problem = controller.problem()
        return web.Response(status=200 if problem is None else 503, text=problem or "ok")

    async def readyz(_: web.Request) -> web.Response:
        ready = controller.ready()
        return web.Response(status=200 if ready else 503, text="ok" if ready else "first look at the cluster pending")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, None, port)
        await site.start()
        addresses = runner.addresses
        yield int(addresses[0][1]) if addresses else port
    finally:
        await runner.cleanup()
