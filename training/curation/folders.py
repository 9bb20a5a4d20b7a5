"""Sources of picture files: a folder with side-car captions, or a list of pictures as JSON lines or CSV."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stylear.errors import BadInput
from stylear.images import SUFFIXES

from ..output import sha256_of
from .files import SourceSettings, list_files
from .items import CAPTIONS, Item, Kind, Unusable, broken, pick_column, picture_bytes, read_inside, shown, tidy_caption

MAX_LINE = 1 << 20  # bytes of one JSON line


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
