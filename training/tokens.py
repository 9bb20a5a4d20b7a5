"""The token folder: shards of codes, captions and style pictures, written whole and read by number."""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from stylear.errors import BadInput
from stylear.images import FORMATS, to_pil

from .loop import write_atomically
from .output import provenance, read_json, sha256_of, write_json

FORMAT = 1
KINDS = ("stylised", "raw")
CONDITIONS = ("depth", "segmentation")
INDEX = "tokens.json"
_CODES = pa.list_(pa.uint16())
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "kind": pa.string(),
        "caption": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "codes": _CODES,
        "picture": pa.binary(),
        "features": pa.binary(),
        "condition": pa.string(),
        "condition_height": pa.int32(),
        "condition_width": pa.int32(),
        "condition_codes": _CODES,
    }
)


@dataclass(frozen=True)
class Example:
    """One picture as the training takes it.

    kind: of KINDS; codes: int64 [h, w]; encoded: the style picture's file; features: float16 [N, C] of it or None;
    condition: of CONDITIONS with condition_codes int64 [h, w], or "" with None.
    """

    key: str
    kind: str
    caption: str
    codes: np.ndarray
    encoded: bytes
    features: np.ndarray | None = None
    condition: str = ""
    condition_codes: np.ndarray | None = None

    @property
    def picture(self) -> Image.Image:
        """The style picture, mode RGB, decoded now; BadInput naming the key where it is damaged."""
        return decode(self.encoded, f"style picture of {self.key}").convert("RGB")


def decode(data: bytes, name: str) -> Image.Image:
    """A picture file in memory as `stylear.images.open_image` reads one on disk; errors as there."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # a broken file can make a decoder raise nearly anything
        raise BadInput(f"The {name} cannot be read as an image: {error}") from error
    return to_pil(image, name=name)


def write_shard(path: Path, batches: Iterable[Sequence[Example]], **more: Any) -> dict[str, Any]:
    """Write tokens-NNNNN.arrow, whole or not at all, then its record, which is returned, as tokens-NNNNN.json.

    Each batch is written before the next is asked for, so memory holds one. `more` is added to the record, taken when
    the last batch is written.
    """
    kinds = dict.fromkeys(KINDS, 0)
    conditions = dict.fromkeys(CONDITIONS, 0)

    def write(draft: Path) -> None:
        with pa.OSFile(str(draft), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
            for batch in batches:
                stream.write_batch(pa.RecordBatch.from_pylist([_row(example) for example in batch], SCHEMA))
                for example in batch:
                    kinds[example.kind] += 1
                    if example.condition:
                        conditions[example.condition] += 1

    write_atomically(path, write)
    record = {
        "file": path.name,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "records": sum(kinds.values()),
        "kinds": kinds,
        "conditions": conditions,
        **more,
    }
    write_json(path.with_suffix(".json"), record)
    return record


def write_index(
    folder: Path,
    shards: Sequence[Mapping[str, Any]],
    *,
    codes: int,
    vqgan: str,
    features: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write tokens.json, the last file, from the shards' records; returns it.

    `codes`: size of the codebook; `vqgan`: hash of its tensors; `features`: [N, C] where they are there.
    Its "sha256", over the shards' hashes in order, stands for the data.
    """
    index = {
        "format": FORMAT,
        "shards": list(shards),
        "records": sum(shard["records"] for shard in shards),
        "kinds": {kind: sum(shard["kinds"][kind] for shard in shards) for kind in KINDS},
        "conditions": {name: sum(shard["conditions"][name] for shard in shards) for name in CONDITIONS},
        "codes": codes,
        "vqgan": vqgan,
        "features": features,
        "settings": settings or {},
        "provenance": provenance(),
        "sha256": hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest(),
    }
    write_json(folder / INDEX, index)
    return index


