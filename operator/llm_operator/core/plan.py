"""The decision: which children to write, or why none may be written. Pure; called by reconcile.py."""

from llm_operator.api.conditions import Finding, Reason
from llm_operator.api.types import GROUP, KIND
from llm_operator.core.children import build_deployment, build_service
from llm_operator.core.foreign import drift
from llm_operator.core.model import Apply, InvalidSpec, Observation, Parent, Plan, Settings
from llm_operator.core.names import Manifest

# Foreign objects carry no label of ours, so no event tells that one went away.
LOOK_FOR_CONFLICT_SECONDS = 30.0


def plan(observation: Observation, settings: Settings) -> Plan:
    """The children to apply, in order. Applying them and planning again gives an empty plan."""
    parent = observation.parent
    if parent.deleting:
        return Plan()
    if isinstance(parent.spec, InvalidSpec):
        return Plan(obstacle=Finding(Reason.INVALID_SPEC, " ".join(parent.spec.problems)))
    obstacle = _name_taken(parent, observation.service) or _name_taken(parent, observation.deployment)
    if obstacle is not None:
        return Plan(obstacle=obstacle, look_again_after=LOOK_FOR_CONFLICT_SECONDS)
    wanted = (
        (build_service(parent), observation.service),
        (build_deployment(parent, parent.spec, settings), observation.deployment),
    )
    actions = (_needed(desired, live) for desired, live in wanted)
    return Plan(actions=tuple(action for action in actions if action is not None))


def _needed(desired: Manifest, live: Manifest | None) -> Apply | None:
    """The write that is needed, if any. An object that is being deleted is left to go first."""
    if live is None:
        return Apply(desired, None)
    if "deletionTimestamp" in live["metadata"]:
        return None
    path = drift(desired, live)
    return None if path is None else Apply(desired, live, path)


def controls(parent: Parent, live: Manifest) -> bool:
    """Whether the live object is this parent's own child, and not one of a namesake."""
    controller = _controller(live)
    return controller is not None and controller["uid"] == parent.uid


def _name_taken(parent: Parent, live: Manifest | None) -> Finding | None:
    if live is None or controls(parent, live):
        return None
    what = f"{live['kind']} {parent.name}"
    controller = _controller(live)
    if controller is not None and controller["kind"] == KIND and controller["apiVersion"].startswith(f"{GROUP}/"):
        return Finding(
            Reason.WAITING_FOR_DELETION,
            f"{what} belongs to an earlier LLMDeployment of this name and is still being deleted.",
        )
    owner = f"belongs to {controller['kind']} {controller['name']}" if controller is not None else "has no owner"
    return Finding(
        Reason.NAME_CONFLICT,
        f"{what} exists and {owner}; it is left untouched. Delete it or give the LLMDeployment another name.",
    )


def _controller(live: Manifest) -> Manifest | None:
    references = live["metadata"].get("ownerReferences", [])
    return next((reference for reference in references if reference.get("controller")), None)
