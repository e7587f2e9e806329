"""The client against a small HTTP server that answers as API servers and things in front of them do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from llm_operator import kube as kube_module
from llm_operator.api_clock import ApiClock
from llm_operator.credentials import USER_AGENT, proxy_from_environment
from llm_operator.kube import (
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    EVENTS,
    LEASES,
    LLMDEPLOYMENTS,
    NAMESPACE_TERMINATING,
    PODS,
    ApiError,
    Kube,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KubeFactory = Callable[..., Awaitable[Kube]]


@pytest.fixture
async def kube_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeFactory]:
    """A client whose server answers every request by the given handler; its token is in `tmp_path`/config."""
    opened: list[Callable[[], Awaitable[None]]] = []

    async def build(handler: Handler, **hooks: Any) -> Kube:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        write_config(tmp_path / "config", f"http://127.0.0.1:{runner.addresses[0][1]}", "first")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        kube = await Kube.connect(**hooks)
        opened.extend([kube.close, runner.cleanup])
        return kube

    yield build
    for close in opened:
        await close()


def write_config(path: Path, server: str, token: str) -> None:
    one = {
        "name": "x",
        "cluster": {"server": server},
        "context": {"cluster": "x", "user": "x"},
        "user": {"token": token},
    }
    path.write_text(
        yaml.safe_dump({"clusters": [one], "contexts": [one], "users": [one], "current-context": "x", "kind": "Config"})
    )


async def find(kube: Kube) -> list[Any]:
    return await kube.find(PODS, "clinic", label_selector="a=b")


NO_PODS = {"kind": "PodList", "apiVersion": "v1", "items": []}


async def test_a_missing_object_is_none_and_names_are_quoted(kube_with: KubeFactory) -> None:
    paths = []

    async def not_found(request: web.Request) -> web.Response:
        paths.append(request.raw_path)
        return web.json_response({"kind": "Status", "reason": "NotFound"}, status=404)

    kube = await kube_with(not_found)
    assert await kube.get(DEPLOYMENTS, "clinic", "a/../b") is None
    assert paths == ["/apis/apps/v1/namespaces/clinic/deployments/a%2F..%2Fb"]


async def test_a_refusal_keeps_the_api_servers_words_and_its_pace(kube_with: KubeFactory) -> None:
    async def busy(_: web.Request) -> web.Response:
        body = {"kind": "Status", "reason": "TooManyRequests", "message": "slow down"}
        return web.json_response(body, status=429, headers={"Retry-After": "7"})

    kube = await kube_with(busy)
    with pytest.raises(ApiError) as caught:
        await find(kube)
    assert (caught.value.status, caught.value.reason, caught.value.message) == (429, "TooManyRequests", "slow down")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [200, 502])
async def test_an_answer_from_something_in_between_is_an_api_error(kube_with: KubeFactory, status: int) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>sorry</html>", content_type="text/html", status=status)

    kube = await kube_with(page)
    with pytest.raises(ApiError):
        await find(kube)


async def test_a_server_that_is_gone_is_an_api_error(kube_with: KubeFactory, tmp_path: Path) -> None:
    async def never(_: web.Request) -> web.Response:
        raise AssertionError

    await kube_with(never)
    write_config(tmp_path / "config", "http://127.0.0.1:9", "first")
    kube = await Kube.connect()
    with pytest.raises(ApiError) as caught:
        await find(kube)
    assert caught.value.status == 0
    await kube.close()


async def test_an_expired_token_is_read_anew(kube_with: KubeFactory, tmp_path: Path) -> None:
    async def only_the_second(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer second":
            return web.json_response({"kind": "Status", "reason": "Unauthorized"}, status=401)
        return web.json_response(NO_PODS)

    kube = await kube_with(only_the_second)
    config = (tmp_path / "config").read_text()
    (tmp_path / "config").write_text(config.replace("first", "second"))
    with pytest.raises(ApiError):
        await find(kube)
    assert await find(kube) == []


async def test_a_create_posts(kube_with: KubeFactory) -> None:
    requests = []

    async def record(request: web.Request) -> web.Response:
        requests.append((request.method, request.path_qs, await request.text(), request.headers["User-Agent"]))
        return web.json_response({})

    kube = await kube_with(record)
    manifest = {"kind": "Service", "metadata": {"namespace": "clinic", "name": "triage"}}
    await kube.create(manifest)
    ((method, path, body, agent),) = requests
    assert (method, path) == ("POST", "/api/v1/namespaces/clinic/services?fieldManager=llm-operator")
    assert json.loads(body) == manifest
    assert agent == USER_AGENT


async def test_a_patch_names_the_version_it_was_made_for(kube_with: KubeFactory) -> None:
    bodies = []

    async def record(request: web.Request) -> web.Response:
        bodies.append((request.path, request.content_type, await request.json()))
        return web.json_response({})

    kube = await kube_with(record)
    live = {"kind": "Service", "metadata": {"namespace": "clinic", "name": "triage", "resourceVersion": "7"}}
    await kube.patch(live, [{"op": "remove", "path": "/a"}])
    await kube.write_status("clinic", "triage", {"replicas": 1}, resource_version="7")
    version = {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}
    status = {"op": "add", "path": "/status", "value": {"replicas": 1}}
    json_patch = "application/json-patch+json"
    assert bodies == [
        ("/api/v1/namespaces/clinic/services/triage", json_patch, [version, {"op": "remove", "path": "/a"}]),
        (
            "/apis/llm.carepath.ai/v1alpha1/namespaces/clinic/llmdeployments/triage/status",
            json_patch,
            [version, status],
        ),
    ]


async def test_a_cancelled_request_stays_cancelled(kube_with: KubeFactory) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    kube = await kube_with(hang)
    request = asyncio.create_task(find(kube))
    await asyncio.sleep(0.1)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request


# Lists.


async def test_objects_found_by_their_labels_have_the_kind_that_a_list_leaves_out(kube_with: KubeFactory) -> None:
    paths = []

    async def pods(request: web.Request) -> web.Response:
        paths.append(request.path_qs)
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "a"}}]})

    kube = await kube_with(pods)
    found = await kube.find(PODS, "clinic", label_selector="a=b,c=d")
    assert found == [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}]
    assert paths == ["/api/v1/namespaces/clinic/pods?labelSelector=a%3Db,c%3Dd"]


async def test_a_long_list_comes_in_pages(kube_with: KubeFactory) -> None:
    asked = []

    async def page(request: web.Request) -> web.Response:
        asked.append((request.path, dict(request.query)))
        number = int(request.query.get("continue", "0"))
        metadata = {"resourceVersion": "77", **({"continue": str(number + 1)} if number < 2 else {})}
        items = [{"metadata": {"name": f"o-{number}"}}]
        return web.json_response(
            {"kind": "DeploymentList", "apiVersion": "apps/v1", "metadata": metadata, "items": items}
        )

    kube = await kube_with(page)
    pages = [page async for page in kube.pages(DEPLOYMENTS, None, label_selector="a=b")]
    assert [(page[0]["metadata"]["name"], version) for page, version in pages] == [
        ("o-0", 77),
        ("o-1", 77),
        ("o-2", 77),
    ]
    path, first = asked[0]
    assert path == "/apis/apps/v1/deployments"
    assert first == {"limit": str(kube_module.PAGE), "labelSelector": "a=b"}
    assert [query.get("continue") for _, query in asked] == [None, "1", "2"]


async def test_a_list_of_everything_asks_for_no_labels(kube_with: KubeFactory) -> None:
    asked = []

    async def page(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        return web.json_response(
            {"kind": "XList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": []}
        )

    kube = await kube_with(page)
    assert [page async for page in kube.pages(LLMDEPLOYMENTS, "clinic")] == [([], 7)]
    assert asked == ["/apis/llm.carepath.ai/v1alpha1/namespaces/clinic/llmdeployments?limit=500"]


@pytest.mark.parametrize(
    ("answer", "status", "served"),
    [
        ({"resources": [{"name": "llmdeployments/status"}, {"name": "llmdeployments"}]}, 200, True),
        ({"resources": [{"name": "other"}]}, 200, False),
        ({}, 200, False),
        ({"reason": "NotFound"}, 404, False),
    ],
    ids=["it is there", "another kind is", "none is", "the group is not there"],
)
async def test_discovery_tells_whether_a_kind_is_served(
    kube_with: KubeFactory, answer: dict[str, Any], status: int, served: bool
) -> None:
    async def discovery(request: web.Request) -> web.Response:
        assert request.path == "/apis/llm.carepath.ai/v1alpha1"
        return web.json_response(answer, status=status)

    kube = await kube_with(discovery)
    assert await kube.serves(LLMDEPLOYMENTS) is served


async def test_that_nobody_may_look_does_not_mean_that_a_kind_is_not_served(kube_with: KubeFactory) -> None:
    async def forbidden(_: web.Request) -> web.Response:
        return web.json_response({"reason": "Forbidden"}, status=403)

    kube = await kube_with(forbidden)
    with pytest.raises(ApiError):
        await kube.serves(LLMDEPLOYMENTS)


async def test_a_read_that_is_refused_is_no_missing_object(kube_with: KubeFactory) -> None:
    async def forbidden(_: web.Request) -> web.Response:
        return web.json_response({"reason": "Forbidden"}, status=403)

    kube = await kube_with(forbidden)
    with pytest.raises(ApiError):
        await kube.get(DEPLOYMENTS, "clinic", "triage")


# Writes.


def live(kind: str = "ControllerRevision") -> dict[str, Any]:
    metadata = {"namespace": "clinic", "name": "triage-1", "uid": "uid-1", "resourceVersion": "7"}
    return {"kind": kind, "metadata": metadata}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("ControllerRevision", "/apis/apps/v1/namespaces/clinic/controllerrevisions"),
        ("Deployment", "/apis/apps/v1/namespaces/clinic/deployments"),
        ("Event", "/apis/events.k8s.io/v1/namespaces/clinic/events"),
        ("Lease", "/apis/coordination.k8s.io/v1/namespaces/clinic/leases"),
        ("Service", "/api/v1/namespaces/clinic/services"),
    ],
)
async def test_every_kind_is_created_where_the_api_serves_it(kube_with: KubeFactory, kind: str, path: str) -> None:
    async def created(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path}, status=201)

    kube = await kube_with(created)
    assert await kube.create(live(kind)) == {"path": path}


async def test_a_delete_names_what_it_was_decided_on_and_what_is_gone_is_gone(kube_with: KubeFactory) -> None:
    bodies = []

    async def gone(request: web.Request) -> web.Response:
        bodies.append((request.method, request.path, await request.json()))
        return web.json_response({"reason": "NotFound"}, status=404)

    kube = await kube_with(gone)
    await kube.delete(live())
    path = "/apis/apps/v1/namespaces/clinic/controllerrevisions/triage-1"
    conditions = {"uid": "uid-1", "resourceVersion": "7"}
    # The default for a Job would leave its pods behind.
    assert bodies == [("DELETE", path, {"preconditions": conditions, "propagationPolicy": "Background"})]


async def test_a_delete_of_what_has_changed_is_a_conflict(kube_with: KubeFactory) -> None:
    async def conflict(_: web.Request) -> web.Response:
        return web.json_response({"reason": "Conflict"}, status=409)

    kube = await kube_with(conflict)
    with pytest.raises(ApiError) as caught:
        await kube.delete(live())
    assert caught.value.status == 409


async def test_a_replacement_is_put_as_it_is(kube_with: KubeFactory) -> None:
    async def stored(request: web.Request) -> web.Response:
        return web.json_response({"method": request.method, "path": request.path, "body": await request.json()})

    kube = await kube_with(stored)
    path = "/apis/coordination.k8s.io/v1/namespaces/clinic/leases/triage-1"
    assert await kube.replace(live("Lease")) == {"method": "PUT", "path": path, "body": live("Lease")}


async def test_a_body_is_written_as_go_writes_it(kube_with: KubeFactory) -> None:
    bodies = []

    async def stored(request: web.Request) -> web.Response:
        bodies.append(await request.text())
        return web.json_response({})

    kube = await kube_with(stored)
    body = {**live(), "data": {"b": "<a> & b", "a": {"d": 1, "c": [True, None]}}}
    await kube.create(body)
    (text,) = bodies
    assert json.loads(text) == body
    assert text.startswith('{"data":{"a":{"c":[true,null],"d":1},"b":"\\u003ca\\u003e \\u0026 b"},"kind":')


async def test_a_namespace_that_is_going_away_is_told_by_its_cause(kube_with: KubeFactory) -> None:
    async def terminating(_: web.Request) -> web.Response:
        details = {"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]}
        return web.json_response({"reason": "Forbidden", "details": details}, status=403)

    kube = await kube_with(terminating)
    with pytest.raises(ApiError) as caught:
        await kube.create(live())
    assert (caught.value.status, caught.value.reason) == (403, NAMESPACE_TERMINATING)


@pytest.mark.parametrize("body", ["[1]", '"no"', "null", "no"])
async def test_an_error_in_any_form_is_an_api_error(kube_with: KubeFactory, body: str) -> None:
    async def strange(_: web.Request) -> web.Response:
        return web.Response(text=body, status=500, headers={"Retry-After": "soon"})

    kube = await kube_with(strange)
    with pytest.raises(ApiError) as caught:
        await kube.create(live())
    assert (caught.value.status, caught.value.reason, caught.value.retry_after) == (500, "500", None)
    assert body in caught.value.message


# Hooks.


class MayNotWrite(Exception):
    pass


async def test_who_may_not_write_sends_nothing_but_its_lease(kube_with: KubeFactory) -> None:
    methods = []

    async def record(request: web.Request) -> web.Response:
        methods.append((request.method, request.path.rsplit("/", 1)[1]))
        return web.json_response(NO_PODS)

    def refuse() -> None:
        raise MayNotWrite

    kube = await kube_with(record, before_write=refuse)
    writes: list[Callable[[], Awaitable[Any]]] = [
        lambda: kube.create(live()),
        lambda: kube.patch(live(), []),
        lambda: kube.replace(live()),
        lambda: kube.delete(live()),
        lambda: kube.write_status("clinic", "triage", {}, resource_version="7"),
        lambda: kube.create(live("Event")),
    ]
    for write in writes:
        with pytest.raises(MayNotWrite):
            await write()
    await find(kube)
    await kube.get(DEPLOYMENTS, "clinic", "triage")
    await kube.create(live("Lease"))
    await kube.replace(live("Lease"))
    assert methods == [("GET", "pods"), ("GET", "triage"), ("POST", "leases"), ("PUT", "triage-1")]


async def test_every_request_is_counted_by_its_resource(kube_with: KubeFactory) -> None:
    seen: list[tuple[str, str, int]] = []

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"reason": "NotFound"} if request.method == "GET" else {}, status=404)

    kube = await kube_with(answer, on_request=lambda verb, what, status, _: seen.append((verb, what, status)))
    await kube.get(LLMDEPLOYMENTS, "clinic", "triage")
    await kube.get(PODS, "clinic", "namespaces")
    assert not await kube.serves(CONTROLLER_REVISIONS)
    for resource in (EVENTS, LEASES):
        with pytest.raises(ApiError):
            _ = [page async for page in kube.pages(resource, None)]
    with pytest.raises(ApiError):
        await kube.write_status("clinic", "triage", {}, resource_version="7")
    with pytest.raises(ApiError):
        await kube.create(live())
    assert seen == [
        ("get", "llmdeployments", 404),
        ("get", "pods", 404),
        ("get", "", 404),
        ("get", "events", 404),
        ("get", "leases", 404),
        ("patch", "llmdeployments/status", 404),
        ("post", "controllerrevisions", 404),
    ]


async def test_a_request_without_an_answer_is_counted_too(kube_with: KubeFactory, tmp_path: Path) -> None:
    seen: list[tuple[str, str, int]] = []

    async def never(_: web.Request) -> web.Response:
        raise AssertionError

    await kube_with(never)
    write_config(tmp_path / "config", "http://127.0.0.1:9", "first")
    kube = await Kube.connect(on_request=lambda verb, what, status, _: seen.append((verb, what, status)))
    with pytest.raises(ApiError):
        await find(kube)
    assert set(seen) == {("get", "pods", 0)}
    await kube.close()


def streaming(*chunks: bytes, status: int = 200, cut: bool = False) -> Handler:
    """Answers every request with these chunks, each on its own."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        response.enable_chunked_encoding()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0.01)
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


