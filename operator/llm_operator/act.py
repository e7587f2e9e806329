"""Carries out a plan: the only place that writes children, verdicts, events and status. Called by reconcile.py.

Every write is safe to repeat and to lose: names are deterministic, a create never touches what exists, and
every other write carries the resourceVersion it was derived from. What the API server answers goes into the
store at once.
"""

import asyncio
import dataclasses
import logging
from dataclasses import dataclass

from llm_operator.api.conditions import Cause, Reason
from llm_operator.core import names
from llm_operator.core.actions import (
    Action,
    Adopt,
    Apply,
    Create,
    CreateRevision,
    Delete,
    DeleteRevision,
    Patch,
    SetAdmitted,
    SetVerdict,
)
from llm_operator.core.children import admission
from llm_operator.core.diagnosis.messages import detail
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation
from llm_operator.core.ownership import name_taken
from llm_operator.core.planner import Plan
from llm_operator.core.status.events import admission_event, events_of
from llm_operator.kube import BY_KIND, LLMDEPLOYMENTS, NAMESPACE_TERMINATING, ApiError, Kube
from llm_operator.watch_cache import WatchCache

log = logging.getLogger(__name__)

# The request itself is not acceptable: repeating it unchanged helps only after somebody changes something.
REFUSED = (400, 403, 422)
# A status does not wait longer for its event, which may be held up by a webhook.
POST_SECONDS = 2.0
VERDICT_PATH, MODEL_PATH, ADMITTED_PATH = (
    "/metadata/annotations/" + name.replace("~", "~0").replace("/", "~1")
    for name in (names.VERDICT, names.MODEL, names.ADMITTED)
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A write that failed in a way that may pass; `cause` is for the user, None where it is usual or no concern."""

    error: ApiError
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was there after the plan, why it was not carried out to the end, and what was.

    With a `failure` the plan is to be made again, from what is there then.
    """

    observation: Observation
    obstacle: Cause | None
    done: tuple[Action, ...] = ()
    failure: Failure | None = None


class Actor:
    """Writes to the cluster and tells the watch cache."""

    def __init__(self, kube: Kube, watched: WatchCache) -> None:
        self._kube = kube
        self._watched = watched
        self._posts: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Give the events that are being posted a last moment."""
        if self._posts:
            _, late = await asyncio.wait(self._posts, timeout=POST_SECONDS)
            for post in late:
                post.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def carry_out(self, observation: Observation, plan: Plan) -> Outcome:
        """Do the actions in order. One that is refused holds up only what depends on it.

        What another attempt may cure (conflicts, time-outs, 429, 5xx) is a failure, not an exception: what was done
        before it has to be known.
        """
        obstacle = plan.obstacle
        done: list[Action] = []
        refused: list[Action] = []
        for action in plan.actions:
            if any(depends(action, one) for one in refused):
                continue
            try:
                observation, cause = await self._do(observation, action)
            except ApiError as error:
                if error.status not in REFUSED or error.reason == NAMESPACE_TERMINATING:
                    return Outcome(observation, obstacle, tuple(done), Failure(error, _failing(action, error)))
                cause = _refused(action, error)
                log.warning("%s", cause.message)
            else:
                if cause is None:
                    done.append(action)
                    continue
            if not (isinstance(action, (Create, Patch)) and action.optional):
                # The first is the one that safety depends on most.
                obstacle = obstacle if refused else cause
                refused.append(action)
        return Outcome(observation, obstacle, tuple(done))

    async def write_status(self, observation: Observation, status: Manifest) -> bool:
        """Write the status if it differs from the stored one, and the events of the change; whether it did."""
        parent = observation.parent
        if status == parent.status:
            return False
        # Before the status: whoever comes after a crash between them sees the same transition.
        await self._post_all(events_of(parent, status, observation.now))
        stored = await self._kube.write_status(
            parent.namespace, parent.name, status, resource_version=parent.resource_version
        )
        self._watched.put(LLMDEPLOYMENTS, stored, reader=(parent.namespace, parent.name))
        return True

    async def _post_all(self, events: list[Manifest]) -> None:
        posts = {asyncio.create_task(self._post(event), name=event["metadata"]["name"]) for event in events}
        self._posts |= posts
        for post in posts:
            post.add_done_callback(self._posts.discard)
        if posts:
            await asyncio.wait(posts, timeout=POST_SECONDS)

    async def _post(self, event: Manifest) -> None:
        """Post an event; what becomes of it must not hold up anything else."""
        try:
            await self._kube.create(event)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                log.warning("%s %s: event not posted: %s", event["reason"], event["regarding"]["name"], error)

    async def _do(self, observation: Observation, action: Action) -> tuple[Observation, Cause | None]:
        match action:
            case CreateRevision():
                return await self._create_revision(observation, action)
            case SetVerdict():
                return await self._set_verdict(observation, action), None
            case SetAdmitted():
                stored = await self._kube.patch(
                    action.live, [{"op": "add", "path": ADMITTED_PATH, "value": action.annotation}]
                )
                self._remember(observation, stored)
                return _with_revision(observation, stored), None
            case Adopt():
                stored = await self._kube.patch(action.live, list(action.operations))
                self._remember(observation, stored)
                log.info("adopted %s %s", stored["kind"], _path(stored))
                return observation, None
            case DeleteRevision():
                return await self._delete_revision(observation, action), None
            case Apply():
                return await self._apply(observation, action), None
            case Create() | Patch() | Delete():
                return await self._see_to_the_model(observation, action), None

    async def _create_revision(
        self, observation: Observation, action: CreateRevision
    ) -> tuple[Observation, Cause | None]:
        try:
            stored = await self._kube.create(action.manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return observation, await self._why_taken(observation, action.manifest, error)
        self._remember(observation, stored)
        log.info("recorded revision %s", _path(stored))
        return _with_revision(observation, stored), None

    async def _why_taken(self, observation: Observation, manifest: Manifest, error: ApiError) -> Cause:
        """Say whose the record is. If our own, make it be found (somebody took our marks off it) and look again."""
        metadata = manifest["metadata"]
        live = await self._kube.get(BY_KIND["ControllerRevision"], metadata["namespace"], metadata["name"])
        cause = name_taken(observation.parent, live)
        if cause is not None:
            return cause
        if live is not None:
            marks = {**live["metadata"].get("annotations", {}), names.REVISION: metadata["annotations"][names.REVISION]}
            values = {"labels": metadata["labels"], "annotations": marks}
            operations = [{"op": "add", "path": f"/metadata/{key}", "value": value} for key, value in values.items()]
            self._watched.put(BY_KIND["ControllerRevision"], await self._kube.patch(live, operations))
        raise error

    async def _set_verdict(self, observation: Observation, action: SetVerdict) -> Observation:
        operations = [{"op": "add", "path": VERDICT_PATH, "value": action.annotation}]
        if action.model is not None:
            operations.append({"op": "add", "path": MODEL_PATH, "value": action.model})
        stored = await self._kube.patch(action.live, operations)
        self._remember(observation, stored)
        log.info("verdict on %s: %s", _path(stored), action.annotation)
        return _with_revision(observation, stored)

    async def _delete_revision(self, observation: Observation, action: DeleteRevision) -> Observation:
        await self._kube.delete(action.live)
        self._watched.remove(BY_KIND["ControllerRevision"], action.live)
        log.info("forgot revision %s", _path(action.live))
        return _without_revision(observation, action.live)

    async def _see_to_the_model(self, observation: Observation, action: Create | Patch | Delete) -> Observation:
        """Claims and fetches. One that somebody else made meanwhile is a conflict: look again."""
        if isinstance(action, Delete):
            await self._kube.delete(action.live)
            self._watched.remove(BY_KIND["Job"], action.live)
            log.info("discarded Job %s", _path(action.live))
            if observation.fetch is not action.live:
                return observation
            return dataclasses.replace(observation, fetch=None, fetch_pods=())
        if isinstance(action, Patch) and action.warning is not None:
            log.warning("%s", action.warning)
        if isinstance(action, Create):
            stored = await self._kube.create(action.manifest)
        else:
            stored = await self._kube.patch(action.live, list(action.operations))
        self._remember(observation, stored)
        log.info("%s %s %s", "made" if isinstance(action, Create) else "amended", stored["kind"], _path(stored))
        if stored["kind"] == "Job":
            is_new = isinstance(action, Create) and names.FETCH in stored["metadata"].get("labels", {})
            is_declared = is_new or (isinstance(action, Patch) and observation.fetch is action.live)
            return dataclasses.replace(observation, fetch=stored) if is_declared else observation
        return dataclasses.replace(observation, claim=stored)

    def _remember(self, observation: Observation, stored: Manifest) -> None:
        """Let the watch cache know of an own write; whoever else has a share in the object is told."""
        parent = observation.parent
        self._watched.put(BY_KIND[stored["kind"]], stored, reader=(parent.namespace, parent.name))

    async def _apply(self, observation: Observation, action: Apply) -> Observation:
        if action.live is None:
            stored = await self._kube.create(action.manifest)
        else:
            stored = await self._kube.patch(action.live, list(action.operations))
        kind = stored["kind"]
        self._remember(observation, stored)
        log.info("applied %s %s", kind, _path(stored))
        now_known = admission.learned(action.manifest, stored, action.accepted)
        news = sorted(now_known.accepted.keys() - action.accepted.keys())
        if news:
            event = admission_event(observation.parent, stored, news, observation.now)
            log.warning("%s", event["note"])
            await self._post_all([event])
        observation = dataclasses.replace(observation, admitted={**observation.admitted, kind: now_known})
        if kind == "Deployment":
            return dataclasses.replace(observation, deployment=stored)
        return dataclasses.replace(observation, service=stored)


def depends(action: Action, refused: Action) -> bool:
    """Whether an action must not be done because another one was refused.

    A verdict is written before anything acts on it, and a revision is recorded before it is applied; a repair of what
    runs does neither.
    """
    if isinstance(refused, (CreateRevision, SetVerdict)):
        if isinstance(action, Apply) and action.manifest["kind"] == "Deployment":
            return action.live is None or action.is_change
        is_job = isinstance(action, Create) and action.manifest["kind"] == "Job"
        return is_job or isinstance(action, (CreateRevision, SetVerdict, DeleteRevision, Delete))
    return isinstance(refused, Delete) and isinstance(action, Create)


def _failing(action: Action, error: ApiError) -> Cause | None:
    """What the user is told; not of what is usual, nor of tidying up."""
    if (
        error.is_usual
        or isinstance(action, DeleteRevision)
        or (isinstance(action, (Create, Patch)) and action.optional)
    ):
        return None
    live = _subject(action)
    return Cause(
        Reason.APPLY_FAILING,
        f"{live['kind']} {live['metadata']['name']} could not be written; it is tried again at least every half "
        f"minute. If this lasts, see to the admission webhook, or the API server, that says so.{detail(error.message)}",
    )


def _subject(action: Action) -> Manifest:
    """The object that an action writes."""
    return (
        action.live
        if isinstance(action, (SetVerdict, SetAdmitted, Adopt, DeleteRevision, Patch, Delete))
        else action.manifest
    )


def _refused(action: Action, error: ApiError) -> Cause:
    live = _subject(action)
    remedy = "correct the spec" if error.status == 422 else "see to quota, policy and the operator's permissions"
    return Cause(
        Reason.APPLY_REFUSED,
        f"The API server refused {live['kind']} {live['metadata']['name']}; {remedy}.{detail(error.message)}",
    )


def _with_revision(observation: Observation, stored: Manifest) -> Observation:
    rest = _without_revision(observation, stored)
    return dataclasses.replace(rest, revisions=(*rest.revisions, stored))


def _without_revision(observation: Observation, live: Manifest) -> Observation:
    name = live["metadata"]["name"]
    kept = tuple(one for one in observation.revisions if one["metadata"]["name"] != name)
    return dataclasses.replace(observation, revisions=kept)


def _path(live: Manifest) -> str:
    return f"{live['metadata']['namespace']}/{live['metadata']['name']}"
