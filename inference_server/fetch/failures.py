"""Every way in which a fetch can fail: its reason, exit code, and what to say and to do about it.

`describe` (in `faults`) and `supervise` reduce what happened to a Fault; `classify` turns that into the FetchError
that people, the log, the termination log and the operator see. Nothing here holds a token or a server's own words,
which may repeat it.
"""

import errno
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from inference_server.engine.qwen.shape import REMEDY
from inference_server.termination import StartupError


class FetchReason(StrEnum):
    """The value is what the termination log says."""

    TOKEN_MISSING = "TokenMissing"  # noqa: S105 - a reason, not a secret
    TOKEN_INVALID = "TokenInvalid"  # noqa: S105
    REPOSITORY_GATED = "RepositoryGated"
    ACCESS_DENIED = "AccessDenied"
    REPOSITORY_NOT_FOUND = "RepositoryNotFound"
    REVISION_NOT_FOUND = "RevisionNotFound"
    MODEL_NOT_SUPPORTED = "ModelNotSupported"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    TLS_FAILED = "TlsFailed"
    ENDPOINT_INVALID = "EndpointInvalid"
    CACHE_NOT_WRITABLE = "CacheNotWritable"
    NO_SPACE = "NoSpace"
    OUT_OF_MEMORY = "OutOfMemory"
    OFFLINE_MODE = "OfflineMode"
    HUB_CLIENT_MISSING = "HubClientMissing"
    RATE_LIMITED = "RateLimited"
    NETWORK_UNREACHABLE = "NetworkUnreachable"
    HOST_NOT_FOUND = "HostNotFound"
    ENDPOINT_UNAVAILABLE = "EndpointUnavailable"
    DOWNLOAD_STALLED = "DownloadStalled"
    STORAGE_FAILED = "StorageFailed"
    FETCH_INTERRUPTED = "FetchInterrupted"
    NO_SPACE_YET = "NoSpaceYet"
    FETCH_FAILED = "FetchFailed"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a fetch ends for a reason; `meaning` stands in docs/model-cache.md (`make generate`)."""

    code: int
    meaning: str


# 20 to 39: nothing changes until somebody acts. 40 to 59: the same command may succeed later.
EXITS: dict[FetchReason, Exit] = {
    FetchReason.TOKEN_MISSING: Exit(20, "There is no such repository, or it is not public and there is no token (401)"),
    FetchReason.TOKEN_INVALID: Exit(21, "The Hub does not accept the token (401)"),
    FetchReason.REPOSITORY_GATED: Exit(
        22,
        "The account of the token has not been granted access to a gated repository",
    ),
    FetchReason.ACCESS_DENIED: Exit(23, "Access is denied for another reason (403)"),
    FetchReason.REPOSITORY_NOT_FOUND: Exit(24, "The Hub has no such repository that this token may see"),
    FetchReason.REVISION_NOT_FOUND: Exit(25, "The repository has no such branch, tag or commit"),
    FetchReason.MODEL_NOT_SUPPORTED: Exit(
        26,
        "The server could not run it: another architecture than `Qwen3ForCausalLM`, a variant that it does "
        "not know, no safetensors files, or files are missing",
    ),
    FetchReason.CHECKSUM_MISMATCH: Exit(27, "A file arrived damaged three times"),
    FetchReason.TLS_FAILED: Exit(28, "The certificate is not trusted, or the address does not speak TLS"),
    FetchReason.ENDPOINT_INVALID: Exit(
        29,
        "The address does not answer as a Hub does, or sends a page in place of a file",
    ),
    FetchReason.CACHE_NOT_WRITABLE: Exit(
        30,
        "The folder cannot be written, is a link, or does not keep what is written to it",
    ),
    FetchReason.NO_SPACE: Exit(31, "The volume has too little room"),
    FetchReason.OUT_OF_MEMORY: Exit(32, "The transfer was killed twice, most likely for its memory"),
    FetchReason.OFFLINE_MODE: Exit(33, "`HF_HUB_OFFLINE` is set, and the model is not cached"),
    FetchReason.HUB_CLIENT_MISSING: Exit(34, "The package huggingface_hub is not installed"),
    FetchReason.RATE_LIMITED: Exit(
        40,
        "Too many requests (429), for longer than `FETCH_LONGEST_WAIT_SECONDS` or too often",
    ),
    FetchReason.NETWORK_UNREACHABLE: Exit(41, "No connection, or it breaks without any progress"),
    FetchReason.HOST_NOT_FOUND: Exit(42, "The name cannot be resolved"),
    FetchReason.ENDPOINT_UNAVAILABLE: Exit(43, "The Hub answers with 5xx, or the host that it redirects to refuses"),
    FetchReason.DOWNLOAD_STALLED: Exit(44, "No byte came for `FETCH_STALL_SECONDS`, several times"),
    FetchReason.STORAGE_FAILED: Exit(45, "The volume failed, or was too slow for too long"),
    FetchReason.FETCH_INTERRUPTED: Exit(46, "A signal ended it"),
    FetchReason.NO_SPACE_YET: Exit(47, "The volume has too little room while other downloads onto it are at work"),
    FetchReason.FETCH_FAILED: Exit(59, "Unforeseen; the log has the place in the code"),
}
EXIT_CODES: dict[FetchReason, int] = {reason: one.code for reason, one in EXITS.items()}
_FIRST_TRANSIENT = 40
_LONGEST_MESSAGE = 1000


class FetchError(StartupError):
    """A fetch that failed. `transient`: the same command may succeed later, with nothing changed."""

    def __init__(self, reason: FetchReason, message: str, remedy: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason, _printable(message), remedy, EXIT_CODES[reason])
        self.fetch_reason = reason
        self.retry_after = retry_after

    @property
    def transient(self) -> bool:
        return self.exit_code >= _FIRST_TRANSIENT

    @property
    def worth_another_try(self) -> bool:
        """A damaged body may be one bad transfer, a kill one bad moment of the node."""
        return self.transient or self.fetch_reason in (FetchReason.CHECKSUM_MISMATCH, FetchReason.OUT_OF_MEMORY)


class FaultKind(StrEnum):
    """What happened, as the worker or its supervisor saw it."""

    HTTP = "http"
    NAME = "name"
    TLS = "tls"
    NETWORK = "network"
    STORAGE = "storage"
    MEMORY = "memory"
    CHECKSUM = "checksum"
    STALLED = "stalled"
    SLOW_VOLUME = "slow-volume"
    FENCED = "fenced"
    OFFLINE = "offline"
    NOT_A_HUB = "not-a-hub"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Fault:
    """`status`, `code` (X-Error-Code) and `retry_after` (seconds) of an answer; `errno` of a system call.

    `host`: who is at fault, where that is not the Hub: a storage host that it redirects to, or a proxy.
    """

    kind: FaultKind
    status: int = 0
    code: str = ""
    retry_after: float | None = None
    errno: int = 0
    detail: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What was being fetched, for the messages."""

    repository: str
    revision: str
    endpoint: str
    cache_dir: str
    has_token: bool

    @property
    def host(self) -> str:
        """The endpoint without a user name or password that its URL may hold."""
        parts = urlsplit(self.endpoint)
        return parts.netloc.rpartition("@")[2]