def an_event(version: int, *, kind: str = "MODIFIED", note: str = "") -> bytes:
    pod = {"kind": "Pod", "metadata": {"name": "a", "resourceVersion": str(version)}, "note": note}
    return json.dumps({"type": kind, "object": pod}).encode() + b"\n"


async def watch(kube: Kube, seen: list[int] | None = None) -> list[int]:
    """The versions that a watch tells of."""
    found = [] if seen is None else seen
    async for event in kube.watch(PODS, "clinic", label_selector="a=b", version=7):
        found.append(int(event["object"]["metadata"]["resourceVersion"]))
    return found


async def test_a_watch_tells_of_what_comes_after_a_version_until_it_ends(kube_with: KubeFactory) -> None:
    asked: list[web.Request] = []
    text = an_event(8) + an_event(9, kind="BOOKMARK") + an_event(10, note="long" * 100_000)
    stream = streaming(*(text[start : start + 50_000] for start in range(0, len(text), 50_000)))

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        return await stream(request)

    seen: list[tuple[str, str, int]] = []
    kube = await kube_with(answer, on_request=lambda verb, what, status, _: seen.append((verb, what, status)))
    assert await watch(kube) == [8, 9, 10]
    assert asked[0].path == "/api/v1/namespaces/clinic/pods"
    query = dict(asked[0].query)
    assert 240 <= int(query.pop("timeoutSeconds")) <= 300
    assert query == {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "7", "labelSelector": "a=b"}
    assert seen == [("watch", "pods", 200)]


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (streaming(b'{"code": 410, "reason": "Expired", "message": "too old"}', status=410), 410),
        (streaming(an_event(8), b'{"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}\n'), 410),
        (streaming(an_event(8), b'{"type": "ERROR", "object": {}}\n'), 500),
        (streaming(an_event(8), b"<html>\n"), 0),
        (streaming(an_event(8), b"[1]\n"), 0),
        (streaming(an_event(8), an_event(9)[:20], cut=True), 0),
    ],
    ids=["refused", "expired", "an error without words", "no JSON", "no event", "cut"],
)
async def test_a_watch_that_fails_is_an_api_error(kube_with: KubeFactory, stream: Handler, status: int) -> None:
    kube = await kube_with(stream)
    with pytest.raises(ApiError) as told:
        await watch(kube)
    assert told.value.status == status


