"""Whose is a live object? Nothing that is not ours is ever touched. Pure.

What a live object is to an LLMDeployment:

    controlled by it (its uid)                   ours
    controlled by an earlier one of the name     waits until the garbage collector has taken it
    controlled by nobody, with all our labels    an orphan: ours if the annotation adopt-orphans asks for it
    anything else                                somebody else's: told as NameConflict, and left alone
"""

from llm_operator.api.conditions import Cause, Reason
from llm_operator.api.types import API_VERSION, GROUP, KIND
from llm_operator.core import names
from llm_operator.core.actions import Adopt
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Parent


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


def name_taken(parent: Parent, live: Manifest | None) -> Cause | None:
    """Why an object that stands where ours should must be left alone, or None."""
    if live is None or controls(parent, live):
        return None
    what = f"{live['kind']} {live['metadata']['name']}"
    controller = _controller(live)
    if controller is not None and controller["kind"] == KIND and controller["apiVersion"].startswith(f"{GROUP}/"):
        return Cause(
            Reason.WAITING_FOR_DELETION,
            f"{what} belongs to an earlier LLMDeployment of this name and is still being deleted.",
        )
    owner = f"belongs to {controller['kind']} {controller['name']}" if controller is not None else "has no owner"
    remedy = "Delete it or give the LLMDeployment another name."
    if is_orphan(parent, live):
        remedy = (
            "An earlier LLMDeployment of this name left it behind. To take it over with the pods that run: `kubectl "
            f"annotate llmdeployment {parent.name} {names.ADOPT}=true`. Or delete it."
        )
    return Cause(Reason.NAME_CONFLICT, f"{what} exists and {owner}; it is left untouched. {remedy}")


def is_orphan(parent: Parent, live: Manifest | None) -> bool:
    """Whether nobody controls the live object, and the operator made it for an LLMDeployment of this name."""
    if live is None or _controller(live) is not None or "deletionTimestamp" in live["metadata"]:
        return False
    if not names.labels(parent.name).items() <= live["metadata"].get("labels", {}).items():
        return False
    return live["kind"] != "Deployment" or {**live["spec"]["selector"]} == {"matchLabels": names.selector(parent.name)}


def adoption(parent: Parent, live: Manifest) -> Adopt:
    """The action that makes the parent the controller of an orphan; whoever else owns it stays an owner."""
    owners = [*live["metadata"].get("ownerReferences", []), owner_reference(parent)]
    return Adopt(live, ({"op": "add", "path": "/metadata/ownerReferences", "value": owners},))


def _controller(live: Manifest) -> Manifest | None:
    references = live["metadata"].get("ownerReferences", [])
    return next((reference for reference in references if reference.get("controller")), None)


def owner_reference(parent: Parent) -> Manifest:
    """Makes the garbage collector delete the child with its LLMDeployment."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": parent.name,
        "uid": parent.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def shared_reference(parent: Parent) -> Manifest:
    """One owner of several: the garbage collector deletes the object when the last of them is gone."""
    return {"apiVersion": API_VERSION, "kind": KIND, "name": parent.name, "uid": parent.uid}
