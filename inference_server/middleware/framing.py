"""Refuses bodies whose bytes are not what the server would take them for."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.api.error_bodies import ProblemError, error_answer


class Framing:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wrong = _wrong(Headers(scope=scope)) if scope["type"] == "http" else None
        answer = self._app if wrong is None else error_answer(scope, wrong)
        await answer(scope, receive, send)


def _wrong(headers: Headers) -> ProblemError | None:
    if "content-length" in headers and "transfer-encoding" in headers:
        # Who stands in front may have read the other one: where the next request begins is not known.
        detail = "Send Content-Length or Transfer-Encoding, not both."
        return ProblemError(400, "AmbiguousLength", detail, headers={"Connection": "close"})
    if headers.get("content-encoding", "identity").lower() != "identity":
        return ProblemError(415, "UnsupportedMediaType", "Send the body as it is, without Content-Encoding.")
    return None
