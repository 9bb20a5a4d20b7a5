"""StyleAR as a library: a reference picture and a prompt become a picture. Importing it is cheap."""

from importlib import import_module

from .errors import BadCheckpoint, BadInput, Cancelled, MissingPart, StyleARError

__all__ = ["BadCheckpoint", "BadInput", "Cancelled", "MissingPart", "StyleAR", "StyleARError", "StyleTokens"]

_LAZY = {"StyleAR": ".pipeline", "StyleTokens": ".style"}  # these need torch, which is slow to import


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
