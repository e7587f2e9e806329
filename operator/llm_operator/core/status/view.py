"""What every check of the status looks at: the observation, and what follows from it at once. Pure."""

from collections import Counter
from dataclasses import dataclass

from llm_operator.api.conditions import Cause
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.children.rollout import is_rolled_out
from llm_operator.core.live import is_deleting, is_ready
from llm_operator.core.model_cache.fetch_progress import waiting
from llm_operator.core.names import Manifest
from llm_operator.core.observation import InvalidSpec, Observation
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.target import RevisionTarget, choose_target, own_deployment


@dataclass(frozen=True, slots=True)
class View:
    """What every check may look at."""

    observation: Observation
    obstacle: Cause | None
    deployment: Manifest | None
    spec: LLMDeploymentSpec | None
    target: RevisionTarget | None

    @property
    def declared(self) -> Revision | None:
        """The record of the declared revision."""
        return None if self.target is None else self.target.history.get(self.target.desired)

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
    def waits_for(self) -> Cause | None:
        """What is known of the fetch of the declared model, or of the claim that it goes into."""
        cache = None if self.spec is None else self.spec.used_cache
        return None if cache is None else waiting(self.observation, cache)

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


def view_of(observation: Observation, obstacle: Cause | None) -> View:
    """The view of an observation, and of why nothing more could be done."""
    spec = observation.parent.spec
    if isinstance(spec, InvalidSpec):
        return View(observation, obstacle, own_deployment(observation), None, None)
    return View(observation, obstacle, own_deployment(observation), spec, choose_target(observation, spec))
