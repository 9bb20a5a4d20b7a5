"""What a command reads, known by its content: a folder that was begun with one input is not gone on with another."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stylear.checkpoint import WeightFile
from stylear.errors import BadInput

from .output import read_json, sha256_of, write_json

INPUTS = "inputs.json"


def hold_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Write down in `folder`/inputs.json what a run reads: by its setting's name, what tells it from other content.

    BadInput, naming them, for inputs that are not those the folder was begun with. One that was never written down,
    as in a folder of an earlier version, is added. The values are JSON's. Only the first of several processes calls
    this.
    """
    file = folder / INPUTS
    if changed := changed_inputs(file, inputs):
        raise BadInput(
            f"{folder} was begun with other inputs than those of now: {', '.join(changed)}. "
            "Give another `out`, or bring back the files of before."
        )
    add_inputs(file, inputs)


def changed_inputs(file: Path, inputs: Mapping[str, Any]) -> list[str]:
    """The names of the inputs that `file` has otherwise; one it does not have is not changed. BadInput if damaged."""
    before = read_inputs(file)
    return [name for name, state in inputs.items() if before.get(name, state) != state]


def add_inputs(file: Path, inputs: Mapping[str, Any]) -> None:
    """Write those inputs into `file` that it does not have."""
    before = read_inputs(file)
    if inputs.keys() - before.keys():
        write_json(file, {**inputs, **before})


def read_inputs(file: Path) -> dict[str, Any]:
    """What a file has written down, nothing where it is not there; BadInput if it is damaged."""
    remedy = f"move {file.parent} away and start again"
    before = read_json(file, "list of inputs", remedy) if file.exists() else {}
    if not isinstance(before, dict):
        raise BadInput(f"{file} is damaged: {remedy}.")
    return before


def files_sha256(files: Iterable[Path]) -> str:
    """The SHA-256 over names and whole content of files, in their order; the folders they lie in do not count."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.name) + f"\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def tensors_sha256(module: nn.Module) -> str:
    """SHA-256 over a module's tensors, with their names and shapes, whatever file they were in."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().numpy())
    return digest.hexdigest()


def files_of(weights: WeightFile) -> list[Path]:
    """The files that weights are read from, sorted: all shards, and the JSON files beside them, which say how."""
    return sorted({*files_at(weights.path), *(shard.path for shard in (weights.shards or {}).values())})


def files_at(place: Path) -> list[Path]:
    """A model's files, sorted: all directly in a folder, or a file and the JSON files beside it; no hidden ones."""
    if place.is_dir():
        return sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    beside = (path for path in place.parent.glob("*.json") if not path.name.startswith("."))
    return sorted({place, *beside})
