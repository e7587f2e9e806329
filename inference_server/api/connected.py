"""Work that ends when nobody waits for its result any more.

FastAPI does not cancel a handler when its client leaves, so a model would go on generating for nobody.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class Disconnected(Exception):
    """The client left before the result was there."""


class Aborted(Exception):
    """The server gives the work up, because it must stop."""


async def while_connected(work: Coroutine[Any, Any, T], *, receive: Receive, aborted: asyncio.Future[None]) -> T:
    """The result of `work`, which is cancelled when the client leaves or `aborted` is done."""
    task = asyncio.create_task(work)
    left = asyncio.create_task(_until_disconnect(receive))
    try:
        await asyncio.wait((task, left, aborted), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Aborted if aborted.done() else Disconnected
    finally:
        task.cancel()
        left.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
