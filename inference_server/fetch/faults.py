"""What an exception of the Hub's client or of the system means: a Fault. Called by `worker`."""

import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers

from inference_server.fetch.failures import Fault, FaultKind
from inference_server.fetch.retry import parse_retry_after

_LONGEST_CHAIN = 10


class Corrupt(Exception):
    """A file that is not the one the Hub lists. Its message is the file's name."""


class EndedEarly(Exception):
    """An answer that was complete by its own account, and shorter than the file."""


class NotAHub(Exception):
    """An answer that no Hub gives. Its message says what is wrong with it, without quoting it.

    `host`: whose answer it is, where that is not the Hub's address.
    """

    def __init__(self, what: str, host: str = "") -> None:
        super().__init__(what)
        self.host = host


class Refused(Exception):
    """An answer without success. `host`: whose it is, where the Hub has sent the request elsewhere."""

    def __init__(self, status: int, headers: Mapping[str, str], host: str) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.host = host


class Fenced(Exception):
    """This process may not write any more: it has not heard for too long that it owns the folder."""


def describe(error: BaseException) -> Fault:
    """No message of a server or a library goes into a Fault, as it may quote a request."""
    if isinstance(error, Refused):
        return _answer(error)
    links = list(_chain(error))
    for link in links:
        if isinstance(link, socket.gaierror):
            return Fault(FaultKind.NAME, host=_connected_to(error))
        if isinstance(link, ssl.SSLCertVerificationError):
            return Fault(FaultKind.TLS, detail=link.verify_message, host=_asked(error))
        if isinstance(link, ssl.SSLError) and not isinstance(link, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return Fault(FaultKind.TLS, detail=link.reason or type(link).__name__, host=_asked(error))
    match error:
        case OfflineModeIsEnabled():
            return Fault(FaultKind.OFFLINE)
        case httpx2.ProxyError() if status := re.match(r"\d{3}\b", str(error)):
            return Fault(FaultKind.NETWORK, detail=f"the proxy answers {status[0]}", host=_connected_to(error))
        case httpx2.UnsupportedProtocol():
            return Fault(FaultKind.NOT_A_HUB, detail="it redirects to an address that is neither http nor https")
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return Fault(FaultKind.NETWORK, detail=type(error).__name__, host=_connected_to(error))
        case httpx2.TransportError():
            return Fault(FaultKind.NETWORK, detail=type(error).__name__, host=_asked(error))
        case httpx2.HTTPError() | httpx2.InvalidURL():
            return Fault(FaultKind.NOT_A_HUB, detail=type(error).__name__)
        case NotAHub():
            return Fault(FaultKind.NOT_A_HUB, detail=str(error), host=error.host)
        case EndedEarly():
            return Fault(FaultKind.NETWORK, detail="an answer ended early")
        case Corrupt():
            return Fault(FaultKind.CHECKSUM, detail=str(error))
        case Fenced():
            return Fault(FaultKind.FENCED)
        case MemoryError():
            return Fault(FaultKind.MEMORY)
        case OSError(errno=int(number)):
            return Fault(FaultKind.STORAGE, errno=number, detail=str(error.filename or ""))
    return Fault(FaultKind.CRASHED, detail=" < ".join(type(link).__name__ for link in links))


def _asked(error: BaseException) -> str:
    """The host of the request; "" where nobody tells."""
    request = getattr(error, "_request", None)
    return "" if request is None else request.url.host


def _connected_to(error: BaseException) -> str:
    """The host that a connection was tried to: the proxy's, where one is used."""
    request = getattr(error, "_request", None)
    if request is None:
        return ""
    proxies = getproxies()
    proxy = proxies.get(request.url.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(request.url.host):
        return str(request.url.host)
    return urlsplit(proxy if "//" in proxy else f"//{proxy}").hostname or ""


def _answer(error: Refused) -> Fault:
    headers = error.headers
    limit = parse_ratelimit_headers(headers)
    wait = parse_retry_after(headers.get("Retry-After"), datetime.now(UTC))
    if wait is None and limit is not None and limit.remaining == 0:
        wait = float(limit.reset_in_seconds)
    return Fault(
        FaultKind.HTTP,
        status=error.status,
        code=headers.get("X-Error-Code", ""),
        retry_after=wait,
        host=error.host,
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if current is None:
            return
        yield current
        # Suppressed contexts too: httpcore hides what the socket said.
        current = current.__cause__ or current.__context__
