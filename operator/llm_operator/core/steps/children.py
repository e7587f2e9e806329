"""The steps that write the Deployment and the Service. By the rules of core/children/. Pure."""

from llm_operator.core import names
from llm_operator.core.actions import Apply, SetAdmitted
from llm_operator.core.children import admission
from llm_operator.core.children.drift import change, compare
from llm_operator.core.children.service import build_service
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Accepted
from llm_operator.core.revisions.restarts import with_restarts
from llm_operator.core.steps.situation import NOTHING, Situation, Step, accepted, declared_deployment


def record_what_admission_does(at: Situation, _: Step) -> Step:
    """So that another process neither writes what is accepted nor fights over it."""
    seen = at.observation.admitted.get("Deployment")
    revision = None if seen is None else at.target.history.get(seen.revision)
    if seen is None or revision is None or revision.admitted == seen.accepted:
        return NOTHING
    return Step((SetAdmitted(revision.live, admission.encode(seen.accepted)),))


def apply_children(at: Situation, _: Step) -> Step:
    """The Deployment as the target's record says, and the Service; nothing where they already are so."""
    observation, target, live = at.observation, at.target, at.observation.deployment
    wanted = []
    if target.revision is not None:
        known = {one.hash: one.state for one in target.history.revisions}
        deployment = with_restarts(declared_deployment(at, target.revision), live, target.revision, known)
        wanted.append(_needed(deployment, live, accepted(at, "Deployment", target.revision)))
    service = build_service(observation.parent)
    wanted.append(_needed(service, observation.service, accepted(at, "Service", None)))
    return Step(tuple(action for action in wanted if action is not None))


def _needed(desired: Manifest, live: Manifest | None, accepted: Accepted) -> Apply | None:
    """The write that is needed, if any. An object that is being deleted is left to go first."""
    if live is None:
        return Apply(desired, None, accepted=accepted)
    if "deletionTimestamp" in live["metadata"]:
        return None
    compared = compare(desired, live, accepted)
    if compared.path is None:
        return None
    is_change = names.revision_of(desired) != names.revision_of(live)
    operations = change(live, compared.put_right)
    return Apply(desired, live, compared.path, operations, accepted, is_change=is_change)
