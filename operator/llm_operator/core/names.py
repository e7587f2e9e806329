"""Names and labels: every string that ties children to their LLMDeployment stands here."""

from typing import Any

Manifest = dict[str, Any]

PREFIX = "llm.carepath.ai"
FIELD_MANAGER = "llm-operator"
MANAGED_BY = "app.kubernetes.io/managed-by"
INSTANCE = "app.kubernetes.io/instance"
APP_NAME = "app.kubernetes.io/name"
MANAGED_SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"

# Hash of the manifest as last applied: tells a field we no longer declare from one that we never did.
APPLIED_HASH = f"{PREFIX}/applied-hash"

SERVER_CONTAINER = "server"
SERVER_PORT = 8002
PORT_NAME = "http"


def selector(name: str) -> dict[str, str]:
    """Labels that choose the server pods. A Deployment's selector can never change: neither may this."""
    return {APP_NAME: "inference-server", INSTANCE: name}


def labels(name: str) -> dict[str, str]:
    """Labels of every child."""
    return {
        **selector(name),
        "app.kubernetes.io/component": "model-server",
        "app.kubernetes.io/part-of": "llmdeployment",
        MANAGED_BY: FIELD_MANAGER,
    }


def selector_string(name: str) -> str:
    """`selector` in the form that label queries and the scale subresource take."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(name).items()))


def url(name: str, namespace: str) -> str:
    """Address of the Service inside the cluster."""
    return f"http://{name}.{namespace}.svc:{SERVER_PORT}"
