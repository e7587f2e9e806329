"""How much memory was used last, kept where Kubernetes finds it: a process that is killed for using too much cannot
say so.

The note stands in the termination log while the process runs, from its first moment: importing alone can be too much.
An orderly end replaces it, by nothing or by `failure`'s record. Started by __main__, stopped by it or by `serve`.
"""

import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

# What the limit of a container is held against: version 2 of control groups, version 1. Then: only this process.
_USAGE_FILES = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))
_STATUS_FILE = Path("/proc/self/status")
# Quickly at first, because a start is short; a look costs 30 microseconds.
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_GROWTH_WORTH_TELLING = 1.05
# All notes have one length, so that one write replaces the other whole, whenever the process is killed.
_NOTE_BYTES = 112


def memory_bytes(usage_files: Sequence[Path] = _USAGE_FILES, status_file: Path = _STATUS_FILE) -> int | None:
    """Memory used by the container, page cache included; else by this process; None where nobody tells."""
    for file in usage_files:
        try:
            return int(file.read_text())
        except (OSError, ValueError):
            continue
    try:
        resident = re.search(r"^VmRSS:\s*(\d+) kB", status_file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if resident is None else int(resident[1]) * 1024


class OomNote:
    """{"memoryBytes", "phase" (`loading` or `serving`), "at"} in a file that exists already; nothing elsewhere."""

    def __init__(self, path: str, *, measure: Callable[[], int | None] = memory_bytes) -> None:
        self.is_serving: Callable[[], bool] = lambda: False
        self._path = path
        self._measure = measure
        self._written = (0, "")
        self._file: int | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="memory-note", daemon=True)

    def start(self) -> None:
        """Write the note, and go on in the background."""
        try:
            # No O_CREAT: outside a container there is no such file, and making one would litter the machine.
            self._file = os.open(self._path, os.O_WRONLY | os.O_TRUNC)
        except OSError:
            return
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Take the note away. The second time nothing happens: somebody else may have written meanwhile."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._file is not None:
            # Not every file can be cut, and what is in it is no reason to fail.
            with suppress(OSError):
                os.truncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def look(self) -> None:
        """Write the note anew if the use has grown, or the phase is another."""
        phase, used = "serving" if self.is_serving() else "loading", self._measure()
        if self._file is None or used is None:
            return
        if phase == self._written[1] and used < self._written[0] * _GROWTH_WORTH_TELLING:
            return
        note = {"memoryBytes": used, "phase": phase, "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        with suppress(OSError):
            os.pwrite(self._file, json.dumps(note).encode().ljust(_NOTE_BYTES), 0)
        self._written = (used, phase)

    def _keep(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopped.wait(pause):
            self.look()
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
