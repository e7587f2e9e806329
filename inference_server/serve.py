"""`serve`: settings → socket → engine → application → uvicorn → exit code. The one place that reports failures."""

import logging
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from inference_server import __version__
from inference_server.api.config import api_config
from inference_server.app import create_app
from inference_server.connections import ACCEPTED_TOGETHER, bounded, most_connections
from inference_server.draining import BACKLOG, DrainingServer
from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import Engine
from inference_server.lifecycle import Lifecycle
from inference_server.model_manager import qwen_engine
from inference_server.modes import canonical_mode
from inference_server.oom_note import OomNote
from inference_server.settings import Settings, load_settings, termination_log_path
from inference_server.telemetry.logs import configure_logging
from inference_server.telemetry.tracing import choose_tracing
from inference_server.termination import ExitCode, StartupError, report

logger = logging.getLogger(__name__)


def run(note: OomNote, choose: Callable[[Settings], Engine] | None = None) -> int:
    """Serve until a signal or a failure ends it. `choose`: the engine, where it is not that of the settings."""
    configure_logging("INFO")
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        serve_until_stopped(settings, (choose or choose_engine)(settings), note)
    except StartupError as error:
        note.stop()
        report(error, termination_log_path=termination_log_path())
        return error.exit_code
    return ExitCode.OK


def choose_engine(settings: Settings) -> Engine:
    """What LLM_MODE names. Raises StartupError when its model is not there."""
    if canonical_mode(settings.llm_mode) == "mock":
        return MockEngine(delay_seconds=settings.mock_delay_seconds, max_new_tokens=settings.max_new_tokens)
    return qwen_engine(settings)


def serve_until_stopped(settings: Settings, engine: Engine, note: OomNote | None = None) -> None:
    """Raises StartupError when the address cannot be used or the engine fails."""
    listener = listen(settings.listen_host, settings.listen_port)
    host, port = listener.getsockname()[:2]
    fields = {"host": host, "port": port, "mode": engine.info.mode, "version": __version__}
    logger.info("listening", extra={"fields": fields})
    lifecycle = Lifecycle(
        engine,
        heartbeat_timeout=settings.heartbeat_timeout_seconds,
        ready_queue_percent=settings.ready_queue_percent,
    )
    if note is not None:
        note.is_serving = lambda: lifecycle.started
    app = create_app(lifecycle, api_config(settings), choose_tracing())
    server = DrainingServer(
        uvicorn_config(
            app,
            keep_alive_seconds=settings.keep_alive_seconds,
            receive_seconds=settings.receive_timeout_seconds,
            max_connections=settings.max_connections,
        ),
        lifecycle,
        grace_seconds=settings.drain_grace_seconds,
        timeout_seconds=settings.drain_timeout_seconds,
    )
    server.run(sockets=[listener])
    # A stop in a hurry closes nothing, and so has not looked.
    lifecycle.look(ending=True)
    if lifecycle.failure is not None:
        raise lifecycle.failure
    logger.info("stopped")


def uvicorn_config(
    app: ASGIApp, *, keep_alive_seconds: int, receive_seconds: float = 30.0, max_connections: int = 0
) -> uvicorn.Config:
    """How every application of ours is served; `bench.serving_http` serves a bare one the same way."""
    return uvicorn.Config(
        app,
        # Named, so that a package that happens to be installed does not change the behaviour.
        http=bounded(receive_seconds=receive_seconds, max_connections=most_connections(max_connections)),
        backlog=ACCEPTED_TOGETHER,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=keep_alive_seconds,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises StartupError where that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
        )
    except OSError as error:
        raise StartupError(
            "AddressUnavailable",
            f"Cannot listen on {host} port {port}: {error.strerror or error}.",
            "Set LISTEN_HOST and LISTEN_PORT to an address of this machine that nothing else listens on.",
            ExitCode.ADDRESS,
        ) from None
    # Inherited by every connection. asyncio sets it only for sockets that name their protocol, which accepted ones of
    # this listener do not; without it an answer's body waits some 40 ms for the client to acknowledge its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
