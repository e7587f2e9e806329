"""Connections that never finish a request end, and cannot keep others out: uvicorn's protocol with a clock and a cap.

Without it they stay open until the process has no file descriptor left, and then no probe is answered.
"""

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Kept from connections: for the engine's pipes, files, and those that are accepted in one go.
_OTHER_DESCRIPTORS = 64
_FEWEST, _MOST = 16, 4096
# uvicorn accepts so many in one go; only then does it look at the first of them.
ACCEPTED_TOGETHER = 16
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def most_connections(asked: int) -> int:
    """`asked`, or for 0 as many as the limit of open files leaves room for."""
    return asked or _room(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _room(descriptors: int) -> int:
    if descriptors == resource.RLIM_INFINITY:
        return _MOST
    return min(max(descriptors - _OTHER_DESCRIPTORS, _FEWEST), _MOST)


class BoundedProtocol(H11Protocol):
    """Made by `bounded`, which sets what differs."""

    receive_seconds: float
    max_connections: int
    _deadline: asyncio.TimerHandle | None = None

    @property
    def receives(self) -> bool:
        """Whether there is nothing to answer yet."""
        return self.conn.their_state in {h11.IDLE, h11.SEND_BODY}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.loop.time()
        # One that says nothing at all is idle.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if len(self.connections) > self.max_connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.receives:
            self._stop_clock()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.receive_seconds, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        """The request took too long to come."""
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_started or self.conn.our_state is h11.IDLE:
            self.transport.write(_TOO_SLOW)
        self.transport.close()

    def _make_room(self) -> None:
        """End the one that has kept the server waiting longest; this one, where all are being answered."""
        waiting = [one for one in self.connections if isinstance(one, BoundedProtocol) and one.receives]
        oldest = min(waiting, key=lambda one: one.since, default=self)
        oldest.transport.abort()
        # Now, and not when it is told: more may be accepted before.
        self.connections.discard(oldest)


def bounded(*, receive_seconds: float, max_connections: int) -> type[BoundedProtocol]:
    """A protocol with these limits, for uvicorn, which makes its protocols by itself."""
    limits = {"receive_seconds": receive_seconds, "max_connections": max_connections}
    return type("Bounded", (BoundedProtocol,), limits)
