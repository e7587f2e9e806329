"""A volume that does what network and foreign file systems do, mounted with FUSE: `python -m tests.unit.fetch.volume`.

It shows a folder of the machine, with the manners that it is told to have. For tests that no tmpfs can do.
"""

import contextlib
import ctypes.util
import errno
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Fault:
    """The next `times` calls of this name for a path that ends like this fail with the errno, or lose the file."""

    call: str
    path: str
    error: str = ""
    times: int = 1_000_000
    lost: bool = False
    seconds: float = 0


@dataclass(frozen=True)
class Manners:
    """`silly_rename`: what is deleted while it is open stays as `.nfs…` until it is closed, as NFS clients do it.

    `ignores_case`: as SMB, vfat and macOS do.
    """

    silly_rename: bool = False
    ignores_case: bool = False
    faults: tuple[Fault, ...] = field(default=())


@contextlib.contextmanager
def mounted(backing: Path, place: Path, manners: Manners) -> Iterator[Path]:
    """Skips the test where FUSE is not to be had."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid():
        pytest.skip("only root can mount with FUSE here, and only where there is a /dev/fuse")
    if not (ctypes.util.find_library("fuse") or ctypes.util.find_library("fuse3")):
        pytest.skip("libfuse is not installed (apt-get install libfuse2)")
    backing.mkdir(exist_ok=True)
    place.mkdir()
    command = [sys.executable, "-m", __name__, str(backing), str(place), json.dumps(asdict(manners))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], text=True, **pipes) as process:
        try:
            end = time.monotonic() + PATIENCE_SECONDS
            while not place.is_mount():
                if process.poll() is not None or time.monotonic() > end:
                    process.kill()
                    assert process.stderr is not None
                    said = process.stderr.read()
                    assert "fuse: " in said, said
                    pytest.skip(f"this machine does not let a container mount: {said[:300]}")
                time.sleep(0.02)
            yield place
        finally:
            process.terminate()
            process.wait()
            _unmount(place)


def _unmount(place: Path | str) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)


def _end_with_parent(place: str) -> None:
    """A test that is killed leaves no volume behind."""
    sys.stdin.read()
    _unmount(place)
    os._exit(0)


def _serve(backing: str, place: str, manners: dict[str, Any]) -> None:
    # Not above: it wants libfuse when it is imported.
    import mfusepy

    threading.Thread(target=_end_with_parent, args=(place,), daemon=True).start()

    faults = [Fault(**fault) for fault in manners["faults"]]
    left = [fault.times for fault in faults]

    class Volume(mfusepy.Operations):
        use_ns = True

        def __init__(self) -> None:
            self._open: dict[int, int] = {}
            self._deleted: dict[int, tuple[int, str]] = {}

        def _real(self, path: str) -> str:
            found = backing
            for name in path.strip("/").split("/"):
                if manners["ignores_case"] and name and not os.path.lexists(f"{found}/{name}"):
                    with contextlib.suppress(OSError):
                        name = next((one for one in os.listdir(found) if one.casefold() == name.casefold()), name)
                found = f"{found}/{name}" if name else found
            return found

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            status = os.lstat(self._real(path))
            names = ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size")
            times = {f"st_{kind}time": getattr(status, f"st_{kind}time_ns") for kind in "amc"}
            return {**{name: getattr(status, name) for name in names}, **times}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(self._real(path))]

        def readlink(self, path: str) -> str:
            return os.readlink(self._real(path))

        def mkdir(self, path: str, mode: int) -> None:
            os.mkdir(self._real(path), mode)

        def rmdir(self, path: str) -> None:
            os.rmdir(self._real(path))

        def unlink(self, path: str) -> None:
            real = self._real(path)
            if not self._kept_while_open(real):
                os.unlink(real)

        def rename(self, old: str, new: str) -> None:
            if os.path.isfile(self._real(new)):
                self._kept_while_open(self._real(new))
            os.rename(self._real(old), self._real(new))

        def _kept_while_open(self, real: str) -> bool:
            inode = os.lstat(real).st_ino
            if not manners["silly_rename"] or not self._open.get(inode) or inode in self._deleted:
                return False
            folder = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY)
            name = f".nfs{inode:024x}"
            os.rename(real, f"{os.path.dirname(real)}/{name}")
            self._deleted[inode] = (folder, name)
            return True

        def open(self, path: str, flags: int) -> int:
            return self._opened(os.open(self._real(path), flags & ~os.O_CREAT))

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            return self._opened(os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))

        def _opened(self, descriptor: int) -> int:
            inode = os.fstat(descriptor).st_ino
            self._open[inode] = self._open.get(inode, 0) + 1
            return descriptor

        def release(self, path: str, fh: int) -> None:
            inode = os.fstat(fh).st_ino
            os.close(fh)
            self._open[inode] -= 1
            if not self._open[inode] and inode in self._deleted:
                folder, name = self._deleted.pop(inode)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                os.close(folder)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            return os.pwrite(fh, data, offset)

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            os.truncate(self._real(path) if fh is None else fh, length)

        def flush(self, path: str, fh: int) -> None:
            pass

        def fsync(self, path: str, datasync: int, fh: int) -> None:
            pass

        def chmod(self, path: str, mode: int) -> None:
            os.chmod(self._real(path), mode)

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
            os.utime(self._real(path), ns=times)

        def statfs(self, path: str) -> dict[str, int]:
            status = os.statvfs(backing)
            return {name: getattr(status, name) for name in ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_frsize")}

    def unreliable(call: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def answer(volume: Volume, path: str, *rest: Any) -> Any:
            for index, fault in enumerate(faults):
                if fault.call == call and left[index] and any(str(word).endswith(fault.path) for word in (path, *rest)):
                    left[index] -= 1
                    time.sleep(fault.seconds)
                    if fault.error:
                        raise OSError(getattr(errno, fault.error), fault.error)
                    if fault.lost:
                        return os.unlink(volume._real(path))
            return method(volume, path, *rest)

        return answer

    for call in {fault.call for fault in faults}:
        setattr(Volume, call, unreliable(call, getattr(Volume, call)))
    # One after the other, so that a file is closed before what comes next; but what is slow holds up only itself.
    slow = any(fault.seconds for fault in faults)
    nothing_kept = {"attr_timeout": 0, "entry_timeout": 0}
    # Or libfuse does its own kind of silly rename.
    mfusepy.FUSE(Volume(), place, foreground=True, nothreads=not slow, hard_remove=True, **nothing_kept)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
