"""A later version of the API, for what must hold across an upgrade."""

from typing import Literal

from pydantic import Field

from llm_operator.api.types import LLMDeploymentSpec, Model


class NextModel(Model):
    """Another default repository."""

    repository: str = "Qwen/Qwen4-4B"
    loader: str = "safetensors"


class NextSpec(LLMDeploymentSpec):
    """A later version: a changed default, and new fields with and without one."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "Always"
    runtime_class_name: str = "runc"
    tracing: dict[str, str] = Field(default={"level": "off"})
    schedulerName: str | None = None
    model: NextModel | None = None

    @property
    def wanted_model(self) -> Model:
        return self.model or NextModel()
