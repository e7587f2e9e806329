"""What a person sees while images are built: every step that takes time, with its seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class ImageError(Exception):
    """Something that the person at the keyboard can mend; the message says what."""


def say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a step, and say afterwards how long it took."""
    say(f"{what} ...")
    started = time.monotonic()
    yield
    say(f"  {time.monotonic() - started:.1f} s")
