"""The files of a download: what is there already, room for the rest, publishing, sweeping. Called by `fetcher`."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from inference_server.fetch.layout import READY_FILE, STAGING_PREFIX, TRASH_PREFIX, ModelFolder, is_repository
from inference_server.fetch.lease import last_sign_of_life
from inference_server.fetch.ready import Ready, damage, dump_ready, parse_ready

# Folders, owners' files and READY.json.
_SPARE_BYTES = 4 * 1024 * 1024


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
    """The model, if the folder of the commit holds a whole one. Looks at names and sizes, not at contents."""
    path = folder.commit(commit)
    try:
        ready = parse_ready((path / READY_FILE).read_text())
        sizes = {name: (path / name).stat().st_size for name in ready.files if (path / name).is_file()}
    except (OSError, ValueError):
        return None
    return ready if damage(ready, repository=folder.repository, commit=commit, sizes=sizes) is None else None


def take(folder: ModelFolder, commit: str) -> Ready | None:
    """`read_ready` for who is going to use the model: its READY.json tells when that was last.

    First the mark, then the look. `prune` first takes the folder away and then looks for the mark.
    """
    # On a volume that is read-only for this process others may not see it as used.
    with contextlib.suppress(OSError):
        os.utime(folder.commit(commit) / READY_FILE)
    return read_ready(folder, commit)


def read_reference(folder: ModelFolder, revision: str) -> str | None:
    """The commit that this branch or tag meant when it was fetched last."""
    try:
        return folder.reference(revision).read_text().strip()
    except OSError:
        return None


def write_reference(folder: ModelFolder, revision: str, commit: str) -> None:
    """A convenience for times without network; without it the model is as whole, so a failure is none."""
    if read_reference(folder, revision) == commit:
        return
    path = folder.reference(revision)
    with contextlib.suppress(OSError):
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
    _sync(staging.files)
    staging.files.rename(target)
    _sync(folder.path)
    _write_whole(target / READY_FILE, dump_ready(ready))


def discard(folder: ModelFolder, path: Path) -> bool:
    """Take it away at once by renaming it, then delete it; whether nothing is left."""
    trash = folder.trash(uuid.uuid4().hex[:12])
    with contextlib.suppress(FileNotFoundError):
        path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
    return not trash.exists()


def repositories(cache_dir: Path) -> list[Path]:
    """The folders of repositories; a link may lead out of the cache."""
    return [path for path in sorted(cache_dir.iterdir()) if is_repository(path.name) and is_folder(path)]


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def volume_clock(folder: Path) -> float:
    """The volume's own time, to compare with times of its files."""
    # Trash from the beginning: if this process is killed here, the next sweep takes it.
    path = folder / f"{TRASH_PREFIX}{uuid.uuid4().hex[:12]}"
    with path.open("x") as file:
        now = os.fstat(file.fileno()).st_mtime
    path.unlink(missing_ok=True)
    return now


def sweep_trash(repository: Path) -> None:
    """Delete what was on its way out when somebody died. What cannot be deleted is left."""
    for path in repository.glob(f"{TRASH_PREFIX}*"):
        if is_folder(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def sweep(cache_dir: Path, keep: Path, *, now: float, older_than: float) -> None:
    """Delete downloads that nobody has worked on for `older_than` seconds, in all repositories, but for `keep`.

    `now` is the volume's clock. What cannot be deleted is left: another one may be deleting it.
    """
    for path in cache_dir.glob(f"*/{TRASH_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in cache_dir.glob(f"*/{STAGING_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path != keep and now - last_sign_of_life(path) > older_than:
                trash = path.with_name(f"{TRASH_PREFIX}{uuid.uuid4().hex[:12]}")
                path.rename(trash)
                shutil.rmtree(trash, ignore_errors=True)


def _write_whole(path: Path, text: str) -> None:
    """The file has the whole text or is not there, also after a loss of power."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
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
