"""The one door to the API server: plain dicts over `kubernetes.aio`, and one kind of error.

The client's typed models drop fields they do not know, so only its transport, credentials and their
refresh are used. Every request carries the operator's User-Agent and a time-out. Used by observe.py,
act.py and (for credentials alone) watch.py.
"""

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from llm_operator import __version__
from llm_operator.core.names import FIELD_MANAGER, Manifest

USER_AGENT = f"llm-operator/{__version__}"
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)
RENEW_SECONDS = 10.0
NAMESPACE_TERMINATING = "NamespaceTerminating"
IN_CLUSTER = "KUBERNETES_SERVICE_HOST"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object and where the API serves it."""

    path: str  # "/api/v1" or "/apis/GROUP/VERSION"
    plural: str


LLMDEPLOYMENTS = Resource("/apis/llm.carepath.ai/v1alpha1", "llmdeployments")
DEPLOYMENTS = Resource("/apis/apps/v1", "deployments")
SERVICES = Resource("/api/v1", "services")
PODS = Resource("/api/v1", "pods")
Operations = list[Manifest]  # of a JSON patch (RFC 6902)
BY_KIND = {"Deployment": DEPLOYMENTS, "Service": SERVICES}


class ApiError(Exception):
    """The API server answered with an error, or (status 0) did not answer.

    `reason` is the machine-readable word of metav1.Status ("Invalid", "Forbidden", "NotFound", ...).
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


async def load_configuration() -> Configuration:
    """Credentials from `KUBECONFIG` (or ~/.kube/config), else from the pod's service account.

    In a pod the service account wins unless `KUBECONFIG` is set.
    """
    configuration = Configuration()
    if IN_CLUSTER in os.environ and "KUBECONFIG" not in os.environ:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(
            config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration, persist_config=False
        )
    configuration.connection_pool_maxsize = 64
    return configuration


class Kube:
    """A client for the few calls the operator makes. Objects are plain dicts, as the API sends them."""

    def __init__(self, configuration: Configuration) -> None:
        self._api = ApiClient(configuration)
        self._api.user_agent = USER_AGENT
        self._renewed = float("-inf")

    @classmethod
    async def connect(cls) -> Self:
        """A client with the credentials found by `load_configuration`."""
        return cls(await load_configuration())

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """The live object, or None."""
        try:
            return await self._request("GET", _path(resource, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def find(
        self, resource: Resource, namespace: str | None = None, *, label_selector: str | None = None
    ) -> list[Manifest]:
        """All live objects, of one namespace or of all."""
        query = {} if label_selector is None else {"labelSelector": label_selector}
        answer = await self._request("GET", _path(resource, namespace), query)
        return list(answer["items"])

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server's discovery lists the kind."""
        try:
            answer = await self._request("GET", resource.path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(one.get("name") == resource.plural for one in answer.get("resources", []))

    async def create(self, manifest: Manifest) -> Manifest:
        """Create a child; 409 if an object of the name exists, which stays as it is."""
        path = _path(BY_KIND[manifest["kind"]], manifest["metadata"]["namespace"])
        return await self._request("POST", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def apply(self, manifest: Manifest, *, over: Manifest) -> Manifest:
        """Server-side apply a child over what was read; 409 if that has changed or gone since."""
        version = over["metadata"]["resourceVersion"]
        manifest = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", _path_of(manifest), query, manifest, "application/apply-patch+yaml")

    async def patch(self, live: Manifest, operations: Operations) -> Manifest:
        """JSON patch a child as it was read; 409 if it has changed since."""
        return await self._json_patch(_path_of(live), operations, live["metadata"]["resourceVersion"])

    async def write_status(self, namespace: str, name: str, status: Manifest, *, resource_version: str) -> Manifest:
        """Replace the status of an LLMDeployment; 409 if the object has changed since it was read."""
        path = f"{_path(LLMDEPLOYMENTS, namespace, name)}/status"
        return await self._json_patch(path, [{"op": "add", "path": "/status", "value": status}], resource_version)

    async def _json_patch(self, path: str, operations: Operations, resource_version: str) -> Manifest:
        version = {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version}
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("PATCH", path, query, [version, *operations], "application/json-patch+json")

    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Manifest | Operations | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        try:
            _, url, headers, _, _ = await self._api.param_serialize(
                method,
                path,
                header_params={"Accept": "application/json", "Content-Type": content_type},
                auth_settings=["BearerToken"],
            )
            if query:
                url = f"{url}?{urlencode(query)}"
            response = await self._api.call_api(
                method, url, header_params=headers, body=body, _request_timeout=REQUEST_TIMEOUT
            )
            data = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError, config.ConfigException) as error:
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}") from error
        if response.status == 401:
            await self._renew()
        if response.status >= 400:
            raise _error(response.status, response.headers.get("Retry-After"), data)
        try:
            answer: Manifest = json.loads(data)
        except ValueError as error:
            raise ApiError(0, "Unreachable", "the answer is not JSON: something between answered instead") from error
        return answer

    async def _renew(self) -> None:
        """Read the credentials anew (an exec plugin's token expires), but not again and again."""
        now = asyncio.get_running_loop().time()
        if now < self._renewed + RENEW_SECONDS:
            return
        self._renewed = now
        try:
            self._api.configuration.api_key = (await load_configuration()).api_key
        except Exception as error:  # an exec plugin may fail in any way
            raise ApiError(401, "Unauthorized", f"the credentials cannot be renewed: {error}") from error


def _path(resource: Resource, namespace: str | None, name: str | None = None) -> str:
    parts = [resource.path]
    if namespace is not None:
        parts.append(f"namespaces/{quote(namespace, safe='')}")
    parts.append(resource.plural)
    if name is not None:
        parts.append(quote(name, safe=""))
    return "/".join(parts)


def _path_of(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return _path(BY_KIND[manifest["kind"]], metadata["namespace"], metadata["name"])


def _error(status: int, retry_after: str | None, data: bytes) -> ApiError:
    answer: Any
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        answer = {"message": data[:256].decode(errors="replace")}
    delay = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
    causes = (answer.get("details") or {}).get("causes") or []
    terminating = any(one.get("reason") == NAMESPACE_TERMINATING for one in causes)
    reason = NAMESPACE_TERMINATING if terminating else str(answer.get("reason") or status)
    return ApiError(status, reason, str(answer.get("message") or ""), delay)
