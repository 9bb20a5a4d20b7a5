"""Weight files on disk: what tensors they hold, and reading those without ever running what a file says."""

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import BadCheckpoint, MissingPart

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
SUFFIXES = (".safetensors", *PICKLES)


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


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, a PyTorch checkpoint (weights_only=True) or an index of shards.

    Raises MissingPart if it or a shard is absent, BadCheckpoint if it is damaged or something else.
    """
    return open_weights(path).read()


def open_weights(path: str | Path) -> WeightFile:
    """Look into weights or an index of shards, known by their first bytes. Raises as `read_state_dict`."""
    path = Path(path)
    if not path.is_file():
        raise MissingPart(f"There is no file {path}. Check the path, or download the file again.")
    with path.open("rb") as file:
        head = file.read(32)
    if head[8:9] == b"{":
        return _open_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _open_pickle(path)
    if head.lstrip().startswith(b"{"):
        return _open_index(path)
    if head.startswith(b"version https://git-lfs"):
        raise BadCheckpoint(f"{path} is only a Git LFS pointer, not the weights. Download the file itself.")
    raise BadCheckpoint(f"{path} is neither safetensors nor a PyTorch checkpoint. Download the file again.")


def weight_files(folder: Path) -> tuple[list[WeightFile], list[BadCheckpoint | MissingPart]]:
    """Every set of weights in a folder (shards count once), and why other files could not be read."""
    found, refused, sharded = [], [], set()
    for path in sorted(folder.glob("*.index.json")):
        try:
            found.append(_open_index(path))
        except (BadCheckpoint, MissingPart) as error:
            refused.append(error)
        sharded |= _shard_names(path)
    for path in sorted(folder.iterdir()):
        if (
            path.is_file()
            and path.suffix in SUFFIXES
            and path.name not in sharded
            and not path.name.startswith(".")
        ):
            try:
                found.append(open_weights(path))
            except BadCheckpoint as error:
                refused.append(error)
    return found, refused


def _open_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}
            like = {key: _without_memory(part.get_shape(), part.get_dtype()) for key, part in slices.items()}
            return WeightFile(path, like, file.metadata() or {})
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is damaged or incomplete. Download it again. ({error})") from error


def _open_pickle(path: Path) -> WeightFile:
    mapped = zipfile.is_zipfile(path) and path.suffix != ".safetensors"  # torch would go by that name
    try:
        with path.open("rb") as file:
            content = torch.load(path if mapped else file, "cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise BadCheckpoint(
            f"{path} holds more than weights, or is damaged, and is not opened: such a file can run code. "
            "Use a safetensors version of it."
        ) from error
    except (RuntimeError, ValueError, KeyError, EOFError) as error:
        raise BadCheckpoint(f"{path} is damaged or incomplete. Download it again. ({error})") from error
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = content if isinstance(content, Mapping) else {}
    tensors = {
        key: value for key, value in tensors.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise BadCheckpoint(f"{path} has no named weights in it. Give a checkpoint's state dict.")
    return WeightFile(path, {key: value.to("meta") for key, value in tensors.items()}, pickled=tensors)


def _open_index(path: Path) -> WeightFile:
    """A Hugging Face index: its shards have to lie beside it, and hold what it says."""
    places = _weight_map(path)
    for name in set(places.values()):
        if not isinstance(name, str) or name in ("", ".", "..") or PureWindowsPath(name).name != name:
            raise BadCheckpoint(f"{path} points outside its folder, to {name!r}. Do not use this download.")
        if not (path.parent / name).is_file():
            raise MissingPart(
                f"The shard {name} is missing in {path.parent}. Download it, {path.name} lists it."
            )
    shards = {name: open_weights(path.parent / name) for name in set(places.values())}
    for key, name in places.items():
        if key not in shards[name].like:
            raise BadCheckpoint(f"{path} says that {key} is in {name}, and it is not. Download both again.")
    like = {key: shards[name].like[key] for key, name in places.items()}
    return WeightFile(path, like, shards={key: shards[name] for key, name in places.items()})


def _weight_map(path: Path) -> dict[str, str]:
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{path} is not an index of shards. Download it again.") from error
    if not isinstance(places, dict) or not places:
        raise BadCheckpoint(f"{path} lists no weights. Download it again.")
    return places


def _shard_names(path: Path) -> set[str]:
    try:
        return {name for name in _weight_map(path).values() if isinstance(name, str)}
    except BadCheckpoint:
        return set()


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
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _without_memory(shape: list[int], dtype: str) -> Tensor:
    return torch.empty(shape, dtype=_DTYPES.get(dtype, torch.uint8), device="meta")
