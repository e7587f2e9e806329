"""Whose is a live object? Nothing that is not ours is ever touched. Pure; used by plan.py, history.py and status.py."""

from llm_operator.api.conditions import Finding, Reason
from llm_operator.api.types import GROUP, KIND
from llm_operator.core.model import Parent
from llm_operator.core.names import Manifest


def controls(parent: Parent, live: Manifest) -> bool:
    """Whether the live object is this parent's own child, and not one of a namesake."""
    controller = _controller(live)
    return controller is not None and controller["uid"] == parent.uid


def is_pod_of(deployment: str, pod: Manifest) -> bool:
    """Whether a pod is of the Deployment of that name. Labels can be copied; its ReplicaSet is named for both."""
    controller, template = _controller(pod), pod["metadata"].get("labels", {}).get("pod-template-hash")
    return (
        controller is not None
        and controller["kind"] == "ReplicaSet"
        and template is not None
        and controller["name"] == f"{deployment}-{template}"
    )


def is_controlled_by(live: Manifest, owner: Manifest) -> bool:
    """Whether the live object was made by this very owner."""
    controller = _controller(live)
    return controller is not None and controller["uid"] == owner["metadata"]["uid"]


def name_taken(parent: Parent, live: Manifest | None) -> Finding | None:
    """Why an object that stands where ours should must be left alone, or None."""
    if live is None or controls(parent, live):
        return None
    what = f"{live['kind']} {live['metadata']['name']}"
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
