"""A fetch from its beginning to its end. Called by `command` and `model_manager`.

    resolve → own the staging folder → reuse what is there → small files → is it a model? → weights → publish

Of several processes on one volume one downloads; the others wait for it, and one of them goes on where it died.
"""

import errno
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from inference_server.fetch.display import Display
from inference_server.fetch.download import Download
from inference_server.fetch.failures import Context, FetchError, FetchReason, not_kept, storage_error, taken_over
from inference_server.fetch.layout import ModelFolder, is_commit
from inference_server.fetch.lease import Lease, OwnershipLost, acquire
from inference_server.fetch.plan import Plan, RemoteFile, find_index, plan_download
from inference_server.fetch.ready import Ready
from inference_server.fetch.retry import RetryPolicy
from inference_server.fetch.retrying_client import RetryingClient
from inference_server.fetch.settings import FetchSettings, read_token
from inference_server.fetch.staging import (
    discard_staging,
    look,
    publish,
    read_ready,
    read_reference,
    take,
    write_reference,
)
from inference_server.fetch.supervise import Worker

_STALE_TRIES = 3
_STALE_SECONDS = 1.0
# How often the folder may be taken over by others. Each time somebody was silent for the whole time-out.
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where the model is, and what READY.json says of it."""

    path: Path
    ready: Ready


def fetch(settings: FetchSettings, display: Display) -> Fetched:
    """The whole model, downloaded if it is not there. Raises FetchError; StartupError for a token that is none."""
    token = read_token(settings)
    environment = {"HF_ENDPOINT": settings.hf_endpoint.rstrip("/")}
    if settings.ca_file:
        environment["SSL_CERT_FILE"] = settings.ca_file
    worker = Worker(environment, stall_seconds=settings.fetch_stall_seconds)
    context = Context(
        settings.model_repository,
        settings.model_revision,
        environment["HF_ENDPOINT"],
        settings.model_cache_dir,
        has_token=token is not None,
    )
    policy = RetryPolicy(settings.fetch_tries, settings.fetch_longest_wait_seconds)
    client = RetryingClient(worker, context, token, policy, display)
    try:
        return _despite_stale_handles(_Fetch(client, settings.fetch_owner_timeout_seconds).run)
    except OSError as error:
        raise storage_error(error.errno or errno.EIO, error.filename or settings.model_cache_dir) from error
    finally:
        worker.close()


def _despite_stale_handles(run: Callable[[], Fetched]) -> Fetched:
    """NFS says ESTALE once where a folder was replaced on another machine; all is opened anew after that."""
    for _ in range(_STALE_TRIES - 1):
        try:
            return run()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(_STALE_SECONDS)
    return run()


class _Fetch:
    def __init__(self, client: RetryingClient, owner_timeout: float) -> None:
        self._client = client
        self._owner_timeout = owner_timeout
        self._revision = client.context.revision
        self._folder = ModelFolder(Path(client.context.cache_dir).absolute(), client.context.repository)

    def run(self) -> Fetched:
        if is_commit(self._revision) and (ready := take(self._folder, self._revision)):
            return self._fetched(ready)
        try:
            commit, listing = self._list()
        except FetchError as error:
            if cached := self._cached(error):
                return cached
            raise
        for _ in range(_ROUNDS):
            if ready := take(self._folder, commit):
                write_reference(self._folder, self._revision, commit)
                return self._fetched(ready)
            try:
                self._bring(commit, listing)
            except OwnershipLost:
                # It may still be writing, so it ends before somebody else is waited for.
                self._client.worker.close()
        raise taken_over(str(self._folder.staging(commit)))

    def _fetched(self, ready: Ready) -> Fetched:
        return Fetched(self._folder.commit(ready.commit), ready)

    def _cached(self, error: FetchError) -> Fetched | None:
        """A server that restarts while the Hub is away goes on with what the revision meant last."""
        if not (error.transient or error.fetch_reason is FetchReason.OFFLINE_MODE):
            return None
        commit = read_reference(self._folder, self._revision)
        ready = take(self._folder, commit) if commit and is_commit(commit) else None
        if ready is None:
            return None
        self._client.display.used_cached(error)
        return self._fetched(ready)

    def _list(self) -> tuple[str, list[RemoteFile]]:
        found = self._client.ask({"do": "list", "revision": self._revision})
        return found["commit"], [RemoteFile(**file) for file in found["files"]]

    def _bring(self, commit: str, listing: list[RemoteFile]) -> None:
        """Download and publish, or wait for the process that does. Raises FetchError and OwnershipLost."""
        index = find_index(self._folder.repository, listing)
        lease = acquire(
            self._folder.staging(commit),
            timeout=self._owner_timeout,
            finished=lambda: read_ready(self._folder, commit) is not None,
            waiting=self._client.display.waiting,
        )
        if lease is None:
            return
        try:
            # It may have been published between the last look and the lease.
            if read_ready(self._folder, commit) is None:
                text = self._read(index, commit, lease) if index else None
                self._download(lease, commit, plan_download(self._folder.repository, listing, text))
            discard_staging(lease)
        except (FetchError, OSError):
            # In a folder that is somebody else's by now, anything may go wrong.
            lease.confirm()
            raise
        finally:
            lease.release()

    def _read(self, file: RemoteFile, commit: str, lease: Lease) -> str:
        def tick(_: int) -> None:
            lease.beat(done=0, total=0)

        text: str = self._client.ask({"do": "read", "file": asdict(file), "commit": commit}, tick=tick)
        return text

    def _download(self, lease: Lease, commit: str, plan: Plan) -> None:
        download = Download(self._client, self._folder, lease, commit, plan, owner_timeout=self._owner_timeout)
        download.salvage()
        download.make_room()
        try:
            ready = download.run()
        except FetchError as error:
            raise download.without_room(error) from error
        lease.confirm()
        publish(download.staging, self._folder, ready)
        found = look(self._folder, commit)
        if isinstance(found, str):
            # Once more would end the same way.
            raise not_kept(str(self._folder.commit(commit)), found)
