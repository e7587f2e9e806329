"""What one decision gets to see of claims and fetches, from the watch cache and live, against a small API server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from llm_operator.core import names
from llm_operator.core.model_cache.fetch_job import fetch_name
from llm_operator.core.observation import Observation
from llm_operator.core.revisions.state import State
from llm_operator.kube import CLAIMS, CONTROLLER_REVISIONS, DEPLOYMENTS, JOBS, LLMDEPLOYMENTS, PODS, Kube
from llm_operator.observe import observe
from llm_operator.reflector import Reflector
from llm_operator.watch_cache import WatchCache
from tests.unit.operator.builders import (
    SETTINGS,
    UID,
    a_cached_spec,
    a_claim,
    a_fetch,
    a_fetch_pod,
    a_manifest,
    a_pod,
    a_revision,
    a_spec,
    as_stored,
    waiting,
)

Objects = dict[str, Any]  # by the end of their path


@pytest.fixture
async def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    """A client of a server that has what stands in its `objects`."""

    async def answer(request: web.Request) -> web.Response:
        name = request.path.rpartition("/")[2]
        if name in ("pods", "controllerrevisions", "jobs", "llmdeployments", "replicasets", "events"):
            wanted = request.query.get("labelSelector", request.query.get("fieldSelector", ""))
            if objects.get(name) == "forbidden":
                return web.json_response({"reason": "Forbidden"}, status=403)
            items = [one for one in objects.get(name, []) if wanted.endswith(one.get("of", ""))]
            return web.json_response({"kind": "List", "apiVersion": "v1", "items": items})
        place = "/".join(request.path.split("/")[-2:])
        if place not in objects:
            return web.json_response({"reason": "NotFound"}, status=404)
        return web.json_response(objects[place])

    objects: Objects = {}
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "x", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    client = await Kube.connect()
    client.objects = objects  # type: ignore[attr-defined]
    yield client
    await client.close()
    await runner.cleanup()


def an_llmdeployment(name: str = "triage", uid: str = UID, **spec: Any) -> Objects:
    wire = a_spec(**spec).model_dump(by_alias=True, exclude_none=True)
    metadata = {"name": name, "namespace": "clinic", "uid": uid, "generation": 1, "resourceVersion": "3"}
    return {"kind": "LLMDeployment", "metadata": metadata, "spec": wire}


async def seen(kube: Kube, watched: WatchCache, *, live: bool) -> Observation:
    found = await observe(kube, watched, "clinic", "triage", settings=SETTINGS, live=live)
    assert found is not None
    return found


def the_pod(job: Objects) -> Objects:
    pod = a_fetch_pod()
    labels = job["spec"]["template"]["metadata"]["labels"]
    pod["metadata"] |= {"labels": labels, "uid": "uid-pod", "resourceVersion": "3"}
    return {**pod, "kind": "Pod", "of": job["metadata"]["name"]}


@pytest.mark.parametrize("live", [True, False])
async def test_claim_and_fetch_of_the_declared_model_are_seen(kube: Kube, live: bool) -> None:
    watched, parent, claim, job = WatchCache(), an_llmdeployment(mode="qwen", cache={}), a_claim(), a_fetch()
    pod = the_pod(job)
    if live:
        objects: Objects = kube.objects  # type: ignore[attr-defined]
        objects |= {"llmdeployments/triage": parent, "persistentvolumeclaims/model-cache": claim, "pods": [pod]}
        objects[f"jobs/{fetch_name(a_cached_spec(), claim, SETTINGS)}"] = job
    else:
        for resource, one in ((LLMDEPLOYMENTS, parent), (CLAIMS, claim), (JOBS, job), (PODS, pod)):
            watched.put(resource, one)
    found = await seen(kube, watched, live=live)
    assert found.claim is not None
    assert found.fetch is not None
    assert found.fetch["metadata"]["name"] == job["metadata"]["name"]
    assert [one["metadata"]["name"] for one in found.fetch_pods] == ["fetch-1"]
    assert (found.other_fetches, found.pods) == ((), ())
    assert watched.get(CLAIMS, "clinic", "model-cache") is not None


async def test_somebody_elses_claim_is_seen_and_not_kept(kube: Kube) -> None:
    watched = WatchCache()
    watched.put(LLMDEPLOYMENTS, an_llmdeployment(mode="qwen", cache={}))
    kube.objects["persistentvolumeclaims/model-cache"] = a_claim(ours=False)  # type: ignore[attr-defined]
    assert (await seen(kube, watched, live=False)).claim is not None
    assert watched.get(CLAIMS, "clinic", "model-cache") is None


async def test_without_a_claim_there_is_no_fetch(kube: Kube) -> None:
    watched = WatchCache()
    watched.put(LLMDEPLOYMENTS, an_llmdeployment(mode="qwen", cache={}))
    found = await seen(kube, watched, live=False)
    assert (found.claim, found.fetch) == (None, None)


async def test_a_fetch_that_is_not_declared_any_more_is_seen(kube: Kube) -> None:
    watched, theirs = WatchCache(), a_fetch(owner="another")
    theirs["metadata"] |= {"name": "fetch-theirs", "uid": "uid-theirs"}
    watched.put(LLMDEPLOYMENTS, an_llmdeployment())
    watched.put(JOBS, a_fetch())
    watched.put(JOBS, theirs)
    found = await seen(kube, watched, live=False)
    assert [one["metadata"]["name"] for one in found.other_fetches] == [a_fetch()["metadata"]["name"]]


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ({"cache": {}}, True),
        ({"cache": {"deletionPolicy": "Delete"}}, False),
        ({"cache": {"claimName": "other"}}, False),
        ({}, False),
    ],
)
async def test_whether_another_one_wants_the_claim_kept_is_seen(kube: Kube, other: Objects, kept: bool) -> None:
    watched = WatchCache()
    watched.put(LLMDEPLOYMENTS, an_llmdeployment(mode="qwen", cache={"deletionPolicy": "Delete"}))
    watched.put(LLMDEPLOYMENTS, an_llmdeployment("other", "uid-other", **other))
    assert (await seen(kube, watched, live=False)).others_keep_claim is kept


@pytest.mark.parametrize("live", [True, False])
async def test_the_neighbourhood_of_a_claim_that_may_be_pruned_is_seen(kube: Kube, live: bool) -> None:
    watched, job = WatchCache(), a_fetch()
    pruning = {"mode": "qwen", "cache": {"prune": "Unused"}}
    parent, other = an_llmdeployment(**pruning), an_llmdeployment("other", "uid-other", **pruning)
    record = as_stored(a_revision(State.GOOD, spec=a_cached_spec()).live)
    elsewhere = {**record, "metadata": {**record["metadata"], "namespace": "elsewhere", "uid": "uid-elsewhere"}}
    if live:
        objects: Objects = kube.objects  # type: ignore[attr-defined]
        objects |= {"llmdeployments/triage": parent, "persistentvolumeclaims/model-cache": a_claim()}
        objects |= {"llmdeployments": [parent, other], "jobs": [{**job, "of": "llm-operator"}]}
        objects["controllerrevisions"] = [{**record, "of": "llm-operator"}]
    else:
        found = ((LLMDEPLOYMENTS, parent), (LLMDEPLOYMENTS, other), (CLAIMS, a_claim()), (JOBS, job))
        for resource, one in (*found, (CONTROLLER_REVISIONS, record), (CONTROLLER_REVISIONS, elsewhere)):
            watched.put(resource, one)
    around = (await seen(kube, watched, live=live)).neighbourhood
    assert around is not None
    assert around.specs == (other["spec"],)
    assert [one["metadata"]["uid"] for one in around.revisions] == [record["metadata"]["uid"]]
    assert [one["metadata"]["uid"] for one in around.jobs] == [job["metadata"]["uid"]]


async def test_without_the_policy_nobody_looks_around(kube: Kube) -> None:
    watched = WatchCache()
    watched.put(LLMDEPLOYMENTS, an_llmdeployment(mode="qwen", cache={}))
    watched.put(CLAIMS, a_claim())
    assert (await seen(kube, watched, live=False)).neighbourhood is None


async def test_a_job_that_prunes_is_not_a_fetch_to_let_go_of(kube: Kube) -> None:
    watched, job = WatchCache(), a_fetch()
    job["metadata"]["labels"] = {names.MANAGED_BY: names.FIELD_MANAGER, names.PRUNE: "prune-1"}
    watched.put(LLMDEPLOYMENTS, an_llmdeployment())
    watched.put(JOBS, job)
    assert (await seen(kube, watched, live=False)).other_fetches == ()


def test_the_labels_of_a_fetch_are_not_those_of_a_server() -> None:
    labels = a_fetch()["spec"]["template"]["metadata"]["labels"]
    assert names.selector("triage").items() - labels.items()


async def test_news_of_the_neighbours_is_told_to_them(kube: Kube) -> None:
    """And to the one that is looked at, if it has changed since the look began."""
    watched, pruning = WatchCache(), {"mode": "qwen", "cache": {"prune": "Unused"}}
    told: list[tuple[str, str]] = []
    parent, other = an_llmdeployment(**pruning), an_llmdeployment("other", "uid-other", **pruning)
    for one in (parent, other):
        watched.put(LLMDEPLOYMENTS, one)
    Reflector(kube, watched, lambda place, **_: told.append(place), lambda _: None)
    edited = an_llmdeployment("other", "uid-other", **pruning, replicas=2)
    again = an_llmdeployment(**pruning, replicas=3)
    edited["metadata"]["resourceVersion"] = again["metadata"]["resourceVersion"] = "9"
    objects: Objects = kube.objects  # type: ignore[attr-defined]
    objects |= {"llmdeployments/triage": parent, "persistentvolumeclaims/model-cache": a_claim()}
    objects |= {"llmdeployments": [again, edited]}
    await seen(kube, watched, live=True)
    assert set(told) == {("clinic", "other"), ("clinic", "triage")}


async def test_what_is_read_for_a_decision_is_no_news_to_it(kube: Kube) -> None:
    watched, job = WatchCache(), a_fetch()
    told: list[tuple[str, str]] = []
    Reflector(kube, watched, lambda place, **_: told.append(place), lambda _: None)
    objects: Objects = kube.objects  # type: ignore[attr-defined]
    objects |= {"llmdeployments/triage": an_llmdeployment(mode="qwen", cache={}), "pods": [the_pod(job)]}
    objects |= {"persistentvolumeclaims/model-cache": a_claim()}
    objects[f"jobs/{fetch_name(a_cached_spec(), a_claim(), SETTINGS)}"] = job
    await seen(kube, watched, live=True)
    assert watched.get(JOBS, "clinic", job["metadata"]["name"]) is not None
    assert told == []


def a_replica_set(name: str, owner: str) -> Objects:
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x", "uid": owner, "controller": True}
    return {"kind": "ReplicaSet", "metadata": {"name": name, "namespace": "clinic", "ownerReferences": [reference]}}


def copied(pod: Objects, name: str, **metadata: Any) -> Objects:
    """A pod with the same labels that is somebody else's."""
    return {**pod, "metadata": {**pod["metadata"], "name": name, "uid": f"uid-{name}", **metadata}}


