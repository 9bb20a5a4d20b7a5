"""What every source shares: its settings, and the files it is read from."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from ..config import Settings
from .items import Kind, check_there, shown


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
