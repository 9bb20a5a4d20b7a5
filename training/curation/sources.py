"""Sources on the local disk: a folder of pictures with side-car captions, or a list of them as JSON lines or CSV."""

import csv
import glob
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from stylear.errors import BadInput
from stylear.images import SUFFIXES

from ..config import Settings
from ..output import sha256_of
from .items import (
    CAPTIONS,
    Item,
    Kind,
    Source,
    Unusable,
    broken,
    check_there,
    pick_column,
    picture_bytes,
    read_inside,
    shown,
    tidy_caption,
)

FILES = {  # what of a format is looked for in a folder
    "list": ("metadata.jsonl", "metadata.csv"),
    "parquet": ("*.parquet",),
    "webdataset": ("*.tar",),
}
ENDS = {"list": (".jsonl", ".csv"), "parquet": (".parquet",), "webdataset": (".tar",)}
MAX_LINE = 1 << 20  # bytes of one JSON line


class SourceSettings(Settings):
    """A source of (picture, caption)."""

    kind: Kind = Field(description="raw, or stylised for ready made stylised pictures")
    path: str = Field(min_length=1, description="folder, file or pattern (data/*.tar); a name if format is datasets")
    format: Literal["auto", "pictures", "list", "parquet", "webdataset", "datasets"] = Field(
        "auto",
        description="pictures: files with side-cars .txt; list: metadata.jsonl or .csv; datasets: a saved data set,"
        " or a name on the Hugging Face hub, which is the only case that downloads; auto: by what is there",
    )
    image: str | None = Field(None, description="column (or ending, in a tar) of the picture; null: the usual ones")
    caption: str | None = Field(None, description="column (or ending, in a tar) of the caption; null: the usual ones")
    split: str = Field("train", description="of a data set")
    subset: str | None = Field(None, description="configuration of a data set")
    limit: int | None = Field(None, ge=1, description="use only so many records, the first ones")


@dataclass(frozen=True)
class Limited:
    """The first records of a source."""

    source: Source
    limit: int

    def items(self) -> Iterator[Item]:
        """As of the source."""
        return islice(self.source.items(), self.limit)

    def count(self) -> int:
        """At most the limit."""
        return min(self.limit, self.source.count() or self.limit)

    def inputs(self) -> Iterator[tuple[str, str]]:
        """As of the source."""
        return self.source.inputs()


def open_source(settings: SourceSettings) -> Source:
    """The source that the settings describe. Raises BadInput if nothing is there or its format cannot be told."""
    source = _open(settings)
    return Limited(source, settings.limit) if settings.limit else source


def _open(settings: SourceSettings) -> Source:
    from .tables import DataSet, Parquet  # they build on this file
    from .tars import Tars

    path = Path(settings.path)
    kind = _format_of(path) if settings.format == "auto" else settings.format
    if kind == "datasets":
        return DataSet(settings)
    if kind == "pictures":
        if not path.is_dir():
            raise BadInput(f"There is no folder {path}: correct the source's `path`.")
        return PictureFolder(path, settings.kind)
    files = _files(path, kind)
    if kind == "list":
        return PictureList(files[0], settings)
    return Parquet(files, settings) if kind == "parquet" else Tars(files, settings)


def _format_of(path: Path) -> str:
    if any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
        return "datasets"
    for kind, patterns in FILES.items():
        if any(any(path.glob(pattern)) for pattern in patterns) if path.is_dir() else path.suffix.lower() in ENDS[kind]:
            return kind
    if path.is_dir():
        return "pictures"
    raise BadInput(
        f"{path} is no source: give a folder, or a file or pattern ending in .jsonl, .csv, .parquet or .tar"
        " (and `format: datasets` for a name on the hub)."
    )


def _files(path: Path, kind: str) -> list[Path]:
    if path.is_dir():
        files = [file for pattern in FILES[kind] for file in sorted(path.glob(pattern))]
    else:
        files = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not files:
        raise BadInput(f"There is nothing to read as {kind} at {path}: correct the source's `path` or `format`.")
    if kind == "list" and len(files) > 1:
        raise BadInput(f"{path} names {len(files)} lists: give each a source of its own.")
    return files


def list_files(folder: Path) -> Iterator[tuple[bytes, int]]:
    """Every file below a folder as (name relative to it, bytes), sorted; hidden ones and linked folders left out.

    The names are sorted in a table on the disk, so that the memory does not depend on how many there are.
    """
    with closing(sqlite3.connect("")) as table:  # "" is a temporary file of SQLite's own
        table.execute("CREATE TABLE files (name BLOB PRIMARY KEY, size INT) WITHOUT ROWID")
        table.executemany("INSERT INTO files VALUES (?, ?)", _walk(folder))
        yield from table.execute("SELECT name, size FROM files ORDER BY name")


