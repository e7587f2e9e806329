"""What an exception of the Hub's client or of the system means: a Fault. Called by `worker`."""

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx2
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers

from inference_server.fetch.failures import Fault, FaultKind
from inference_server.fetch.retry import parse_retry_after

_LONGEST_CHAIN = 10


class Corrupt(Exception):
    """A file that is not the one the Hub lists. Its message is the file's name."""


class EndedEarly(Exception):
    """An answer that was complete by its own account, and shorter than the file."""


class NotAHub(Exception):
    """An answer that no Hub gives. Its message says what is wrong with it, without quoting it."""


class Fenced(Exception):
    """This process may not write any more: it has not heard for too long that it owns the folder."""


def describe(error: BaseException) -> Fault:
    """No message of a server or a library goes into a Fault, as it may quote a request."""
    if isinstance(error, HfHubHTTPError):
        return _answer(error)
    links = list(_chain(error))
    for link in links:
        if isinstance(link, socket.gaierror):
            return Fault(FaultKind.NAME)
        if isinstance(link, ssl.SSLCertVerificationError):
            return Fault(FaultKind.TLS, detail=link.verify_message)
        if isinstance(link, ssl.SSLError) and not isinstance(link, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return Fault(FaultKind.TLS, detail=link.reason or type(link).__name__)
    match error:
        case OfflineModeIsEnabled():
            return Fault(FaultKind.OFFLINE)
        case httpx2.TransportError():
            return Fault(FaultKind.NETWORK, detail=type(error).__name__)
        case httpx2.HTTPError() | httpx2.InvalidURL():
            return Fault(FaultKind.NOT_A_HUB, detail=type(error).__name__)
        case NotAHub():
            return Fault(FaultKind.NOT_A_HUB, detail=str(error))
        case EndedEarly():
            return Fault(FaultKind.NETWORK, detail="an answer ended early")
        case Corrupt():
            return Fault(FaultKind.CHECKSUM, detail=str(error))
        case Fenced():
            return Fault(FaultKind.FENCED)
        case MemoryError():
            return Fault(FaultKind.MEMORY)
        case OSError(errno=int(number)):
            return Fault(FaultKind.STORAGE, errno=number)
    return Fault(FaultKind.CRASHED, detail=" < ".join(type(link).__name__ for link in links))


def _answer(error: HfHubHTTPError) -> Fault:
    headers = error.response.headers
    limit = parse_ratelimit_headers(headers)
    wait = parse_retry_after(headers.get("Retry-After"), datetime.now(UTC))
    if wait is None and limit is not None and limit.remaining == 0:
        wait = float(limit.reset_in_seconds)
    return Fault(
        FaultKind.HTTP,
        status=error.response.status_code,
        code=headers.get("X-Error-Code", ""),
        retry_after=wait,
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if current is None:
            return
        yield current
        # Suppressed contexts too: httpcore hides what the socket said.
        current = current.__cause__ or current.__context__
