"""Talks to the Hub, through huggingface_hub's session and error types. Runs in the worker only.

Files are streamed here rather than by hf_hub_download, which since 1.18 starts a file again after a kill: at 4 GB a
shard, a pod that is moved would never finish on a slow line. So a part that is there is continued with Range.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, http_stream_backoff

from inference_server import __version__
from inference_server.fetch.faults import Corrupt, EndedEarly, NotAHub, Refused
from inference_server.fetch.layout import is_commit
from inference_server.fetch.plan import RemoteFile
from inference_server.fetch.whereabouts import HERE, HOST

_CHUNK_BYTES = 1024 * 1024
# Written out this often, so that a small memory limit is not filled with pages that wait for a slow volume.
_SYNC_BYTES = 32 * 1024 * 1024
_CONNECT_SECONDS = 15.0
_ANSWER_SECONDS = 30.0
_LIBRARY = "llm-operator"
# A listing has some 300 bytes a file.
_LISTING_BYTES = 64 * 1024 * 1024
_LARGEST_FILE_BYTES = 2**50
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Source:
    """Where files come from."""

    endpoint: str
    token: str | None = field(repr=False)
    repository: str
    commit: str


# Told the bytes of the part that are there and checked, before each write: raises where writing is not allowed.
Step = Callable[[int], None]


def list_files(*, endpoint: str, token: str | None, repository: str, revision: str) -> tuple[str, list[RemoteFile]]:
    """The commit behind the revision, and its files. One request, so the two belong together."""
    # Not HfApi.model_info, which asks the same: to import it takes longer than all the rest of a small fetch.
    url = f"{endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}"
    asked = get_session().stream("GET", url, params={"blobs": True}, headers=_headers(token), timeout=_ANSWER_SECONDS)
    with HERE.at(HOST), asked as response:
        _require_success(response)
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > _LISTING_BYTES:
                raise NotAHub("its answer is longer than any list of files")
    commit, files = read_listing(bytes(body))
    if is_commit(revision) and commit != revision:
        raise NotAHub("it tells another commit than the one that it was asked for")
    return commit, files


def read_listing(body: bytes) -> tuple[str, list[RemoteFile]]:
    """The commit and its files, as a Hub tells them. Raises NotAHub for anything else."""
    try:
        found = json.loads(body)
        commit = found["sha"]
        files = [_remote_file(sibling) for sibling in found["siblings"]]
        if not is_commit(commit) or len({file.path for file in files}) != len(files):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotAHub("it does not tell the commit and its files with sizes and checksums") from error
    return commit, files


def _remote_file(sibling: Mapping[str, Any]) -> RemoteFile:
    path, size, large, blob_id = sibling["rfilename"], sibling["size"], sibling.get("lfs"), sibling["blobId"]
    sha256 = large["sha256"] if large else None
    if not isinstance(path, str) or type(size) is not int or not 0 <= size <= _LARGEST_FILE_BYTES:
        raise TypeError
    if not is_commit(blob_id) or (sha256 is not None and not _SHA256.fullmatch(sha256)):
        raise TypeError
    return RemoteFile(path, size, sha256, blob_id)


def _require_success(response: Any) -> None:
    """Raise Refused for anything but a success. Its body is not read: it may be long, and repeat the token."""
    if response.is_success:
        return
    raise Refused(response.status_code, response.headers, _elsewhere(response))


def _elsewhere(response: Any) -> str:
    """The host that answers, where the one that was asked has sent the request there."""
    asked = (response.history or [response])[0].url.host
    return response.url.host if response.url.host != asked else ""


def download(file: RemoteFile, source: Source, *, part: Path, target: Path, step: Step, memory: "Memory") -> str:
    """Bring the file to `target`, continuing `part`, and return its SHA-256. `target` is there only when checked.

    What `memory` holds of a part from an earlier call is not read again.
    """
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    with FileIO(descriptor, "r+") as output:
        if os.fstat(descriptor).st_size > file.size:
            output.truncate(0)
        digest = memory.recall(file, descriptor) or Digest(file)
        output.seek(digest.count)
        try:
            digest.read(output, step)
            if digest.count < file.size:
                _receive(file, source, output, digest, step)
        finally:
            memory.keep(file, descriptor, digest)
        os.fsync(descriptor)
    if not digest.matches():
        part.unlink()
        raise Corrupt(file.path)
    step(digest.count)
    part.rename(target)
    return digest.sha256


class Memory:
    """The checksum of the part that was worked on last: where a line breaks often, it is not read anew each time."""

    def __init__(self) -> None:
        self._kept: tuple[RemoteFile, int, int, Digest] | None = None

    def keep(self, file: RemoteFile, descriptor: int, digest: "Digest") -> None:
        status = os.fstat(descriptor)
        self._kept = (file, status.st_dev, status.st_ino, digest)

    def recall(self, file: RemoteFile, descriptor: int) -> "Digest | None":
        """None where the part is another one, or another length, than was left."""
        kept, self._kept = self._kept, None
        status = os.fstat(descriptor)
        if kept is None or kept[:3] != (file, status.st_dev, status.st_ino) or kept[3].count != status.st_size:
            return None
        return kept[3]


def check(file: RemoteFile, path: Path, step: Step) -> str | None:
    """The SHA-256 of a file that is there already, or None when it is not the one that the Hub lists."""
    digest = Digest(file)
    with path.open("rb", buffering=0) as content:
        digest.read(content, step)
    return digest.sha256 if digest.matches() else None


class Digest:
    """The checksums of a file: SHA-256, and for a small one the SHA-1 that git gives to a blob."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.clear()

    def clear(self) -> None:
        self.count = 0
        self._sha256 = hashlib.sha256()
        size = self._file.size
        self._sha1 = None if self._file.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def add(self, chunk: bytes) -> None:
        self.count += len(chunk)
        self._sha256.update(chunk)
        if self._sha1 is not None:
            self._sha1.update(chunk)

    def read(self, content: FileIO, step: Step) -> None:
        """From where `content` stands to its end."""
        while chunk := content.read(_CHUNK_BYTES):
            self.add(chunk)
            step(self.count)

    def matches(self) -> bool:
        found = self.sha256 if self._sha1 is None else self._sha1.hexdigest()
        return self.count == self._file.size and found == (self._file.sha256 or self._file.blob_id)


