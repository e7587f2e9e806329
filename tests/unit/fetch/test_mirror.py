"""What a mirror, its storage host or a proxy says is checked before it becomes a path, a verdict or a message."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.fetch.faults import NotAHub
from inference_server.fetch.hub import read_listing
from tests.hub.server import Answer, Hub
from tests.unit.fetch.running import (
    GOOD_TOKEN,
    REPOSITORY,
    SECOND_SHARD,
    Silent,
    assert_whole,
    failure,
    fetched,
)

Files = dict[str, bytes]
REVISION = "/revision/main"
COMMIT = "c" * 40


def an_entry(**changed: Any) -> dict[str, Any]:
    return {"rfilename": "config.json", "size": 1, "blobId": "a" * 40, **changed}


def a_listing(*entries: Any, sha: Any = COMMIT) -> bytes:
    return json.dumps({"sha": sha, "siblings": list(entries)}).encode()


def test_a_listing_is_read() -> None:
    commit, files = read_listing(a_listing(an_entry(), an_entry(rfilename="m", lfs={"sha256": "b" * 64})))
    assert (commit, [file.path for file in files]) == (COMMIT, ["config.json", "m"])


@pytest.mark.parametrize(
    "body",
    [
        a_listing(an_entry(), sha="../../escape"),
        a_listing(an_entry(), sha="main"),
        a_listing(an_entry(), sha="C" * 40),
        a_listing(an_entry(), sha=COMMIT + "\n"),
        a_listing(an_entry(), sha=7),
        a_listing(an_entry(size=-1)),
        a_listing(an_entry(size=1.5)),
        a_listing(an_entry(size="1")),
        a_listing(an_entry(size=True)),
        a_listing(an_entry(size=10**30)),
        a_listing(an_entry(blobId="x")),
        a_listing(an_entry(blobId=None)),
        a_listing(an_entry(lfs={"sha256": "A" * 64})),
        a_listing(an_entry(lfs={"sha256": 1})),
        a_listing(an_entry(lfs=[1])),
        a_listing(an_entry(rfilename=None)),
        a_listing(an_entry(), an_entry()),
        a_listing("config.json"),
        b"[]",
        b"null",
        b"",
        b"\xff",
        b"[" * 100_000,
        b"1" * 10_000,
    ],
)
def test_what_no_hub_says_is_refused(body: bytes) -> None:
    with pytest.raises(NotAHub):
        read_listing(body)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["sha", "siblings"]), inner),
)


@given(
    st.binary()
    | ANYTHING.map(lambda value: json.dumps(value).encode())
    | st.tuples(ANYTHING | st.just(COMMIT), st.dictionaries(st.sampled_from(list(an_entry())), ANYTHING)).map(
        lambda pair: a_listing(an_entry(**pair[1]), sha=pair[0])
    )
)
def test_any_answer_is_a_listing_or_refused(body: bytes) -> None:
    try:
        commit, files = read_listing(body)
    except NotAHub:
        return
    assert len(commit) == 40
    assert all(file.size >= 0 for file in files)


def test_a_commit_that_is_a_path_is_published_nowhere(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[REPOSITORY] = type(hub.repositories[REPOSITORY])(
        {"../../escape": next(iter(hub.repositories[REPOSITORY].commits.values()))}, {"main": "../../escape"}
    )
    cache = tmp_path / "a" / "cache"
    assert failure(hub, cache).reason == "EndpointInvalid"
    assert list(tmp_path.iterdir()) == []


def test_another_commit_than_the_one_that_was_asked_for_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[REPOSITORY].references["0" * 40] = hub.repositories[REPOSITORY].references["main"]
    assert failure(hub, tmp_path, model_revision="0" * 40).reason == "EndpointInvalid"


def garbage(body: bytes, **headers: str) -> Answer:
    return Answer(garbage=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 2000000\n"


@pytest.mark.parametrize(
    ("answer", "reason", "says"),
    [
        pytest.param(garbage(b"<html>blocked</html>"), "EndpointInvalid", "an HTML page", id="a block page"),
        pytest.param(
            garbage(POINTER, Content_Type="text/plain"), "EndpointInvalid", "a pointer of git-lfs", id="a pointer"
        ),
        pytest.param(
            garbage(b"x" * 99, Content_Type="binary/octet-stream"), "ChecksumMismatch", "", id="another length"
        ),
        pytest.param(Answer(status=403), "EndpointUnavailable", "status 403", id="a signed address that is too old"),
        pytest.param(Answer(status=404), "EndpointUnavailable", "status 404", id="storage that has lost it"),
    ],
)
def test_a_storage_host_that_does_not_send_the_file_is_named(
    hub: Hub, tmp_path: Path, answer: Answer, reason: str, says: str
) -> None:
    hub.script(f"_cdn/tiny--qwen3/{hub.repositories[REPOSITORY].references['main']}/{SECOND_SHARD}", answer)
    error = failure(hub, tmp_path, huggingface_token=GOOD_TOKEN)
    assert error.reason == reason
    assert "localhost" in error.message
    assert SECOND_SHARD in error.message
    assert says in error.message
    assert GOOD_TOKEN not in error.message
    assert [part.stat().st_size for part in tmp_path.glob(f"*/.staging-*/parts/{SECOND_SHARD}")] == [0]


def test_after_a_signed_address_that_is_too_old_the_hub_is_asked_for_a_new_one(
    hub: Hub, tmp_path: Path, checkpoint: Files
) -> None:
    path = f"{hub.repositories[REPOSITORY].references['main']}/{SECOND_SHARD}"
    hub.script(f"_cdn/tiny--qwen3/{path}", Answer(status=403))
    display = Silent()
    assert_whole(fetched(hub, tmp_path, display, fetch_tries=3).path, checkpoint)
    assert [reason for reason, *_ in display.retries] == ["EndpointUnavailable"]
    assert len([asked for _, asked, _ in hub.requests if asked.endswith(f"resolve/{path}")]) == 2


def dead_proxy(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    return "proxy.invalid"


def dead_storage(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    hub.cdn_host = "storage.invalid"
    return "storage.invalid"


@pytest.mark.parametrize("break_it", [dead_proxy, dead_storage])
def test_a_name_that_cannot_be_resolved_is_that_of_who_was_called(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[Hub, pytest.MonkeyPatch], str]
) -> None:
    name = break_it(hub, monkeypatch)
    error = failure(hub, tmp_path)
    assert (error.reason, name in error.message) == ("HostNotFound", True), error.message


def test_a_proxy_that_wants_a_password_is_told_with_its_status(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        proxy = threading.Thread(target=refuse)
        proxy.start()
        # CONNECT is asked of it for https only.
        monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{server.getsockname()[1]}")
        error = failure(hub, tmp_path, hf_endpoint="https://hub.invalid")
        proxy.join()
    assert error.reason == "NetworkUnreachable"
    assert "localhost" in error.message
    assert "407" in error.message
    assert "proxy" in error.remedy
    assert "hub.invalid" not in error.message


def test_a_file_that_is_listed_and_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.script("vocab.json", Answer(status=404, headers={"X-Error-Code": "EntryNotFound"}))
    error = failure(hub, tmp_path)
    assert error.reason == "EndpointInvalid"
    assert "does not have (vocab.json)" in error.message


def test_a_transfer_that_stalls_names_the_host_that_it_came_from(hub: Hub, tmp_path: Path) -> None:
    commit = hub.repositories[REPOSITORY].references["main"]
    hub.script(f"_cdn/tiny--qwen3/{commit}/{SECOND_SHARD}", Answer(stall_at=900_000))
    error = failure(hub, tmp_path, fetch_stall_seconds=1)
    assert (error.reason, "from localhost for 1 seconds" in error.message) == ("DownloadStalled", True), error.message


def test_a_listing_without_end_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.script(REVISION, Answer(garbage=b" " * (65 * 1024 * 1024)))
    error = failure(hub, tmp_path)
    assert error.reason == "EndpointInvalid"
    assert "longer than any list" in error.message
