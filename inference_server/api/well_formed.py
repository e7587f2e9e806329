"""Texts that are no Unicode are refused at the border: half of a pair of surrogates can be written in JSON, but not in
UTF-8, and so not to an engine, nor into an answer.
"""

from typing import Any

from pydantic_core import PydanticCustomError


def require_well_formed(body: Any) -> Any:
    """Raise for a body that holds such a text anywhere, names of fields included. For a validator."""
    left = [body]
    while left:
        match left.pop():
            case str(text):
                _require(text)
            case dict(fields):
                left += [*fields.keys(), *fields.values()]
            case list(items):
                left += items
    return body


def _require(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "Texts must be well-formed Unicode") from None
