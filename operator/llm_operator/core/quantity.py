"""Kubernetes quantities ("500m", "1Gi", 2): compared by value, because the API server rewrites them."""

import re
from decimal import Decimal

SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10) ** 3, "M": Decimal(10) ** 6, "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12, "P": Decimal(10) ** 15, "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10, "Mi": Decimal(2) ** 20, "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40, "Pi": Decimal(2) ** 50, "Ei": Decimal(2) ** 60,
}  # fmt: skip
QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i)?")


def parse(value: str | int) -> Decimal:
    """The number a quantity stands for; ValueError when it is not one."""
    match = QUANTITY.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a quantity")
    return Decimal(match[1]) * SUFFIXES[match[2] or ""]


def canonical(value: str | int) -> str:
    """The same text for every way to write the same amount; what is no quantity stays as it is."""
    try:
        return format(parse(value).normalize(), "f")
    except ValueError:
        return str(value)


def equal(one: object, other: object) -> bool:
    """Whether both are quantities of the same value."""
    if isinstance(one, bool) or isinstance(other, bool):
        return False
    if not isinstance(one, (str, int)) or not isinstance(other, (str, int)):
        return False
    try:
        return parse(one) == parse(other)
    except ValueError:
        return False
