"""What counts as a number: the one rule for every setting that a caller hands over."""

from numbers import Integral, Real
from reprlib import repr as short

from .errors import BadInput

MAX_SETTING = 1000.0  # of every strength and scale; beyond it float32 soon ends
SEEDS = 2**64  # what torch's generators tell apart


def number(name: str, value: object, least: float, most: float, hint: str = "") -> float:
    """A number from `least` to `most`, as float; BadInput, calling it `name`, for anything else.

    Python's numbers, numpy's and arrays or tensors without dimensions count; bools and strings do not.
    """
    found = _plain(value)
    if isinstance(found, bool) or not isinstance(found, Real) or not least <= found <= most:
        raise BadInput(f"{name} is {_shown(value)}; it has to be a number from {least:g} to {most:g}{hint}.")
    return float(found)


def whole(name: str, value: object, least: int, most: int, hint: str = "") -> int:
    """A whole number from `least` to `most`, as int; floats are none. Otherwise as `number`."""
    found = _plain(value)
    if isinstance(found, bool) or not isinstance(found, Integral) or not least <= found <= most:
        raise BadInput(f"{name} is {_shown(value)}; it has to be a whole number from {least} to {most}{hint}.")
    return int(found)


def _plain(value: object) -> object:
    """What an array or tensor without dimensions holds; any other value as it is."""
    has_value = getattr(value, "ndim", None) == 0 and not getattr(value, "is_meta", False)
    return value.item() if has_value else value


def _shown(value: object) -> str:
    """A value in an error's one line; Python itself refuses to write very long integers out."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"
    return " ".join(short(value).split())
