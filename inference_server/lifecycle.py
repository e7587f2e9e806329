"""Where the server stands between its start and its end, and what the probes and routes may conclude from it.

Owns the engine: loads it in the background, so that /livez answers meanwhile, and closes it. `app` starts and stops
it; `draining` tells it about signals; `api` asks it.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from enum import StrEnum

from inference_server.engine.protocol import Engine
from inference_server.termination import ExitCode, StartupError

logger = logging.getLogger(__name__)

# A stuck engine must not keep the process from ending.
_CLOSE_SECONDS = 2
# How often the loading is looked at, and how much of it is worth a line.
_LOOK_SECONDS = 1.0
_PROGRESS_STEP = 0.1


class Phase(StrEnum):
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Lifecycle:
    """All attributes are read and written on the event loop only."""

    def __init__(self, engine: Engine, *, heartbeat_timeout: float, ready_queue_percent: int = 0) -> None:
        self.engine = engine
        self.phase = Phase.LOADING
        self.started = False
        self.failure: StartupError | None = None
        # What ends the requests that still run when the server must go.
        self.useless: set[Callable[[], None]] = set()
        self._heartbeat_timeout = heartbeat_timeout
        self._ready_queue_percent = ready_queue_percent
        self._bring_up: asyncio.Task[None] | None = None
        self._ending = False

    @property
    def alive(self) -> bool:
        """False when only a restart can help."""
        return self.phase is not Phase.FAILED and self.engine.heartbeat() <= self._heartbeat_timeout

    @property
    def ready(self) -> bool:
        """True while new requests should be sent here."""
        return self.phase is Phase.READY and self.alive and not self.queue_nearly_full

    @property
    def queue_nearly_full(self) -> bool:
        """True shortly before requests are refused, so that they go to another server instead.

        A single request that waits is none, however short the queue.
        """
        places = self.engine.info.queued_requests
        if not self._ready_queue_percent or not places:
            return False
        waiting = self.engine.stats().queued_requests
        return waiting > 1 and waiting * 100 >= places * self._ready_queue_percent

    @property
    def accepting(self) -> bool:
        """True while a request that arrives is answered: also in the grace after SIGTERM."""
        return self.started and not self._ending

    def start(self) -> None:
        # A signal may have come first.
        if self.phase is Phase.LOADING:
            self._bring_up = asyncio.create_task(self._load())

    def begin_drain(self) -> None:
        """Stop being ready, for good. Accepted and still arriving requests are answered until `abort`."""
        if self._bring_up is not None:
            self._bring_up.cancel()
        if self.phase is not Phase.FAILED:
            self._enter(Phase.DRAINING)

    def abort(self) -> None:
        """Let accepted requests end now, with what is there."""
        self._ending = True
        self.engine.abort()

    def look(self, *, ending: bool = False) -> None:
        """Note that the engine has died; `ending`: also that it is stuck, which otherwise the platform decides.

        Whoever is stopped then must not end as if all had been well.
        """
        if not self.started or self.failure is not None:
            return
        if math.isinf(self.engine.heartbeat()):
            self._fail(_died())
        elif ending and not self.alive:
            self._fail(_stalled(self.engine.heartbeat()))

    def give_up(self) -> None:
        """End the requests that the engine did not end."""
        self._ending = True
        for end in tuple(self.useless):
            end()

    async def stop(self) -> None:
        """Close the engine. No request is running any more when this is called."""
        self.look(ending=True)
        if self._bring_up is not None:
            self._bring_up.cancel()
            await asyncio.wait([self._bring_up])
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.engine.drain()
                await self.engine.close()
        except TimeoutError:
            logger.warning("engine_close_timed_out")

    async def _load(self) -> None:
        try:
            await self._load_engine()
            self._enter(Phase.WARMING)
            await self.engine.warm_up()
        except StartupError as error:
            self._fail(error)
        except Exception as error:
            logger.exception("engine_failed")
            self._fail(
                StartupError(
                    "EngineFailed",
                    f"The engine failed while {self.phase} ({type(error).__name__}).",
                    "See the log line engine_failed for the place in the code.",
                    ExitCode.ENGINE,
                )
            )
        else:
            self.started = True
            self._enter(Phase.READY)

    async def _load_engine(self) -> None:
        telling = asyncio.create_task(self._tell_progress())
        try:
            await self.engine.load()
        finally:
            telling.cancel()

    async def _tell_progress(self) -> None:
        told = 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            share = self.engine.load_progress()
            if share >= told + _PROGRESS_STEP:
                told = share
                logger.info("loading", extra={"fields": {"percent": round(share * 100)}})

    def _fail(self, error: StartupError) -> None:
        self.failure = error
        self._enter(Phase.FAILED)

    def _enter(self, phase: Phase) -> None:
        if phase is not self.phase:
            self.phase = phase
            logger.info("phase", extra={"fields": {"phase": phase}})


def _died() -> StartupError:
    return StartupError(
        "EngineDied",
        "The engine's process ended while the server ran.",
        "Mostly the memory was not enough: raise the memory limit, or let fewer answers run at the same time. "
        "The log line engine_died has the exit code.",
        ExitCode.ENGINE,
    )


def _stalled(seconds: float) -> StartupError:
    return StartupError(
        "EngineStalled",
        f"The engine had made no progress for {seconds:.0f} s when the server was stopped.",
        "Give it more processors or memory, or allow longer pauses with HEARTBEAT_TIMEOUT_SECONDS.",
        ExitCode.ENGINE,
    )
