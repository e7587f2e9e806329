"""How big the ReplicaSets of a Deployment are to be, as the Deployment controller decides it.

It follows pkg/controller/deployment of Kubernetes: a change of `replicas` amid a roll-out is shared out among the
ReplicaSets, pods of an old template are started anew for it, and a template that comes back finds its old ReplicaSet.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llm_operator.core.names import Manifest


@dataclass
class ReplicaSet:
    """Pods of one template; `desired` and `most` are what the Deployment wanted when it was sized last."""

    name: str
    template: str
    number: int
    replicas: int = 0
    desired: int = 0
    most: int = 0


Count = Callable[[ReplicaSet], int]


def resize(spec: Manifest, new: ReplicaSet, old: list[ReplicaSet], *, available: Count, pods: Count) -> None:
    """One step of the controller."""
    wanted, rolling = spec["replicas"], spec["strategy"]["type"] == "RollingUpdate"
    most = wanted + 1 if rolling and wanted else wanted
    every = [*old, new]
    if any(one.replicas and one.desired != wanted for one in every):
        _scale(wanted, most, new, old, rolling=rolling, available=available)
    elif rolling:
        _roll(wanted, most, new, old, available=available)
    elif any(one.replicas for one in old):
        for one in old:
            one.replicas = 0
    elif not any(pods(one) for one in old):
        new.replicas = wanted
    for one in every:
        one.desired, one.most = wanted, most


def _scale(wanted: int, most: int, new: ReplicaSet, old: list[ReplicaSet], *, rolling: bool, available: Count) -> None:
    active = [one for one in (*old, new) if one.replicas]
    if len(active) == 1:
        active[0].replicas = wanted
    elif new.replicas == new.desired == wanted == available(new):
        for one in old:
            one.replicas = 0
    elif rolling:
        _share_out(most, active)


def _share_out(most: int, active: list[ReplicaSet]) -> None:
    to_add = most - sum(one.replicas for one in active)
    active.sort(key=lambda one: (-one.replicas, -one.number if to_add > 0 else one.number))
    left = to_add
    for one in active:
        part = round(one.replicas * most / (one.most or most)) - one.replicas
        part = max(left, part) if to_add < 0 else min(left, part)
        part = min(0, part) if to_add < 0 else max(0, part)
        one.replicas, left = max(0, one.replicas + part), left - part
    active[0].replicas = max(0, active[0].replicas + left)


def _roll(wanted: int, most: int, new: ReplicaSet, old: list[ReplicaSet], *, available: Count) -> None:
    """Nothing available is taken away before its successor is (maxUnavailable 0), and one pod more may be there."""
    every = [*old, new]
    room = most - sum(one.replicas for one in every)
    if new.replicas > wanted:
        new.replicas = wanted
        return
    if new.replicas < wanted and room > 0:
        new.replicas += min(room, wanted - new.replicas)
        return
    may_go = sum(one.replicas for one in every) - wanted - (new.replicas - available(new))
    if may_go <= 0:
        return
    for one in sorted(old, key=lambda one: one.number):
        broken = min(may_go, max(0, one.replicas - available(one)))
        one.replicas, may_go = one.replicas - broken, may_go - broken
    spare = sum(min(available(one), one.replicas) for one in every) - wanted
    for one in sorted(old, key=lambda one: one.number):
        gone = max(0, min(spare, one.replicas))
        one.replicas, spare = one.replicas - gone, spare - gone
