"""The one door to the API server: plain dicts over `kubernetes.aio`, and one kind of error.

The client's typed models drop fields they do not know, so only its transport, credentials and their
refresh are used. Every request carries the operator's User-Agent and a time-out. Used by observe.py,
act.py and (for credentials alone) watch.py.
"""

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
IN_CLUSTER = "KUBERNETES_SERVICE_HOST"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object and where the API serves it."""

    path: str  # "/api/v1" or "/apis/GROUP/VERSION"
    plural: str

    @property
    def api_version(self) -> str:
        """As in manifests: "v1", "apps/v1"."""
        return self.path.split("/", 2)[2]


LLMDEPLOYMENTS = Resource("/apis/llm.carepath.ai/v1alpha1", "llmdeployments")
DEPLOYMENTS = Resource("/apis/apps/v1", "deployments")
SERVICES = Resource("/api/v1", "services")
PODS = Resource("/api/v1", "pods")
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

    async def apply(self, manifest: Manifest, *, uid: str | None) -> Manifest:
        """Server-side apply a child; returns the object as stored.

        With `uid` the object must still be that one (409 otherwise). Without, it is to be created: if
        somebody else made an object of the name in the meantime, nothing is forced (409).
        """
        metadata = manifest["metadata"]
        if uid is not None:
            manifest = {**manifest, "metadata": {**metadata, "uid": uid}}
        return await self._apply(
            _path(BY_KIND[manifest["kind"]], metadata["namespace"], metadata["name"]),
            manifest,
            force=uid is not None,
        )

    async def patch(self, manifest: Manifest, operations: list[Manifest]) -> Manifest:
        """JSON patch the object that `manifest` names."""
        metadata = manifest["metadata"]
        path = _path(BY_KIND[manifest["kind"]], metadata["namespace"], metadata["name"])
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("PATCH", path, query, operations, "application/json-patch+json")

    async def apply_status(self, parent: Manifest) -> Manifest:
        """Server-side apply the status of an LLMDeployment; 409 if it changed since it was read."""
        metadata = parent["metadata"]
        path = _path(LLMDEPLOYMENTS, metadata["namespace"], metadata["name"]) + "/status"
        return await self._apply(path, parent, force=True)

    async def _apply(self, path: str, manifest: Manifest, *, force: bool) -> Manifest:
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        return await self._request("PATCH", path, query, manifest, "application/apply-patch+yaml")

    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Manifest | list[Manifest] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        _, url, headers, _, _ = await self._api.param_serialize(
            method,
            path,
            header_params={"Accept": "application/json", "Content-Type": content_type},
            auth_settings=["BearerToken"],
        )
        if query:
            url = f"{url}?{urlencode(query)}"
        try:
            response = await self._api.call_api(
                method, url, header_params=headers, body=body, _request_timeout=REQUEST_TIMEOUT
            )
            data = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}") from error
        if response.status >= 400:
            raise _error(response.status, response.headers.get("Retry-After"), data)
        answer: Manifest = json.loads(data)
        return answer


def _path(resource: Resource, namespace: str | None, name: str | None = None) -> str:
    parts = [resource.path]
    if namespace is not None:
        parts.append(f"namespaces/{quote(namespace, safe='')}")
    parts.append(resource.plural)
    if name is not None:
        parts.append(quote(name, safe=""))
    return "/".join(parts)


def _error(status: int, retry_after: str | None, data: bytes) -> ApiError:
    answer: Any
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        answer = {"message": data[:256].decode(errors="replace")}
    delay = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
    return ApiError(status, str(answer.get("reason") or status), str(answer.get("message") or ""), delay)
