"""What the watches delivered: the newest version of each object, and whether a change of it matters."""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from llm_operator.core import names
from llm_operator.core.names import Manifest
from llm_operator.kube import CONTROLLER_REVISIONS, DEPLOYMENTS, LLMDEPLOYMENTS, PODS, SERVICES
from llm_operator.watch_cache import REMEMBER_DELETED_SECONDS, WatchCache
from tests.unit.operator.builders import a_manifest, a_pod, a_revision, as_stored, died


class Clock:
    """Seconds, as many as one says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def an_object(version: int, *, name: str = "triage", uid: str = "uid-1", namespace: str = "clinic", **over: Any) -> Any:
    metadata = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version), "generation": 1}
    return {"metadata": {**metadata, **over.pop("metadata", {})}, **over}


def a_child(version: int, *, parent: str | None = "triage", **over: Any) -> Any:
    labels = {} if parent is None else names.labels(parent)
    return an_object(version, **over, metadata={"labels": labels, **over.pop("metadata", {})})


def version_of(watched: WatchCache, name: str = "triage") -> int | None:
    live = watched.get(SERVICES, "clinic", name)
    return None if live is None else int(live["metadata"]["resourceVersion"])


@pytest.mark.parametrize(
    ("versions", "newest"),
    [([5, 7], 7), ([7, 5], 7), ([7, 7], 7), ([9, 10], 10), ([10, 9], 10)],
)
def test_the_newest_version_stays_in_whatever_order_they_arrive(versions: list[int], newest: int) -> None:
    watched = WatchCache()
    for version in versions:
        watched.put(SERVICES, an_object(version))
    assert version_of(watched) == newest


def test_what_is_not_known_is_none() -> None:
    watched = WatchCache()
    watched.put(SERVICES, an_object(1))
    assert watched.get(SERVICES, "clinic", "other") is None
    assert watched.get(SERVICES, "other", "triage") is None
    assert watched.get(DEPLOYMENTS, "clinic", "triage") is None


# Deletions.


def test_a_deleted_object_is_gone_and_older_news_do_not_bring_it_back() -> None:
    watched = WatchCache()
    watched.put(SERVICES, an_object(5))
    watched.remove(SERVICES, an_object(6))
    assert version_of(watched) is None
    assert not watched.put(SERVICES, an_object(5))
    assert not watched.put(SERVICES, an_object(6))
    assert version_of(watched) is None


def test_an_object_that_only_lost_and_regained_its_label_is_there_again() -> None:
    watched = WatchCache()
    watched.remove(SERVICES, an_object(6))
    assert watched.put(SERVICES, an_object(7)), "a watch calls deleted what its selector does not choose any more"
    assert version_of(watched) == 7


def test_an_object_that_was_made_since_stays_when_the_old_one_is_reported_gone() -> None:
    watched = WatchCache()
    watched.put(SERVICES, an_object(5))
    watched.put(SERVICES, an_object(9, uid="uid-2"))
    watched.remove(SERVICES, an_object(6))
    assert version_of(watched) == 9


def test_the_deletion_of_what_was_never_known_is_remembered() -> None:
    watched = WatchCache()
    watched.remove(SERVICES, an_object(6))
    assert not watched.put(SERVICES, an_object(5))


def test_deletions_are_remembered_only_as_long_as_a_list_may_be_late() -> None:
    clock = Clock()
    watched = WatchCache(clock)
    watched.remove(SERVICES, an_object(6))
    clock.now = REMEMBER_DELETED_SECONDS - 1
    watched.drop_others(SERVICES, None, set(), 6)
    assert not watched.put(SERVICES, an_object(5))
    clock.now = REMEMBER_DELETED_SECONDS
    watched.drop_others(SERVICES, None, set(), 6)
    assert watched.put(SERVICES, an_object(5))


# Lists.


def test_what_a_list_does_not_hold_is_gone_unless_it_is_newer_than_the_list() -> None:
    watched = WatchCache()
    watched.put(SERVICES, an_object(5, name="gone", uid="a"))
    watched.put(SERVICES, an_object(8, name="new", uid="b"))
    listed = watched.take(SERVICES, [an_object(6, name="there", uid="c")])
    assert listed == {("clinic", "there")}
    watched.drop_others(SERVICES, None, listed, 7)
    assert [one["metadata"]["name"] for one in watched.every(SERVICES)] == ["new", "there"]


def test_a_list_of_one_namespace_says_nothing_about_others() -> None:
    watched = WatchCache()
    watched.put(SERVICES, an_object(5, namespace="here", uid="a"))
    watched.put(SERVICES, an_object(5, namespace="there", uid="b"))
    watched.drop_others(SERVICES, "here", set(), 7)
    assert [one["metadata"]["namespace"] for one in watched.every(SERVICES)] == ["there"]


def test_a_list_says_nothing_about_other_kinds() -> None:
    watched = WatchCache()
    watched.put(DEPLOYMENTS, an_object(5))
    watched.drop_others(SERVICES, None, set(), 7)
    assert watched.get(DEPLOYMENTS, "clinic", "triage") is not None


def test_every_object_can_be_gone_through_while_they_come_and_go() -> None:
    watched = WatchCache()
    for number in range(3):
        watched.put(SERVICES, an_object(5, name=f"s-{number}", uid=f"uid-{number}"))
    for live in watched.every(SERVICES):
        watched.remove(SERVICES, live)
    assert list(watched.every(SERVICES)) == []


# Whether a watch delivers.


def test_a_watch_that_does_not_deliver_what_a_list_shows_is_behind() -> None:
    clock = Clock()
    watched = WatchCache(clock)
    watched.put(SERVICES, an_object(5), watched=True)
    assert watched.behind_seconds() == 0
    watched.take(SERVICES, [an_object(7, spec={})])
    clock.now = 30
    assert watched.behind_seconds() == 30
    watched.take(SERVICES, [an_object(9, name="other", uid="b")])
    clock.now = 40
    assert watched.behind_seconds() == 40, "since the first"
    watched.put(SERVICES, an_object(8), watched=True)
    assert watched.behind_seconds() == 40, "one is still to come"
    watched.put(SERVICES, an_object(9, name="other", uid="b"), watched=True)
    assert watched.behind_seconds() == 0


def test_a_watch_that_begins_where_a_list_ends_does_not_owe_what_is_in_it() -> None:
    clock = Clock()
    watched = WatchCache(clock)
    watched.take(SERVICES, [an_object(7), an_object(9, name="other", uid="b")])
    clock.now = 30
    watched.caught_up(SERVICES, 8)
    assert watched.behind_seconds() == 30
    watched.caught_up(SERVICES, 9)
    assert watched.behind_seconds() == 0


def test_a_deletion_is_a_delivery_too() -> None:
    watched = WatchCache(clock := Clock())
    watched.take(SERVICES, [an_object(7)])
    clock.now = 30
    watched.remove(SERVICES, an_object(8), watched=True)
    assert watched.behind_seconds() == 0


def test_each_watch_delivers_for_itself() -> None:
    watched = WatchCache(clock := Clock())
    watched.take(SERVICES, [an_object(7)])
    clock.now = 30
    watched.put(DEPLOYMENTS, as_stored(a_manifest()) | an_object(99), watched=True)
    assert watched.behind_seconds() == 30


def test_own_writes_and_reads_are_no_deliveries() -> None:
    watched = WatchCache(clock := Clock())
    watched.take(SERVICES, [an_object(7)])
    clock.now = 30
    watched.put(SERVICES, an_object(9))
    watched.remove(SERVICES, an_object(10))
    assert watched.behind_seconds() == 30


def test_a_list_without_news_owes_nothing() -> None:
    watched = WatchCache(clock := Clock())
    watched.put(SERVICES, an_object(7), watched=True)
    watched.take(SERVICES, [an_object(7)])
    clock.now = 30
    assert watched.behind_seconds() == 0


# Children.


def children(watched: WatchCache, parent: str = "triage", namespace: str = "clinic") -> list[str]:
    return [one["metadata"]["name"] for one in watched.children(CONTROLLER_REVISIONS, namespace, parent)]


def test_children_are_found_by_the_label_of_their_parent_in_its_namespace() -> None:
    watched = WatchCache()
    watched.put(CONTROLLER_REVISIONS, a_child(1, name="b", uid="1"))
    watched.put(CONTROLLER_REVISIONS, a_child(1, name="a", uid="2"))
    watched.put(CONTROLLER_REVISIONS, a_child(1, name="c", uid="3", parent="other"))
    watched.put(CONTROLLER_REVISIONS, a_child(1, name="d", uid="4", namespace="elsewhere"))
    watched.put(CONTROLLER_REVISIONS, a_child(1, name="e", uid="5", parent=None))
    assert children(watched) == ["a", "b"]
    assert children(watched, "other") == ["c"]
    assert children(watched, namespace="elsewhere") == ["d"]
    assert children(watched, "nobody") == []


def test_a_child_whose_label_changes_changes_its_parent() -> None:
    watched = WatchCache()
    watched.put(CONTROLLER_REVISIONS, a_child(1))
    watched.put(CONTROLLER_REVISIONS, a_child(2, parent="other"))
    assert (children(watched), children(watched, "other")) == ([], ["triage"])
    watched.put(CONTROLLER_REVISIONS, a_child(3, parent=None))
    assert children(watched, "other") == []


def test_a_child_that_is_gone_is_no_child() -> None:
    watched = WatchCache()
    watched.put(CONTROLLER_REVISIONS, a_child(1))
    watched.remove(CONTROLLER_REVISIONS, a_child(2))
    assert children(watched) == []


# What matters.


def changed(resource: Any, live: Manifest, **paths: Any) -> bool:
    """Whether a newer version with these fields, by dotted path, is news."""
    watched = WatchCache()
    assert watched.put(resource, live)
    newer = {**live, "metadata": {**live["metadata"], "resourceVersion": "99"}}
    for path, value in paths.items():
        *groups, last = path.split("__")
        place: Any = newer
        for group in groups:
            place[group] = {**place.get(group, {})}
            place = place[group]
        place[last] = value
    return watched.put(resource, newer)


def a_live_pod() -> Manifest:
    pod = a_pod(of=a_revision(), containerStatuses=died(1))
    return {**pod, "metadata": {**pod["metadata"], "uid": "uid-1", "resourceVersion": "1"}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata__managedFields", [{"manager": "kubectl"}]),
        ("metadata__annotations", {names.REVISION: a_revision().hash, "a": "b"}),
        ("spec__nodeName", "node-1"),
        ("status__podIP", "10.0.0.1"),
        ("status__qosClass", "Burstable"),
        ("status__conditions", [{"type": "Ready", "status": "False", "lastTransitionTime": "now"}, {"type": "Other"}]),
    ],
)
def test_what_no_decision_looks_at_is_no_news_of_a_pod(path: str, value: object) -> None:
    assert not changed(PODS, a_live_pod(), **{path: value})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata__deletionTimestamp", "2026-01-02T03:04:05Z"),
        ("metadata__labels", names.labels("other")),
        ("metadata__ownerReferences", []),
        ("spec__schedulingGates", [{"name": "example.com/queue"}]),
        ("spec__imagePullSecrets", [{"name": "regcred"}]),
        ("metadata__annotations", {}),
        ("spec__containers", [{"name": "server", "resources": {"limits": {"memory": "1Gi"}}}]),
        ("spec__initContainers", [{"name": "first"}]),
        ("status__phase", "Failed"),
        ("status__reason", "Evicted"),
        ("status__containerStatuses", died(2)),
        ("status__initContainerStatuses", died(2)),
        ("status__conditions", [{"type": "Ready", "status": "True"}]),
        ("status__conditions", [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]),
    ],
)
def test_what_a_decision_looks_at_is_news_of_a_pod(path: str, value: object) -> None:
    assert changed(PODS, a_live_pod(), **{path: value})


def test_a_pod_without_spec_and_status_is_taken() -> None:
    pod = {"metadata": a_live_pod()["metadata"]}
    assert WatchCache().put(PODS, pod)


@pytest.mark.parametrize(
    ("path", "value", "news"),
    [
        ("metadata__managedFields", [{"manager": "kubectl"}], False),
        ("metadata__annotations", {"kubectl.kubernetes.io/last-applied-configuration": "{}"}, False),
        ("metadata__annotations", {names.REVISION: "another"}, True),
        ("status__conditions", [{"type": "Progressing", "status": "True", "lastUpdateTime": "now"}], False),
        ("status__conditions", [{"type": "ReplicaFailure", "status": "True"}], True),
        ("status__conditions", [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}], True),
        ("status__availableReplicas", 1, True),
        ("spec__replicas", 9, True),
    ],
)
def test_news_of_a_deployment_is_what_decisions_look_at(path: str, value: object, news: bool) -> None:
    live = as_stored(a_manifest())
    if path == "metadata__annotations" and not news:
        live["metadata"]["annotations"] = {}
    assert changed(DEPLOYMENTS, live, **{path: value}) is news


def test_a_status_of_our_own_is_news_of_an_object_that_had_another() -> None:
    assert changed(LLMDEPLOYMENTS, an_object(1, status={"replicas": 1}), status__replicas=2)
    assert not changed(LLMDEPLOYMENTS, an_object(1, status={"replicas": 1}), status__replicas=1)


def test_what_is_kept_is_enough_for_every_decision_and_not_much_more() -> None:
    watched = WatchCache()
    watched.put(PODS, {**a_live_pod(), "apiVersion": "v1"} | {"spec": {**a_live_pod()["spec"], "volumes": ["x"] * 100}})
    kept = watched.get(PODS, "clinic", "triage-1")
    assert kept is not None
    assert names.revision_of(kept) == a_revision().hash
    assert kept["spec"] == {"containers": [{"name": "server", "resources": {"limits": {"memory": "64Mi"}}}]}
    assert kept["status"] == a_live_pod()["status"]


def test_a_record_is_kept_word_for_word() -> None:
    live = a_revision().live
    watched = WatchCache()
    watched.put(CONTROLLER_REVISIONS, live)
    assert watched.children(CONTROLLER_REVISIONS, "clinic", "triage") == [live]


def test_what_is_stored_does_not_change_with_what_was_given() -> None:
    live = a_revision().live
    watched = WatchCache()
    watched.put(CONTROLLER_REVISIONS, live)
    live["data"]["template"]["spec"]["containers"][0]["image"] = "edited:1"
    (kept,) = watched.children(CONTROLLER_REVISIONS, "clinic", "triage")
    assert kept["data"]["template"]["spec"]["containers"][0]["image"] != "edited:1"


def test_what_is_older_than_what_was_told_is_known_to_be() -> None:
    watched = WatchCache()
    watched.put(SERVICES, an_object(5))
    assert watched.knows_newer(SERVICES, an_object(4))
    assert not watched.knows_newer(SERVICES, an_object(5))
    assert not watched.knows_newer(SERVICES, an_object(6))
    assert not WatchCache().knows_newer(SERVICES, an_object(4))


# A cluster that is set back to a backup.


def listed(watched: WatchCache, version: int, *objects: Any, namespace: str | None = None) -> bool:
    """Take a list; whether it shows that the cluster was set back."""
    listing = watched.listing(SERVICES, namespace)
    for live in objects:
        listing.take([live], version)
    listing.take([], version)
    listing.end()
    return listing.is_set_back


def known(watched: WatchCache) -> dict[str, int]:
    return {one["metadata"]["name"]: int(one["metadata"]["resourceVersion"]) for one in watched.every(SERVICES)}


def a_store(*versions: int) -> tuple[WatchCache, Clock]:
    watched = WatchCache(clock := Clock())
    for version in versions:
        watched.put(SERVICES, an_object(version, name=f"s-{version}", uid=f"uid-{version}"), watched=True)
    clock.now += 1
    return watched, clock


def test_a_list_of_an_older_version_than_was_heard_of_shows_it() -> None:
    watched, _ = a_store(5, 7, 9)
    assert listed(watched, 8, an_object(5, name="s-5", uid="uid-5"))
    assert known(watched) == {"s-5": 5}, "ghosts are gone"
    assert not listed(watched, 8, an_object(5, name="s-5", uid="uid-5")), "it is found out once"


@pytest.mark.parametrize("heard", ["bookmark", "list", "own write", "deletion"])
def test_whatever_a_version_was_heard_from_counts(heard: str) -> None:
    watched, _ = a_store()
    match heard:
        case "bookmark":
            watched.saw(SERVICES, None, 9)
        case "list":
            listed(watched, 9)
        case "own write":
            watched.put(SERVICES, an_object(9))
        case "deletion":
            watched.remove(SERVICES, an_object(9), watched=True)
    assert not listed(watched, 9)
    assert listed(watched, 8)


def test_an_older_version_of_an_object_shows_it_although_others_have_grown_since() -> None:
    watched, _ = a_store(5)
    watched.put(SERVICES, an_object(9, name="s-5", uid="uid-5", spec={"edited": True}), watched=True)
    assert listed(watched, 20, an_object(5, name="s-5", uid="uid-5"), an_object(20, name="new", uid="uid-new"))
    assert known(watched) == {"s-5": 5, "new": 20}


def test_one_that_was_gone_before_the_list_was_asked_for_shows_it() -> None:
    watched, clock = a_store(5)
    watched.remove(SERVICES, an_object(9, name="s-5", uid="uid-5"), watched=True)
    clock.now += 1
    assert listed(watched, 20, an_object(5, name="s-5", uid="uid-5"))
    assert known(watched) == {"s-5": 5}


def test_one_that_goes_while_the_list_is_under_way_does_not() -> None:
    watched, _ = a_store(5)
    listing = watched.listing(SERVICES, None)
    watched.remove(SERVICES, an_object(9, name="s-5", uid="uid-5"), watched=True)
    listing.take([an_object(5, name="s-5", uid="uid-5")], 8)
    listing.end()
    assert (listing.is_set_back, known(watched)) == (False, {})


def test_what_is_known_stays_until_it_is_replaced_and_then_counts_again() -> None:
    """What is not in the watch cache would seem to be missing."""
    watched, _ = a_store(5, 7)
    listing = watched.listing(SERVICES, None)
    listing.take([an_object(3, name="s-5", uid="uid-5")], 6)
    assert known(watched) == {"s-5": 3, "s-7": 7}
    assert not watched.knows_newer(SERVICES, an_object(2, name="s-7", uid="uid-7")), "a live read is believed at once"
    assert watched.knows_newer(SERVICES, an_object(2, name="s-5", uid="uid-5"))
    assert watched.put(SERVICES, an_object(2, name="s-7", uid="uid-7", spec={"x": 1}))
    listing.end()
    assert known(watched) == {"s-5": 3}


def test_other_namespaces_find_it_out_for_themselves() -> None:
    watched = WatchCache()
    for namespace in ("here", "there"):
        watched.put(SERVICES, an_object(9, namespace=namespace, uid=namespace))
    assert listed(watched, 5, an_object(3, namespace="here", uid="here"), namespace="here")
    assert watched.get(SERVICES, "there", "triage") == an_object(9, namespace="there", uid="there")
    assert listed(watched, 5, namespace="there")
    assert watched.get(SERVICES, "there", "triage") is None


def test_a_watch_owes_nothing_of_what_is_no_more() -> None:
    watched, clock = a_store()
    watched.take(SERVICES, [an_object(9)])
    clock.now += 100
    assert listed(watched, 5)
    assert watched.behind_seconds() == 0


class ACluster(RuleBasedStateMachine):
    """Versions, a watch that lags, live reads, lists under way; and now and then a backup is brought back."""

    def __init__(self) -> None:
        super().__init__()
        self.watched = WatchCache(self.clock)
        self.version, self.now = 1, 0.0
        self.objects: dict[str, int] = {}
        self.made: dict[str, int] = {}
        self.untold: list[tuple[str, Any]] = []
        self.backup: tuple[int, dict[str, int], dict[str, int]] = (1, {}, {})
        self.listing: Any = None
        self.trusted = True

    def clock(self) -> float:
        self.now += 1
        return self.now

    def live(self, name: str, version: int) -> Any:
        return an_object(version, name=name, uid=f"{name}-{self.made[name]}", spec={"at": version})

    @rule(name=st.sampled_from("abc"))
    def write(self, name: str) -> None:
        self.version += 1
        if name not in self.objects:
            self.made[name] = self.version
        self.objects[name] = self.version
        self.untold.append(("put", self.live(name, self.version)))

    @rule(name=st.sampled_from("abc"))
    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            self.untold.append(("remove", self.live(name, self.version)))
            del self.objects[name]

    @rule(name=st.sampled_from("abc"))
    def read_live(self, name: str) -> None:
        known = self.watched.get(SERVICES, "clinic", name)
        if self.trusted and name in self.objects:
            self.watched.put(SERVICES, self.live(name, self.objects[name]))
        elif self.trusted and known is not None:
            self.watched.remove(SERVICES, known)

    @rule(count=st.integers(1, 4))
    def the_watch_tells(self, count: int) -> None:
        told, self.untold = self.untold[:count], self.untold[count:]
        for kind, live in told if self.trusted else []:
            getattr(self.watched, kind)(SERVICES, live, watched=True)

    @rule()
    def back_up(self) -> None:
        self.backup = (self.version, dict(self.objects), dict(self.made))

    @rule()
    def bring_back(self) -> None:
        version, objects, made = self.backup
        if version < self.version and self.listing is None:
            self.version, self.objects, self.made = version, dict(objects), dict(made)
            self.untold, self.trusted = [], False

    @rule()
    def ask_for_a_list(self) -> None:
        self.listing = self.watched.listing(SERVICES, None)

    @rule(split=st.integers(0, 3))
    def get_the_list(self, split: int) -> None:
        if self.listing is None:
            return
        answer = [self.live(name, version) for name, version in self.objects.items()]
        for page in (answer[:split], answer[split:]):
            self.listing.take(page, self.version)
        self.listing.end()
        if self.trusted:
            assert not self.listing.is_set_back
        else:
            # The watch begins anew where the list ends.
            self.untold, self.trusted = [], True
        self.listing = None
        if not self.untold:
            assert known(self.watched) == self.objects

    def teardown(self) -> None:
        self.listing = self.watched.listing(SERVICES, None)
        self.get_the_list(0)
        self.the_watch_tells(1000)
        assert known(self.watched) == self.objects


TestACluster = ACluster.TestCase
