"""The server: https://huggingface.co's model, tree and file addresses, as far as huggingface_hub asks them.

Large files are redirected to another host, as the Hub does to its CDN, so a client that carries its token there shows.
"""

import hashlib
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

_PIECE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Answer:
    """What is done to one answer. Positions are bytes of the file, not of a range of it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    stall_at: int | None = None
    cut_at: int | None = None
    short_by: int = 0
    flip_at: int | None = None
    ignore_range: bool = False
    garbage: bytes | None = None
    bytes_per_second: float | None = None
    before: Callable[[], object] | None = None
    at: tuple[int, Callable[[], object]] | None = None


@dataclass(frozen=True)
class Repository:
    """`files` by commit and name; `references`: branch or tag → commit."""

    commits: dict[str, dict[str, bytes]]
    references: dict[str, str]
    gated: bool = False
    private: bool = False
    answers: dict[str, Answer] = field(default_factory=dict)


class Hub:
    """The state behind the server. Lists of answers are used up in order; then everything is as it should be."""

    def __init__(self, *, tokens: tuple[str, ...] = ()) -> None:
        self.url = ""
        self.cdn_host: str | None = None
        self.scheme = "http"
        self.tokens = tokens
        self.repositories: dict[str, Repository] = {}
        self.bytes_served: Counter[str] = Counter()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.stopped = threading.Event()
        self._scripts: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()

    def add(
        self,
        name: str,
        files: dict[str, bytes],
        *,
        revision: str = "main",
        gated: bool = False,
        private: bool = False,
        answers: dict[str, Answer] | None = None,
    ) -> str:
        """Returns the commit. The same files have the same one."""
        commit = _commit(files)
        old = self.repositories.get(name, Repository({}, {}))
        self.repositories[name] = Repository(
            {**old.commits, commit: files}, {**old.references, revision: commit}, gated, private, answers or {}
        )
        return commit

    def script(self, path: str, *answers: Answer) -> None:
        """The next requests whose address ends like this, `HEAD` not counted, are answered so."""
        with self._lock:
            self._scripts.setdefault(path, []).extend(answers)

    def next_answer(self, path: str, fixed: dict[str, Answer]) -> Answer:
        with self._lock:
            for end, answers in self._scripts.items():
                if path.endswith(end) and answers:
                    return answers.pop(0)
        return next((answer for end, answer in fixed.items() if path.endswith(end)), Answer())

    def count(self, path: str, size: int) -> None:
        with self._lock:
            self.bytes_served[path] += size

    @property
    def weights_served(self) -> int:
        """Bytes of safetensors files that left the server."""
        return sum(size for path, size in self.bytes_served.items() if path.endswith(".safetensors"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.hub.requests.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        if path == "/_served":
            self._json(200, dict(self.hub.bytes_served))
            return
        if path == "/api/agent-harnesses":
            self._json(404, {"error": "Not Found"})
            return
        if path.startswith("/_cdn/"):
            _, _, name, commit, file = path.split("/", 4)
            repository = self.hub.repositories[name.replace("--", "/")]
            answer = self.hub.next_answer(path, repository.answers) if self.command == "GET" else Answer()
            self._content(path, repository.commits[commit][file], answer, {})
            return
        self._hub_answer(path, parse_qs(parts.query))

    def _hub_answer(self, path: str, query: dict[str, list[str]]) -> None:
        words = path.strip("/").split("/")
        api = words[:2] == ["api", "models"]
        words = words[2:] if api else words
        name, rest = "/".join(words[:2]), words[2:]
        repository = self.hub.repositories.get(name)
        answer = self.hub.next_answer(path, repository.answers if repository else {})
        if answer.before:
            answer.before()
        if answer.garbage is not None:
            self._body(200, answer.garbage, {"Content-Type": "text/html"})
            return
        if answer.status:
            self._error(answer.status, None, answer.headers)
            return
        if answer.stall_at is not None and api:
            self.hub.stopped.wait()
            return
        if refused := self._refusal(repository):
            self._error(*refused)
            return
        assert repository is not None
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repository.references.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            self._error(404, "RevisionNotFound", {})
        elif api and rest[:1] == ["tree"]:
            self._json(200, [_entry(path, content) for path, content in sorted(files.items())])
        elif api:
            blobs = "blobs" in query
            self._json(
                200,
                {
                    "id": name,
                    "modelId": name,
                    "sha": commit,
                    "private": repository.private,
                    "gated": repository.gated,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [_sibling(path, content, blobs=blobs) for path, content in sorted(files.items())],
                },
            )
        elif rest[:1] == ["resolve"] and repository.gated and not self._is_known():
            self._error(403 if self._token() else 401, "GatedRepo", {})
        elif rest[:1] == ["resolve"]:
            self._resolve(name, commit, files, "/".join(rest[2:]), answer)
        else:
            self._error(404, None, {})

    def _refusal(self, repository: Repository | None) -> tuple[int, str | None, dict[str, str]] | None:
        token = self._token()
        if token and token not in self.hub.tokens:
            return 401, None, {"X-Error-Message": "Invalid credentials in Authorization header"}
        if repository is None or (repository.private and not token):
            # Without a token the Hub does not tell whether there is such a repository.
            message = {"X-Error-Message": "Invalid username or password."}
            return (404, "RepoNotFound", {}) if token else (401, None, message)
        return None

    def _resolve(self, name: str, commit: str, files: dict[str, bytes], file: str, answer: Answer) -> None:
        if file not in files:
            self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
            return
        content = files[file]
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if _is_large(file):
            asked = self.headers["Host"]
            host = f"{self.hub.cdn_host}:{asked.rpartition(':')[2]}" if self.hub.cdn_host else asked
            location = f"{self.hub.scheme}://{host}/_cdn/{name.replace('/', '--')}/{commit}/{quote(file)}"
            headers |= {
                "X-Linked-Size": str(len(content)),
                "X-Linked-ETag": f'"{_sha256(content)}"',
                "Location": location,
            }
            self._body(302, b"", headers)
            return
        headers["ETag"] = f'"{_blob(content)}"'
        self._content(self.path, content, answer, headers)

    def _content(self, path: str, content: bytes, answer: Answer, headers: dict[str, str]) -> None:
        if answer.before:
            answer.before()
        if answer.status:
            self._error(answer.status, None, answer.headers)
            return
        if answer.garbage is not None:
            self._body(200, answer.garbage, {"Content-Type": "text/html", **answer.headers})
            return
        first = self._first_byte() if not answer.ignore_range else 0
        if first > len(content):
            self._error(416, None, {"Content-Range": f"bytes */{len(content)}"})
            return
        end = len(content) - answer.short_by
        headers = {**headers, **answer.headers, "Content-Length": str(max(0, end - first))}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self._start(206 if first else 200, headers)
        if self.command == "HEAD":
            return
        try:
            self._send(path, content, first, end, answer)
        except OSError:
            self.close_connection = True

    def _send(self, path: str, content: bytes, first: int, end: int, answer: Answer) -> None:
        if answer.flip_at is not None:
            damaged = bytearray(content)
            damaged[answer.flip_at] ^= 1
            content = bytes(damaged)
        stops = {stop for stop in (answer.stall_at, answer.cut_at, answer.at and answer.at[0]) if stop is not None}
        position = first
        while position < end:
            if position == answer.stall_at:
                self.wfile.flush()
                self.hub.stopped.wait()
            if position in (answer.stall_at, answer.cut_at):
                self.close_connection = True
                self.connection.close()
                return
            if answer.at and position == answer.at[0]:
                answer.at[1]()
            following = [stop for stop in stops if stop > position]
            piece = content[position : min([position + _PIECE_BYTES, end, *following])]
            self.wfile.write(piece)
            self.hub.count(path, len(piece))
            position += len(piece)
            if answer.bytes_per_second:
                time.sleep(len(piece) / answer.bytes_per_second)

    def _first_byte(self) -> int:
        asked = self.headers.get("Range", "")
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0

    def _token(self) -> str:
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    def _is_known(self) -> bool:
        return self._token() == self.hub.tokens[0]

    def _error(self, status: int, code: str | None, headers: dict[str, str]) -> None:
        # The Hub repeats what it was sent in some messages: here, on purpose, the worst that could be.
        told = {"X-Error-Message": f"refused: {self._token()}", **headers}
        self._body(
            status,
            json.dumps({"error": told["X-Error-Message"]}).encode(),
            {
                **told,
                **({"X-Error-Code": code} if code else {}),
                "Content-Type": "application/json",
            },
        )

    def _json(self, status: int, document: object) -> None:
        self._body(status, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _body(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._start(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients that go away in the middle are what the tests are about."""


@contextmanager
def a_hub(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    cdn_host: str | None = "localhost",
    tls: Path | None = None,
    tokens: tuple[str, ...] = (),
) -> Iterator[Hub]:
    """A running server.

    `cdn_host`: another name of this machine, None for the name it was asked by; `tls`: a PEM file with certificate
    and key.
    """
    hub = Hub(tokens=tokens)
    server = _Server((host, port), type("Handler", (_Handler,), {"hub": hub}))
    hub.cdn_host = cdn_host
    if tls is not None:
        hub.scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    hub.url = f"{hub.scheme}://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def _commit(files: dict[str, bytes]) -> str:
    digest = hashlib.sha1()
    for path, content in sorted(files.items()):
        digest.update(f"{path} {len(content)}\n".encode() + content)
    return digest.hexdigest()


# The Hub, too, knows them before it is asked.
@lru_cache(maxsize=32)
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@lru_cache(maxsize=32)
def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(path: str, content: bytes, *, blobs: bool) -> dict[str, object]:
    if not blobs:
        return {"rfilename": path}
    entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": _blob(content)}
    if _is_large(path):
        entry["lfs"] = {"sha256": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
    if _is_large(path):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry
