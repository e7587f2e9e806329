"""The client against a small HTTP server that answers as API servers and things in front of them do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from llm_operator import kube as kube_module
from llm_operator.kube import DEPLOYMENTS, LLMDEPLOYMENTS, ApiError, Kube

Handler = Callable[[web.Request], Awaitable[web.Response]]
KubeFactory = Callable[[Handler], Awaitable[Kube]]


@pytest.fixture
async def kube_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeFactory]:
    """A client whose server answers every request by the given handler; its token is in `tmp_path`/config."""
    opened: list[Callable[[], Awaitable[None]]] = []

    async def build(handler: Handler) -> Kube:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        write_config(tmp_path / "config", f"http://127.0.0.1:{runner.addresses[0][1]}", "first")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        kube = await Kube.connect()
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
        await kube.find(LLMDEPLOYMENTS)
    assert (caught.value.status, caught.value.reason, caught.value.message) == (429, "TooManyRequests", "slow down")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [200, 502])
async def test_an_answer_from_something_in_between_is_an_api_error(kube_with: KubeFactory, status: int) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>sorry</html>", content_type="text/html", status=status)

    kube = await kube_with(page)
    with pytest.raises(ApiError):
        await kube.find(LLMDEPLOYMENTS)


async def test_a_server_that_is_gone_is_an_api_error(kube_with: KubeFactory, tmp_path: Path) -> None:
    async def never(_: web.Request) -> web.Response:
        raise AssertionError

    await kube_with(never)
    write_config(tmp_path / "config", "http://127.0.0.1:9", "first")
    kube = await Kube.connect()
    with pytest.raises(ApiError) as caught:
        await kube.find(LLMDEPLOYMENTS)
    assert caught.value.status == 0
    await kube.close()


async def test_an_expired_token_is_read_anew(kube_with: KubeFactory, tmp_path: Path) -> None:
    async def only_the_second(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer second":
            return web.json_response({"kind": "Status", "reason": "Unauthorized"}, status=401)
        return web.json_response({"items": []})

    kube = await kube_with(only_the_second)
    config = (tmp_path / "config").read_text()
    (tmp_path / "config").write_text(config.replace("first", "second"))
    with pytest.raises(ApiError):
        await kube.find(LLMDEPLOYMENTS)
    assert await kube.find(LLMDEPLOYMENTS) == []


async def test_a_create_posts_and_an_apply_names_the_version(kube_with: KubeFactory) -> None:
    requests = []

    async def record(request: web.Request) -> web.Response:
        requests.append((request.method, request.path_qs, await request.text(), request.headers["User-Agent"]))
        return web.json_response({})

    kube = await kube_with(record)
    manifest = {"kind": "Service", "metadata": {"namespace": "clinic", "name": "triage"}}
    await kube.create(manifest)
    await kube.apply(manifest, over={"metadata": {"resourceVersion": "7"}})
    (method, path, _, agent), (then, there, body, _) = requests
    assert (method, path) == ("POST", "/api/v1/namespaces/clinic/services?fieldManager=llm-operator")
    assert (then, there) == (
        "PATCH",
        "/api/v1/namespaces/clinic/services/triage?fieldManager=llm-operator&force=true",
    )
    assert json.loads(body)["metadata"]["resourceVersion"] == "7"
    assert agent == kube_module.USER_AGENT


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
    request = asyncio.create_task(kube.find(LLMDEPLOYMENTS))
    await asyncio.sleep(0.1)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
