"""The keys that clients may show, from API_KEY and API_KEY_FILE. None at all means that everybody may ask.

Several at once, so that a key can be replaced without an outage: add the new one, move the clients, drop the old one.
"""

import hmac
import re
from pathlib import Path

from inference_server.settings import MANUAL, Settings, invalid_settings

# What a header can carry: visible ASCII.
_KEY = re.compile(r"[!-~]+")


class Keys:
    """Never shows its content: not in a repr, and not in how long a comparison takes."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def admit(self, offered: bytes) -> bool:
        """Compares with every key, so that the time does not tell which one was close."""
        return sum(hmac.compare_digest(offered, key) for key in self._keys) > 0


def read_keys(settings: Settings) -> Keys:
    """Separated by commas or white space. Raises StartupError, and never quotes a key."""
    text = settings.api_key.get_secret_value()
    keys = tuple(dict.fromkeys(re.split(r"[\s,]+", f"{text} {_read(settings.api_key_file)}")))
    keys = tuple(key for key in keys if key)
    if settings.api_key_file and not keys:
        # Else an empty Secret would open the server to everybody.
        raise invalid_settings("the file of API_KEY_FILE holds no key", MANUAL)
    if not all(_KEY.fullmatch(key) for key in keys):
        raise invalid_settings("API_KEY and API_KEY_FILE must hold visible ASCII characters only", MANUAL)
    return Keys(keys)


def _read(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        wrong = f"the file of API_KEY_FILE cannot be read ({type(error).__name__})"
        raise invalid_settings(wrong, MANUAL) from None
