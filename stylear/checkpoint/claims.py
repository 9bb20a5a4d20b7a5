"""What a PyTorch checkpoint asks for, gone through without giving it: no code runs and no memory is taken."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..errors import BadCheckpoint

_BEFORE_WEIGHTS = 5  # pickles in a file of torch.save's older layout: mark, version, machine, tensors, their names
_MAX_DIMS = 64  # of a tensor, PyTorch's own limit
_TENSORS = {
    *("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"),
    *("_rebuild_parameter", "_rebuild_parameter_with_state"),
}
_COPIES = {  # what of its arguments it keeps is a copy
    ("collections", "OrderedDict"),
    ("collections", "Counter"),
    ("builtins", "set"),
    ("torch", "Size"),
    ("_codecs", "encode"),
}


def check_claims(path: Path, file: BinaryIO, zipped: bool) -> None:
    """Raise BadCheckpoint if a checkpoint unpacks to more than it is, or makes anything but tensors and plain values.

    PyTorch's weights_only=True runs nothing, but lets a file of a megabyte make copies of itself by the gigabyte.
    Raises whatever the reader of zip files does at a damaged one.
    """
    if not zipped:
        pickles = [file] * _BEFORE_WEIGHTS
    else:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise BadCheckpoint(f"{path} unpacks to more than it is. Do not use this download.")
        reader = torch._C.PyTorchFileReader(str(path))  # torch.load's own, which finds members by rules of its own
        pickles = [io.BytesIO(reader.get_record("data.pkl"))]
    for stream in pickles:
        start = stream.tell()
        try:
            _Trial(stream, path.stat().st_size).load()
        except _Refused as error:
            raise BadCheckpoint(
                f"{path} holds more than weights ({error}) and is not opened: such a file can run code or take all "
                "memory. Use a safetensors version of it."
            ) from error
        except Exception as error:
            raise BadCheckpoint(
                f"{path} is damaged or incomplete, or no PyTorch checkpoint. Download it again. "
                f"({type(error).__name__} in the pickle at {start})"
            ) from error


class _Refused(Exception):
    """What no state dict has in it."""


class _Trial(pickle._Unpickler):
    """Follows a pickle with stand-ins for all that it would make.

    Of the two unpicklers of Python this is the one that takes no memory because a file says how long something is.
    `budget`: how many values all copies together may have.
    """

    def __init__(self, stream: BinaryIO, budget: int):
        super().__init__(stream, encoding="latin1")
        self._left = budget

    def find_class(self, module: str, name: str) -> object:
        module = "builtins" if module == "__builtin__" else module  # as Python 2 called it, and torch.save does
        makes = self._makes(module, name)
        if makes is None and (module, name[:9]) == ("torch._utils", "_rebuild_"):
            raise _Refused("a tensor that is quantised, sparse or without numbers")
        if makes is None:
            raise _Refused(f"{module}.{name}"[:80])
        return makes

    def persistent_load(self, key: object) -> object:
        return _StandIn(self._copies)

    def _makes(self, module: str, name: str) -> object:
        if module == "torch._utils" and name in _TENSORS:
            return _Makes(self._tensor)
        if (module, name) in _COPIES:
            return _Makes(self._copy)
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return _Makes(self._of_type)
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            return name
        if (module, name) == ("torch", "device"):
            return _Makes(lambda *_: name)
        if (module, name) in (("torch.nn.parameter", "Parameter"), ("torch", "Tensor")):
            return name
        return name if module == "torch" and isinstance(vars(torch).get(name), torch.dtype) else None

    def _tensor(self, *arguments: object) -> object:
        if any(len(part) > _MAX_DIMS for part in arguments if isinstance(part, list | tuple)):
            raise _Refused("a tensor of more dimensions than there are")
        self._copies(*(part for part in arguments if isinstance(part, dict)))
        return _StandIn(self._copies)

    def _of_type(self, makes: "_Makes", kind: object, arguments: tuple, state: object) -> object:
        """A tensor with attributes of its own: how it is made, its class, of what, and the attributes."""
        self._copies(state)
        return makes(*arguments)

    def _copy(self, *arguments: object) -> object:
        self._copies(*arguments)
        return _StandIn(self._copies)

    def _copies(self, *values: object) -> None:
        self._left -= sum(len(value) for value in values if isinstance(value, list | tuple | dict | set | str | bytes))
        if self._left < 0:
            raise _Refused("copies of one thing without end")


class _Makes:
    """A function of a pickle, which can be called and nothing else."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]):
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)


class _StandIn:
    """A thing that a pickle made, which takes what it is told and keeps nothing of it."""

    def __init__(self, copies: Callable[..., None]):
        self._copies = copies

    def __len__(self) -> int:
        return 0

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self._copies(state)
