"""Who owns a staging folder, and when that owner counts as dead. Used by `lease`, which reads and writes the files.

No lock of the file system is relied on: flock does nothing on some NFS. An owner's file is one of a row, owner-1,
owner-2, …: the highest number owns the folder. A number is created exclusively, so of all that take over from a dead
owner one succeeds; and an owner that was only asleep sees the higher number and stops. Clocks of two machines are
never compared: a beat is a number that must change within the watcher's own time.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

_NAME = re.compile(r"owner-(\d+)")
# All records have one length, so that one write replaces the other whole.
RECORD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Process:
    """Where a process runs. `started` tells it from a later one with the same number; "" where nobody tells."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: str


@dataclass(frozen=True, slots=True)
class Owner:
    """One owner's file. `beat` grows while it lives; `done` and `total` bytes tell those who wait how far it is."""

    process: Process
    beat: int
    done: int = 0
    total: int = 0
    released: bool = False

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode().ljust(RECORD_BYTES)


def decode(record: bytes) -> Owner | None:
    """None while the owner is still writing it."""
    try:
        document = json.loads(record)
        return Owner(**{**document, "process": Process(**document["process"])})
    except (ValueError, TypeError, KeyError):
        return None


def beaten(owner: Owner, *, done: int, total: int) -> Owner:
    return replace(owner, beat=owner.beat + 1, done=done, total=total)


def owner_name(generation: int) -> str:
    return f"owner-{generation}"


def generations(names: Iterable[str]) -> list[int]:
    """The numbers of the owners' files among the names, lowest first."""
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def shares_processes(owner: Process, here: Process) -> bool:
    """True when this process can look the owner up among those it sees."""
    return bool(owner.boot and owner.namespace) and (owner.boot, owner.namespace) == (here.boot, here.namespace)


class Watch:
    """Looks at owners again and again; `timeout`: seconds without a new beat after which one is dead."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._seen: tuple[int, int | None] | None = None
        self._since = 0.0

    def is_dead(self, generation: int, owner: Owner | None, *, running: bool | None, now: float) -> bool:
        """`running`: whether the owner's process exists, None where this machine cannot know."""
        beat = (generation, owner.beat if owner else None)
        if beat != self._seen:
            self._seen, self._since = beat, now
        if owner is not None and (owner.released or running is False):
            return True
        return now - self._since > self._timeout
