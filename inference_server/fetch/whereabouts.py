"""What the worker waits for just now: `worker` tells it when nothing has come for long, and the right one is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

HOST = "host"
VOLUME = "volume"


@dataclass
class Whereabouts:
    """`waits_for`: HOST, VOLUME, or "" between two requests. `host`: its name, where that is not the Hub."""

    waits_for: str = ""
    host: str = ""

    @contextmanager
    def at(self, waits_for: str, host: str = "") -> Iterator[None]:
        before = self.waits_for, self.host
        self.waits_for, self.host = waits_for, host
        try:
            yield
        finally:
            self.waits_for, self.host = before


# A worker does one thing at a time.
HERE = Whereabouts()
