"""The claim that keeps models: made when it is absent, grown when it is ours, else used as it is. Pure.

Several LLMDeployments may share one. It is kept by default: an owner reference, by which the garbage collector deletes
it, is there only for `deletionPolicy: Delete`, and only while nobody else wants it kept.
"""

from llm_operator.api.conditions import Cause, Reason
from llm_operator.api.types import Cache
from llm_operator.core import names, quantity
from llm_operator.core.actions import Patch
from llm_operator.core.live import is_deleting
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Parent
from llm_operator.core.ownership import shared_reference

COMPONENT = "model-cache"


def build_claim(parent: Parent, cache: Cache, *, kept_for_others: bool) -> Manifest:
    """The PersistentVolumeClaim of a cache."""
    goes_with_us = cache.deletion_policy == "Delete" and not kept_for_others
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": cache.claim_name,
            "namespace": parent.namespace,
            "labels": names.shared_labels(COMPONENT),
            **({"ownerReferences": [shared_reference(parent)]} if goes_with_us else {}),
        },
        "spec": {
            "accessModes": list(cache.access_modes),
            "resources": {"requests": {"storage": str(cache.size)}},
            # An empty one is not an unset one: it asks for a volume that somebody has made by hand.
            **({} if cache.storage_class_name is None else {"storageClassName": cache.storage_class_name}),
        },
    }


def claim_patch(parent: Parent, cache: Cache, live: Manifest, *, kept_for_others: bool) -> Patch | None:
    """What has to change on a claim of ours: our owner reference, then a larger size.

    Whether a storage class can expand its volumes only the API server knows; where it cannot, the claim is as good as
    before, so nothing waits for that.
    """
    if not names.is_managed(live) or is_deleting(live):
        return None
    owner = _owner(parent, live, wanted=cache.deletion_policy == "Delete" and not kept_for_others)
    if owner:
        return Patch(live, tuple(owner))
    if not is_to_grow(cache, live):
        return None
    path = "/spec/resources/requests/storage"
    return Patch(live, ({"op": "replace", "path": path, "value": str(cache.size)},), optional=True)


def is_to_grow(cache: Cache, live: Manifest) -> bool:
    """Whether a claim of ours is smaller than declared. Before it has its volume nobody may change that."""
    is_bound = live.get("status", {}).get("phase") == "Bound"
    size = live["spec"]["resources"]["requests"]["storage"]
    return names.is_managed(live) and is_bound and quantity.parse(cache.size) > quantity.parse(size)


def not_grown(cache: Cache, live: Manifest | None) -> str:
    """What to add to whatever is told of the model, where its claim was not made larger: that is tried in each pass."""
    if live is None or not is_to_grow(cache, live):
        return ""
    size, of = live["spec"]["resources"]["requests"]["storage"], live["spec"].get("storageClassName")
    return (
        f" PersistentVolumeClaim {cache.claim_name} has {size} and could not be made larger so far, to {cache.size} "
        f"(cache.size): volumes grow only where their StorageClass{f' {of}' if of else ''} says allowVolumeExpansion: "
        "true. Else set another cache.claimName."
    )


def problem(name: str, live: Manifest | None) -> Cause | None:
    """Why nothing can be fetched into the claim, or None. One that waits for its first pod is no problem."""
    if live is None:
        return Cause(Reason.CLAIM_PENDING, f"PersistentVolumeClaim {name} is being created.")
    if is_deleting(live):
        return Cause(
            Reason.CLAIM_LOST,
            f"PersistentVolumeClaim {name} is being deleted; it is made anew once the pods that use it are gone.",
        )
    if live.get("status", {}).get("phase") == "Lost":
        return Cause(
            Reason.CLAIM_LOST,
            f"PersistentVolumeClaim {name} lost its volume; restore the volume, or delete the claim, which is then "
            "made and filled anew.",
        )
    return None


def is_pending(live: Manifest | None) -> bool:
    """Whether the claim has no volume (yet)."""
    return live is not None and live.get("status", {}).get("phase", "Pending") == "Pending"


def _owner(parent: Parent, live: Manifest, *, wanted: bool) -> list[Manifest]:
    owners = live["metadata"].get("ownerReferences", [])
    at = next((index for index, one in enumerate(owners) if one["uid"] == parent.uid), None)
    if wanted and at is None:
        return [add_owner(live, shared_reference(parent))]
    return [] if wanted else remove_owner(parent, live)


def remove_owner(parent: Parent, live: Manifest) -> list[Manifest]:
    """The JSON patch that takes the parent from the owners, if it is one."""
    owners = live["metadata"].get("ownerReferences", [])
    return [
        {"op": "remove", "path": f"/metadata/ownerReferences/{at}"}
        for at, one in enumerate(owners)
        if one["uid"] == parent.uid
    ]


def add_owner(live: Manifest, reference: Manifest) -> Manifest:
    """The JSON patch operation that adds an owner."""
    if live["metadata"].get("ownerReferences"):
        return {"op": "add", "path": "/metadata/ownerReferences/-", "value": reference}
    return {"op": "add", "path": "/metadata/ownerReferences", "value": [reference]}