def read(file: RemoteFile, source: Source) -> str:
    """The text of a small file, checked; nothing is written."""
    digest = Digest(file)
    body = bytearray()
    with _opened(file, source, 0) as response:
        _require_success(response)
        for piece in _checked_body(response, file):
            body += piece
            digest.add(piece)
            if len(body) > file.size:
                raise Corrupt(file.path)
    if not digest.matches():
        raise Corrupt(file.path)
    return body.decode(errors="replace")


@contextmanager
def _opened(file: RemoteFile, source: Source, count: int) -> Iterator[Any]:
    """The answer to the request for the file, from byte `count` on."""
    url = hf_hub_url(source.repository, file.path, revision=source.commit, endpoint=source.endpoint)
    headers = _headers(source.token)
    # Compressed, the bytes could be neither counted nor continued.
    headers["Accept-Encoding"] = "identity"
    if count:
        headers["Range"] = f"bytes={count}-"
    # No retries here: `fetcher` decides on them, and shows them. No time-out for reading: `supervise` watches.
    no_retries: dict[str, Any] = {"retry_on_exceptions": (), "retry_on_status_codes": ()}
    timeout = (_CONNECT_SECONDS, None, None, None)
    opening = http_stream_backoff("GET", url, headers=headers, timeout=timeout, **no_retries)
    with ExitStack() as stack:
        with HERE.at(HOST):
            response = stack.enter_context(opening)
        yield response


def _receive(file: RemoteFile, source: Source, output: FileIO, digest: Digest, step: Step) -> None:
    with _opened(file, source, digest.count) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            # It ends before what is here already: one of the two is not this file.
            output.truncate(0)
            raise Corrupt(file.path)
        _require_success(response)
        pieces = _checked_body(response, file)
        if digest.count and not _continues(response.headers, response.status_code, digest.count):
            output.seek(0)
            output.truncate()
            digest.clear()
        with _WriteOut(output.fileno()) as write_out:
            for chunk in pieces:
                step(digest.count)
                if digest.count + len(chunk) > file.size:
                    output.truncate(0)
                    raise Corrupt(file.path)
                _write_all(output, chunk)
                digest.add(chunk)
                write_out.after(len(chunk))
        step(digest.count)
    if digest.count < file.size:
        raise EndedEarly(file.path)


def _checked_body(response: Any, file: RemoteFile) -> Iterator[bytes]:
    """The pieces of a body that may be the file. Raises NotAHub or Corrupt for one that cannot be, before any is used.

    Block pages of proxies and pointers of git-lfs come with status 200, too.
    """
    pieces = _pieces(response)
    first = next(pieces, b"")
    host = response.url.host
    if first.startswith(_LFS_POINTER) and file.size != len(first):
        raise NotAHub(f"{host} sends a pointer of git-lfs in place of {file.path}", host)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise NotAHub(f"{host} sends an HTML page in place of {file.path}", host)
    if not _may_be_whole(response.headers, response.status_code, file.size):
        raise Corrupt(f"{file.path} from {host}")
    return chain([first], pieces)


def _pieces(response: Any) -> Iterator[bytes]:
    pieces: Iterator[bytes] = response.iter_bytes()
    elsewhere = _elsewhere(response)
    while True:
        with HERE.at(HOST, elsewhere):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _may_be_whole(headers: Mapping[str, str], status: int, size: int) -> bool:
    """False where the length of the body, or of the file behind it, is another one than the Hub lists."""
    if status == HTTPStatus.PARTIAL_CONTENT:
        whole = headers.get("Content-Range", "").rpartition("/")[2]
        return whole in ("", "*", str(size))
    return headers.get("Content-Length", str(size)) == str(size)


def _headers(token: str | None) -> dict[str, str]:
    return build_hf_headers(token=token or False, library_name=_LIBRARY, library_version=__version__)


def _continues(headers: Mapping[str, str], status: int, count: int) -> bool:
    return status == HTTPStatus.PARTIAL_CONTENT and headers.get("Content-Range", "").startswith(f"bytes {count}-")


def _write_all(output: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[output.write(rest) :]


class _WriteOut:
    """Writes out what has come while more comes: a slow line and a slow volume are waited for together, not in turn.

    What is neither written out nor on its way there is never more than two portions.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None
        self._unsynced = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """A volume that failed is told also when something else failed meanwhile."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()

    def after(self, count: int) -> None:
        """So many bytes more were written. Raises OSError where earlier ones could not be written out."""
        self._unsynced += count
        if self._unsynced >= _SYNC_BYTES:
            self._wait()
            self._running = self._pool.submit(_write_out, self._descriptor)
            self._unsynced = 0

    def _wait(self) -> None:
        if self._running is not None:
            self._running.result()


def _write_out(descriptor: int) -> None:
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
