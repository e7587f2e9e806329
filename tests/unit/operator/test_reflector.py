"""Which LLMDeployments an event is about: also where an object is shared, or belongs to one only through another."""

from typing import Any, cast

from llm_operator.core import names
from llm_operator.kube import CLAIMS, JOBS, LLMDEPLOYMENTS, PODS, Kube, Resource
from llm_operator.reflector import Reflector
from llm_operator.watch_cache import WatchCache
from llm_operator.workqueue import WorkQueue
from tests.unit.operator.builders import a_claim, a_fetch, a_fetch_pod, a_pod

NOBODY = cast(Kube, None)  # Events are taken without asking anybody.


class Told:
    """A reflector, and whom it had looked at: soon, or when others are done."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, str], bool] = {}
        self.watched = WatchCache()
        self.reflector = Reflector(NOBODY, self.watched, self._enqueue, lambda _: None)

    def _enqueue(self, place: tuple[str, str], /, *, can_wait: bool = False) -> None:
        self.places[place] = can_wait

    def by(self, resource: Resource, live: Any, kind: str = "MODIFIED") -> set[str]:
        self.places.clear()
        metadata = {"uid": f"uid-{live['metadata']['name']}", "resourceVersion": "5", **live["metadata"]}
        self.reflector.take(resource, {"type": kind, "object": {**live, "metadata": metadata}})
        return {name for _, name in self.places}


def an_llmdeployment(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "clinic"}, "spec": spec}


def test_a_claim_is_everybodys_who_names_it() -> None:
    told = Told()
    for name, spec in (("a", {"cache": {"claimName": "model-cache"}}), ("b", {"cache": {"claimName": "x"}}), ("c", {})):
        assert told.by(LLMDEPLOYMENTS, an_llmdeployment(name, **spec)) == {name}
    elsewhere = an_llmdeployment("d", cache={"claimName": "model-cache"})
    elsewhere["metadata"]["namespace"] = "other"
    told.by(LLMDEPLOYMENTS, elsewhere)
    assert told.by(CLAIMS, a_claim()) == {"a"}
    assert told.by(CLAIMS, a_claim(), "DELETED") == {"a"}


def test_a_fetch_and_its_pods_are_its_owners() -> None:
    told = Told()
    job = a_fetch()
    owner = job["metadata"]["ownerReferences"][0]
    job["metadata"]["ownerReferences"] = [{**owner, "name": "one"}, {**owner, "name": "two", "uid": "2"}]
    pod = a_fetch_pod()
    pod["metadata"]["labels"] = job["spec"]["template"]["metadata"]["labels"]
    assert told.by(PODS, pod) == set(), "nobody knows the Job yet"
    assert told.by(JOBS, job) == {"one", "two"}
    pod["metadata"]["resourceVersion"], pod["status"]["phase"] = "6", "Failed"
    assert told.by(PODS, pod) == {"one", "two"}
    name = job["metadata"]["name"]
    found = told.watched.children(PODS, "clinic", names.group_of_fetch(name))
    assert [one["metadata"]["name"] for one in found] == ["fetch-1"]
    assert told.watched.children(PODS, "clinic", name) == []


def test_the_counts_of_a_job_are_no_news() -> None:
    told = Told()
    job = a_fetch()
    assert told.by(JOBS, job) == {"triage"}
    job["metadata"]["resourceVersion"], job["status"]["active"] = "9", 1
    assert told.by(JOBS, job) == set()


def test_a_servers_pod_is_that_of_its_label() -> None:
    pod = a_pod()
    pod["metadata"]["labels"] = names.labels("triage")
    assert Told().by(PODS, pod) == {"triage"}


# Whoever brings the news first: when the watch tells it again, it is none any more.


def newer(live: Any, version: str = "9") -> Any:
    return {
        **live,
        "metadata": {**live["metadata"], "uid": f"uid-{live['metadata']['name']}", "resourceVersion": version},
    }


def test_what_a_look_at_one_finds_new_about_another_has_that_one_looked_at() -> None:
    told = Told()
    other = newer(an_llmdeployment("b", replicas=2))
    told.watched.put(LLMDEPLOYMENTS, other)
    assert list(told.places) == [("clinic", "b")]
    assert told.by(LLMDEPLOYMENTS, other) == set(), "the event comes too late to be news"


def test_who_is_being_looked_at_sees_it_anyway_and_whoever_else_has_a_share_does_not() -> None:
    told = Told()
    job = a_fetch()
    owner = job["metadata"]["ownerReferences"][0]
    job["metadata"]["ownerReferences"] = [{**owner, "name": "one"}, {**owner, "name": "two", "uid": "2"}]
    told.watched.put(JOBS, newer(job), reader=("clinic", "one"))
    assert list(told.places) == [("clinic", "two")]
    told.places.clear()
    told.watched.put(JOBS, newer(job, "10"), reader=("clinic", "one"))
    assert told.places == {}, "nothing is new but the version"


def test_a_list_tells_nobody_because_everybody_is_looked_at_after_it() -> None:
    told = Told()
    told.watched.take(LLMDEPLOYMENTS, [newer(an_llmdeployment("a"))])
    assert told.places == {}


def test_who_loses_an_object_to_another_is_told_too() -> None:
    told = Told()
    pod = a_pod()
    pod["metadata"]["labels"] = names.labels("a")
    assert told.by(PODS, pod) == {"a"}
    pod = newer(pod)
    pod["metadata"]["labels"] = names.labels("b")
    assert told.by(PODS, pod) == {"a", "b"}
    job = newer(a_fetch())
    owner = job["metadata"]["ownerReferences"][0]
    told.watched.put(JOBS, job)
    job = newer(job, "10")
    job["metadata"]["ownerReferences"] = [{**owner, "name": "heir"}]
    assert told.by(JOBS, job) == {"triage", "heir"}


def test_a_new_one_can_wait_and_what_happens_to_its_children_cannot() -> None:
    told = Told()
    told.by(LLMDEPLOYMENTS, an_llmdeployment("triage"))
    assert told.places == {("clinic", "triage"): True}
    told.by(PODS, a_pod())
    assert told.places == {("clinic", "triage"): False}
    under_way = {**an_llmdeployment("triage"), "status": {"conditions": [{"type": "Ready"}]}}
    under_way["metadata"]["resourceVersion"] = "6"
    told.by(LLMDEPLOYMENTS, under_way)
    assert told.places == {("clinic", "triage"): False}, "an edit is not to wait behind new ones"


def test_a_look_at_all_of_them_can_wait() -> None:
    told = Told()
    told.by(LLMDEPLOYMENTS, {**an_llmdeployment("triage"), "status": {"conditions": [{"type": "Ready"}]}})
    told.places.clear()
    told.reflector.enqueue_all(None)
    assert told.places == {("clinic", "triage"): True}


async def test_with_many_new_ones_in_the_queue_the_one_under_way_is_finished_first() -> None:
    watched: WatchCache = WatchCache()
    queue: WorkQueue[tuple[str, str]] = WorkQueue()
    reflector = Reflector(NOBODY, watched, queue.add, lambda _: None)

    def take(resource: Resource, live: dict[str, Any], version: int) -> None:
        metadata = {"uid": f"uid-{live['metadata']['name']}", "resourceVersion": str(version), **live["metadata"]}
        reflector.take(resource, {"type": "MODIFIED", "object": {**live, "metadata": metadata}})

    take(LLMDEPLOYMENTS, an_llmdeployment("triage"), 1)
    assert await queue.get() == ("clinic", "triage")
    queue.done(("clinic", "triage"))
    for number in range(50):
        take(LLMDEPLOYMENTS, an_llmdeployment(f"new-{number}"), 2 + number)
    take(PODS, a_pod(), 100)
    assert await queue.get() == ("clinic", "triage"), "its pod is there: it comes before fifty that are new"
