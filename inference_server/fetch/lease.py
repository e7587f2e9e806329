"""Owning a staging folder: the files behind `ownership`. Called by `fetcher`."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from inference_server.fetch.ownership import (
    RECORD_BYTES,
    Owner,
    Process,
    Watch,
    beaten,
    decode,
    generations,
    owner_name,
    shares_processes,
)

_LONGEST_PAUSE_SECONDS = 5.0


class OwnershipLost(Exception):
    """Another process has taken the folder over, because this one was silent for too long."""


class Lease:
    """The folder is this process's own from construction until `release`, as long as `beat` is called."""

    def __init__(self, folder: Path, generation: int, file: int, owner: Owner, *, timeout: float) -> None:
        self.folder = folder
        self._generation = generation
        self._file = file
        self._owner = owner
        self._pause = min(timeout / 6, _LONGEST_PAUSE_SECONDS)
        # A worker that has not heard a beat for this long stops, before anybody may take the folder over.
        self.fence_seconds = timeout * 0.6
        self._beaten_at = time.monotonic()
        self._is_open = True

    def beat(self, *, done: int, total: int) -> bool:
        """Show life, if it is time to: True when a beat was due. Raises OwnershipLost."""
        now = time.monotonic()
        if now - self._beaten_at < self._pause:
            return False
        self.tell(done=done, total=total)
        return True

    def tell(self, *, done: int, total: int) -> None:
        """A beat that is not waited for: others reckon with what is still to come. Raises OwnershipLost."""
        self.confirm()
        self._owner = beaten(self._owner, done=done, total=total)
        _write(self._file, self._owner)
        self._beaten_at = time.monotonic()

    def confirm(self) -> None:
        """Raise OwnershipLost unless the folder is still this process's."""
        if _generations(self.folder)[-1:] != [self._generation]:
            raise OwnershipLost

    def now_on_the_volume(self) -> float:
        """The volume's own clock, to compare with times of its files."""
        os.utime(self._file)
        return os.fstat(self._file).st_mtime

    def release(self) -> None:
        """Let the next one in at once. What is in the folder stays."""
        if not self._is_open:
            return
        with contextlib.suppress(OSError):
            released = Owner(self._owner.process, self._owner.beat + 1, released=True)
            _write(self._file, released)
        self.close()

    def close(self) -> None:
        """For a folder that is out of its place: where a file is open, NFS keeps it, and with it the folder."""
        if self._is_open:
            self._is_open = False
            os.close(self._file)


def acquire(
    folder: Path, *, timeout: float, finished: Callable[[], bool], waiting: Callable[[Owner | None], None]
) -> Lease | None:
    """Wait until the folder is this process's own, or until `finished`, which makes it None.

    `waiting` is called again and again meanwhile, with what the owner tells. Dead owners are not waited for.
    """
    watch = Watch(timeout)
    here = this_process()
    pause = min(0.5, timeout / 10)
    while not finished():
        _make(folder)
        highest = (_generations(folder) or [0])[-1]
        owner = _read(folder / owner_name(highest)) if highest else None
        running = _is_known_to_run(owner, here)
        if not highest or watch.is_dead(highest, owner, running=running, now=time.monotonic()):
            if lease := _create(folder, highest + 1, here, timeout=timeout):
                return lease
        else:
            waiting(owner)
        time.sleep(pause)
    return None


def acquire_at_once(folder: Path, *, timeout: float, dead_if_silent: bool = False) -> Lease | None:
    """The folder, if nobody owns it any more; None where somebody may be at work there.

    `dead_if_silent`: the caller knows that nobody has beaten there for long.
    """
    here = this_process()
    _make(folder)
    highest = (_generations(folder) or [0])[-1]
    owner = _read(folder / owner_name(highest)) if highest else None
    ended = owner is not None and (owner.released or _is_known_to_run(owner, here) is False)
    if highest and not ended and not dead_if_silent:
        return None
    return _create(folder, highest + 1, here, timeout=timeout, volume_may_be_full=True)


def has_owner(folder: Path) -> bool:
    """Whether anybody ever owned the folder."""
    return bool(_generations(folder))


def last_sign_of_life(folder: Path) -> float:
    """When an owner of the folder last beat, by the volume's clock."""
    times = [folder.stat().st_mtime]
    for generation in _generations(folder):
        with contextlib.suppress(FileNotFoundError):
            times.append((folder / owner_name(generation)).stat().st_mtime)
    return max(times)


def live_owner(folder: Path, *, now: float, timeout: float) -> Owner | None:
    """Who works in the folder, as far as can be seen. `now`: by the volume's clock."""
    highest = (_generations(folder) or [0])[-1]
    path = folder / owner_name(highest)
    owner = _read(path) if highest else None
    if owner is None or owner.released or _is_known_to_run(owner, this_process()) is False:
        return None
    try:
        return owner if now - path.stat().st_mtime <= timeout else None
    except FileNotFoundError:
        return None


def this_process() -> Process:
    pid = os.getpid()
    return Process(
        host=socket.gethostname()[:64],
        boot=_first_line("/proc/sys/kernel/random/boot_id"),
        namespace=_link("/proc/self/ns/pid"),
        pid=pid,
        started=_started(pid),
    )


def _create(
    folder: Path, generation: int, here: Process, *, timeout: float, volume_may_be_full: bool = False
) -> Lease | None:
    """None when another one was faster."""
    path = folder / owner_name(generation)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except (FileExistsError, FileNotFoundError):
        return None
    owner = Owner(here, beat=1)
    try:
        _write(file, owner)
    except OSError as error:
        # Without a word in it, it keeps others waiting all the same.
        if not volume_may_be_full or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            os.close(file)
            path.unlink(missing_ok=True)
            raise
    present = _generations(folder)
    if present[-1:] != [generation]:
        # Seen too late: while this process looked at an old owner, others came and went.
        os.close(file)
        path.unlink(missing_ok=True)
        return None
    for older in present[:-1]:
        (folder / owner_name(older)).unlink(missing_ok=True)
    return Lease(folder, generation, file, owner, timeout=timeout)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        # What lies behind it is not ours.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))


def _generations(folder: Path) -> list[int]:
    try:
        return generations(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []


def _write(file: int, owner: Owner) -> None:
    os.pwrite(file, owner.encode(), 0)
    # An NFS client would keep it to itself for half a minute.
    os.fdatasync(file)


def _read(path: Path) -> Owner | None:
    # Opened anew each time: NFS asks its server at each opening, not at each look.
    try:
        with path.open("rb", buffering=0) as file:
            return decode(file.read(RECORD_BYTES) or b"")
    except FileNotFoundError:
        return None


def _is_known_to_run(owner: Owner | None, here: Process) -> bool | None:
    """None where this machine cannot know."""
    return _is_running(owner.process) if owner and shares_processes(owner.process, here) else None


def _is_running(process: Process) -> bool:
    return _started(process.pid) == process.started != ""


def _started(pid: int) -> str:
    """When the process started, in ticks since boot; "" when there is none, or it is only waiting to be reaped."""
    fields = _first_line(f"/proc/{pid}/stat").rpartition(") ")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().partition("\n")[0]
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
