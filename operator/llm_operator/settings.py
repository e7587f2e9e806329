"""Settings of the operator process: environment variables with the prefix LLMOP_. Read by __main__.py."""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from llm_operator import __version__

NAMESPACE = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class OperatorSettings(BaseSettings):
    """Every setting, its default and its bounds; docs/operator.md lists them (a test holds both together)."""

    model_config = SettingsConfigDict(env_prefix="LLMOP_", frozen=True)

    namespaces: Annotated[
        tuple[Annotated[str, Field(pattern=NAMESPACE, max_length=63)], ...],
        NoDecode,
        Field(description="Namespaces to watch, separated by commas; empty means all namespaces."),
    ] = ()
    server_image: Annotated[
        str,
        Field(
            min_length=1,
            max_length=512,
            description="Image of the inference server when spec.image is unset.",
        ),
    ] = f"docker.io/carepath/inference-server:{__version__}"
    concurrency: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="LLMDeployments worked on at the same time, besides those that wait for slow answers.",
        ),
    ] = 8
    resync_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=86400,
            description="How often every LLMDeployment is looked at without any event, in seconds.",
        ),
    ] = 300.0
    health_port: Annotated[
        int, Field(ge=0, le=65535, description="Port of /healthz and /readyz; 0 takes any free port.")
    ] = 8080
    metrics_port: Annotated[int, Field(ge=0, le=65535, description="Port of /metrics; 0 takes any free port.")] = 8081
    leader_election: Annotated[
        bool,
        Field(description="Work only while holding a Lease, so that several operators may run; false works at once."),
    ] = True
    lease_namespace: Annotated[
        str,
        Field(
            pattern=f"{NAMESPACE}|^$",
            max_length=63,
            description="Namespace of the Lease; empty means the pod's own, outside of a pod llm-operator-system.",
        ),
    ] = ""
    identity: Annotated[
        str,
        Field(
            max_length=253,
            description="Name in the Lease, of this process alone; empty means POD_NAME, else hostname and UUID.",
        ),
    ] = ""
    confirm_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=300,
            allow_inf_nan=False,
            description="How long a terminal fault that has no count of its own must last before its revision is"
            " rejected, in seconds.",
        ),
    ] = 10.0
    fetch_https_proxy: Annotated[
        str,
        Field(
            pattern=r"^(https?://[^\s@/]+/?)?$",
            max_length=512,
            description="Proxy through which fetches reach the Hub, without user or password, which pods would show."
            " Empty means none.",
        ),
    ] = ""
    fetch_no_proxy: Annotated[
        str,
        Field(
            pattern=r"^[^\s]*$",
            max_length=2048,
            description="Hosts that fetches reach without the proxy, separated by commas.",
        ),
    ] = ""
    fetch_ca_config_map: Annotated[
        str,
        Field(
            pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$",
            max_length=253,
            description="ConfigMap with a key ca.crt, the CAs that fetches trust in place of the image's; it must be in"
            " the namespace of each LLMDeployment. Empty means none.",
        ),
    ] = ""
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="Least severe level that is logged.")
    ] = "INFO"

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value
