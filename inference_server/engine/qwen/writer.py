"""Tokens into text, piece by piece: whole characters only, and never a text at which the answer has to stop.

Pure: the tokenizer comes in as a function. Called by `batch` for every token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Decode = Callable[[Sequence[int]], str]

_REPLACEMENT = "�"
# UTF-8 needs at most four bytes for a character, and a token has at least one.
_TOKENS_OF_A_CHARACTER = 4


class Detokenizer:
    """Gives the text of a growing list of tokens, as soon as its characters are whole.

    Decodes only the last few tokens each time: what a token looks like can depend on the one before it.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown = 0

    def feed(self, token: int) -> str:
        """The text that this token completes; often one word, sometimes nothing."""
        before = self._decode(self._window[: self._shown])
        self._window.append(token)
        now = self._decode(self._window)
        waiting = len(self._window) - self._shown
        if now.endswith(_REPLACEMENT) and waiting < _TOKENS_OF_A_CHARACTER:
            return ""
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return now[len(before) :]

    def flush(self) -> str:
        """What is left at the end: half a character, shown as a replacement character."""
        before = self._decode(self._window[: self._shown])
        now = self._decode(self._window)
        self._shown = len(self._window)
        return now[len(before) :]


class StopTexts:
    """Lets text through up to the first of the texts that end an answer; holds back what could become one."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [text for text in texts if text]
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        self._held += text
        places = [place for place in (self._held.find(stop) for stop in self._texts) if place >= 0]
        if places:
            self.hit = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._texts), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)


@dataclass
class Writer:
    """The text of one part of an answer. Blank lines before its first word are left out."""

    decode: Decode
    stop: Sequence[str] = ()
    _begun: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._detokenizer = Detokenizer(self.decode)
        self._stops = StopTexts(self.stop)

    @property
    def stopped(self) -> bool:
        return self._stops.hit

    def feed(self, token: int) -> str:
        return self._stops.feed(self._trimmed(self._detokenizer.feed(token)))

    def flush(self) -> str:
        if self.stopped:
            return ""
        return self._stops.feed(self._trimmed(self._detokenizer.flush())) + self._stops.flush()

    def _trimmed(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return text
