"""One pass over one LLMDeployment: observe, decide, act, tell. Level-triggered; called by controller.py."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llm_operator.act import Actor, Failure, Outcome
from llm_operator.api.conditions import Cause, Reason
from llm_operator.core.actions import Action, Apply, SetVerdict
from llm_operator.core.derived import Derived
from llm_operator.core.model_cache.fetch_job import current_fetch
from llm_operator.core.observation import Admitted, Observation, Settings, Suspicion
from llm_operator.core.planner import Plan, plan
from llm_operator.core.status.conditions import build_status, is_news
from llm_operator.core.status.hand_edits import HandEdit, hand_edit
from llm_operator.fetch_log import FetchLogs
from llm_operator.kube import ApiError, Kube
from llm_operator.observe import observe
from llm_operator.watch_cache import WatchCache

log = logging.getLogger(__name__)

Key = tuple[str, str]  # namespace, name
COUNTS_SECONDS = 2.0
# What admission did is recorded before anything else happens, or at once.
RECORD_SECONDS = 0.2
# A write that fails for a shorter time is no news.
TELL_FAILING_SECONDS = 1.5
# Less than the time after which a worker is held to be stuck.
PASS_SECONDS = 150.0
# Done again at once it would end in the same way.
FUTILE = frozenset({Reason.APPLY_REFUSED, Reason.DRIFT_NOT_REPAIRED})


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


OnVerdict = Callable[[Cause, bool, bool], None]  # the outcome, whether it rejects, and whether that rolls back


class Reconciler:
    """Everything a pass needs; one for the life of the process.

    What it remembers of an object between two passes makes it quicker or more careful, never right: a new process
    starts without.
    """

    def __init__(
        self,
        kube: Kube,
        watched: WatchCache,
        settings: Settings,
        *,
        on_verdict: OnVerdict = lambda *_: None,
        wake: Callable[[Key], None] = lambda _: None,
    ) -> None:
        self.repairs = RepairBudget()
        self._kube = kube
        self._watched = watched
        self._settings = settings
        self._actor = Actor(kube, watched)
        self._on_verdict = on_verdict
        self._suspicions: dict[Key, Suspicion] = {}
        self._behind: set[Key] = set()
        self._failing: dict[Key, float] = {}  # Since when writes fail.
        self._told: dict[Key, float] = {}  # When a status was written last.
        self._admitted: dict[Key, Mapping[str, Admitted]] = {}
        self._edits: dict[Key, HandEdit] = {}  # Put back, and not told yet.
        self._logs = FetchLogs(kube, wake)

    async def stop(self) -> None:
        """End what goes on beside the passes."""
        await self._logs.stop()
        await self._actor.stop()

    async def reconcile(self, key: Key) -> Result:
        """Bring one LLMDeployment a step closer to its spec and say how far it is.

        Raises ApiError for what a later attempt may cure; that one reads everything live.
        """
        try:
            async with asyncio.timeout(PASS_SECONDS):
                result = await self._reconcile(key)
        except ApiError:
            self._behind.add(key)
            raise
        except TimeoutError as error:
            self._behind.add(key)
            raise ApiError(0, "TimedOut", f"not done within {PASS_SECONDS:.0f} s: every answer is slow") from error
        self._behind.discard(key)
        return result

    async def _reconcile(self, key: Key) -> Result:
        began = time.monotonic()
        observation = await self._observe(key, live=key in self._behind)
        decided = Plan() if observation is None else plan(observation, self._settings)
        if observation is not None and key not in self._behind and decided.is_delicate(observation.parent):
            observation = await self._observe(key, live=True)
            decided = Plan() if observation is None else plan(observation, self._settings)
        self._remember(key, decided.suspicion)
        if observation is None or observation.parent.deleting:
            self._told.pop(key, None)
            self._edits.pop(key, None)
            self._admitted.pop(key, None)
            self._failing.pop(key, None)
            return Result()
        decided = self._without_futile_repairs(observation, decided)
        outcome = await self._actor.carry_out(observation, decided)
        self._note(key, outcome)
        if outcome.failure is not None:
            await self._tell_failure(key, outcome, outcome.failure, began)
            raise outcome.failure.error
        self._failing.pop(key, None)
        pause = self._pause(observation)
        later = await self._tell(key, outcome, decided.derived if outcome.observation is observation else None)
        stuck = outcome.obstacle is not None and outcome.obstacle.reason in FUTILE
        learned = RECORD_SECONDS if _accepted(outcome.observation) != _accepted(observation) else 0.0
        waits = [wait for wait in (pause, later, learned, decided.look_again_after) if wait]
        return Result(retry=stuck and not pause, look_again_after=min(waits, default=None))

    async def _tell(self, key: Key, outcome: Outcome, derived: Derived | None = None) -> float:
        """Write the status; seconds to wait if that is put off: what is no news is told once in a while.

        `derived` is what the plan was made from, if nothing has changed since.
        """
        old = outcome.observation.parent.status
        status = build_status(outcome.observation, outcome.obstacle, self._edits.get(key), derived)
        if status == old:
            return 0.0
        now = time.monotonic()
        # A new object may be Ready before its first status is due.
        last = self._told.get(key, float("-inf")) if "conditions" in old else self._told.setdefault(key, now)
        if now - last < COUNTS_SECONDS and not is_news(old, status):
            return COUNTS_SECONDS - (now - last)
        if await self._actor.write_status(outcome.observation, status):
            self._told[key] = time.monotonic()
            self._edits.pop(key, None)
        return 0.0

    async def _tell_failure(self, key: Key, outcome: Outcome, failure: Failure, began: float) -> None:
        """Write into the status that writes fail, if they do for more than a moment. Raises ApiError for a conflict."""
        if failure.cause is None or time.monotonic() - self._failing.setdefault(key, began) < TELL_FAILING_SECONDS:
            return
        try:
            await self._tell(key, dataclasses.replace(outcome, obstacle=failure.cause))
        except ApiError as error:
            if error.is_usual:
                raise
            log.warning("%s/%s: nor can the status be written: %s", *key, error)

    async def _observe(self, key: Key, *, live: bool) -> Observation | None:
        observation = await observe(
            self._kube,
            self._watched,
            *key,
            settings=self._settings,
            live=live,
            suspicion=self._suspicions.get(key),
        )
        if observation is None:
            return None
        admitted = self._admitted.get(key, {})
        return dataclasses.replace(self._with_progress(key, observation), admitted=admitted)

    def _with_progress(self, key: Key, observation: Observation) -> Observation:
        """How far the fetch is, as far as is known: of this very try, since another one may fail at its first step."""
        fetch = current_fetch(observation)
        if fetch is None or fetch.pod is None or observation.fetch is None:
            return observation
        of_this_try = f"{observation.fetch['metadata']['uid']}/{fetch.pod}"
        progress = self._logs.progress(key, of_this_try, fetch.pod)
        return dataclasses.replace(
            observation, fetch_progress=progress, fetch_is_heard=self._logs.is_heard(of_this_try)
        )

    def _remember(self, key: Key, suspicion: Suspicion | None) -> None:
        if suspicion is None:
            self._suspicions.pop(key, None)
        else:
            self._suspicions[key] = suspicion

    def _without_futile_repairs(self, observation: Observation, decided: Plan) -> Plan:
        """The plan without repairs of what somebody else keeps changing back, for as long as there is a pause."""
        repairs = [action for action in decided.actions if _is_repair(action)]
        if not repairs or not self._pause(observation):
            return decided
        rest = tuple(action for action in decided.actions if not _is_repair(action))
        return dataclasses.replace(decided, actions=rest, obstacle=_changed_back(repairs[0]))

    def _note(self, key: Key, outcome: Outcome) -> None:
        self._admitted[key] = outcome.observation.admitted
        edit = _put_back(outcome)
        if edit is not None:
            self._edits[key] = edit
        if any(isinstance(action, Apply) and action.live is not None for action in outcome.done):
            parent = outcome.observation.parent
            self.repairs.spend(parent.uid, parent.generation, time.monotonic())
        for action in outcome.done:
            if isinstance(action, SetVerdict) and action.outcome is not None:
                self._on_verdict(action.outcome, action.rejects, action.rolls_back)

    def _pause(self, observation: Observation) -> float:
        parent = observation.parent
        return self.repairs.wait(parent.uid, parent.generation, time.monotonic())


def _accepted(observation: Observation) -> list[Admitted]:
    return [one for one in observation.admitted.values() if one.accepted]


def _put_back(outcome: Outcome) -> HandEdit | None:
    """What somebody had set by hand and this pass has put back."""
    applied = (one for one in outcome.done if isinstance(one, Apply))
    edits = (hand_edit(one.manifest, one.live) for one in applied if one.live is not None)
    return next((edit for edit in edits if edit is not None), None)


def _is_repair(action: Action) -> bool:
    return isinstance(action, Apply) and action.live is not None and not action.is_change


def _changed_back(repair: Action) -> Cause:
    assert isinstance(repair, Apply)
    kind, name = repair.manifest["kind"], repair.manifest["metadata"]["name"]
    return Cause(
        Reason.DRIFT_NOT_REPAIRED,
        f"Something keeps changing {repair.path} of {kind} {name}; find it with `kubectl get {kind.lower()} {name} "
        "-o yaml --show-managed-fields`. Repairs go on at a slower pace.",
    )
