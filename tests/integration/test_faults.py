"""The proxy does to calls and watches what its faults say."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, RemoteDisconnected
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from llm_operator.kube import SERVICES, Kube
from tests.integration.conftest import ControlPlane
from tests.integration.faults import (
    After,
    Answer,
    Before,
    Call,
    Delay,
    Drop,
    DropAnswer,
    FaultProxy,
    Record,
    running_fault_proxy,
)
from tests.kubectl import Kubectl, Manifest, eventually


@pytest.fixture
def proxy(control_plane: ControlPlane, tmp_path: Path) -> Iterator[FaultProxy]:
    with running_fault_proxy(control_plane.operator_kubeconfig, tmp_path) as running:
        yield running


class Client:
    """Plain HTTP with the token of the proxy's kubeconfig."""

    def __init__(self, proxy: FaultProxy, namespace: str) -> None:
        config = yaml.safe_load(proxy.kubeconfig.read_text())
        self._server = urlsplit(config["clusters"][0]["cluster"]["server"]).netloc
        self._headers = {
            "Authorization": f"Bearer {config['users'][0]['user']['token']}",
            "Content-Type": "application/json",
            "User-Agent": "fault-tests",
        }
        self.services = f"/api/v1/namespaces/{namespace}/services"

    def ask(self, method: str, path: str, body: Manifest | None = None) -> tuple[int, Mapping[str, str], Manifest]:
        connection, answer = self._send(method, path, body)
        try:
            return answer.status, dict(answer.headers), json.loads(answer.read())
        finally:
            connection.close()

    def create(self, name: str) -> int:
        service = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}
        return self.ask("POST", self.services, service)[0]

    def watch(self, seconds: int = 60) -> "Watch":
        return Watch(*self._send("GET", f"{self.services}?watch=true&timeoutSeconds={seconds}"))

    def _send(self, method: str, path: str, body: Manifest | None = None) -> tuple[HTTPConnection, HTTPResponse]:
        connection = HTTPConnection(self._server, timeout=120)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), self._headers)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise


class Watch:
    """An open watch on services."""

    def __init__(self, connection: HTTPConnection, answer: HTTPResponse) -> None:
        self._connection = connection
        self._answer = answer
        self.socket = connection.sock

    def next(self) -> Manifest | None:
        """The next event, or None at a proper end."""
        line = self._answer.readline()
        return json.loads(line) if line else None

    def rest(self) -> bytes:
        """Everything that still comes, up to a proper end."""
        return self._answer.read()

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


@pytest.fixture
def client(proxy: FaultProxy, kubectl: Kubectl) -> Client:
    return Client(proxy, kubectl.namespace)


@pytest.fixture
def watch(client: Client) -> Iterator[Watch]:
    """A watch through which one event has come."""
    assert client.create("first") == 201
    opened = client.watch()
    event = opened.next()
    assert event is not None
    assert event["object"]["metadata"]["name"] == "first"
    yield opened
    opened.close()


def writes(call: Call) -> bool:
    return call.is_write and call.resource == "services"


def names(kubectl: Kubectl) -> list[str]:
    return [one["metadata"]["name"] for one in kubectl.list("services")]


def test_without_rules_everything_passes_and_is_recorded(proxy: FaultProxy, client: Client, kubectl: Kubectl) -> None:
    assert client.create("a") == 201
    assert client.create("a") == 409
    status, _, service = client.ask("GET", f"{client.services}/a")
    assert (status, service["metadata"]["name"]) == (200, "a")
    assert client.ask("GET", f"{client.services}?labelSelector=x%3Dy")[2]["items"] == []
    assert client.ask("DELETE", f"{client.services}/a")[0] == 403, "the operator's own rights hold"
    seen = [(one.call.verb, one.call.name, one.call.count, one.server_status, one.status) for one in proxy.records()]
    assert seen == [
        ("create", None, 1, 201, 201),
        ("create", None, 2, 409, 409),
        ("get", "a", 1, 200, 200),
        ("list", None, 1, 200, 200),
        ("delete", "a", 1, 403, 403),
    ]
    assert {one.user_agent for one in proxy.records()} == {"fault-tests"}
    assert proxy.records()[3].call.query == {"labelSelector": "x=y"}
    assert {one.call.namespace for one in proxy.records()} == {kubectl.namespace}
    assert [one.call.verb for one in proxy.writes(since=1)] == ["create", "delete"]


