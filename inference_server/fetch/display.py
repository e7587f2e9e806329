"""Shows a fetch or a prune: a bar and plain words on a terminal, JSON lines elsewhere.

The lines are parsed by others: docs/model-cache.md promises their fields.

Told by `fetcher`, `prune` and `command`; decides nothing but how often to say the same.
"""

import logging
import shutil
import time
from typing import Any, Protocol, TextIO

from inference_server.fetch.failures import FetchError
from inference_server.fetch.ownership import Owner
from inference_server.fetch.plan import Plan
from inference_server.fetch.progress import Snapshot, bar
from inference_server.fetch.progress import size as in_words
from inference_server.fetch.ready import Ready
from inference_server.termination import StartupError

logger = logging.getLogger("inference_server.fetch")

_REDRAW_SECONDS = 0.2


class Display(Protocol):
    def resolved(self, repository: str, commit: str, plan: Plan, *, present: int) -> None: ...

    def progress(self, snapshot: Snapshot, *, at_once: bool = False) -> None: ...

    def waiting(self, owner: Owner | None) -> None: ...

    def retrying(self, error: FetchError, *, tried: int, seconds: float) -> None: ...

    def used_cached(self, error: FetchError) -> None: ...

    def ready(self, ready: Ready, path: str, *, seconds: float) -> None: ...

    def deleted(self, repository: str, commit: str, *, size: int, unused: float) -> None: ...

    def pruned(self, *, models: int, freed: int, kept: int) -> None: ...

    def failed(self, error: StartupError) -> None: ...


class LogLines:
    """One JSON object per line; its `event` says what it is."""

    def __init__(self, *, seconds_between: float) -> None:
        self._seconds_between = seconds_between
        self._told_at = float("-inf")

    def resolved(self, repository: str, commit: str, plan: Plan, *, present: int) -> None:
        _log(
            "resolved",
            repository=repository,
            commit=commit,
            files=len(plan.files),
            bytesTotal=plan.total_bytes,
            bytesPresent=present,
        )

    def progress(self, snapshot: Snapshot, *, at_once: bool = False) -> None:
        if self._is_due(at_once):
            _log("progress", **snapshot.as_json())

    def waiting(self, owner: Owner | None) -> None:
        if self._is_due(at_once=False):
            _log(
                "waiting",
                ownerHost=owner.process.host if owner else None,
                bytesDone=owner.done if owner else 0,
                bytesTotal=owner.total if owner else 0,
            )

    def retrying(self, error: FetchError, *, tried: int, seconds: float) -> None:
        fields = {"reason": error.reason, "message": error.message, "tried": tried, "seconds": round(seconds, 1)}
        logger.warning("retrying", extra={"fields": fields})

    def used_cached(self, error: FetchError) -> None:
        fields = {"reason": error.reason, "message": error.message}
        logger.warning("used_cached", extra={"fields": fields})

    def ready(self, ready: Ready, path: str, *, seconds: float) -> None:
        _log(
            "ready",
            repository=ready.repository,
            commit=ready.commit,
            path=path,
            files=len(ready.files),
            weightsBytes=ready.weights_bytes,
            model=dict(ready.model),
            seconds=round(seconds, 1),
        )

    def deleted(self, repository: str, commit: str, *, size: int, unused: float) -> None:
        _log("deleted", repository=repository, commit=commit, bytes=size, unusedSeconds=round(unused))

    def pruned(self, *, models: int, freed: int, kept: int) -> None:
        _log("pruned", models=models, bytesFreed=freed, kept=kept)

    def failed(self, error: StartupError) -> None:
        fields = {
            "reason": error.reason,
            "message": error.message,
            "remedy": error.remedy,
            "exit_code": int(error.exit_code),
            "transient": isinstance(error, FetchError) and error.transient,
        }
        logger.error("failed", extra={"fields": fields})

    def _is_due(self, at_once: bool) -> bool:
        now = time.monotonic()
        if not at_once and now - self._told_at < self._seconds_between:
            return False
        self._told_at = now
        return True


class Terminal:
    """A bar that is drawn over itself, and sentences."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn_at = float("-inf")
        self._on_bar = False

    def resolved(self, repository: str, commit: str, plan: Plan, *, present: int) -> None:
        there = f", {in_words(present)} are there already" if present else ""
        self._say(f"{repository} at {commit[:12]}: {len(plan.files)} files, {in_words(plan.total_bytes)}{there}")

    def progress(self, snapshot: Snapshot, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._drawn_at < _REDRAW_SECONDS:
            return
        self._drawn_at = now
        self._draw(bar(snapshot, shutil.get_terminal_size().columns - 1))

    def waiting(self, owner: Owner | None) -> None:
        host = owner.process.host if owner else "another process"
        total = f" of {in_words(owner.total)}" if owner and owner.total else ""
        line = f"{host} is downloading: {in_words(owner.done if owner else 0)}{total} so far"
        self._draw(line[: shutil.get_terminal_size().columns - 1])

    def retrying(self, error: FetchError, *, tried: int, seconds: float) -> None:
        failures = f"Failed {tried} times in a row;" if tried > 1 else "Failed;"
        self._say(f"{error.message} {failures} next try in {max(1, round(seconds))} s.")

    def used_cached(self, error: FetchError) -> None:
        self._say(f"{error.message} What was fetched last is used.")

    def ready(self, ready: Ready, path: str, *, seconds: float) -> None:
        self._say(f"Ready: {path} ({in_words(ready.weights_bytes)} of weights, {seconds:.0f} s)")

    def deleted(self, repository: str, commit: str, *, size: int, unused: float) -> None:
        self._say(f"Deleted {repository} at {commit[:12]}: {in_words(size)}, unused for {unused / 86400:.1f} days")

    def pruned(self, *, models: int, freed: int, kept: int) -> None:
        self._say(f"Freed {in_words(freed)}: {models} models deleted, {kept} kept")

    def failed(self, error: StartupError) -> None:
        self._say(f"{error.reason}: {error.message}\n{error.remedy}")

    def _draw(self, line: str) -> None:
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()
        self._on_bar = True

    def _say(self, text: str) -> None:
        self._stream.write("\n" * self._on_bar + text + "\n")
        self._stream.flush()
        self._on_bar = False


def choose_display(stream: TextIO, *, seconds_between: float) -> Display:
    return Terminal(stream) if stream.isatty() else LogLines(seconds_between=seconds_between)


def _log(event: str, **fields: Any) -> None:
    logger.info(event, extra={"fields": fields})
