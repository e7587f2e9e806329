"""Who we are to the API server: credentials, their refresh, and the one way to open a session with them.

Used by kube.py, and by watch.py for kopf, so that both speak under the same name. This is all that is used of
`kubernetes.aio`.
"""

import os
import ssl
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from llm_operator import __version__

USER_AGENT = f"llm-operator/{__version__}"
IN_CLUSTER = "KUBERNETES_SERVICE_HOST"


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
    return configuration


def open_session(configuration: Configuration) -> aiohttp.ClientSession:
    """An HTTP session with the credentials, their refresh, and the operator's name."""
    context = ssl.create_default_context(
        cafile=configuration.ssl_ca_cert, cadata=getattr(configuration, "ca_cert_data", None)
    )
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    async def authorize(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        # For each request, since a service account's token changes every hour.
        token = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            request.headers["Authorization"] = token
        return await handler(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        headers={"User-Agent": USER_AGENT},
        middlewares=(authorize,),
        # Looked up once: with `trust_env` aiohttp asks two threads for every request.
        proxy=configuration.proxy or proxy_from_environment(configuration.host),
    )


def proxy_from_environment(url: str) -> str | None:
    """The proxy that HTTPS_PROXY (HTTP_PROXY) and NO_PROXY name for this address, or None."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
