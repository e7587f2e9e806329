"""One pass over one LLMDeployment: observe, decide, act, tell. Level-triggered; called by controller.py."""

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from llm_operator.act import apply_children, write_status
from llm_operator.api.conditions import Finding, Reason
from llm_operator.core.model import Observation, Plan, Settings
from llm_operator.core.plan import plan
from llm_operator.core.status import build_status
from llm_operator.kube import Kube
from llm_operator.observe import observe

log = logging.getLogger(__name__)

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
    before, up to `longest` seconds. A new generation, or a quiet time of `longest`, starts afresh.
    """

    burst: int = 5
    longest: float = 300.0
    _spent: dict[str, tuple[int, int, float]] = field(default_factory=dict)  # uid: generation, writes, last

    def wait(self, uid: str, generation: int, now: float) -> float:
        """Seconds to wait before the next write; 0 when it may be done now."""
        known, writes, last = self._spent.get(uid, (generation, 0, now))
        if known != generation or writes < self.burst:
            return 0.0
        pause = min(2.0 ** (writes - self.burst + 1), self.longest)
        return max(0.0, last + pause - now)

    def spend(self, uid: str, generation: int, now: float) -> None:
        """Note one write."""
        known, writes, last = self._spent.get(uid, (generation, 0, now))
        fresh = known != generation or now - last > self.longest
        self._spent[uid] = (generation, 1 if fresh else writes + 1, now)

    def forget(self, uids: set[str]) -> None:
        """Drop what is known of objects other than `uids`."""
        self._spent = {uid: spent for uid, spent in self._spent.items() if uid in uids}


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
        decided, wait = self._within_budget(observation, plan(observation, self.settings))
        observation, obstacle = await apply_children(self.kube, observation, decided)
        await write_status(self.kube, observation, build_status(observation, obstacle))
        if wait:
            return Result(look_again_after=wait)
        stuck = obstacle is not None and obstacle.reason in (Reason.APPLY_REFUSED, Reason.DRIFT_NOT_REPAIRED)
        return Result(retry=stuck, look_again_after=decided.look_again_after)

    def _within_budget(self, observation: Observation, decided: Plan) -> tuple[Plan, float]:
        if not decided.actions:
            return decided, 0.0
        parent, now = observation.parent, time.monotonic()
        wait = self.repairs.wait(parent.uid, parent.generation, now)
        if not wait:
            self.repairs.spend(parent.uid, parent.generation, now)
            return decided, 0.0
        kinds = " and ".join(action.manifest["kind"] for action in decided.actions)
        finding = Finding(
            Reason.DRIFT_NOT_REPAIRED,
            f"Something keeps changing the {kinds} back; find it with `kubectl get -o yaml --show-managed-fields`. "
            "Repairs go on at a slower pace.",
        )
        return Plan(obstacle=finding), wait