class TokenSet:
    """A token folder by number: `tokens[i]` is an Example. Memory-mapped; opened anew where it is unpickled.

    Attributes: `folder`, `index` (what tokens.json says), `codes` (size of the codebook), `features` ([N, C] or
    None), `sha256` (of the data).
    """

    def __init__(self, folder: Path, verify: bool = False):
        """Open a folder that `tokenize` finished; `verify`: read every shard through to compare its hash.

        BadInput naming the file where tokens.json or a shard is missing, damaged or of another size.
        """
        self.folder = Path(folder)
        self.index = _checked_index(self.folder / INDEX)
        for shard in self.index["shards"]:
            check_shard(self.folder, shard, verify)
        self.codes, self.features = self.index["codes"], self.index["features"]
        self.sha256 = self.index["sha256"]

    def __len__(self) -> int:
        return self.index["records"]

    def __getstate__(self) -> dict[str, Any]:
        """What a DataLoader's worker is sent: no table, no arrays."""
        return {
            key: value
            for key, value in vars(self).items()
            if key not in ("_data", "kinds", "lengths", "condition_lengths")
        }

    @cached_property
    def _data(self) -> datasets.Dataset:
        parts = [self._open(shard) for shard in self.index["shards"]]
        return datasets.concatenate_datasets(parts).with_format("arrow")

    def _open(self, shard: Mapping[str, Any]) -> datasets.Dataset:
        path = self.folder / shard["file"]
        try:
            data = datasets.Dataset.from_file(str(path))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadInput(f"{path} is damaged: delete it and run tokenize again. ({error})") from error
        if len(data) != shard["records"] or data.data.schema.names != SCHEMA.names:
            raise BadInput(f"{path} is not what its record says: delete it and run tokenize again.")
        return data

    @cached_property
    def kinds(self) -> np.ndarray:
        """uint8 [N]: 0 stylised, 1 raw."""
        return pc.equal(self._data.data["kind"], "raw").cast(pa.uint8()).to_numpy()

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 [N]: tokens of each answer: start, sizes, rows with new lines, picture end, end of turn."""
        height, width = (self._data.data[name].to_numpy() for name in ("height", "width"))
        return (height * (width + 1) + 5).astype(np.int32)

    @cached_property
    def condition_lengths(self) -> np.ndarray:
        """int32 [N]: about how many tokens each condition adds to the prompt, 0 without one."""
        height, width = (self._data.data[f"condition_{name}"].to_numpy() for name in ("height", "width"))
        return (height * (width + 1)).astype(np.int32)

    def __getitem__(self, i: int) -> Example:
        row = self._data[int(i)]
        text = {name: row[name][0].as_py() for name in ("key", "kind", "caption", "condition")}
        features = row["features"][0].as_py()
        return Example(
            **text,
            codes=_grid(row, ""),
            encoded=row["picture"][0].as_py(),
            features=None if features is None else np.frombuffer(features, np.float16).reshape(self.features).copy(),
            condition_codes=_grid(row, "condition_") if text["condition"] else None,
        )


def check_shard(folder: Path, shard: Mapping[str, Any], verify: bool) -> None:
    """BadInput naming the shard if it is missing or of another size than its record says, or another hash."""
    path = folder / shard["file"]
    size = path.stat().st_size if path.is_file() else None
    if size != shard["bytes"]:
        told = "is missing" if size is None else f"has {size} bytes instead of {shard['bytes']}"
        raise BadInput(f"{path} {told}: run tokenize again, which makes it anew.")
    if verify and sha256_of(path) != shard["sha256"]:
        raise BadInput(f"{path} has changed since it was written: delete it and run tokenize again.")


def _checked_index(path: Path) -> dict[str, Any]:
    index = read_json(path, "list of token shards")
    known = ("shards", "records", "codes", "features", "sha256")
    if not isinstance(index, dict) or index.get("format") != FORMAT or any(key not in index for key in known):
        raise BadInput(f"{path} is not of format {FORMAT}: make it again with tokenize.")
    return index


def _row(example: Example) -> dict[str, Any]:
    height, width = example.codes.shape
    condition = example.condition_codes
    return {
        "key": example.key,
        "kind": example.kind,
        "caption": example.caption,
        "height": height,
        "width": width,
        "codes": example.codes.astype(np.uint16).ravel(),
        "picture": example.encoded,
        "features": None if example.features is None else example.features.astype(np.float16).tobytes(),
        "condition": example.condition,
        "condition_height": 0 if condition is None else condition.shape[0],
        "condition_width": 0 if condition is None else condition.shape[1],
        "condition_codes": [] if condition is None else condition.astype(np.uint16).ravel(),
    }


def _grid(row: pa.Table, prefix: str) -> np.ndarray:
    height, width = (row[prefix + name][0].as_py() for name in ("height", "width"))
    return row[prefix + "codes"][0].values.to_numpy().astype(np.int64).reshape(height, width)
