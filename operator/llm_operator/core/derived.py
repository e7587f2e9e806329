"""What planner and status both need of an observation: derived once in a pass, and handed on. Pure."""

from dataclasses import dataclass

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.model_cache.fetch_job import Fetch, current_fetch
from llm_operator.core.observation import Observation
from llm_operator.core.revisions.target import RevisionTarget, choose_target


@dataclass(frozen=True, slots=True)
class Derived:
    """Which revision is to run, and how the fetch of the declared model stands."""

    target: RevisionTarget
    fetch: Fetch | None


def derive(observation: Observation, spec: LLMDeploymentSpec) -> Derived:
    """What follows from an observation and from nothing else."""
    return Derived(choose_target(observation, spec), current_fetch(observation))
