"""One cluster per machine, whichever provider gives it: up, down, status, load."""

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.cluster import bare, controlplane, images, kind, leftovers, node, storage
from tests.cluster.api import Api, ApiError, install_kubeconfig
from tests.cluster.places import CLUSTER, locked, state_home
from tests.cluster.provider import Provider, choose, gather, refuse
from tests.cluster.steps import Failure, say, step, wait_until

KWOK_NODES = 3
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Status:
    """What `status` prints."""

    provider: Provider | None
    problems: tuple[str, ...]
    kubeconfig: Path | None

    @property
    def healthy(self) -> bool:
        return self.provider is not None and not self.problems


def up(wanted: str, kubeconfig: Path) -> None:
    """Make a healthy cluster be there, and its kubeconfig at this path."""
    controlplane.gc()
    with locked("cluster"):
        current = _patient_status()
        provider = _provider(wanted, current)
        if not current.healthy or current.provider != provider:
            _clean(current)
            say(f"starting a cluster with provider {provider}")
            _record(provider)
            _start(provider)
        with step("storage class efs-sc and its volumes"):
            _settle(provider)
        install_kubeconfig(kubeconfig, _kubeconfig(provider).read_text())
    say(f"cluster {CLUSTER} ({provider}) is ready: export KUBECONFIG={kubeconfig.resolve()}")


def down(kubeconfig: Path) -> None:
    """Remove the cluster and all it put on this machine; the binaries stay cached."""
    controlplane.gc()
    with locked("cluster"):
        with step("remove the cluster"):
            _remove(status().provider)
        kubeconfig.unlink(missing_ok=True)


def status() -> Status:
    """Look at the cluster without changing it."""
    provider = recorded()
    if provider is None:
        return Status(None, ("no cluster runs",), None)
    kubeconfig = _kubeconfig(provider)
    return Status(provider, tuple(_problems(provider)), kubeconfig if kubeconfig.exists() else None)


def _patient_status() -> Status:
    """Status; but a cluster whose processes all run may only be busy, and is not removed for that."""
    current = status()
    if current.healthy or current.provider != "bare" or bare.dead(state_home()) or current.kubeconfig is None:
        return current
    with step(f"wait for the running cluster ({'; '.join(current.problems)})"), contextlib.suppress(Failure):
        wait_until("healthy", lambda: status().healthy, seconds=PATIENCE_SECONDS, every=1)
    return status()


def load(archives: Sequence[Path]) -> None:
    """Put image archives where the cluster's nodes find them."""
    if absent := [str(path) for path in archives if not path.is_file()]:
        raise Failure(f"no such file: {', '.join(absent)}")
    provider = recorded()
    if provider is None:
        raise Failure("no cluster runs: `up` first")
    if provider == "kwok":
        say("KWOK's nodes run no containers: nothing to load")
    elif provider == "kind":
        kind.load(archives)
    else:
        with step(f"load {', '.join(path.name for path in archives)}") as progress:
            state = state_home()
            progress.detail = ", ".join(images.load(state, archives, snapshotter=node.snapshotter(state)))


def recorded() -> Provider | None:
    """The provider of the cluster that was started last and not removed."""
    try:
        return cast(Provider, json.loads(_file().read_text())["provider"])
    except (OSError, ValueError, KeyError):
        return None


def _provider(wanted: str, current: Status) -> Provider:
    if wanted != "auto":
        if refusal := refuse(cast(Provider, wanted), gather()):
            raise Failure(f"provider {wanted} cannot run here: {refusal}")
        return cast(Provider, wanted)
    if current.healthy and current.provider:
        return current.provider
    choice = choose(gather())
    for refusal in choice.refusals:
        say(f"  not {refusal}")
    if choice.provider == "kwok":
        say("  !! FAKE NODES: pods are called Ready but nothing runs: no images, logs, exec, traffic or OOM kills")
    return choice.provider


def _clean(current: Status) -> None:
    if current.provider:
        say(f"the {current.provider} cluster has to go first: {'; '.join(current.problems) or 'other provider'}")
    if current.provider or state_home().exists() or leftovers.find(state_home()).lines():
        with step("remove what is left of an earlier cluster"):
            _remove(current.provider)


def _start(provider: Provider) -> None:
    state = state_home()
    if provider == "kind":
        kind.start(_kubeconfig("kind"))
    elif provider == "bare":
        bare.start(state)
    else:
        with step(f"start a control plane with {KWOK_NODES} KWOK nodes"):
            controlplane.start(CLUSTER, workdir=state / "plane", kwok_nodes=KWOK_NODES, owner=0)


def _settle(provider: Provider) -> None:
    if provider == "kind":
        kind.settle(_kubeconfig(provider))
    elif provider == "bare":
        bare.settle(state_home())
    else:
        _settle_kwok()


def _settle_kwok() -> None:
    """Volumes for fake pods: nothing mounts them."""
    storage.install(Api(_kubeconfig("kwok")), "/var/local/efs")


def _problems(provider: Provider) -> list[str]:
    if provider == "bare":
        return bare.problems(state_home())
    if provider == "kind" and not kind.is_up():
        return [f"the container {kind.NODE} does not run"]
    try:
        return [] if Api(_kubeconfig(provider)).ready_nodes() else ["no node is Ready"]
    except (ApiError, OSError) as error:
        return [f"API server: {error}"]


def _remove(provider: Provider | None) -> None:
    state = state_home()
    if provider == "kind":
        kind.delete()
    elif provider == "kwok" or os.geteuid() != 0:
        controlplane.ControlPlane(CLUSTER, state / "plane", _kubeconfig("kwok"), None).stop()
    else:
        bare.remove(state)
    shutil.rmtree(state, ignore_errors=True)


def _kubeconfig(provider: Provider) -> Path:
    return state_home() / ("kubeconfig" if provider == "kind" else "plane/kubeconfig")


def _file() -> Path:
    return state_home() / "cluster.json"


def _record(provider: Provider) -> None:
    _file().parent.mkdir(parents=True, exist_ok=True)
    _file().write_text(json.dumps({"provider": provider}))