@pytest.mark.parametrize("live", [True, False])
async def test_pods_count_only_if_a_replica_set_of_our_deployment_made_them(kube: Kube, live: bool) -> None:
    watched, ours = WatchCache(), a_pod()
    ours["metadata"] |= {"uid": "uid-pod", "resourceVersion": "3"}
    (reference,) = ours["metadata"]["ownerReferences"]
    others = [
        copied(ours, "debug", ownerReferences=[{**reference, "name": "triage-debug-5d8f"}]),
        copied(ours, "alone", ownerReferences=[]),
        copied(ours, "job", ownerReferences=[{**reference, "kind": "Job"}]),
        copied(ours, "unhashed", labels=names.labels("triage")),
    ]
    pods = [ours, *others]
    kube.objects |= {"llmdeployments/triage": an_llmdeployment(), "pods": pods}  # type: ignore[attr-defined]
    if not live:
        watched.put(LLMDEPLOYMENTS, an_llmdeployment())
        for pod in pods:
            watched.put(PODS, pod)
    assert [one["metadata"]["name"] for one in (await seen(kube, watched, live=live)).pods] == [
        ours["metadata"]["name"]
    ]


async def test_refusals_count_only_for_replica_sets_of_our_deployment(kube: Kube) -> None:
    watched, deployment = WatchCache(), as_stored(a_manifest())
    deployment["status"] = {"conditions": [{"type": "ReplicaFailure", "status": "True"}]}
    watched.put(LLMDEPLOYMENTS, an_llmdeployment())
    watched.put(DEPLOYMENTS, deployment)
    ours, theirs = a_replica_set("triage-1", deployment["metadata"]["uid"]), a_replica_set("triage-2", "uid-debug")
    orphan = {"kind": "ReplicaSet", "metadata": {"name": "triage-3", "namespace": "clinic"}}
    kube.objects["replicasets"] = [ours, theirs, orphan]  # type: ignore[attr-defined]
    found = await seen(kube, watched, live=False)
    assert [one["metadata"]["name"] for one in found.replica_sets] == ["triage-1"]


