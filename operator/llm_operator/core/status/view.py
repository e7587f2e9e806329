"""What every check of the status looks at: the observation, and what follows from it at once. Pure."""

from collections import Counter
from dataclasses import dataclass

from llm_operator.api.conditions import Cause
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.children.rollout import is_rolled_out
from llm_operator.core.derived import Derived, derive
from llm_operator.core.live import is_deleting, is_ready
from llm_operator.core.model_cache.fetch_progress import why_not_cached
from llm_operator.core.names import Manifest
from llm_operator.core.observation import InvalidSpec, Observation
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.target import RevisionTarget, own_deployment


@dataclass(frozen=True, slots=True)
class View:
    """What every check may look at."""

    observation: Observation
    obstacle: Cause | None
    deployment: Manifest | None
    spec: LLMDeploymentSpec | None
    target: RevisionTarget | None
    # Why the declared model is not in the claim yet: what is known of the fetch, or of the claim.
    why_not_cached: Cause | None = None

    @property
    def declared(self) -> Revision | None:
        """The record of the declared revision."""
        return None if self.target is None else self.target.declared

    @property
    def rejected(self) -> Revision | None:
        """The declared revision, if it is rejected."""
        return self.declared if self.declared is not None and self.declared.state is State.REJECTED else None

    @property
    def replaced_by(self) -> Revision | None:
        """What runs, or is to run, in place of a rejected revision."""
        revision = None if self.target is None else self.target.revision
        return revision if self.rejected is not None and revision is not self.rejected else None

    @property
    def replacement_is_there(self) -> bool:
        """Whether that has arrived."""
        replacement, deployment = self.replaced_by, self.deployment
        return replacement is not None and names.revision_of(deployment) == replacement.hash and self.is_up

    @property
    def answering(self) -> list[str]:
        """Revisions of the replicas that answer, the one with the most of them first."""
        if self.deployment is None:
            return []
        pods = [pod for pod in self.observation.pods if is_ready(pod) and not is_deleting(pod)]
        count = Counter(revision for pod in pods if (revision := names.revision_of(pod)) is not None)
        return sorted(count, key=lambda revision: (-count[revision], revision))

    @property
    def counts(self) -> Manifest:
        """The Deployment's status."""
        counts: Manifest = (self.deployment or {}).get("status", {})
        return counts

    @property
    def replicas(self) -> int:
        """The replicas that the Deployment was given."""
        return 0 if self.deployment is None else int(self.deployment["spec"].get("replicas", 1))

    @property
    def is_up(self) -> bool:
        """Whether the Deployment is there and has done all that its spec asks."""
        return self.deployment is not None and is_rolled_out(self.deployment)


def view_of(observation: Observation, obstacle: Cause | None, derived: Derived | None = None) -> View:
    """The view of an observation, and of why nothing more could be done; `derived` from it, if it is known already."""
    spec, deployment = observation.parent.spec, own_deployment(observation)
    if isinstance(spec, InvalidSpec):
        return View(observation, obstacle, deployment, None, None)
    known = derive(observation, spec) if derived is None else derived
    missing = None if spec.used_cache is None else why_not_cached(observation, known.fetch, spec.used_cache)
    return View(observation, obstacle, deployment, spec, known.target, missing)
