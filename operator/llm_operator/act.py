"""Carries out a plan: the only place that writes children and status. Called by reconcile.py.

Every write is safe to repeat and to lose: names are deterministic, applies carry the uid that was
observed, the status carries the resourceVersion it was derived from.
"""

import dataclasses
import logging

from llm_operator.api.conditions import Finding, Reason
from llm_operator.api.types import API_VERSION, KIND
from llm_operator.core.drift import drift, restore_lists
from llm_operator.core.model import Apply, Observation, Plan
from llm_operator.core.names import Manifest
from llm_operator.kube import ApiError, Kube

log = logging.getLogger(__name__)

# The request itself is not acceptable: repeating it unchanged helps only after somebody changes something.
REFUSED = (400, 403, 422)


async def apply_children(kube: Kube, observation: Observation, plan: Plan) -> tuple[Observation, Finding | None]:
    """Apply in order until done or refused.

    Returns the observation with the stored answers in it, and why it stopped (None when it did not).
    Raises ApiError for what another attempt may cure: conflicts, time-outs, 429, 5xx.
    """
    obstacle = plan.obstacle
    for action in plan.actions:
        kind, name = action.manifest["kind"], action.manifest["metadata"]["name"]
        try:
            stored = await _put(kube, action)
        except ApiError as error:
            if error.status not in REFUSED:
                raise
            return observation, Finding(
                Reason.APPLY_REFUSED,
                f"The API server refused {kind} {name}; correct the spec. It says: {error.message}",
            )
        log.info("applied %s %s/%s", kind, action.manifest["metadata"]["namespace"], name)
        observation = _with(observation, stored)
        path = drift(action.manifest, stored)
        if path is not None:
            obstacle = Finding(
                Reason.DRIFT_NOT_REPAIRED,
                f"{kind} {name} was written, but something (an admission webhook?) set {path} to another value.",
            )
    return observation, obstacle


async def write_status(kube: Kube, observation: Observation, status: Manifest) -> bool:
    """Write the status if it differs from the stored one; returns whether it did."""
    parent = observation.parent
    if status == parent.status:
        return False
    await kube.apply_status(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": parent.name,
                "namespace": parent.namespace,
                "uid": parent.uid,
                "resourceVersion": parent.resource_version,
            },
            "status": status,
        }
    )
    return True


async def _put(kube: Kube, action: Apply) -> Manifest:
    live = action.live
    if live is None:
        return await kube.apply(action.manifest, uid=None)
    try:
        stored = await kube.apply(action.manifest, uid=live["metadata"]["uid"])
    except ApiError as error:
        if error.status != 422:
            raise
        stored = live
    if stored is live or drift(action.manifest, stored) is not None:
        stored = await kube.patch(action.manifest, restore_lists(action.manifest, stored))
    return stored


def _with(observation: Observation, stored: Manifest) -> Observation:
    if stored["kind"] == "Deployment":
        return dataclasses.replace(observation, deployment=stored)
    return dataclasses.replace(observation, service=stored)