def classify(fault: Fault, context: Context) -> FetchError:
    """The one place where a fault gets its reason."""
    host = fault.host or context.host
    match fault.kind:
        case FaultKind.HTTP if fault.host:
            return _answer_elsewhere(fault, context)
        case FaultKind.HTTP:
            return _answer(fault, context)
        case FaultKind.STORAGE:
            return storage_error(fault.errno, fault.detail or context.cache_dir)
        case FaultKind.NAME:
            return FetchError(
                FetchReason.HOST_NOT_FOUND,
                f"The name {host} cannot be resolved.",
                "Check DNS in this network, HF_ENDPOINT, and whether a proxy (HTTPS_PROXY) is needed.",
            )
        case FaultKind.TLS:
            return FetchError(
                FetchReason.TLS_FAILED,
                f"The certificate of {host} is not trusted ({fault.detail}).",
                "Set SSL_CERT_FILE to a PEM file with the CA that signs for this network, or correct HF_ENDPOINT.",
            )
        case FaultKind.NETWORK:
            return FetchError(
                FetchReason.NETWORK_UNREACHABLE,
                f"No connection to {host}, or it broke ({fault.detail}).",
                "Check egress rules, NetworkPolicies, the NAT gateway and the proxy settings of this network.",
            )
        case FaultKind.STALLED:
            return FetchError(
                FetchReason.DOWNLOAD_STALLED,
                f"No byte came from {host} for {fault.detail} seconds.",
                "Try again; what came so far is kept. If it happens again, check the proxy and FETCH_STALL_SECONDS.",
            )
        case FaultKind.SLOW_VOLUME:
            return FetchError(
                FetchReason.STORAGE_FAILED,
                f"The volume of {context.cache_dir} neither took nor gave a byte for {fault.detail} seconds.",
                "Try again; what came so far is kept. If it happens again, check the storage system behind the volume "
                "and its throughput, or raise FETCH_STALL_SECONDS.",
            )
        case FaultKind.CHECKSUM:
            return FetchError(
                FetchReason.CHECKSUM_MISMATCH,
                f"{fault.detail} of {context.repository} arrived damaged: size or checksum is not what the Hub lists.",
                "Something between here and the Hub changes the data: check the proxy or the mirror (HF_ENDPOINT).",
            )
        case FaultKind.MEMORY:
            return FetchError(
                FetchReason.OUT_OF_MEMORY,
                "The transfer was killed, most likely because the memory limit was reached.",
                "Give the download more memory: 512Mi is enough for a model of any size.",
            )
        case FaultKind.FENCED:
            return storage_error(errno.ETIMEDOUT, context.cache_dir)
        case FaultKind.OFFLINE:
            return FetchError(
                FetchReason.OFFLINE_MODE,
                f"HF_HUB_OFFLINE forbids to ask the Hub for {context.revision} of {context.repository}.",
                f"Unset HF_HUB_OFFLINE, or have {context.revision} fetched into {context.cache_dir} first: there is no "
                "whole model that was fetched as that.",
            )
        case FaultKind.NOT_A_HUB:
            return FetchError(
                FetchReason.ENDPOINT_INVALID,
                f"{host} does not answer as a Hugging Face Hub does ({fault.detail}).",
                "Correct HF_ENDPOINT; behind a proxy, check that it lets the Hub's answers through unchanged.",
            )
    return FetchError(
        FetchReason.FETCH_FAILED,
        f"The transfer ended in an unforeseen way ({fault.detail}).",
        "Try again. If it names a module or a library, the installation is broken: use an image as it was built.",
    )


