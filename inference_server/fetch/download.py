"""Downloads the files of one commit into a staging folder that is owned. Called by `fetcher`."""

import errno
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference_server.fetch.failures import FetchError, FetchReason, no_space, no_space_yet, not_kept, not_supported
from inference_server.fetch.layout import READY_FILE, ModelFolder
from inference_server.fetch.lease import Lease
from inference_server.fetch.plan import CONFIG_FILE, ModelFacts, Plan, RemoteFile, check_model, twins
from inference_server.fetch.progress import Meter
from inference_server.fetch.ready import Ready, ReadyFile
from inference_server.fetch.retrying_client import RetryingClient, wait
from inference_server.fetch.staging import Staging, discard, free_bytes, is_folder, others_at_work, sweep, sync

# Long enough for a Job's own back-off; what is younger is continued, not deleted.
_ABANDONED_SECONDS = 24 * 3600.0
# When there is no room, a download that nobody works on is worth less than this one.
_ABANDONED_SECONDS_WITHOUT_ROOM = 300.0
# Two that ask for room at the same time see each other, and both step back.
_ROOM_TRIES = 5
_ROOM_SECONDS = 1.0


class Download:
    """One use: `salvage`, `make_room`, `run`. All three raise FetchError and OwnershipLost."""

    def __init__(
        self,
        client: RetryingClient,
        folder: ModelFolder,
        lease: Lease,
        commit: str,
        plan: Plan,
        *,
        owner_timeout: float,
    ) -> None:
        self._client = client
        self._folder = folder
        self._lease = lease
        self._commit = commit
        self._plan = plan
        self._owner_timeout = owner_timeout
        self.staging = Staging(lease.folder)
        self.staging.prepare()
        self._meter = Meter(plan.total_bytes)
        self._finished_bytes = 0
        self._file = ""

    def salvage(self) -> None:
        """Take over what a folder without READY.json holds, as far as it is what the Hub lists; delete the rest.

        It is what an older version, another tool, or a publication that was cut short has left.
        """
        abandoned = self._folder.commit(self._commit)
        if not os.path.lexists(abandoned):
            return
        if not is_folder(abandoned):
            # Whose files a link names, and why, nobody here knows.
            raise OSError(errno.ELOOP, "not a folder", str(abandoned))
        # First: where this ends too early, what is left must not look like a whole model.
        (abandoned / READY_FILE).unlink(missing_ok=True)
        sync(abandoned)
        for file in self._plan.files:
            found, wanted = abandoned / file.path, self.staging.files / file.path
            if wanted.exists() or not _is_plain_file(found, file.size):
                continue
            if self._ask({"do": "check", "path": str(found)}, file) is not None:
                found.rename(wanted)
        discard(abandoned)

    def make_room(self) -> None:
        """Delete what nobody works on, and raise FetchError where even then there is no room."""
        self._sweep(_ABANDONED_SECONDS)
        for tries_left in reversed(range(_ROOM_TRIES)):
            refusal = self._reserve()
            if refusal is None:
                return
            if not refusal.transient or not tries_left:
                raise refusal
            self._withdraw()
            wait(random.uniform(0.5, 1.5) * _ROOM_SECONDS, self._stay_alive, 0)  # noqa: S311

    def _reserve(self) -> FetchError | None:
        """Tell how much is still to come, then look whether there is room for that and for what others have told."""
        needed = self.staging.missing_bytes((file.path, file.size) for file in self._plan.files)
        self._lease.tell(done=self._plan.total_bytes - needed, total=self._plan.total_bytes)
        free = free_bytes(self.staging.path)
        if free is None:
            return None
        if free < needed + self._reserved():
            self._sweep(_ABANDONED_SECONDS_WITHOUT_ROOM)
            free = free_bytes(self.staging.path) or 0
        reserved = self._reserved()
        if free >= needed + reserved:
            return None
        cache_dir = self._client.context.cache_dir
        if reserved:
            return no_space_yet(cache_dir, needed=needed, free=free, reserved=reserved)
        return no_space(cache_dir, needed=needed, free=free)

    def without_room(self, error: FetchError) -> FetchError:
        """What a volume that filled up meanwhile means: it is for good only where nobody else is filling it."""
        reserved = self._reserved()
        if error.fetch_reason is not FetchReason.NO_SPACE or not reserved:
            return error
        needed = self.staging.missing_bytes((file.path, file.size) for file in self._plan.files)
        free = free_bytes(self.staging.path) or 0
        return no_space_yet(self._client.context.cache_dir, needed=needed, free=free, reserved=reserved)

    def _reserved(self) -> int:
        """Bytes that others who are at work on this volume still need."""
        now = self._lease.now_on_the_volume()
        others = others_at_work(self._folder.cache_dir, self.staging.path, now=now, timeout=self._owner_timeout)
        return sum(max(0, owner.total - owner.done) for owner in others)

    def _withdraw(self) -> None:
        self._lease.tell(done=0, total=0)

    def _stay_alive(self, _: int) -> None:
        self._lease.beat(done=0, total=0)

    def _sweep(self, older_than: float) -> None:
        now = self._lease.now_on_the_volume()
        sweep(self._folder.cache_dir, self.staging.path, now=now, older_than=older_than)

    def run(self) -> Ready:
        """Every file, checked. The small ones first: a mistake shows before the weights are downloaded."""
        missing = self.staging.missing_bytes((file.path, file.size) for file in self._plan.files)
        present = self._plan.total_bytes - missing
        self._client.display.resolved(self._folder.repository, self._commit, self._plan, present=present)
        self._meter.begin(present, time.monotonic())
        self._show(0, at_once=True)
        files = {file.path: self._bring(file) for file in self._plan.small}
        self._require_names(self._plan.small)
        facts = self._check_model()
        files |= {file.path: self._bring(file) for file in self._plan.weights}
        self._require_names(self._plan.files)
        self._show(0, at_once=True)
        weights = sum(file.size for file in self._plan.weights)
        return Ready(self._folder.repository, self._commit, files, weights, facts.as_json())

    def _require_names(self, files: Sequence[RemoteFile]) -> None:
        """Of two files whose names are one for the volume only one is there, and nobody sees which."""
        there = {path.name for path in self.staging.files.iterdir()}
        if lost := twins([file.path for file in files]) - there:
            raise not_kept(str(self.staging.files), f"{min(lost)} is missing, as another name differs only in case")

    def _bring(self, file: RemoteFile) -> ReadyFile:
        self._file = file.path
        target = self.staging.files / file.path
        sha256 = self._checked_before(file, target)
        if sha256 is None:
            part = self.staging.parts / file.path
            sha256 = self._ask({"do": "download", "part": str(part), "target": str(target)}, file)
        self._finished_bytes += file.size
        return ReadyFile(file.size, sha256)

    def _checked_before(self, file: RemoteFile, target: Path) -> str | None:
        """A file is in `files/` only after it was checked and written out: the weights are not read once more."""
        if not target.exists():
            return None
        if file.sha256 and _is_plain_file(target, file.size):
            return file.sha256
        found: str | None = self._ask({"do": "check", "path": str(target)}, file)
        if found is None:
            target.unlink()
        return found

    def _check_model(self) -> ModelFacts:
        try:
            config = json.loads((self.staging.files / CONFIG_FILE).read_text())
        except (ValueError, RecursionError):
            raise not_supported(self._folder.repository, f"its {CONFIG_FILE} is not JSON") from None
        return check_model(self._folder.repository, config)

    def _ask(self, request: dict[str, Any], file: RemoteFile) -> Any:
        return self._client.ask(
            {**request, "file": asdict(file), "commit": self._commit, "fence_seconds": self._lease.fence_seconds},
            tick=self._tick,
            progress=lambda: self.staging.present_bytes(file.path),
        )

    def _tick(self, count: int) -> None:
        self._show(count)
        if self._lease.beat(done=self._meter.done, total=self._plan.total_bytes):
            self._client.worker.beat()

    def _show(self, count: int, *, at_once: bool = False) -> None:
        snapshot = self._meter.look(self._finished_bytes + count, time.monotonic(), self._file)
        self._client.display.progress(snapshot, at_once=at_once)


def _is_plain_file(path: Path, size: int) -> bool:
    """A link may point to where it will not point for a reader."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size
