"""The containers that work on the volume of the models: one fetches, one prunes. Pure."""

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Settings

CONFINED: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}

TMP: Manifest = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - inside the pod

MODELS: Manifest = {"name": "models", "mountPath": names.MODELS_FOLDER}

CA: Manifest = {"name": "ca", "mountPath": "/etc/fetch-ca", "readOnly": True}

# All that a ResourceQuota may ask for. A model of any size needs no more memory; TLS and SHA-256 use two processors.
FETCH_RESOURCES: Manifest = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"cpu": "2", "memory": "1Gi"},
}


def model_variables(spec: LLMDeploymentSpec) -> list[Manifest]:
    """Which model, as the server's image is told."""
    model = spec.wanted_model
    return [
        {"name": "MODEL_CACHE_DIR", "value": names.MODELS_FOLDER},
        {"name": "MODEL_REPOSITORY", "value": model.repository},
        {"name": "MODEL_REVISION", "value": model.revision},
    ]


def fetch_container(spec: LLMDeploymentSpec, settings: Settings) -> Manifest:
    """Fetches the model onto the volume. A Secret that is missing is no token: many models need none."""
    model = spec.wanted_model
    secret = {"name": model.token_secret_ref.name, "key": model.token_secret_ref.key, "optional": True}
    endpoint = [] if model.endpoint is None else [{"name": "HF_ENDPOINT", "value": model.endpoint}]
    env = [
        *model_variables(spec),
        *endpoint,
        *way_out(settings),
        # The image is the server's: if it could not run the model, gigabytes would come for nothing.
        {"name": "FETCH_FOR_MODE", "value": spec.canonical_mode},
        {"name": "HUGGINGFACE_TOKEN", "valueFrom": {"secretKeyRef": secret}},
    ]
    return _cache_container(
        spec, settings, names.FETCH_CONTAINER, env=env, mounts=[CA] if settings.fetch_ca_config_map else []
    )


def prune_container(spec: LLMDeploymentSpec, settings: Settings, variables: dict[str, str]) -> Manifest:
    """Deletes models from the volume: all but those that the variables name. It needs no network."""
    env = [{"name": name, "value": value} for name, value in variables.items()]
    return _cache_container(spec, settings, names.PRUNE_CONTAINER, env=env, mounts=[])


def _cache_container(
    spec: LLMDeploymentSpec, settings: Settings, command: str, *, env: list[Manifest], mounts: list[Manifest]
) -> Manifest:
    """A command of the server's image that may write to the volume of the models."""
    declared = spec.wanted_model.fetch_resources
    return {
        "name": command,
        "image": spec.image or settings.server_image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": ["python", "-m", "inference_server", command],
        "env": env,
        "resources": FETCH_RESOURCES if declared is None else declared.model_dump(by_alias=True, exclude_none=True),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": CONFINED,
        "volumeMounts": [TMP, MODELS, *mounts],
    }


def ca_volumes(settings: Settings) -> list[Manifest]:
    """The CAs of the network. Optional, so that a fetch starts and says that there are none, instead of nobody."""
    if not settings.fetch_ca_config_map:
        return []
    return [{"name": CA["name"], "configMap": {"name": settings.fetch_ca_config_map, "optional": True}}]


def way_out(settings: Settings) -> list[Manifest]:
    """Proxy and CAs of the network that the cluster is in."""
    known = {
        "HTTPS_PROXY": settings.fetch_https_proxy,
        "NO_PROXY": settings.fetch_no_proxy,
        "SSL_CERT_FILE": f"{CA['mountPath']}/ca.crt" if settings.fetch_ca_config_map else "",
    }
    return [{"name": name, "value": value} for name, value in known.items() if value]
