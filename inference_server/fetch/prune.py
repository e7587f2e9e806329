"""Deletes models that nobody is said to need. Called by `command`.

    look at the age → own the staging folder of the commit → move the model into it → look again → delete, or put back

Fetches are safe from it by two things. While a model is out of its place, its staging folder has an owner, so a fetch
waits. And a fetch that found the model a moment before has marked it first: the second look sees the mark. Killed at
any moment it leaves each model whole in its place, or not there; the next prune puts back what was in between.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from inference_server.fetch.display import Display
from inference_server.fetch.failures import storage_error
from inference_server.fetch.layout import READY_FILE, STAGING_PREFIX, ModelFolder, is_commit, is_staging
from inference_server.fetch.lease import Lease, OwnershipLost, acquire_at_once, last_sign_of_life
from inference_server.fetch.ready import parse_ready
from inference_server.fetch.settings import PruneOrder
from inference_server.fetch.staging import discard_staging, is_folder, repositories, sweep_trash, volume_clock

# The model, inside of the staging folder, while it is decided.
ASIDE = "pruned"
# Nobody decides for so long: who does is dead.
_SILENT_SECONDS = 300.0
_OWNER_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """What is gone, as paths below the cache, how many bytes that were, and how many models are still there."""

    deleted: tuple[str, ...]
    freed: int
    kept: int


@dataclass(frozen=True, slots=True)
class _Model:
    folder: ModelFolder
    commit: str
    used_at: float

    @property
    def path(self) -> Path:
        return self.folder.commit(self.commit)

    @property
    def name(self) -> str:
        return f"{self.folder.path.name}/{self.commit}"


def prune(order: PruneOrder, display: Display) -> Pruned:
    """Delete what is not to be kept and was not used within the grace period. Raises FetchError."""
    work = _Prune(order, display)
    try:
        for repository in repositories(order.cache_dir):
            work.prune(repository)
    except OSError as error:
        raise storage_error(error.errno or errno.EIO, error.filename or str(order.cache_dir)) from error
    display.pruned(models=len(work.deleted), freed=work.freed, kept=work.kept)
    if work.failures:
        # One that cannot be deleted does not keep the others; then it is told.
        first = work.failures[0]
        raise storage_error(first.errno or errno.EIO, first.filename or str(order.cache_dir)) from first
    return Pruned(tuple(work.deleted), work.freed, work.kept)


class _Prune:
    def __init__(self, order: PruneOrder, display: Display) -> None:
        self._order = order
        self._display = display
        self.deleted: list[str] = []
        self.freed = 0
        self.kept = 0
        self.failures: list[OSError] = []

    def prune(self, repository: Path) -> None:
        try:
            sweep_trash(repository)
            now = volume_clock(repository)
            _undo(repository, now)
            models = _models(repository)
        except OSError as error:
            self.failures.append(error)
            return
        for model in models:
            self._prune_model(model, now)

    def _prune_model(self, model: _Model, now: float) -> None:
        try:
            bytes_gone = _delete(model, now) if _is_unused(model, self._order, now) else None
        except OSError as error:
            self.failures.append(error)
            bytes_gone = None
        if bytes_gone is None:
            self.kept += 1
            return
        self.deleted.append(model.name)
        self.freed += bytes_gone
        self._display.deleted(model.folder.repository, model.commit, size=bytes_gone, unused=now - model.used_at)


def _is_unused(model: _Model, order: PruneOrder, now: float) -> bool:
    return model.name not in order.keep and now - model.used_at > order.grace_seconds


def _models(repository: Path) -> list[_Model]:
    """Folders of commits whose READY.json is theirs: anything else is not ours to delete."""
    found = []
    for path in sorted(repository.iterdir()):
        if not is_commit(path.name) or not is_folder(path) or (path / READY_FILE).is_symlink():
            continue
        try:
            ready, used_at = parse_ready((path / READY_FILE).read_text()), _used_at(path)
        except (OSError, ValueError):
            continue
        folder = ModelFolder(repository.parent, ready.repository)
        if folder.path == repository and ready.commit == path.name:
            found.append(_Model(folder, ready.commit, used_at))
    return found


def _owned(staging: Path, now: float) -> Lease | None:
    """None where somebody may be at work there. `now`: by the volume's clock."""
    try:
        silent = now - last_sign_of_life(staging) > _SILENT_SECONDS
    except FileNotFoundError:
        silent = False
    return acquire_at_once(staging, timeout=_OWNER_TIMEOUT_SECONDS, dead_if_silent=silent)


def _delete(model: _Model, now: float) -> int | None:
    """The bytes that are gone; None where somebody uses the model after all."""
    lease = _owned(model.folder.staging(model.commit), now)
    if lease is None:
        return None
    try:
        aside = lease.folder / ASIDE
        gone = _take_away(model, aside, lease)
        size = _size(aside) if gone else 0
        lease.confirm()
        if not discard_staging(lease):
            raise OSError(errno.EACCES, "not everything can be deleted", str(model.path))
        return size if gone else None
    except OwnershipLost:
        return None
    finally:
        lease.release()


def _take_away(model: _Model, aside: Path, lease: Lease) -> bool:
    """Whether the model is out of its place; one that was marked as used meanwhile is put back."""
    lease.confirm()
    model.path.rename(aside)
    if _used_at(aside) == model.used_at:
        return True
    _put_back(aside, model.path)
    return False


def _undo(repository: Path, now: float) -> None:
    """Put back what a prune that was killed had moved aside: it is decided anew."""
    for staging in repository.iterdir():
        aside = staging / ASIDE
        if not is_staging(staging.name) or not is_folder(staging) or not is_folder(aside):
            continue
        lease = _owned(staging, now)
        if lease is None:
            continue
        try:
            _put_back(aside, repository / staging.name.removeprefix(STAGING_PREFIX))
            discard_staging(lease)
        finally:
            lease.release()


def _put_back(aside: Path, place: Path) -> None:
    """Where it was fetched anew meanwhile, that one stays."""
    try:
        aside.rename(place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _used_at(path: Path) -> float:
    """When the model was used last. Opened, as NFS asks its server at each opening, not at each look."""
    with (path / READY_FILE).open("rb") as file:
        return os.fstat(file.fileno()).st_mtime


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
