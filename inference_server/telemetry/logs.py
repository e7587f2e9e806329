"""One JSON object per line on stdout, for our own loggers and everyone else's.

Patient text must not reach a log. Exceptions, warnings and repr()s of tasks can carry it (a validation error quotes
its input), so of an exception only the types and the code positions are written, never its message; of a warning
its category and position. Set up by `serve`, before anything can fail.
"""

import asyncio
import json
import logging
import math
import sys
import threading
import time
import warnings
from contextvars import ContextVar
from datetime import UTC, datetime
from traceback import walk_tb
from types import TracebackType
from typing import Any, TextIO

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)

_MAX_CAUSES = 5
_SECONDS_BETWEEN = 10.0
# asyncio's own sentences and numbers of errors: few.
_told: dict[tuple[str, int | None], float] = {}
# Made once: json.dumps would make one for every line.
_encoder = json.JSONEncoder(default=lambda value: type(value).__name__)

logger = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """time, level, logger, event; request_id inside a request; then the call's own `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        line = _line(record.created, record.levelname, record.name, record.getMessage(), fields)
        if record.exc_info and record.exc_info[1]:
            line["exception"] = describe_exception(record.exc_info[1])
        return _encoder.encode(line)


class QuickLogger:
    """Writes the same lines as a logger, for the one that every request has, at a third of the cost.

    Leaves out what logging finds out for each record and our lines do not have: caller, thread, process.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        handlers = logging.getLogger().handlers
        if len(handlers) != 1 or not isinstance(handlers[0], _OurHandler):
            self._logger.log(level, event, extra={"fields": fields})
            return
        line = _line(time.time(), logging.getLevelName(level), self._logger.name, event, fields)
        handlers[0].write(_encoder.encode(line))


class _OurHandler(logging.StreamHandler[TextIO]):
    def write(self, line: str) -> None:
        self.acquire()
        try:
            self.stream.write(line + self.terminator)
            self.flush()
        except (OSError, ValueError):
            # As logging does it: a log that cannot be written ends no request.
            pass
        finally:
            self.release()


def _line(created: float, level: str, logger_name: str, event: str, fields: dict[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "level": level,
        "logger": logger_name,
        "event": event,
    }
    if request_id := request_id_var.get():
        line["request_id"] = request_id
    line.update(fields)
    return line


def describe_exception(error: BaseException) -> list[dict[str, Any]]:
    """The exception and its causes, innermost last: type and frames, without message, source or locals."""
    chain: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < _MAX_CAUSES:
        frames = [
            f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
            for frame, line in walk_tb(current.__traceback__)
        ]
        chain.append({"type": f"{type(current).__module__}.{type(current).__qualname__}", "frames": frames})
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send all loggers, warnings and last-resort hooks through the JSON formatter, to stdout by default."""
    handler = _OurHandler(stream or sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Its information lines repeat ours, and its access log quotes the path and the query string.
    logging.getLogger("uvicorn").setLevel(max(root.level, logging.WARNING))
    # Not in our lines, so nobody needs to find them out.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # A broken log call would otherwise print its arguments to stderr.
    logging.raiseExceptions = False
    warnings.showwarning = _log_warning  # type: ignore[assignment]
    sys.excepthook = _log_uncaught
    sys.unraisablehook = lambda raised: _log_uncaught(raised.exc_type, raised.exc_value, raised.exc_traceback)
    threading.excepthook = lambda raised: _log_uncaught(raised.exc_type, raised.exc_value, raised.exc_traceback)


def log_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handler for asyncio's own complaints; the default one prints a task's repr, with its exception's message.

    Those of the operating system, such as no descriptor left, come by the thousand: one of a kind in ten seconds.
    """
    error, what = context.get("exception"), context["message"]
    if not isinstance(error, OSError) or _is_news((what, error.errno)):
        logger.error("asyncio_error", exc_info=error, extra={"fields": {"what": what}})


def _is_news(complaint: tuple[str, int | None]) -> bool:
    now = time.monotonic()
    if now - _told.get(complaint, -math.inf) < _SECONDS_BETWEEN:
        return False
    _told[complaint] = now
    return True


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    exc_info = error.with_traceback(traceback) if error else None
    logger.critical("uncaught_exception", exc_info=exc_info, extra={"fields": {"type": kind.__name__}})


def _log_warning(_: Warning | str, category: type[Warning], filename: str, lineno: int, *_output: object) -> None:
    fields = {"category": category.__name__, "position": f"{filename}:{lineno}"}
    logging.getLogger("py.warnings").warning("warning", extra={"fields": fields})
