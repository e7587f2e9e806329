"""Refuses requests without one of the server's keys, before anything reads their body.

Open without a key: the probes, which the kubelet asks; /metrics, which holds no patient's text and which a network
policy can close; and the documentation, which is the same for everybody.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.api.error_bodies import ProblemError, error_answer
from inference_server.keys import Keys

OPEN_PATHS = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics", "/docs", "/openapi.json"})
_SCHEME = b"bearer "


class RequireKey:
    def __init__(self, app: ASGIApp, *, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._admitted(scope):
            await self._app(scope, receive, send)
            return
        error = ProblemError(
            401,
            "InvalidKey",
            "Send a key of this server as Authorization: Bearer <key>.",
            headers={"WWW-Authenticate": 'Bearer realm="llm-server"'},
        )
        await error_answer(scope, error)(scope, receive, send)

    def _admitted(self, scope: Scope) -> bool:
        offered = Headers(scope=scope).getlist("authorization")
        if len(offered) != 1:
            return False
        value = offered[0].encode("latin-1")
        return value[: len(_SCHEME)].lower() == _SCHEME and self._keys.admit(value[len(_SCHEME) :].strip())
