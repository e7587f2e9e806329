"""The Service in front of the server pods. Pure."""

from llm_operator.core import names
from llm_operator.core.children.metadata import metadata
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Parent


def build_service(parent: Parent) -> Manifest:
    """A ClusterIP Service on port 8002."""
    port = {"name": names.PORT_NAME, "port": names.SERVER_PORT, "protocol": "TCP", "targetPort": names.PORT_NAME}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(parent),
        "spec": {"type": "ClusterIP", "selector": names.selector(parent.name), "ports": [port]},
    }
