"""The plain values that decisions are made of: what was observed, and what is to be done."""

from dataclasses import dataclass
from datetime import datetime

from llm_operator.api.conditions import Finding
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.names import Manifest


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator was installed with and decisions depend on."""

    server_image: str


@dataclass(frozen=True, slots=True)
class InvalidSpec:
    """A stored spec that this operator cannot read; `problems` says why, one sentence each."""

    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parent:
    """An LLMDeployment as it was read."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    spec: LLMDeploymentSpec | InvalidSpec
    status: Manifest
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything one decision may look at. `pods` are those that the parent's selector chooses."""

    parent: Parent
    deployment: Manifest | None
    service: Manifest | None
    pods: tuple[Manifest, ...]
    now: datetime


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of one child over what was observed; None means that it is to be created."""

    manifest: Manifest
    live: Manifest | None
    # Path of the first field that is not as declared.
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: children to apply, in order, and why nothing more can be done (`obstacle`)."""

    actions: tuple[Apply, ...] = ()
    obstacle: Finding | None = None
    look_again_after: float | None = None
