"""Downloads the files of one commit into a staging folder that is owned. Called by `fetcher`."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference_server.fetch.asking import Asker
from inference_server.fetch.failures import no_space, not_supported
from inference_server.fetch.layout import ModelFolder
from inference_server.fetch.lease import Lease
from inference_server.fetch.plan import CONFIG_FILE, INDEX_FILE, ModelFacts, Plan, RemoteFile, check_model
from inference_server.fetch.progress import Meter
from inference_server.fetch.ready import Ready, ReadyFile
from inference_server.fetch.staging import Staging, discard, free_bytes, sweep

# Long enough for a Job's own back-off; what is younger is continued, not deleted.
_ABANDONED_SECONDS = 24 * 3600.0
# When there is no room, a download that nobody works on is worth less than this one.
_ABANDONED_SECONDS_WITHOUT_ROOM = 300.0


class Download:
    """One use: `salvage`, `make_room`, `run`. All three raise FetchError and OwnershipLost."""

    def __init__(self, asker: Asker, folder: ModelFolder, lease: Lease, commit: str, plan: Plan) -> None:
        self._asker = asker
        self._folder = folder
        self._lease = lease
        self._commit = commit
        self._plan = plan
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
        if not abandoned.is_dir():
            return
        for file in self._plan.files:
            found, wanted = abandoned / file.path, self.staging.files / file.path
            if wanted.exists() or not _is_plain_file(found, file.size):
                continue
            if self._ask({"do": "check", "path": str(found)}, file) is not None:
                found.rename(wanted)
        discard(self._folder, abandoned)

    def make_room(self) -> None:
        """Delete what nobody works on, and raise FetchError where even then there is no room."""
        now = self._lease.now_on_the_volume()
        sweep(self._folder.cache_dir, self.staging.path, now=now, older_than=_ABANDONED_SECONDS)
        needed = self.staging.missing_bytes((file.path, file.size) for file in self._plan.files)
        free = free_bytes(self.staging.path)
        if free is not None and free < needed:
            sweep(self._folder.cache_dir, self.staging.path, now=now, older_than=_ABANDONED_SECONDS_WITHOUT_ROOM)
            free = free_bytes(self.staging.path)
        if free is not None and free < needed:
            raise no_space(self._asker.context.cache_dir, needed=needed, free=free)

    def run(self) -> Ready:
        """Every file, checked. The small ones first: a mistake shows before the weights are downloaded."""
        missing = self.staging.missing_bytes((file.path, file.size) for file in self._plan.files)
        present = self._plan.total_bytes - missing
        self._asker.display.resolved(self._folder.repository, self._commit, self._plan, present=present)
        self._meter.begin(present, time.monotonic())
        self._show(0, at_once=True)
        files = {file.path: self._bring(file) for file in self._plan.small}
        facts = self._check_model()
        files |= {file.path: self._bring(file) for file in self._plan.weights}
        self._show(0, at_once=True)
        weights = sum(file.size for file in self._plan.weights)
        return Ready(self._folder.repository, self._commit, files, weights, facts.as_json())

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
        documents = {}
        for name in (CONFIG_FILE, INDEX_FILE):
            path = self.staging.files / name
            if path.exists():
                try:
                    documents[name] = json.loads(path.read_text())
                except ValueError:
                    raise not_supported(self._folder.repository, f"its {name} is not JSON") from None
        return check_model(self._folder.repository, self._plan, documents)

    def _ask(self, request: dict[str, Any], file: RemoteFile) -> Any:
        return self._asker.ask(
            {**request, "file": asdict(file), "commit": self._commit, "fence_seconds": self._lease.fence_seconds},
            tick=self._tick,
            progress=lambda: self.staging.present_bytes(file.path),
        )

    def _tick(self, count: int) -> None:
        self._show(count)
        if self._lease.beat(done=self._meter.done, total=self._plan.total_bytes):
            self._asker.worker.beat()

    def _show(self, count: int, *, at_once: bool = False) -> None:
        snapshot = self._meter.look(self._finished_bytes + count, time.monotonic(), self._file)
        self._asker.display.progress(snapshot, at_once=at_once)


def _is_plain_file(path: Path, size: int) -> bool:
    """A link may point to where it will not point for a reader."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size
