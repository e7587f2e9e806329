"""Which provider is chosen, as a function of what the machine has."""

import dataclasses

import pytest

from tests.cluster.provider import Choice, Facts, choose


def facts(**over: object) -> Facts:
    able = Facts(docker=True, kind=True, linux=True, root=True, apt=True, missing_packages=(), missing_kernel=())
    return dataclasses.replace(able, **over)  # type: ignore[arg-type]


def test_kind_wins_where_docker_runs() -> None:
    assert choose(facts()) == Choice("kind")


@pytest.mark.parametrize(
    ("over", "reason"),
    [({"docker": False}, "kind: `docker info` does not work"), ({"kind": False}, "kind: `kind` is not on PATH")],
)
def test_without_kind_or_docker_a_real_node_runs_here_and_it_is_said_why(over: dict[str, bool], reason: str) -> None:
    assert choose(facts(**over)) == Choice("bare", (reason,))


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"linux": False}, "needs Linux"),
        ({"root": False}, "needs root"),
        ({"missing_kernel": ("/dev/kmsg",)}, "/dev/kmsg missing"),
        ({"missing_packages": ("runc",), "apt": False}, "runc missing, and no apt-get to install with"),
    ],
)
def test_fake_nodes_are_the_last_resort(over: dict[str, object], reason: str) -> None:
    choice = choose(facts(docker=False, **over))
    assert choice.provider == "kwok"
    assert choice.refusals[1] == f"bare: {reason}"


def test_packages_that_apt_can_install_are_no_hindrance() -> None:
    assert choose(facts(docker=False, missing_packages=("containerd", "runc"))).provider == "bare"


def test_installed_tools_do_without_apt() -> None:
    assert choose(facts(docker=False, apt=False)).provider == "bare"
