"""Turns pickles and shards into one safetensors file."""

from pathlib import Path

from .checkpoint import PARTS, open_weights, parts_in, save_weights, weight_files
from .errors import BadCheckpoint, BadInput, MissingPart
from .files import check_new, new_file, to_path
from .memory import check_weights


def convert(source: str | Path, target: str | Path, overwrite: bool = False) -> tuple[str, ...]:
    """Write the weights of `source` to the safetensors file `target`; the names of their parts.

    `source`: a pickle (read with weights_only=True), an index of shards, a safetensors file, or a folder that
    holds one of them. Keys, shapes, dtypes and numbers stay; what is not a tensor is left out. A config.json
    or tokenizer stays where it is. Raises MissingPart, BadCheckpoint or BadInput; a file that is there is
    kept unless `overwrite`.
    """
    source, target = to_path(source), to_path(target)
    if target.suffix != ".safetensors":
        raise BadInput(f"{target} does not end in .safetensors. Give such a name.")
    check_new(target, overwrite)
    file = _one_of(source) if source.is_dir() else open_weights(source)
    parts = parts_in(file)
    if not parts:
        key = next(iter(file.like), "none")
        raise BadCheckpoint(f"{file.path} is no part of StyleAR, its first key is {key}. Give another file.")
    for dtype in {value.dtype for value in file.like.values()}:
        check_weights(str(source), [value for value in file.like.values() if value.dtype == dtype], dtype)
    tensors = {key: value.clone().contiguous() for key, value in file.read().items()}  # no two may share memory
    with new_file(target, overwrite) as draft:
        save_weights(tensors, draft, {"format": "pt", **file.metadata})
    return tuple(PARTS[kind].name for kind in parts)


def _one_of(folder: Path):
    files, refused = weight_files(folder)
    if not files:
        reason = f" ({next(iter(refused.values()))})" if refused else ""
        raise MissingPart(f"There are no weights to convert in {folder}. Give a file or another folder.{reason}")
    if len(files) > 1:
        names = ", ".join(file.path.name for file in files)
        raise BadInput(f"{folder} holds {len(files)} files of weights: {names}. Give one of them.")
    return files[0]