def storage_error(number: int, path: str) -> FetchError:
    """The failure behind the errno of a system call on the volume. `path`: of what it was about, or of the cache."""
    name = errno.errorcode.get(number, str(number))
    if number in (errno.ENOSPC, errno.EDQUOT):
        return FetchError(
            FetchReason.NO_SPACE,
            f"The volume of {path} is full ({name}).",
            "Enlarge the volume or remove models from it; what came so far is kept.",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FetchError(
            FetchReason.CACHE_NOT_WRITABLE,
            f"{path} cannot be read or written ({name}).",
            "Mount the volume for writing, give its folder to this user (fsGroup), or correct MODEL_CACHE_DIR.",
        )
    if number in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return FetchError(
            FetchReason.CACHE_NOT_WRITABLE,
            f"{path}, or something on the way to it, is a file or a link where a folder is needed ({name}).",
            "Correct MODEL_CACHE_DIR, or move what is in the way.",
        )
    return FetchError(
        FetchReason.STORAGE_FAILED,
        f"The volume of {path} failed ({name}).",
        "Try again; if it happens again, check the volume and the storage system behind it.",
    )


def no_space(cache_dir: str, *, needed: int, free: int) -> FetchError:
    """Known before the first byte. `needed` and `free` in bytes."""
    return FetchError(
        FetchReason.NO_SPACE,
        f"{needed:,} bytes are needed, and the volume of {cache_dir} has {free:,} free.",
        f"Enlarge the volume by {needed - free:,} bytes or more, or remove models from it.",
    )


def no_space_yet(cache_dir: str, *, needed: int, free: int, reserved: int) -> FetchError:
    """As `no_space`, while others download: what they need comes first."""
    return FetchError(
        FetchReason.NO_SPACE_YET,
        f"{needed:,} bytes are needed; the volume of {cache_dir} has {free:,} free, and other downloads that are at "
        f"work there need {reserved:,} of them.",
        "Wait until they are done, or enlarge the volume.",
    )


def not_kept(path: str, what: str) -> FetchError:
    """The volume was written to, said no error, and shows something else."""
    return FetchError(
        FetchReason.CACHE_NOT_WRITABLE,
        f"{path} is not what was just written there: {what}.",
        "Use a volume that tells upper from lower case in names and keeps what is written to it.",
    )


def taken_over(path: str) -> FetchError:
    return FetchError(
        FetchReason.STORAGE_FAILED,
        f"Other processes took {path} over again and again, because this one was too slow to show that it is alive.",
        "Try again; if it happens again, check the volume, or raise FETCH_OWNER_TIMEOUT_SECONDS.",
    )


def not_supported(repository: str, what: str) -> FetchError:
    return FetchError(
        FetchReason.MODEL_NOT_SUPPORTED,
        f"{repository} is not a model that this server can run: {what}.",
        REMEDY,
    )


def interrupted() -> FetchError:
    return FetchError(
        FetchReason.FETCH_INTERRUPTED,
        "A signal ended it before it was done.",
        "Start it again; what came so far is kept.",
    )


def hub_client_missing() -> FetchError:
    return FetchError(
        FetchReason.HUB_CLIENT_MISSING,
        "The package huggingface_hub is not installed.",
        "Use an image that has it, or install it: pip install 'llm-operator[server,fetch]'; in a clone: make setup.",
    )


def _answer(fault: Fault, context: Context) -> FetchError:
    """An HTTP status that is not a success. The Hub's codes decide; mirrors without them get the status's meaning."""
    match fault.status, fault.code:
        case 401 | 403, "GatedRepo":
            return FetchError(
                FetchReason.REPOSITORY_GATED,
                f"{context.repository} is gated, and {_bearer(context)} has no access to it.",
                f"Ask for access on the page of {context.repository} on {context.host}, then set HUGGINGFACE_TOKEN "
                "to a token of the account that got it.",
            )
        case 401, _ if context.has_token:
            return FetchError(
                FetchReason.TOKEN_INVALID,
                f"{context.host} does not accept the token.",
                "Set HUGGINGFACE_TOKEN (or the file of HF_TOKEN_PATH) to a valid token with read access.",
            )
        case 401, _:
            return FetchError(
                FetchReason.TOKEN_MISSING,
                f"{context.repository} does not exist on {context.host}, or is not public; without a token the Hub "
                "does not tell which.",
                "Check the name for mistakes; if it is right, set HUGGINGFACE_TOKEN to a token with read access.",
            )
        case 403, _:
            return FetchError(
                FetchReason.ACCESS_DENIED,
                f"{context.host} denies {_bearer(context)} access to {context.repository}.",
                "Give the token read access to this repository, or check what the proxy or mirror forbids.",
            )
        case 404, "RevisionNotFound":
            return FetchError(
                FetchReason.REVISION_NOT_FOUND,
                f"{context.repository} has no branch, tag or commit {context.revision}.",
                "Correct MODEL_REVISION; a commit needs all its 40 digits.",
            )
        case 404, "EntryNotFound":
            return FetchError(
                FetchReason.ENDPOINT_INVALID,
                f"{context.host} lists a file of {context.repository} that it does not have ({fault.detail}).",
                "If HF_ENDPOINT is a mirror, let it synchronise; else try another revision.",
            )
        case 404, _:
            return FetchError(
                FetchReason.REPOSITORY_NOT_FOUND,
                f"{context.host} has no repository {context.repository} that {_bearer(context)} may see.",
                "Correct the name, or use a token of an account that may see it.",
            )
        case 429, _:
            return FetchError(
                FetchReason.RATE_LIMITED,
                f"{context.host} limits the rate of requests from this address or account{_asked_wait(fault)}.",
                "Wait, or set HUGGINGFACE_TOKEN: requests with a token have a higher limit.",
                retry_after=fault.retry_after,
            )
        case status, _ if status >= 500 or status == 408:
            return FetchError(
                FetchReason.ENDPOINT_UNAVAILABLE,
                f"{context.host} answers with status {status}.",
                "Wait, and look at https://status.huggingface.co; or set HF_ENDPOINT to a mirror.",
                retry_after=fault.retry_after,
            )
    return FetchError(
        FetchReason.ENDPOINT_INVALID,
        f"{context.host} refuses the request with status {fault.status}.",
        "Correct HF_ENDPOINT; behind a proxy, check what it forbids.",
    )


def _answer_elsewhere(fault: Fault, context: Context) -> FetchError:
    """It says nothing of the repository or the token: the host knows only the signed address, which may be too old."""
    return FetchError(
        FetchReason.ENDPOINT_UNAVAILABLE,
        f"{fault.host}, where {context.host} sends the request for {fault.detail or 'a file'}, answers with status "
        f"{fault.status}{_asked_wait(fault)}.",
        f"Try again: {context.host} gives a new address each time. If it happens again, check whether a proxy or a "
        f"firewall forbids {fault.host}, and the clock of this machine.",
        retry_after=fault.retry_after,
    )


def _asked_wait(fault: Fault) -> str:
    return "" if fault.retry_after is None else f" and asks to wait for {fault.retry_after:.0f} seconds"


def _printable(text: str) -> str:
    """Names and words in it may come from a mirror."""
    return "".join(character if character.isprintable() else "?" for character in text)[:_LONGEST_MESSAGE]


def _bearer(context: Context) -> str:
    return "this token" if context.has_token else "a request without a token"
