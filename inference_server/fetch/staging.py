"""The files of a download: what is there already, room for the rest, publishing, sweeping. Called by `fetcher`."""

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path

from inference_server.fetch.layout import (
    READY_FILE,
    TRASH_PREFIX,
    ModelFolder,
    is_repository,
    is_staging,
    is_trash,
)
from inference_server.fetch.lease import Lease, has_owner, last_sign_of_life, live_owner
from inference_server.fetch.ownership import Owner
from inference_server.fetch.ready import Ready, damage, dump_ready, parse_ready

# Folders, owners' files and READY.json.
_SPARE_BYTES = 4 * 1024 * 1024
# NFS gives this name to a file that is deleted while somebody has it open, and deletes it when it is closed.
_DELETED_BUT_OPEN = ".nfs"


class Staging:
    """`.staging-<commit>`: `files/` holds what was checked, `parts/` what is on its way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = path / "files"
        self.parts = path / "parts"

    def prepare(self) -> None:
        self.files.mkdir(exist_ok=True)
        self.parts.mkdir(exist_ok=True)

    def missing_bytes(self, sizes: Iterable[tuple[str, int]]) -> int:
        """Bytes that still have to be written for these files."""
        return sum(size - min(size, self.present_bytes(name)) for name, size in sizes)

    def present_bytes(self, name: str) -> int:
        return _size(self.files / name) or _size(self.parts / name)


def read_ready(folder: ModelFolder, commit: str) -> Ready | None:
    """The model, if the folder of the commit holds a whole one. Looks at names and sizes, not at contents.

    Raises OSError where the volume does not tell: what cannot be read is not what is not there.
    """
    found = look(folder, commit)
    return found if isinstance(found, Ready) else None


def look(folder: ModelFolder, commit: str) -> Ready | str:
    """As `read_ready`; where the model is not whole, what is wrong with it."""
    path = folder.commit(commit)
    try:
        ready = parse_ready((path / READY_FILE).read_text())
    except FileNotFoundError:
        return f"{READY_FILE} is missing"
    except ValueError:
        return f"{READY_FILE} cannot be understood"
    return damage(ready, repository=folder.repository, commit=commit, sizes=file_sizes(path, ready)) or ready


def file_sizes(path: Path, ready: Ready) -> dict[str, int]:
    """The bytes of each of the model's files that is there."""
    sizes = {}
    for name in ready.files:
        with contextlib.suppress(FileNotFoundError):
            found = (path / name).stat()
            if stat.S_ISREG(found.st_mode):
                sizes[name] = found.st_size
    return sizes


def take(folder: ModelFolder, commit: str) -> Ready | None:
    """`read_ready` for who is going to use the model: its READY.json tells when that was last.

    First the mark, then the look. `prune` first takes the folder away and then looks for the mark.
    """
    # On a volume that is read-only for this process others may not see it as used.
    with contextlib.suppress(OSError):
        os.utime(folder.commit(commit) / READY_FILE)
    return read_ready(folder, commit)


def read_reference(folder: ModelFolder, revision: str) -> str | None:
    """The commit that this branch or tag meant when it was fetched last. Raises OSError as `read_ready` does."""
    try:
        return folder.reference(revision).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None


def write_reference(folder: ModelFolder, revision: str, commit: str) -> None:
    """A convenience for times without network; without it the model is as whole, so a failure is none."""
    path = folder.reference(revision)
    with contextlib.suppress(OSError):
        if read_reference(folder, revision) == commit:
            return
        path.parent.mkdir(exist_ok=True)
        _write_whole(path, commit + "\n")


def free_bytes(path: Path) -> int | None:
    """What this user may still write, or None where the file system does not say."""
    status = os.statvfs(path)
    if not status.f_blocks:
        return None
    return max(0, status.f_bavail * status.f_frsize - _SPARE_BYTES)


def publish(staging: Staging, folder: ModelFolder, ready: Ready) -> None:
    """Make the checked files the model. Fails where a folder of the commit is there already.

    READY.json comes last, as some network file systems rename a folder file by file.
    """
    target = folder.commit(ready.commit)
    sync(staging.files)
    staging.files.rename(target)
    sync(folder.path)
    _write_whole(target / READY_FILE, dump_ready(ready))


def discard(path: Path) -> bool:
    """Take it away at once by renaming it, then delete it; whether nothing is left but what somebody has open."""
    trash = _new_trash(path.parent)
    with contextlib.suppress(FileNotFoundError):
        path.rename(trash)
    return _delete(trash)


def discard_staging(lease: Lease) -> bool:
    """`discard` for the folder that this process owns, which is nobody's afterwards."""
    trash = _new_trash(lease.folder.parent)
    with contextlib.suppress(FileNotFoundError):
        lease.folder.rename(trash)
    lease.close()
    return _delete(trash)


def _new_trash(repository: Path) -> Path:
    return repository / f"{TRASH_PREFIX}{uuid.uuid4().hex[:12]}"


def _delete(trash: Path) -> bool:
    shutil.rmtree(trash, ignore_errors=True)
    left = [name for _, _, names in os.walk(trash) for name in names]
    return not trash.exists() or (bool(left) and all(name.startswith(_DELETED_BUT_OPEN) for name in left))


def repositories(cache_dir: Path) -> list[Path]:
    """The folders of repositories; a link may lead out of the cache."""
    return [path for path in sorted(cache_dir.iterdir()) if is_repository(path.name) and is_folder(path)]


def is_folder(path: Path) -> bool:
    """Not for a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def volume_clock(folder: Path) -> float:
    """The volume's own time, to compare with times of its files."""
    # Trash from the beginning: if this process is killed here, the next sweep takes it.
    path = _new_trash(folder)
    with path.open("x") as file:
        now = os.fstat(file.fileno()).st_mtime
    path.unlink(missing_ok=True)
    return now


def sweep_trash(repository: Path) -> None:
    """Delete what was on its way out when somebody died. What cannot be deleted is left."""
    for path in repository.iterdir():
        if not is_trash(path.name):
            continue
        if is_folder(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def sweep(cache_dir: Path, keep: Path, *, now: float, older_than: float) -> None:
    """Delete downloads that nobody has worked on for `older_than` seconds, in all repositories, but for `keep`.

    `now` is the volume's clock. What cannot be deleted is left: another one may be deleting it.
    """
    for repository in repositories(cache_dir):
        with contextlib.suppress(OSError):
            sweep_trash(repository)
    for path in _stagings(cache_dir):
        with contextlib.suppress(OSError):
            if path != keep and now - last_sign_of_life(path) > older_than:
                discard(path)


def others_at_work(cache_dir: Path, keep: Path, *, now: float, timeout: float) -> list[Owner]:
    """Who else is downloading onto this volume. `now` is the volume's clock."""
    owners = (live_owner(path, now=now, timeout=timeout) for path in _stagings(cache_dir) if path != keep)
    return [owner for owner in owners if owner is not None]


def _stagings(cache_dir: Path) -> list[Path]:
    """The folders of downloads: ours by their name, their place, and the owner's file in them."""
    found = []
    for repository in repositories(cache_dir):
        # One that may not be read is somebody else's.
        with contextlib.suppress(OSError):
            found += [
                path for path in repository.iterdir() if is_staging(path.name) and is_folder(path) and has_owner(path)
            ]
    return found


def _write_whole(path: Path, text: str) -> None:
    """The file has the whole text or is not there, also after a loss of power."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Have the names in it written out."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Not every file system can do this for a folder.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
