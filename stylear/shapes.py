"""Reads the shape of a model off its weights or config, and names the key that is absent or cannot be."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields

from torch import Tensor

from .errors import BadCheckpoint

_KINDS = {int: "a whole number from 1 to 1,048,576", float: "a number above 0 and below 1e30", bool: "true or false"}


def sizes(state: Mapping[str, Tensor], key: str, dimensions: int, name: str) -> tuple[int, ...]:
    """The shape of a weight of `name`; BadCheckpoint if it is absent, empty or not of so many dimensions."""
    if key not in state:
        raise BadCheckpoint(f"The {name} lacks {key}. Download the file again, or give the one that is meant.")
    shape = tuple(state[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise BadCheckpoint(
            f"{key} is {list(shape)} and the {name} has to have {dimensions} sizes above 0 there. "
            "Download the file again, or give the one that is meant."
        )
    return shape


def count(pattern: str, keys: Iterable[str]) -> int:
    """How many different values the pattern's group takes at the beginning of the keys."""
    return len({found[1] for found in (re.match(pattern, key) for key in keys) if found})


def check_numbers(config) -> None:
    """BadCheckpoint naming the first int, float or bool of a config dataclass that is no such thing."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type in _KINDS and not _fits(value, field.type):
            raise BadCheckpoint(
                f"{field.name} is {value!r} and has to be {_KINDS[field.type]}: use the config that belongs to the "
                "weights."
            )


def _fits(value, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is type(value)
    if kind is int:
        return isinstance(value, int) and 1 <= value <= 2**20
    return isinstance(value, int | float) and 0 < value < 1e30