async def test_a_watch_that_breaks_is_no_outage_and_one_that_does_not_begin_is(
    kube_with: KubeFactory, tmp_path: Path
) -> None:
    seconds = [0.0]
    broken = await kube_with(streaming(an_event(8), cut=True))
    write_config(tmp_path / "config", "http://127.0.0.1:9", "first")
    absent = await Kube.connect()
    for kube in (broken, absent):
        kube.api_clock = ApiClock(lambda: seconds[0])
        kube.api_clock.answered(None)
        with pytest.raises(ApiError):
            await watch(kube)
    since = [kube.api_clock.since for kube in (broken, absent)]
    seconds[0] += 60
    for kube in (broken, absent):
        kube.api_clock.answered(None)
    assert (broken.api_clock.since > since[0], absent.api_clock.since > since[1]) == (False, True)
    await absent.close()


async def test_a_silent_watch_is_given_up(kube_with: KubeFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing_more(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(an_event(8))
        await asyncio.sleep(60)
        return response

    kube = await kube_with(nothing_more)
    monkeypatch.setattr(kube_module, "WATCH_TIMEOUT", aiohttp.ClientTimeout(sock_read=0.2))
    seen: list[int] = []
    with pytest.raises(ApiError):
        await watch(kube, seen)
    assert seen == [8]


async def test_a_read_that_fails_in_passing_is_tried_again_and_a_write_is_not(kube_with: KubeFactory) -> None:
    statuses, methods = iter([503, 500, 200, 503]), []

    async def stumbling(request: web.Request) -> web.Response:
        methods.append(request.method)
        return web.json_response(NO_PODS, status=next(statuses))

    kube = await kube_with(stumbling)
    await find(kube)
    with pytest.raises(ApiError):
        await kube.create(live())
    assert methods == ["GET", "GET", "GET", "POST"]


# Contact.


async def test_the_time_is_that_of_the_answers(kube_with: KubeFactory) -> None:
    async def dated(_: web.Request) -> web.Response:
        return web.json_response(NO_PODS, headers={"Date": "Sat, 01 Jan 2050 00:00:00 GMT"})

    kube = await kube_with(dated)
    await find(kube)
    assert 0 <= (kube.api_clock.now() - datetime(2050, 1, 1, tzinfo=UTC)).total_seconds() < 60
    assert kube.api_clock.since <= kube.api_clock.now(), "when this process heard of it first"
    assert kube.api_clock.since >= datetime(2050, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("status", "is_outage"), [(500, True), (503, True), (429, False), (404, False), (409, False)])
async def test_an_api_server_in_trouble_is_one_that_does_not_answer(
    kube_with: KubeFactory, status: int, is_outage: bool
) -> None:
    # A read is tried three times.
    answers = iter([status, status, status, 200] if is_outage else [status, 200])

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(NO_PODS, status=next(answers))

    kube = await kube_with(answer)
    seconds = [0.0]
    kube.api_clock = ApiClock(lambda: seconds[0])
    kube.api_clock.answered("Wed, 01 Jan 2020 00:00:00 GMT")
    since = kube.api_clock.since
    with pytest.raises(ApiError):
        await find(kube)
    seconds[0] += 60
    await find(kube)
    assert (kube.api_clock.since > since) is is_outage


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy.example.com:3128"}, "http://proxy.example.com:3128"),
        ({"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": "10.96.0.1,.local"}, None),
        ({"HTTP_PROXY": "http://proxy.example.com:3128"}, None),
    ],
    ids=["none", "one", "none for this host", "one for another scheme"],
)
def test_a_proxy_of_the_environment_is_used(
    variables: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_from_environment("https://10.96.0.1:443") == proxy


async def test_the_end_of_a_log_is_read_as_text(kube_with: KubeFactory) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, dict(request.query)))
        return web.Response(body=b'{"event": "progress"}\n\xff')

    kube = await kube_with(answer)
    assert await kube.last_lines("clinic", "fetch-1", container="fetch") == '{"event": "progress"}\n\ufffd'
    query = {"container": "fetch", "tailLines": "20", "limitBytes": "65536"}
    assert asked == [("/api/v1/namespaces/clinic/pods/fetch-1/log", query)]


async def test_a_log_that_a_node_does_not_give_says_nothing_about_the_api_server(
    kube_with: KubeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: web.Request) -> web.Response:
        return web.json_response({"reason": "InternalError"}, status=500)

    kube = await kube_with(broken)
    failures: list[None] = []
    monkeypatch.setattr(kube.api_clock, "failed", lambda: failures.append(None))
    with pytest.raises(ApiError):
        await kube.last_lines("clinic", "fetch-1", container="fetch")
    assert failures == []
