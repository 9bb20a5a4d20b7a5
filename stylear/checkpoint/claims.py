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
}
_SMALL = {("torch", "device"), ("builtins", "complex"), ("torch.serialization", "_get_layout")}


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


_OPCODES = (  # those that torch.load takes with weights_only
    *(pickle.GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD, pickle.APPEND, pickle.APPENDS, pickle.SETITEM),
    *(pickle.SETITEMS, pickle.MARK, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.NONE),
    *(pickle.NEWFALSE, pickle.NEWTRUE, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_SET, pickle.BININT),
    *(pickle.BININT1, pickle.BININT2, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.BINPERSID),
    *(pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.LONG1, pickle.PROTO, pickle.STOP),
)


class _Trial(pickle._Unpickler):
    """Follows a pickle with stand-ins for all that it would make.

    Of the two unpicklers of Python this is the one that takes no memory because a file says how long something is.
    `budget`: how many values all copies together may have, and each storage.
    """

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES}

    def __init__(self, stream: BinaryIO, budget: int):
        super().__init__(stream, encoding="latin1")
        self._left = self._most = budget

    def load_empty_dictionary(self) -> None:
        self.append(_StandIn(self._copies))

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary

    def find_class(self, module: str, name: str) -> object:
        module = "builtins" if module == "__builtin__" else module  # as Python 2 called it, and torch.save does
        makes = self._makes(module, name)
        if makes is None and (module, name[:9]) == ("torch._utils", "_rebuild_"):
            raise _Refused("a tensor that is quantised, sparse or without numbers")
        if makes is None:
            raise _Refused(f"{module}.{name}"[:80])
        return makes

    def persistent_load(self, key: object) -> object:
        _check_key(key)
        numbers = key[4] if isinstance(key, tuple) and len(key) > 4 else None
        if type(numbers) is not int or not 0 <= numbers <= self._most:
            raise _Refused("a storage of more numbers than the file has bytes")
        return _Storage(numbers)

    def _makes(self, module: str, name: str) -> object:
        if module == "torch._utils" and name in _TENSORS:
            return _Makes(self._tensor if name.startswith("_rebuild_tensor") else self._parameter)
        if (module, name) in (("_codecs", "encode"), ("builtins", "bytearray")):
            return _Makes(self._encode)
        if (module, name) in _COPIES:
            return _Makes(self._copy)
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return _Makes(self._of_type)
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            return name
        if (module, name) in _SMALL:
            return _Makes(lambda *values: _check_key(values) or name)
        if (module, name) in (("torch.nn.parameter", "Parameter"), ("torch", "Tensor")):
            return name
        return name if module == "torch" and isinstance(vars(torch).get(name), torch.dtype) else None

    def _tensor(self, storage: object, offset: object, size: object, stride: object, *more: object) -> object:
        """A tensor, which may be no larger than what it is a view of: PyTorch would make that larger."""
        sides = [offset, *size, *stride]
        if len(size) > _MAX_DIMS or len(size) != len(stride) or any(type(n) is not int or n < 0 for n in sides):
            raise _Refused("a tensor whose shape is none")
        reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if not isinstance(storage, _Storage) or (0 not in size and reach > storage.numbers):
            raise _Refused("a tensor that is larger than its numbers")
        return _Tensor(self._copies)

    def _parameter(self, data: object, needs_gradient: object, hooks: object, *state: object) -> object:
        self._copies(*state)
        return _Tensor(self._copies)

    def _of_type(self, makes: "_Makes", kind: object, arguments: tuple, state: object) -> object:
        """A tensor with attributes of its own: how it is made, its class, of what, and the attributes."""
        self._copies(state)
        return makes(*arguments)

    def _encode(self, text: str = "", encoding: str = "latin1") -> object:
        """Bytes, which are written as a text; other encodings can take time without end."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Refused("text that is to be encoded")
        return self._copy(text)

    def _copy(self, *arguments: object) -> object:
        for one in arguments:
            for key in one if isinstance(one, list | tuple) else ():
                _check_key(tuple(key[:1]) if isinstance(key, list) else key)
        self._copies(*arguments)
        return _StandIn(self._copies)

    def _copies(self, *values: object) -> None:
        self._left -= sum(len(value) for value in values if isinstance(value, list | tuple | set | str | _StandIn))
        if self._left < 0:
            raise _Refused("copies of one thing without end")


def _check_key(value: object, depth: int = 2) -> None:
    """Refuse what is no plain value or shallow tuple of such: to look a deep one up can take time, or the stack."""
    if isinstance(value, tuple) and depth and len(value) <= _MAX_DIMS:
        for one in value:
            _check_key(one, depth - 1)
    elif not isinstance(value, str | int | float | bool | bytes | None):
        raise _Refused("a key that is no plain value")


class _Makes:
    """A function of a pickle, which can be called and nothing else."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]):
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)


class _StandIn:
    """A thing that a pickle made, which takes what it is told and keeps nothing of it but how many keys it has."""

    def __init__(self, copies: Callable[..., None]):
        self._copies = copies
        self._keys = 0

    def __len__(self) -> int:
        return self._keys

    def __setitem__(self, key: object, value: object) -> None:
        _check_key(key)
        self._keys += 1

    def __setstate__(self, state: Any) -> None:
        self._copies(state)


class _Tensor(_StandIn):
    """Stands for a tensor, whose state no file of today sets: it could make it larger."""

    def __setitem__(self, key: object, value: object) -> None:
        raise _Refused("numbers that are set one by one")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a tensor in a layout of long ago")


class _Storage:
    """Stands for the numbers of tensors, of which it says how many there are."""

    def __init__(self, numbers: int):
        self.numbers = numbers
