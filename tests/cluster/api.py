"""The few requests the launcher makes to an API server itself, with the standard library only."""

import base64
import http.client
import json
import re
import ssl
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.cluster.steps import Failure

Json = dict[str, Any]


class Api:
    """A client for the server a kubeconfig with embedded certificates names."""

    def __init__(self, kubeconfig: Path) -> None:
        text = kubeconfig.read_text()
        fields = {key: value.strip("\"'") for key, value in re.findall(r"^\s+([\w-]+): (\S+)$", text, re.M)}
        self._server = urlsplit(fields["server"])
        ca, certificate, key = (
            base64.b64decode(fields[name]).decode()
            for name in ("certificate-authority-data", "client-certificate-data", "client-key-data")
        )
        self._context = ssl.create_default_context(cadata=ca)
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
            pair.write(f"{certificate}\n{key}\n")
            pair.flush()
            self._context.load_cert_chain(pair.name)

    def request(self, method: str, path: str, body: Json | None = None, *, kind: str = "json") -> Json:
        """One request; raises ApiError with the server's message for any refusal."""
        connection = self.connect()
        try:
            headers = {"Content-Type": f"application/{kind}", "Accept": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(0, f"{self._server.netloc}: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise ApiError(answer.status, content)
        parsed: Json = json.loads(content) if content.startswith("{") else {"text": content}
        return parsed

    def connect(self) -> http.client.HTTPSConnection:
        """A connection to the server, opened by its first request."""
        assert self._server.hostname is not None
        return http.client.HTTPSConnection(self._server.hostname, self._server.port, context=self._context, timeout=60)

    def apply(self, collection: str, manifest: Json) -> None:
        """Server-side apply, so that a second `up` changes nothing."""
        name = manifest["metadata"]["name"]
        path = f"{collection}/{name}?fieldManager=local-cluster&force=true"
        self.request("PATCH", path, manifest, kind="apply-patch+yaml")

    def is_ready(self) -> bool:
        """Whether the server says it is ready to serve."""
        try:
            self.request("GET", "/readyz")
        except ApiError:
            return False
        return True

    def ready_nodes(self) -> list[str]:
        """Names of the nodes whose Ready condition is True."""
        return [name for name, ready in self._nodes().items() if ready.get("status") == "True"]

    def is_node_ready(self, name: str) -> bool:
        """Whether this node is; raises with the kubelet's own words when it says that it is not."""
        ready = self._nodes().get(name, {})
        if ready.get("status") == "False":
            raise ApiError(0, f"{name}: {ready.get('message')}")
        return ready.get("status") == "True"

    def _nodes(self) -> dict[str, Json]:
        nodes = self.request("GET", "/api/v1/nodes")["items"]
        return {
            node["metadata"]["name"]: condition
            for node in nodes
            for condition in node["status"].get("conditions", [])
            if condition["type"] == "Ready"
        }


class ApiError(Failure):
    """A refusal (its status) or no answer (status 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


def write_kubeconfig(path: Path, *, server: str, ca: Path, certificate: Path, key: Path) -> None:
    """A kubeconfig that needs no other file and that only its owner can read."""
    embedded = {
        name: base64.b64encode(source.read_bytes()).decode()
        for name, source in (("ca", ca), ("certificate", certificate), ("key", key))
    }
    install_kubeconfig(
        path,
        f"""apiVersion: v1
kind: Config
current-context: llm-operator
clusters:
- name: llm-operator
  cluster:
    server: {server}
    certificate-authority-data: {embedded["ca"]}
contexts:
- name: llm-operator
  context:
    cluster: llm-operator
    user: llm-operator
users:
- name: llm-operator
  user:
    client-certificate-data: {embedded["certificate"]}
    client-key-data: {embedded["key"]}
""",
    )


def install_kubeconfig(path: Path, text: str) -> None:
    """Replace the file as a whole: readers poll for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as handle:
        handle.write(text)
    Path(handle.name).replace(path)