async def test_the_operators_client_accepts_it(
    proxy: FaultProxy, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(proxy.kubeconfig))
    kube = await Kube.connect()
    try:
        assert await kube.get(SERVICES, kubectl.namespace, "none") is None
    finally:
        await kube.close()
    assert proxy.records()[-1].user_agent.startswith("llm-operator/")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (409, "Conflict"),
        (410, "Expired"),
        (422, "Invalid"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
    ],
)
def test_an_error_instead_of_the_call(
    proxy: FaultProxy, client: Client, kubectl: Kubectl, status: int, reason: str
) -> None:
    with proxy.faults(lambda call: Answer(status, retry_after=7) if writes(call) else None):
        answered, headers, body = client.ask("POST", client.services, {"metadata": {"name": "a"}})
        assert client.ask("GET", client.services)[0] == 200
    assert (answered, headers["Retry-After"]) == (status, "7")
    assert (body["kind"], body["code"], body["reason"]) == ("Status", status, reason)
    assert names(kubectl) == []
    assert (proxy.writes()[0].server_status, proxy.writes()[0].status) == (None, status)
    assert client.create("a") == 201


def test_an_answer_of_ones_own(proxy: FaultProxy, client: Client) -> None:
    stale = {"kind": "Service", "metadata": {"name": "stale"}}
    with proxy.faults(lambda call: Answer(200, body=stale) if call.verb == "get" else None):
        assert client.ask("GET", f"{client.services}/a")[2] == stale


def test_a_call_that_never_arrives(proxy: FaultProxy, client: Client, kubectl: Kubectl) -> None:
    with proxy.faults(lambda call: Drop() if writes(call) else None), pytest.raises(ConnectionError):
        client.create("a")
    assert names(kubectl) == []
    assert (proxy.writes()[0].server_status, proxy.writes()[0].status) == (None, None)


def test_an_answer_that_never_arrives(proxy: FaultProxy, client: Client, kubectl: Kubectl) -> None:
    with proxy.faults(lambda call: DropAnswer() if writes(call) else None), pytest.raises(ConnectionError):
        client.create("a")
    assert names(kubectl) == ["a"]
    assert (proxy.writes()[0].server_status, proxy.writes()[0].status) == (201, None)


def test_a_delay_and_then_an_error_by_two_rules(proxy: FaultProxy, client: Client) -> None:
    start = time.monotonic()
    with proxy.faults(lambda _: Delay(0.5), lambda _: Answer(500)):
        assert client.create("a") == 500
    assert time.monotonic() - start >= 0.5


def test_callbacks_before_and_after_the_server(proxy: FaultProxy, client: Client, kubectl: Kubectl) -> None:
    seen: dict[str, object] = {}

    def before(record: Record) -> None:
        seen["before"] = (names(kubectl), record.server_status)

    def after(record: Record) -> None:
        seen["after"] = (names(kubectl), record.server_status, record.status)

    with proxy.faults(lambda _: Before(before), lambda _: After(after)):
        assert client.create("a") == 201
    assert seen == {"before": ([], None), "after": (["a"], 201, None)}


def test_after_the_second_write_that_succeeds(proxy: FaultProxy, client: Client, kubectl: Kubectl) -> None:
    then: list[list[str]] = []
    with proxy.after_write(2, lambda: then.append(names(kubectl))):
        assert [client.create(name) for name in ("a", "a", "b", "c")] == [201, 409, 201, 201]
    assert then == [["a", "b"]]