def denied(*secrets: str) -> Objects:
    """A pod whose image may not be pulled."""
    pod = a_pod(containerStatuses=waiting("ErrImagePull", "401 Unauthorized"))
    pod["metadata"] |= {"uid": "uid-pod", "resourceVersion": "3"}
    pod["spec"]["imagePullSecrets"] = [{"name": one} for one in secrets]
    return pod


def an_event(pod: str, secrets: str) -> Objects:
    note = f"Unable to retrieve some image pull secrets ({secrets}); attempting to pull the image may not succeed."
    return {"note": note, "regarding": {"kind": "Pod", "name": pod}, "of": "FailedToRetrieveImagePullSecret"}


async def pull_of(kube: Kube, pod: Objects, events: list[Objects] | str) -> tuple[str, ...]:
    watched = WatchCache()
    watched.put(LLMDEPLOYMENTS, an_llmdeployment())
    watched.put(PODS, pod)
    kube.objects["events"] = events  # type: ignore[attr-defined]
    return (await seen(kube, watched, live=False)).missing_secrets


async def test_the_secret_that_a_kubelet_did_not_find_is_seen(kube: Kube) -> None:
    events = [an_event("triage-1", "regcred, mirror"), an_event("triage-1", "regcred"), an_event("other", "theirs")]
    assert await pull_of(kube, denied("regcred", "mirror"), events) == ("mirror", "regcred")


async def test_without_secrets_or_rights_nobody_asks_which_is_missing(kube: Kube) -> None:
    told = [an_event("triage-1", "regcred")]
    assert await pull_of(kube, denied(), told) == ()
    assert await pull_of(kube, denied("regcred"), "forbidden") == ()
    assert await pull_of(kube, denied("regcred"), [{**told[0], "note": "other words"}]) == ()
