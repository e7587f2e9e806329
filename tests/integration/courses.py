"""Courses of events, each on an object of its own, run at the same time against one operator.

They are independent and spend their time waiting for kubelets and deadlines. A story is a file of them.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.conftest import ControlPlane, running_operator
from tests.integration.subject import Subject, World, entries, new_namespace, watching, written_since
from tests.kubectl import is_ready

AT_A_TIME = 12
Course = Callable[[Subject], None]


@dataclass
class Runs:
    """What came of each course, and the world at the end of all."""

    world: World
    results: dict[str, Future[None]]
    log: Path


class Courses(dict[str, Course]):
    """The courses of a story by name."""

    def add(self, run: Course) -> Course:
        """One of the tests."""
        self[run.__name__] = run
        return run

    @contextmanager
    def run(self, plane: ControlPlane, folder: Path, request: pytest.FixtureRequest) -> Iterator[Runs]:
        """All chosen courses, run to their ends against one operator, which then ends."""
        chosen = {
            item.callspec.params["name"]
            for item in request.session.items
            if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
        }
        kubectl = new_namespace(plane)
        with watching(plane, "llmdep", "pods") as (objects, pods):
            world = World(plane, kubectl, objects, pods)
            # The operator ends after the pool, when all courses have been run.
            operator = running_operator(plane, folder / "log", LLMOP_CONFIRM_SECONDS="2")
            with operator, ThreadPoolExecutor(AT_A_TIME) as pool:
                # From now on both watches are told of everything as it happens.
                first = Subject(world, "first", kubectl)
                first.apply()
                first.until(is_ready)
                first.pod_once(lambda _: True)
                results = {
                    name: pool.submit(run, Subject(world, f"c{number}", kubectl))
                    for number, (name, run) in enumerate(self.items())
                    if name in chosen
                }
            yield Runs(world, results, folder / "log")
        kubectl("delete", "llmdep", "--all", "--wait=false")
        kubectl("delete", "namespace", kubectl.namespace, "--wait=false")


class Story:
    """The tests of a story: a subclass names its courses."""

    courses: ClassVar[Courses]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.courses)

    @pytest.fixture(scope="class")
    @classmethod
    def runs(
        cls, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
    ) -> Iterator[Runs]:
        with cls.courses.run(control_plane, tmp_path_factory.mktemp("courses"), request) as runs:
            yield runs

    def test_course(self, runs: Runs, name: str) -> None:
        runs.results[name].result()

    def test_what_held_all_the_time(self, runs: Runs, tmp_path: Path) -> None:
        kstatus_was_never_in_two_minds(runs)
        the_log_tells_of_no_unexpected_error(runs)
        another_version_of_the_operator_restarts_no_pod_and_writes_nothing(runs, tmp_path)


def kstatus_was_never_in_two_minds(runs: Runs) -> None:
    for version in runs.world.objects.versions(runs.world.kubectl.namespace):
        conditions = version.get("status", {}).get("conditions", [])
        kinds = {one["type"] for one in conditions if one["status"] == "True"}
        assert not {"Stalled", "Reconciling"} <= kinds
        assert not {"Ready", "Stalled"} <= kinds
        assert not {"Ready", "Reconciling"} <= kinds or "Degraded" in kinds


def the_log_tells_of_no_unexpected_error(runs: Runs) -> None:
    lines = [json.loads(line) for line in runs.log.read_text().splitlines() if line.startswith("{")]
    assert [one for one in lines if one["level"] in ("ERROR", "CRITICAL")] == []


def another_version_of_the_operator_restarts_no_pod_and_writes_nothing(runs: Runs, folder: Path) -> None:
    world, kubectl = runs.world, runs.world.kubectl
    before = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in kubectl.list("pods")}
    start = entries(world.plane)
    settings = {"LLMOP_SERVER_IMAGE": "registry.example.com/server:of-the-next-version", "LLMOP_RESYNC_SECONDS": "1"}
    with running_operator(world.plane, folder / "log", **settings):
        # It has looked at all of them once it has done something for the last one.
        marker = Subject(world, "marker", kubectl)
        marker.apply()
        marker.until(is_ready)
        after = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in kubectl.list("pods")}
        assert {uid: name for uid, name in after.items() if marker.name not in name} == before
        written = written_since(world.plane, start, kubectl.namespace)
        assert [one["objectRef"] for one in written if not one["objectRef"]["name"].startswith(marker.name)] == []
