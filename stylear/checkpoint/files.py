"""Weight files on disk: what tensors they hold, and reading those without ever running what a file says."""

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import BadCheckpoint, MissingPart
from ..files import is_plain_name, read_text, to_path
from ..images import is_plain
from ..memory import gib
from .claims import check_claims

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
SUFFIXES = (".safetensors", *PICKLES)
_MAX_HEADER = 1 << 24  # bytes; that of a model with a thousand weights has a hundred thousand
_TIED = 2  # times the bytes of a file that its tensors may have together: a head may share the embeddings' memory


@dataclass(frozen=True)
class WeightFile:
    """One file of weights, or one set of shards; only names, shapes and metadata are read so far.

    `path`: the file, or the index of the shards. `like`: a tensor without memory (device meta) for each key.
    """

    path: Path
    like: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    pickled: Mapping[str, Tensor] | None = field(default=None, repr=False)
    shards: Mapping[str, "WeightFile"] | None = field(default=None, repr=False)

    @property
    def is_pickle(self) -> bool:
        """Whether the bytes come out of a PyTorch pickle."""
        return self.pickled is not None or any(shard.is_pickle for shard in (self.shards or {}).values())

    def read(self, keys: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The tensors of `keys` (all by default), on the CPU, mapped from the file where it can be."""
        keys = list(self.like if keys is None else keys)
        if self.shards is not None:
            shards = {shard.path: shard for shard in self.shards.values()}.values()
            own = [(shard, [key for key in keys if self.shards[key] is shard]) for shard in shards]
            return {key: value for shard, names in own for key, value in shard.read(names).items()}
        if self.pickled is not None:
            return {key: self.pickled[key] for key in keys}
        with safe_open(self.path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in keys}


def open_weights(path: str | Path) -> WeightFile:
    """Look into safetensors, a PyTorch checkpoint (weights_only=True) or an index of shards, whatever its name.

    Raises MissingPart if it or a shard is absent, BadCheckpoint if it is damaged or something else.
    """
    path = to_path(path)
    if not path.is_file():
        raise MissingPart(f"There is no file {path}. Check the path, or download the file again.")
    head = _head(path)
    if head[8:9] != b"{" and head.lstrip().startswith(b"{"):
        return _open_index(path)
    return _open_tensors(path)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(32)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read: {error}. Check who may read it, or give another.") from error


def _open_tensors(path: Path) -> WeightFile:
    head = _head(path)
    if head[8:9] == b"{":
        if (length := int.from_bytes(head[:8], "little")) > _MAX_HEADER:
            raise BadCheckpoint(f"{path} has a header of {length} bytes, above {_MAX_HEADER}. Download it again.")
        return _open_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _open_pickle(path)
    if head.startswith(b"version https://git-lfs"):
        raise BadCheckpoint(f"{path} is only a Git LFS pointer, not the weights. Download the file itself.")
    raise BadCheckpoint(f"{path} is neither safetensors nor a PyTorch checkpoint. Download the file again.")


def weight_files(folder: Path) -> tuple[list[WeightFile], dict[Path, BadCheckpoint | MissingPart]]:
    """Every set of weights in a folder (shards count once), and why each other file could not be read."""
    found, refused, sharded = [], {}, set()
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    for path in (path for path in paths if path.name.endswith(".index.json")):
        try:
            sharded |= set(weight_map(path).values())
            found.append(_open_index(path))
        except (BadCheckpoint, MissingPart) as error:
            refused[path] = error
    for path in (path for path in paths if path.suffix in SUFFIXES and path.name not in sharded):
        try:
            found.append(open_weights(path))
        except (BadCheckpoint, MissingPart) as error:
            refused[path] = error
    return found, refused


def read_json(path: Path) -> dict:
    """A small JSON file's object. BadCheckpoint if it is something else."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} is not JSON. Download it again. ({error})") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{path} is not a JSON object. Download it again.")
    return content


def _open_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}
            like = {key: _without_memory(part.get_shape(), part.get_dtype()) for key, part in slices.items()}
            return WeightFile(path, like, file.metadata() or {})
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is damaged or incomplete. Download it again. ({error})") from error
    except RuntimeError as error:  # PyTorch's, where the system maps no file so large
        raise BadCheckpoint(
            f"{path} of {gib(path.stat().st_size)} GiB is larger than this machine can take into memory. Close what "
            f"else takes it, or use a machine with more. ({error})"
        ) from error


def _open_pickle(path: Path) -> WeightFile:
    zipped = zipfile.is_zipfile(path)
    mapped = zipped and path.suffix != ".safetensors"  # torch would go by that name
    try:
        with path.open("rb") as file:
            check_claims(path, file, zipped)
            file.seek(0)
            content = torch.load(path if mapped else file, "cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise BadCheckpoint(
            f"{path} holds more than weights, or is damaged, and is not opened: such a file can run code. "
            "Use a safetensors version of it."
        ) from error
    except BadCheckpoint:
        raise
    except Exception as error:  # flipped bits alone end torch's reader in a dozen kinds of error
        raise BadCheckpoint(f"{path} is damaged or incomplete. Download it again. ({error!r})") from error
    for _ in range(2):  # a trainer's wrapping may be wrapped once more
        if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
            content = content["state_dict"]
    tensors = content if isinstance(content, Mapping) else {}
    tensors = {key: value for key, value in tensors.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise BadCheckpoint(f"{path} has no named weights in it. Give a checkpoint's state dict.")
    for key, value in tensors.items():
        if not is_plain(value):
            raise BadCheckpoint(f"{path} has {key} quantised, sparse or without numbers. Save it as plain floats.")
    if sum(value.nbytes for value in tensors.values()) > _TIED * path.stat().st_size:
        raise BadCheckpoint(f"{path} says its tensors are larger than it is. Do not use this download.")
    return WeightFile(path, {key: value.to("meta") for key, value in tensors.items()}, pickled=tensors)


def _open_index(path: Path) -> WeightFile:
    """A Hugging Face index: its shards have to lie beside it, and hold what it says."""
    places = weight_map(path)
    for name in set(places.values()):
        if not (path.parent / name).is_file():
            raise MissingPart(f"The shard {name} is missing in {path.parent}. Download it, {path.name} lists it.")
    shards = {name: _open_tensors(path.parent / name) for name in set(places.values())}
    for key, name in places.items():
        if key not in shards[name].like:
            raise BadCheckpoint(f"{path} says that {key} is in {name}, and it is not. Download both again.")
    like = {key: shards[name].like[key] for key, name in places.items()}
    return WeightFile(path, like, shards={key: shards[name] for key, name in places.items()})


def weight_map(path: Path) -> dict[str, str]:
    """Of an index of shards: the name of the file beside it that holds each key. BadCheckpoint if it is none."""
    content = read_json(path)
    if "weight_map" not in content:
        raise BadCheckpoint(f"{path} is not an index of shards. Download it again.")
    places = content["weight_map"]
    if not isinstance(places, dict) or not places:
        raise BadCheckpoint(f"{path} lists no weights. Download it again.")
    for name in places.values():
        if not is_plain_name(name):
            raise BadCheckpoint(f"{path} points outside its folder, to {name!r}. Do not use this download.")
    return places


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E8M0": getattr(torch, "float8_e8m0fnu", torch.uint8),  # since PyTorch 2.7
    "F4": getattr(torch, "float4_e2m1fn_x2", torch.uint8),  # since 2.8
}


def _without_memory(shape: list[int], dtype: str) -> Tensor:
    return torch.empty(shape, dtype=_DTYPES.get(dtype, torch.uint8), device="meta")