def _walk(folder: Path) -> Iterator[tuple[bytes, int]]:
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                name = f"{inner}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                elif entry.is_file() or entry.is_symlink():
                    yield os.fsencode(name), entry.stat(follow_symlinks=False).st_size


@dataclass(frozen=True)
class Files:
    """What sources of several files of records share; `items` is their own."""

    files: list[Path]
    settings: SourceSettings

    def there(self) -> Iterator[Path]:
        """Each file when its turn comes. BadInput if it has gone since."""
        for path in self.files:
            check_there(path)
            yield path

    def count(self) -> int:
        """The number of records, by going through them; none is read."""
        return sum(1 for _ in self.items())

    def inputs(self) -> Iterator[tuple[str, str]]:
        """Names and sizes."""
        for path in self.files:
            yield shown(str(path)), str(path.stat().st_size)


@dataclass(frozen=True)
class PictureFolder:
    """Pictures in a folder and the folders in it; the caption of x.png is the text of x.txt beside it."""

    folder: Path
    kind: Kind

    def items(self) -> Iterator[Item]:
        """The pictures sorted by name."""
        for name in self._pictures():

            def read(name: str = name) -> tuple[str, bytes]:
                try:
                    text = read_inside(self.folder, str(PurePosixPath(name).with_suffix(".txt")), MAX_LINE)
                except Unusable as error:
                    raise Unusable("no_caption", error.detail) from error
                return tidy_caption(text), read_inside(self.folder, name)

            yield Item(shown(str(self.folder / name)), self.kind, read)

    def count(self) -> int:
        """The number of pictures."""
        return sum(1 for _ in self._pictures())

    def inputs(self) -> Iterator[tuple[str, str]]:
        """Names and sizes of pictures and captions."""
        for name, size in list_files(self.folder):
            if name.lower().endswith((*map(str.encode, SUFFIXES), b".txt")):
                yield shown(name), str(size)

    def _pictures(self) -> Iterator[str]:
        for raw, _ in list_files(self.folder):
            name = os.fsdecode(raw)
            if PurePosixPath(name).suffix.lower() in SUFFIXES:
                yield name


@dataclass(frozen=True)
class PictureList:
    """A .jsonl or .csv file that names pictures (below its own folder) and their captions."""

    file: Path
    settings: SourceSettings

    def items(self) -> Iterator[Item]:
        """In the order of the file."""
        folder, kind = self.file.parent, self.settings.kind
        for line, row in self._rows():
            where = f"{shown(str(self.file))}, line {line}"
            if isinstance(row, str):
                yield broken(where, kind, row)
                continue

            def read(row: dict = row) -> tuple[str, bytes]:
                image = self.settings.image or "file_name"
                wanted = [self.settings.caption] if self.settings.caption else CAPTIONS
                caption = next((row[name] for name in wanted if row.get(name) is not None), None)
                return tidy_caption(caption), picture_bytes(row.get(image), folder)

            yield Item(where, kind, read)

    def count(self) -> int:
        """The number of lines with a record."""
        return sum(1 for _ in self._rows())

    def inputs(self) -> Iterator[tuple[str, str]]:
        """The file's hash; the pictures are not looked at."""
        yield shown(str(self.file)), sha256_of(self.file)

    def _rows(self) -> Iterator[tuple[int, dict | str]]:
        return self._csv() if self.file.suffix.lower() == ".csv" else self._jsonl()

    def _jsonl(self) -> Iterator[tuple[int, dict | str]]:
        with self.file.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                        pass
                    yield number, f"the line is above {MAX_LINE >> 20} MiB"
                elif line.strip():
                    yield number, _parse(line)

    def _csv(self) -> Iterator[tuple[int, dict | str]]:
        with self.file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            try:
                columns = [name or "" for name in reader.fieldnames or []]
            except csv.Error as error:
                raise BadInput(f"{self.file} is no CSV file: {error}.") from error
            pick_column(columns, self.settings.image, ["file_name"], "image", str(self.file))
            pick_column(columns, self.settings.caption, CAPTIONS, "caption", str(self.file))
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    row = f"no CSV: {error}"
                yield reader.line_num, row


def _parse(line: bytes) -> dict | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    return row if isinstance(row, dict) else f"a {type(row).__name__} where an object should be"
