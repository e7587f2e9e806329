"""`python -m inference_server fetch` and `prune`: settings, signals, the reason of a failure, the exit code."""

import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from inference_server.fetch.display import Display, choose_display
from inference_server.fetch.failures import FetchError, FetchReason, interrupted
from inference_server.fetch.fetcher import fetch
from inference_server.fetch.prune import prune
from inference_server.fetch.ready import ready_record
from inference_server.fetch.settings import load_fetch_settings, load_prune_order
from inference_server.modes import canonical_mode, require_supported
from inference_server.oom_note import OomNote
from inference_server.settings import termination_log_path
from inference_server.telemetry.logs import configure_logging
from inference_server.termination import ExitCode, StartupError, leave_last_words, write_termination_log

logger = logging.getLogger(__name__)

# What is left in the termination log by work that succeeded.
Work = Callable[[], dict[str, Any]]


def run(note: OomNote) -> int:
    """Bring the model of the settings into the cache, and return the exit code."""
    return _run(note, _begin_fetch)


def run_prune(note: OomNote) -> int:
    """Delete what is not to be kept from the cache, and return the exit code."""
    return _run(note, _begin_prune)


def _begin_fetch() -> tuple[Display, Work]:
    began = time.monotonic()
    settings = load_fetch_settings()
    if settings.fetch_for_mode:
        require_supported(canonical_mode(settings.fetch_for_mode))
    display = choose_display(sys.stdout, seconds_between=settings.fetch_progress_seconds)

    def work() -> dict[str, Any]:
        fetched = fetch(settings, display)
        display.ready(fetched.ready, str(fetched.path), seconds=time.monotonic() - began)
        return ready_record(fetched.ready, str(fetched.path))

    return display, work


def _begin_prune() -> tuple[Display, Work]:
    order = load_prune_order()
    display = choose_display(sys.stdout, seconds_between=1.0)

    def work() -> dict[str, Any]:
        pruned = prune(order, display)
        # More names than these would not fit.
        return {"models": len(pruned.deleted), "bytesFreed": pruned.freed, "deleted": pruned.deleted[:20]}

    return display, work


def _run(note: OomNote, begin: Callable[[], tuple[Display, Work]]) -> int:
    # Always: the lines of progress are read by programs.
    configure_logging("INFO")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    display = choose_display(sys.stdout, seconds_between=1.0)
    try:
        display, work = begin()
        record = work()
    except StartupError as error:
        return _fail(error, display, note)
    except KeyboardInterrupt:
        return _fail(interrupted(), display, note)
    except Exception as error:
        logger.exception("fetch_crashed")
        return _fail(_unforeseen(error), display, note)
    note.stop()
    leave_last_words(record, termination_log_path())
    return ExitCode.OK


def _fail(error: StartupError, display: Display, note: OomNote) -> int:
    note.stop()
    display.failed(error)
    write_termination_log(error, termination_log_path())
    return error.exit_code


def _unforeseen(error: Exception) -> FetchError:
    return FetchError(
        FetchReason.FETCH_FAILED,
        f"It ended in an unforeseen way ({type(error).__name__}).",
        "See the log line fetch_crashed for the place in the code.",
    )
