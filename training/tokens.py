"""The token folder: shards of codes, captions and style pictures, written whole and read by number."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from stylear.errors import BadInput
from stylear.files import is_plain_name
from stylear.images import formats, to_pil

from .loop import write_atomically
from .output import provenance, read_json, sha256_of, write_json

FORMAT = 1
KINDS = ("stylised", "raw")
CONDITIONS = ("depth", "segmentation")
INDEX = "tokens.json"
_CODES = pa.list_(pa.uint16())
_END = 8  # bytes of the mark that ends an Arrow stream
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
        image = Image.open(io.BytesIO(data), formats=formats())
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


@dataclass(frozen=True)
class _Table:
    """What is kept in memory of a token folder.

    Of each record batch: `shard`, the number of its file, `offset`, the byte it begins at, and `first`, the number of
    its first record, int64 [batches]. Of each record: `kinds` uint8, `lengths` and `condition_lengths` int32 [N].
    """

    shard: np.ndarray
    offset: np.ndarray
    first: np.ndarray
    kinds: np.ndarray
    lengths: np.ndarray
    condition_lengths: np.ndarray


class TokenSet:
    """A token folder by number: `tokens[i]` is an Example, read from the disk each time.

    A shard is mapped into memory only while a record of it is read, so that what a process holds does not grow with
    what it has read. Attributes: `folder`, `index` (what tokens.json says), `codes` (size of the codebook), `features`
    ([N, C] or None), `vqgan` (hash of the tensors of the VQGAN that made the codes), `sha256` (of the data).
    """

    def __init__(self, folder: Path):
        """Open a folder that `tokenize` finished.

        BadInput naming the file where tokens.json or a shard is missing, damaged or of another size. A shard's content
        is looked at when the first record is read, and BadInput raised then if it is not what was written.
        """
        self.folder = Path(folder)
        self.index = _checked_index(self.folder / INDEX)
        self._again = f"run `{self.index['provenance']['command']}` again"
        for shard in self.index["shards"]:
            self._check_size(shard)
        self.codes, self.features = self.index["codes"], self.index["features"]
        self.vqgan, self.sha256 = self.index["vqgan"], self.index["sha256"]
        self._checked = False

    def __len__(self) -> int:
        return self.index["records"]

    @property
    def made_with(self) -> str:
        """Where the VQGAN that made the codes was then, as the settings of that run say it."""
        model = self.index["settings"].get("model", {})
        return model.get("vqgan") or f"of {model.get('base', 'unknown origin')}"

    def __getstate__(self) -> dict[str, Any]:
        """What a DataLoader's worker is sent: no table, and whether the shards' content was looked at."""
        return {key: value for key, value in vars(self).items() if key != "_table"}

    @cached_property
    def _table(self) -> _Table:
        places, columns, first = [], [_columns(SCHEMA.empty_table())], 0
        for number, shard in enumerate(self.index["shards"]):
            path = self.folder / shard["file"]
            self._check_size(shard)  # it may have gone since
            if not self._checked and sha256_of(path) != shard["sha256"]:
                raise BadInput(f"{path} is not what was written there (other SHA-256): delete it and {self._again}.")
            before = first
            try:
                for offset, batch in _batches(path):
                    places.append((number, offset, first))
                    columns.append(_columns(batch))
                    first += batch.num_rows
            except (pa.ArrowException, OSError, ValueError, EOFError, SystemError) as error:
                raise BadInput(f"{path} is no shard of tokens: delete it and {self._again}. ({error})") from error
            if first - before != shard["records"]:
                raise BadInput(f"{path} has other records than {INDEX} says: delete it and {self._again}.")
        self._checked = True
        return _Table(*np.array(places, np.int64).reshape(-1, 3).T, *map(np.concatenate, zip(*columns, strict=True)))

    @property
    def kinds(self) -> np.ndarray:
        """uint8 [N]: 0 stylised, 1 raw."""
        return self._table.kinds

    @property
    def lengths(self) -> np.ndarray:
        """int32 [N]: tokens of each answer: start, sizes, rows with new lines, picture end, end of turn."""
        return self._table.lengths

    @property
    def condition_lengths(self) -> np.ndarray:
        """int32 [N]: about how many tokens each condition adds to the prompt, 0 without one."""
        return self._table.condition_lengths

    def _check_size(self, shard: Mapping[str, Any]) -> None:
        """BadInput naming the shard if it is missing or of another size than its record says."""
        path = self.folder / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            told = "is missing" if size is None else f"has {size} bytes instead of {shard['bytes']}"
            raise BadInput(f"{path} {told}: {self._again}, which makes it anew.")

    def __getitem__(self, i: int) -> Example:
        table = self._table
        place = np.searchsorted(table.first, i, side="right") - 1
        path = self.folder / self.index["shards"][table.shard[place]]["file"]
        try:
            row = _batch(path, table.offset[place])[0].slice(int(i - table.first[place]), 1)
        except (pa.ArrowException, OSError, ValueError, EOFError) as error:
            raise BadInput(
                f"{path} is no longer there or was changed: put it back, or {self._again}. ({error})"
            ) from error
        text = {name: row[name][0].as_py() for name in ("key", "kind", "caption", "condition")}
        try:
            encoded, features = row["picture"][0].as_py(), _features(row["features"][0].as_py(), self.features)
            if text["kind"] not in KINDS or text["condition"] not in ("", *CONDITIONS):
                raise ValueError("another kind or condition")
            if None in (*text.values(), encoded):
                raise ValueError("an empty cell")
            codes = _grid(row, "", self.codes)
            condition_codes = _grid(row, "condition_", self.codes) if text["condition"] else None
            return Example(**text, codes=codes, encoded=encoded, features=features, condition_codes=condition_codes)
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}: record {i} is damaged: delete it and run tokenize again. ({error})") from error


def _batches(path: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The record batches of a shard, each with the byte it begins at. Errors of pyarrow, and ValueError."""
    with pa.memory_map(str(path)) as file:
        if pa.ipc.read_schema(_message(file, "schema")) != SCHEMA:
            raise ValueError("other columns")
        offset, end = file.tell(), file.size() - _END
    while offset < end:
        batch, after = _batch(path, offset)
        for column in batch.columns:
            if len(column) != batch.num_rows:
                raise ValueError("columns of other lengths")
            _check_buffers(column, iter(column.buffers()))  # pyarrow would read behind their ends
        batch.validate(full=True)  # places that lead out of the file would be read later
        yield offset, batch
        offset = after


