"""Settings of `fetch` and `prune`, from environment variables and `.env`; read by `command` and `model_manager`.

Names that Hugging Face's own tools or Python's TLS have, have the same meaning here.
"""

import os
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.request import getproxies

from pydantic import AfterValidator, Field, SecretStr, field_validator

from inference_server.fetch.retention import parse_keep, parse_until
from inference_server.modes import MODES
from inference_server.settings import TerminationLogSettings, invalid_settings, read_settings

MANUAL = "docs/model-cache.md"
# An HTTP header can hold no more than this, and a client's complaint about the rest would quote it.
_TOKEN = re.compile(r"[!-~]+")
_NAME = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_])?"


def _at_home(path: str) -> str:
    """`~` is the shell's word, and no shell looks at the variables of a container or of .env."""
    return os.path.expanduser(path)  # noqa: PTH111 - an empty path stays empty


LocalPath = Annotated[str, AfterValidator(_at_home)]


class FetchSettings(TerminationLogSettings):
    """Every setting of `fetch`. The variable's name is the field's name in capitals."""

    model_repository: str = Field(
        default="Qwen/Qwen3-4B-Thinking-2507",
        pattern=f"^{_NAME}/{_NAME}$",
        max_length=96,
        description="Repository on the Hub, as owner/name.",
        examples=["Qwen/Qwen3-4B-Thinking-2507"],
    )
    model_revision: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/+-]*$",
        max_length=200,
        description="Branch, tag or commit. With a whole commit a cached model needs no network.",
        examples=["main"],
    )
    fetch_for_mode: str = Field(
        default="",
        pattern=f"^({'|'.join(MODES)})?$",
        description="Mode that this very installation must be able to run, or nothing is fetched; unset means any.",
        examples=["qwen"],
    )
    model_cache_dir: LocalPath = Field(
        default="/app/models", description="Folder of the models; a volume, or they are gone with the container."
    )
    huggingface_token: SecretStr = Field(
        default=SecretStr(""), description="Token for private and gated repositories. Never printed."
    )
    hf_token: SecretStr = Field(
        default=SecretStr(""), description="Hugging Face's own name for the same; HUGGINGFACE_TOKEN wins."
    )
    hf_token_path: LocalPath = Field(
        default="", description="File with the token, for a mounted secret; used when no variable holds one."
    )
    hf_endpoint: str = Field(
        default="https://huggingface.co",
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="Address of the Hub or of a mirror.",
        examples=["https://huggingface.co"],
    )
    ssl_cert_file: LocalPath = Field(
        default="", description="PEM file with the CAs to trust, in place of the system's: for a private CA."
    )
    requests_ca_bundle: LocalPath = Field(default="", description="Another name for the same; SSL_CERT_FILE wins.")
    fetch_stall_seconds: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Seconds without a single byte after which a transfer is killed and started again.",
    )
    fetch_tries: int = Field(
        default=8, ge=1, le=100, description="Failures in a row, without any progress between them, before it gives up."
    )
    fetch_longest_wait_seconds: float = Field(
        default=300.0,
        ge=0,
        le=3600,
        description="Longest wait that a server's Retry-After is obeyed for; it gives up on a longer one.",
    )
    fetch_owner_timeout_seconds: float = Field(
        default=60.0,
        ge=1,
        le=3600,
        description="Seconds of silence after which another process takes a download over.",
    )
    fetch_progress_seconds: float = Field(
        default=5.0, ge=0.1, le=3600, description="Seconds between two progress lines in a log."
    )

    @field_validator("model_repository")
    @classmethod
    def _has_one_folder(cls, name: str) -> str:
        """The Hub has no such names, and the folder's `--` would be ambiguous."""
        if "--" in name or ".." in name:
            raise ValueError
        return name

    @property
    def ca_file(self) -> str:
        return self.ssl_cert_file or self.requests_ca_bundle


class PruneSettings(TerminationLogSettings):
    """Every setting of `prune`. The variable's name is the field's name in capitals."""

    model_cache_dir: LocalPath = Field(default="/app/models", description="Folder of the models.")
    keep_models: str = Field(
        default="",
        description="Folders of the commits to keep, as <owner>--<name>/<commit>: a JSON list, or one on each line.",
    )
    keep_models_until: str = Field(
        default="", description="Time after which the list is out of date and nothing is deleted; unset means never."
    )
    prune_grace_seconds: float = Field(
        default=86400.0,
        ge=0,
        le=31_536_000,
        description="A model that was fetched, or found by a fetch, within so many seconds is kept, too.",
    )


@dataclass(frozen=True, slots=True)
class PruneOrder:
    """What a prune has to do, checked."""

    cache_dir: Path
    keep: frozenset[str]
    grace_seconds: float


def load_prune_order() -> PruneOrder:
    """Read and check the settings of `prune`. Raises StartupError: a list that is in doubt deletes nothing."""
    settings = read_settings(PruneSettings, MANUAL)
    try:
        keep, until = parse_keep(settings.keep_models), parse_until(settings.keep_models_until)
    except ValueError as error:
        raise invalid_settings(str(error), MANUAL) from None
    if until is not None and datetime.now(UTC) > until:
        raise invalid_settings("KEEP_MODELS_UNTIL is over, so that KEEP_MODELS may be out of date", MANUAL)
    cache_dir = Path(settings.model_cache_dir).absolute()
    if not cache_dir.is_dir():
        raise invalid_settings("MODEL_CACHE_DIR names no folder", MANUAL)
    return PruneOrder(cache_dir, keep, settings.prune_grace_seconds)


def load_fetch_settings() -> FetchSettings:
    """Read and check all settings. Raises StartupError that names every wrong one and what is allowed."""
    settings = read_settings(FetchSettings, MANUAL)
    if settings.ca_file:
        _require_certificates(settings.ca_file)
    if any(proxy.startswith("socks") for proxy in getproxies().values()):
        wrong = "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names a SOCKS proxy; only proxies that speak HTTP can be used"
        raise invalid_settings(wrong, MANUAL)
    return settings


def _require_certificates(path: str) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise invalid_settings("SSL_CERT_FILE (or REQUESTS_CA_BUNDLE) holds no certificates in PEM", MANUAL) from None
    except OSError as error:
        wrong = f"SSL_CERT_FILE (or REQUESTS_CA_BUNDLE) names no file that can be read ({type(error).__name__})"
        raise invalid_settings(wrong, MANUAL) from None


def read_token(settings: FetchSettings) -> str | None:
    """The token, or None where there is none. Raises StartupError that never quotes it."""
    token = settings.huggingface_token.get_secret_value().strip() or settings.hf_token.get_secret_value().strip()
    if not token and settings.hf_token_path:
        try:
            token = Path(settings.hf_token_path).read_text()
        except FileNotFoundError:
            # A secret that is optional is mounted as nothing.
            token = ""
        except (OSError, UnicodeDecodeError):
            raise invalid_settings("the file of HF_TOKEN_PATH cannot be read", MANUAL) from None
    token = token.strip()
    if token and not _TOKEN.fullmatch(token):
        raise invalid_settings("the token holds a character that none has", MANUAL)
    return token or None
