"""One pass over one LLMDeployment: observe, decide, act, tell. Level-triggered; called by controller.py."""

import dataclasses
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from llm_operator.act import apply_children, write_status
from llm_operator.api.conditions import Finding, Reason
from llm_operator.core.model import Apply, Observation, Settings
from llm_operator.core.plan import plan
from llm_operator.core.status import build_status
from llm_operator.kube import Kube
from llm_operator.observe import observe

Key = tuple[str, str]  # namespace, name


@dataclass(frozen=True, slots=True)
class Result:
    """When to look again: after a back-off (`retry`), after so many seconds, or on the next event only."""

    retry: bool = False
    look_again_after: float | None = None


@dataclass(slots=True)
class RepairBudget:
    """Slows down repairs of one object that somebody else keeps changing back.

    The first `burst` writes at one generation are free; each further one waits twice as long as the one
    before, up to `longest` seconds. A new generation, or a quiet time, starts afresh.
    """

    burst: int = 5
    longest: float = 300.0
    quiet: float = 60.0
    _spent: dict[str, tuple[int, int, float]] = field(default_factory=dict)  # uid: generation, writes, last

    def wait(self, uid: str, generation: int, now: float) -> float:
        """Seconds to wait before the next write; 0 when it may be done now."""
        known, writes, last = self._spent.get(uid, (generation, 0, now))
        return max(0.0, last + self._pause(writes) - now) if known == generation else 0.0

    def spend(self, uid: str, generation: int, now: float) -> None:
        """Note one write."""
        known, writes, last = self._spent.get(uid, (generation, 0, now))
        fresh = known != generation or now - last > self._pause(writes) + self.quiet
        self._spent[uid] = (generation, 1 if fresh else writes + 1, now)

    def forget(self, uids: set[str]) -> None:
        """Drop what is known of objects other than `uids`."""
        self._spent = {uid: spent for uid, spent in self._spent.items() if uid in uids}

    def _pause(self, writes: int) -> float:
        return 0.0 if writes < self.burst else min(2.0 ** (writes - self.burst + 1), self.longest)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Everything a pass needs; one for the life of the process."""

    kube: Kube
    settings: Settings
    repairs: RepairBudget = field(default_factory=RepairBudget)

    async def reconcile(self, key: Key) -> Result:
        """Bring one LLMDeployment a step closer to its spec and say how far it is.

        Raises ApiError for what a later attempt may cure.
        """
        observation = await observe(self.kube, *key, now=datetime.now(UTC))
        if observation is None or observation.parent.deleting:
            return Result()
        decided = plan(observation, self.settings)
        repairs = tuple(action for action in decided.actions if action.live is not None)
        if repairs and self._pause(observation):
            held_back = _changed_back(repairs[0])
            creates = tuple(action for action in decided.actions if action.live is None)
            decided = dataclasses.replace(decided, actions=creates, obstacle=held_back)
            repairs = ()
        observation, obstacle = await apply_children(self.kube, observation, decided)
        if repairs and (obstacle is None or obstacle.reason is not Reason.APPLY_REFUSED):
            self.repairs.spend(observation.parent.uid, observation.parent.generation, time.monotonic())
        pause = self._pause(observation)
        await write_status(self.kube, observation, build_status(observation, obstacle))
        stuck = obstacle is not None and obstacle.reason in (Reason.APPLY_REFUSED, Reason.DRIFT_NOT_REPAIRED)
        return Result(retry=stuck and not pause, look_again_after=pause or decided.look_again_after)

    def _pause(self, observation: Observation) -> float:
        parent = observation.parent
        return self.repairs.wait(parent.uid, parent.generation, time.monotonic())


def _changed_back(repair: Apply) -> Finding:
    kind, name = repair.manifest["kind"], repair.manifest["metadata"]["name"]
    return Finding(
        Reason.DRIFT_NOT_REPAIRED,
        f"Something keeps changing {repair.path} of {kind} {name}; find it with `kubectl get {kind.lower()} {name} "
        "-o yaml --show-managed-fields`. Repairs go on at a slower pace.",
    )
