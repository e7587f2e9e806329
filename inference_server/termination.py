"""Why the server or a fetch could not start or go on: one record for people, for the log and for the operator.

Written to the container's termination log as JSON {reason, message, remedy}, from where Kubernetes copies it into
the pod's status; a fetch that succeeded leaves there what it brought. Raised by `settings`, `modes`, `serve`, engines
and `fetch`; reported once, by `serve` or `fetch`.
"""

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

logger = logging.getLogger(__name__)

DEFAULT_TERMINATION_LOG_PATH = "/dev/termination-log"
# Kubernetes keeps at most this many bytes per container.
_TERMINATION_LOG_BYTES = 4096


class ExitCode(IntEnum):
    """Process exit codes, with the numbers of sysexits.h; those of `fetch` are in `fetch.failures`."""

    OK = 0
    ENGINE = 70  # EX_SOFTWARE: the engine did not load or warm up
    ADDRESS = 71  # EX_OSERR: the listening address cannot be used
    CONFIG = 78  # EX_CONFIG: a setting is wrong; a restart cannot help


class StartupError(Exception):
    """A failure with a reason for machines, and a message and a remedy for people. Never holds patient text."""

    def __init__(self, reason: str, message: str, remedy: str, exit_code: int) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code


def report(error: StartupError, *, termination_log_path: str) -> None:
    """Log the failure and leave it in the termination log, if there is one. Never raises."""
    logger.error("failed", extra={"fields": {**_record(error), "exit_code": int(error.exit_code)}})
    write_termination_log(error, termination_log_path)


def write_termination_log(error: StartupError, path: str) -> None:
    """Leave the failure where Kubernetes looks for it. Never raises."""
    leave_last_words({**_record(error), "message": error.message[:1500], "remedy": error.remedy[:1000]}, path)


def leave_last_words(record: Mapping[str, Any], path: str) -> None:
    """Write the termination log, if there is one. Never raises."""
    body = json.dumps(record)
    with contextlib.suppress(OSError):
        # No O_CREAT: outside a container there is no such file, and making one would litter the machine.
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(body.encode()[:_TERMINATION_LOG_BYTES])


def _record(error: StartupError) -> dict[str, str]:
    return {"reason": error.reason, "message": error.message, "remedy": error.remedy}