def _check_buffers(array: pa.Array, buffers: Iterator[pa.Buffer | None]) -> None:
    """ValueError where a buffer of an array, or of what it lists, is smaller than its length needs."""

    def check(bits: int, wanted: bool) -> None:
        buffer = next(buffers)
        if bits and (wanted if buffer is None else 8 * buffer.size < bits):
            raise ValueError("a column is cut off")

    count, kind = array.offset + len(array), array.type
    check(count, False)  # which are there; without it all are
    if pa.types.is_list(kind):
        check(32 * (count + 1) if count else 0, True)
        _check_buffers(array.values, buffers)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        check(32 * (count + 1) if count else 0, True)
        next(buffers)  # validate() compares its size
    else:
        check(kind.bit_width * count, True)


def _batch(path: Path, offset: int) -> tuple[pa.RecordBatch, int]:
    """The record batch that begins at a byte of a shard, which stays mapped as long as the batch is held; its end."""
    with pa.memory_map(str(path)) as file:
        file.seek(offset)
        return pa.ipc.read_record_batch(_message(file, "record batch"), SCHEMA), file.tell()


def _message(file: pa.NativeFile, kind: str) -> pa.Message:
    """The next message; ValueError where it is of another kind, which pyarrow would take for this one and crash."""
    message = pa.ipc.read_message(file)
    if message.type != kind:
        raise ValueError(f"a {message.type} in place of a {kind}")
    return message


def _columns(batch: pa.RecordBatch | pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`kinds`, `lengths` and `condition_lengths` of a batch's records, copied."""
    names = ("height", "width", "condition_height", "condition_width")
    height, width, condition_height, condition_width = (batch[name].to_numpy() for name in names)
    raw = pc.equal(batch["kind"], "raw").cast(pa.uint8()).to_numpy()
    return raw, height * (width + 1) + 5, condition_height * (condition_width + 1)


def _checked_index(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise BadInput(
            f"data is {path.parent} and has no {INDEX}: run `python -m training tokenize` to its end, or correct it."
        )
    index = read_json(path, "list of token shards")
    known = ("shards", "records", "codes", "vqgan", "features", "settings", "provenance", "sha256")
    if not isinstance(index, dict) or index.get("format") != FORMAT or any(key not in index for key in known):
        raise BadInput(f"{path} is not of format {FORMAT}: make it again with tokenize.")
    shards, features = index["shards"], index["features"]
    whole = isinstance(shards, list) and all(map(_is_shard, shards)) and isinstance(index["sha256"], str)
    whole = whole and all(isinstance(index[name], dict) for name in ("settings", "provenance"))
    whole = whole and isinstance(index["settings"].get("model", {}), dict) and isinstance(index["vqgan"], str)
    whole = whole and isinstance(index["provenance"].get("command"), str)
    sides = (
        isinstance(features, list) and len(features) == 2 and all(type(n) is int and 0 < n < 1 << 20 for n in features)
    )
    if not whole or not (features is None or sides) or type(index["codes"]) is not int:
        raise BadInput(f"{path} is damaged: make it again with tokenize.")
    if index["records"] != sum(shard["records"] for shard in shards):
        raise BadInput(f"{path} counts other records than its shards have: make it again with tokenize.")
    return index


def _is_shard(shard: Any) -> bool:
    """Whether an entry of the index says what is needed, of a file beside it."""
    if not isinstance(shard, dict) or not is_plain_name(shard.get("file")):
        return False
    counts = all(type(shard.get(name)) is int and shard[name] >= 0 for name in ("bytes", "records"))
    return counts and isinstance(shard.get("sha256"), str)


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


def _features(data: bytes | None, shape: Sequence[int] | None) -> np.ndarray | None:
    """Features float16 of a record; ValueError where they are not of the index's shape, or only one of them has any."""
    if (data is None) != (shape is None):
        raise ValueError("features where there are none, or none")
    return None if data is None else np.frombuffer(data, np.float16).reshape(shape).copy()


def _grid(row: pa.RecordBatch, prefix: str, count: int) -> np.ndarray:
    """Codes int64 [h, w] of a record; ValueError where they are not height x width of 0..count - 1."""
    height, width = (row[prefix + name][0].as_py() for name in ("height", "width"))
    codes = row[prefix + "codes"][0].values.to_numpy().astype(np.int64)
    if height < 1 or width < 1 or codes.size != height * width or codes.max() >= count:
        raise ValueError(f"codes that are not {height} x {width} below {count}")
    return codes.reshape(height, width)
