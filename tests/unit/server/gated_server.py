"""Run as a program by tests: the real server, with answers that wait until the file `gate` is in its folder.

So a test decides when a request ends, and needs no clock.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import Event, GenerationRequest
from inference_server.serve import serve_until_stopped
from inference_server.settings import load_settings
from inference_server.telemetry.logs import configure_logging

GATE = "gate"


class GatedEngine(MockEngine):
    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        async with aclosing(super().submit(request)) as events:
            async for event in events:
                if request.request_id != "warm-up":
                    await _gate_opened()
                yield event


async def _gate_opened() -> None:
    while not Path(GATE).exists():  # noqa: ASYNC110, ASYNC240 - a file is what two processes share
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    configure_logging("INFO")
    serve_until_stopped(load_settings(), GatedEngine())