def test_what_a_rule_raises_is_raised_in_the_end(control_plane: ControlPlane, tmp_path: Path) -> None:
    def broken(call: Call) -> None:
        raise LookupError(call.path)

    with (
        pytest.raises(LookupError),
        running_fault_proxy(control_plane.operator_kubeconfig, tmp_path) as proxy,
        proxy.faults(broken),
        pytest.raises(ConnectionError),
    ):
        Client(proxy, "default").create("a")


def test_a_watch_passes_events_as_they_come(proxy: FaultProxy, client: Client, watch: Watch) -> None:
    for name in ("a", "b"):
        client.create(name)
        event = watch.next()
        assert event is not None
        assert event["object"]["metadata"]["name"] == name
    (call,) = proxy.open_watches("services")
    assert (call.verb, call.resource) == ("watch", "services")


def test_a_watch_closed_by_the_client_is_closed_at_the_server(proxy: FaultProxy, watch: Watch) -> None:
    watch.close()
    eventually(lambda: not proxy.open_watches())


def test_a_watch_ended_by_the_server_ends(proxy: FaultProxy, client: Client, watch: Watch) -> None:
    opened = client.watch(seconds=5)
    assert opened.rest().endswith(b"\n")
    opened.close()
    assert len(proxy.open_watches()) == 1


def test_a_cut_in_the_middle_of_a_line(proxy: FaultProxy, watch: Watch) -> None:
    proxy.cut_watches("pods")
    assert proxy.open_watches() != []
    proxy.cut_watches("services")
    with pytest.raises(HTTPException) as caught:
        watch.rest()
    assert getattr(caught.value, "partial", b"{").startswith(b"{")
    eventually(lambda: not proxy.open_watches())


def test_a_line_that_ends_in_the_middle(proxy: FaultProxy, watch: Watch) -> None:
    proxy.cut_watches(ended=True)
    rest = watch.rest()
    assert rest.startswith(b"{")
    assert not rest.endswith(b"\n")


@pytest.mark.parametrize("code", [410, 500])
def test_an_error_in_a_watch_ends_it(proxy: FaultProxy, watch: Watch, code: int) -> None:
    proxy.end_watches(code)
    event = watch.next()
    assert event is not None
    assert (event["type"], event["object"]["code"]) == ("ERROR", code)
    assert watch.next() is None


def test_a_frozen_watch_is_open_and_silent(proxy: FaultProxy, client: Client, watch: Watch) -> None:
    proxy.freeze_watches()
    client.create("unseen")
    watch.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        watch.next()
    assert len(proxy.open_watches()) == 1
    fresh = client.watch()
    assert fresh.next() is not None, "a new watch works"
    fresh.close()


def test_an_outage_cuts_everything_and_ends(proxy: FaultProxy, client: Client, watch: Watch) -> None:
    with proxy.outage():
        with pytest.raises((ConnectionError, HTTPException)):
            watch.rest()
        with pytest.raises((RemoteDisconnected, ConnectionError)):
            client.create("a")
        with pytest.raises((RemoteDisconnected, ConnectionError)):
            client.watch()
        assert proxy.open_watches() == []
    assert client.create("a") == 201


def test_a_callback_may_cut_watches(proxy: FaultProxy, client: Client, watch: Watch) -> None:
    with proxy.after_write(1, proxy.cut_watches):
        assert client.create("a") == 201
    with pytest.raises(HTTPException):
        watch.rest()


def test_it_stops_with_calls_and_watches_open(control_plane: ControlPlane, kubectl: Kubectl, tmp_path: Path) -> None:
    with running_fault_proxy(control_plane.operator_kubeconfig, tmp_path) as proxy:
        client = Client(proxy, kubectl.namespace)
        opened = client.watch()
        start = time.monotonic()
    assert time.monotonic() - start < 50, "it did not wait until the watch was over"
    assert "fault-proxy" not in {thread.name for thread in threading.enumerate()}
    opened.close()
