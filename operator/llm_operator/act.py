"""Carries out a plan: the only place that writes children and status. Called by reconcile.py.

Every write is safe to repeat and to lose: names are deterministic, a create never touches what exists, and
every other write carries the resourceVersion it was derived from.
"""

import dataclasses
import logging

from llm_operator.api.conditions import Finding, Reason
from llm_operator.core.diagnosis import detail
from llm_operator.core.foreign import claim, drift, in_the_way, left_over, replace_template
from llm_operator.core.model import Apply, Observation, Plan
from llm_operator.core.names import Manifest
from llm_operator.kube import NAMESPACE_TERMINATING, ApiError, Kube

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
            if error.status not in REFUSED or error.reason == NAMESPACE_TERMINATING:
                raise
            return observation, _refused(kind, name, error)
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
    await kube.write_status(
        parent.namespace,
        parent.name,
        status,
        resource_version=parent.resource_version,
    )
    return True


async def _put(kube: Kube, action: Apply) -> Manifest:
    desired, live = action.manifest, action.live
    if live is None:
        return await kube.create(desired)
    before = [*claim(live), *in_the_way(desired, live)]
    if before:
        live = await kube.patch(live, before)
    try:
        stored = await kube.apply(desired, over=live)
    except ApiError as error:
        replacement = replace_template(desired)
        if error.status != 422 or not replacement:
            raise
        # Merged with what somebody else put in (another probe handler, say) it cannot be valid: put ours in its place.
        live = await kube.patch(live, replacement)
        stored = await kube.apply(desired, over=live)
    after = left_over(desired, stored)
    return await kube.patch(stored, after) if after else stored


def _refused(kind: str, name: str, error: ApiError) -> Finding:
    remedy = "correct the spec" if error.status == 422 else "see to quota, policy and the operator's permissions"
    return Finding(Reason.APPLY_REFUSED, f"The API server refused {kind} {name}; {remedy}.{detail(error.message)}")


def _with(observation: Observation, stored: Manifest) -> Observation:
    if stored["kind"] == "Deployment":
        return dataclasses.replace(observation, deployment=stored)
    return dataclasses.replace(observation, service=stored)
