"""What a person sees while the cluster starts: one line per step with the seconds it took.

Everything goes to stderr, so that commands which print a value (`status --provider`) keep stdout for it.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TICK_SECONDS = 15.0


class Failure(Exception):
    """Something the user has to know or mend; the command prints it and exits 1."""


class Progress:
    """What a long step last knew about itself, printed by its "still working" line."""

    def __init__(self) -> None:
        self.detail = ""


def say(line: str) -> None:
    """Print one line now."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[Progress]:
    """Time the body; say how long it took, and that it still runs every 15 s."""
    progress, started, done = Progress(), time.monotonic(), threading.Event()

    def tick() -> None:
        while not done.wait(TICK_SECONDS):
            detail = f", {progress.detail}" if progress.detail else ""
            say(f"  ... {what}: still working, {time.monotonic() - started:.0f} s{detail}")

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield progress
    except BaseException:
        say(f"  FAILED {what} ({time.monotonic() - started:.1f} s)")
        raise
    finally:
        done.set()
        ticker.join()
    detail = f": {progress.detail}" if progress.detail else ""
    say(f"  ok {what}{detail} ({time.monotonic() - started:.1f} s)")


def wait_until(
    what: str, ready: Callable[[], bool], *, seconds: float, logs: tuple[Path, ...] = (), every: float = 0.25
) -> None:
    """Poll until ready; after the limit fail with the ends of the logs that may say why.

    A Failure while asking means "not yet": a server that starts refuses connections.
    """
    deadline, last = time.monotonic() + seconds, ""
    while True:
        try:
            if ready():
                return
        except Failure as failure:
            last = f" ({failure})"
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not so after {seconds:.0f} s{last}\n{tails(logs)}".rstrip())
        time.sleep(every)


def tails(logs: tuple[Path, ...], *, lines: int = 15) -> str:
    """The last lines of each log, under its path."""
    return "\n".join(f"--- {log}\n{tail(log, lines=lines)}" for log in logs)


def tail(log: Path, *, lines: int = 15) -> str:
    """The last lines of a log, or why there are none."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - 64 * 1024))
            text = stream.read().decode(errors="replace")
    except OSError as error:
        return f"({error.strerror})"
    return "\n".join(line[:400] for line in text.splitlines()[-lines:])
