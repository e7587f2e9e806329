"""A real admission webhook: AdmissionReview v1 over TLS, answered by a function of the test.

It serves in a thread and is registered for one namespace. `away()` closes its port, as a webhook whose pods are
gone; it comes back at the same address.
"""

import base64
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.kubectl import Kubectl, Manifest, eventually

PROBE = "/in-force"


@dataclass(frozen=True)
class Denied:
    """The answer of a webhook that refuses a request."""

    message: str
    code: int = 403


# What a webhook says to the request of an AdmissionReview: a JSON patch (empty: as it is), or a refusal.
Answer = list[Manifest] | Denied
Handler = Callable[[Manifest], Answer]


class Webhook:
    """The server. `requests` are those it was asked, oldest first; `handler` may be exchanged at any time."""

    def __init__(self, handler: Handler, folder: Path) -> None:
        self.handler = handler
        self.requests: list[Manifest] = []
        self.in_force = False
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate, key = _certificate(folder)
        self._context.load_cert_chain(self.certificate, key)
        self._port = 0
        self._start()

    @property
    def url(self) -> str:
        """Where the API server reaches it."""
        return f"https://127.0.0.1:{self._port}"

    @contextmanager
    def away(self) -> Iterator[None]:
        """Meanwhile nobody listens at its address."""
        self.stop()
        try:
            yield
        finally:
            self._start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def review(self, path: str, review: Manifest) -> Manifest:
        """The AdmissionReview that answers one."""
        request = review["request"]
        answer: Answer = []
        if path == PROBE:
            self.in_force = True
        else:
            self.requests.append(request)
            answer = self.handler(request)
        response: Manifest = {"uid": request["uid"], "allowed": not isinstance(answer, Denied)}
        if isinstance(answer, Denied):
            response["status"] = {"code": answer.code, "message": answer.message}
        elif answer:
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(answer).encode()).decode()}
        return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}

    def _start(self) -> None:
        webhook = self

        class Requests(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = json.dumps(webhook.review(self.path.split("?", 1)[0], json.loads(body))).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """The requests are kept instead."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Requests)
        self._server.socket = self._context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()


@contextmanager
def registered_webhook(
    kubectl: Kubectl,
    folder: Path,
    handler: Handler,
    *,
    resources: Sequence[str] = ("deployments",),
    operations: Sequence[str] = ("CREATE", "UPDATE"),
    kind: str = "Mutating",
    failure_policy: str = "Fail",
) -> Iterator[Webhook]:
    """A webhook that is asked about these resources (of any group) of kubectl's namespace, in force on entry."""
    webhook = Webhook(handler, folder)
    configuration = f"{kubectl.namespace}-{kind.lower()}-{webhook.url.rsplit(':', 1)[1]}"
    ca = base64.b64encode(webhook.certificate.read_bytes()).decode()
    common: Manifest = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 10,
    }
    rules = {"apiGroups": ["*"], "apiVersions": ["*"], "scope": "Namespaced"}
    kubectl.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": f"{kind}WebhookConfiguration",
            "metadata": {"name": configuration},
            "webhooks": [
                {
                    **common,
                    "name": "webhook.example.com",
                    "failurePolicy": failure_policy,
                    "clientConfig": {"url": f"{webhook.url}/", "caBundle": ca},
                    "rules": [{**rules, "operations": list(operations), "resources": list(resources)}],
                },
                {
                    **common,
                    "name": "probe.example.com",
                    "failurePolicy": "Ignore",
                    "clientConfig": {"url": f"{webhook.url}{PROBE}", "caBundle": ca},
                    "rules": [{**rules, "operations": ["CREATE"], "resources": ["configmaps"]}],
                },
            ],
        }
    )
    try:
        eventually(lambda: _asks(kubectl, webhook))
        yield webhook
    finally:
        kubectl("delete", f"{kind}WebhookConfiguration", configuration)
        webhook.stop()


def _asks(kubectl: Kubectl, webhook: Webhook) -> bool:
    """Whether the API server asks it already: it learns of a configuration a little later."""
    kubectl("create", "configmap", "is-the-webhook-in-force", "--dry-run=server")
    return webhook.in_force


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, its own CA, and the key."""
    certificate, key = folder / "webhook.crt", folder / "webhook.key"
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout {key} "
        f"-out {certificate} -subj /CN=webhook -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return certificate, key
