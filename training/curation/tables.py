"""Tables as a source: parquet files, and data sets of the `datasets` library, saved on the disk or of the hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stylear.errors import BadInput

from .files import Files, SourceSettings, list_files
from .items import CAPTIONS, Item, Unusable, broken, pick_column, picture_bytes, shown, tidy_caption

IMAGES = ("image", "jpg", "jpeg", "png", "webp")  # columns looked for when the settings name none
MOST = 64 << 20  # bytes that a column of a row group may unpack to, or SWELLS times what it takes in the file
SWELLS = 20  # pictures, which are packed already, do not swell, and texts less than this


class Parquet(Files):
    """Parquet files with a column of picture files' bytes (or {bytes, path}, or paths beside the file)."""

    def items(self) -> Iterator[Item]:
        """Row by row; a row group none of whose rows is read costs nothing. BadInput if a column is not there."""
        for path in self.there():
            name = shown(str(path))
            try:
                file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
            except (pa.ArrowException, OSError) as error:
                yield broken(name, self.settings.kind, f"no parquet file: {error}")
                continue
            with file:
                image, caption = _columns(file.schema_arrow.names, self.settings, name)
                row = 0
                for number in range(file.num_row_groups):
                    group = _Group(file, number, [image, caption])
                    for index in range(file.metadata.row_group(number).num_rows):
                        read = partial(_read, group, index, image, caption, path.parent)
                        yield Item(f"{name}, row {row}", self.settings.kind, read)
                        row += 1


def _read(group: "_Group", index: int, image: str, caption: str, folder: Path) -> tuple[str, bytes]:
    cells = group.row(index)
    return tidy_caption(cells[caption]), picture_bytes(cells[image], folder)


class _Group:
    """The rows of one row group, read forward one by one, and only when one is asked for.

    One by one since rows may be many times the same large one, which takes little room in the file.
    """

    def __init__(self, file: pq.ParquetFile, group: int, columns: list[str]):
        self._file, self._group, self._columns = file, group, columns
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._batch: pa.RecordBatch | None = None
        self._start = self._end = 0

    def row(self, index: int) -> dict:
        """The cells of a row by column; Unusable if the file is damaged there."""
        try:
            if self._batches is None:
                self._check_size()
                self._batches = self._file.iter_batches(1, [self._group], self._columns, use_threads=False)
            while index >= self._end:
                self._batch = next(self._batches)
                self._start, self._end = self._end, self._end + self._batch.num_rows
        except (pa.ArrowException, OSError, StopIteration) as error:
            raise Unusable("broken", f"the row cannot be read: {error or 'the file ends before it'}") from error
        return {name: self._batch.column(name)[index - self._start].as_py() for name in self._columns}

    def _check_size(self) -> None:
        """Unusable if a column that is read is said to unpack to far more than it is."""
        group = self._file.metadata.row_group(self._group)
        for column in (group.column(number) for number in range(group.num_columns)):
            unpacked, packed = column.total_uncompressed_size, column.total_compressed_size
            if column.path_in_schema.split(".")[0] in self._columns and unpacked > max(MOST, SWELLS * packed):
                raise Unusable("too_large", f"{column.path_in_schema} unpacks from {packed} to {unpacked} bytes")


@dataclass(frozen=True)
class DataSet:
    """A data set: a folder that `save_to_disk` wrote, or else a name on the hub, which is streamed from there.

    No code of a data set is run: `datasets` reads tables and picture files only.
    """

    settings: SourceSettings

    @property
    def local(self) -> bool:
        """Whether it lies on this disk."""
        return Path(self.settings.path).is_dir()

    @cached_property
    def _opened(self) -> tuple:
        import datasets  # a second or two, for those who use it

        given = self.settings
        try:
            if self.local:
                found = datasets.load_from_disk(given.path)
                found = found[given.split] if isinstance(found, datasets.DatasetDict) else found
            else:
                found = datasets.load_dataset(given.path, given.subset, split=given.split, streaming=True)
        except Exception as error:  # the library raises nearly anything, at a name as at a damaged folder
            raise BadInput(f"The data set {given.path} (split {given.split}) cannot be opened: {error}") from error
        names = found.column_names or list(next(iter(found), {}))
        image, caption = _columns(names, given, f"The data set {given.path}")
        found = found.select_columns([image, caption])
        if isinstance((found.features or {}).get(image), datasets.Image):
            found = found.cast_column(image, datasets.Image(decode=False))
        return found, image, caption

    def items(self) -> Iterator[Item]:
        """Row by row; of a data set on the disk only the rows that are read are fetched."""
        found, image, caption = self._opened
        for number, row in enumerate(range(len(found)) if self.local else found):

            def read(row: int | dict = row) -> tuple[str, bytes]:
                try:
                    cells = found[row] if isinstance(row, int) else row
                except (pa.ArrowException, OSError) as error:
                    raise Unusable("broken", f"the row cannot be read: {error}") from error
                return tidy_caption(cells[caption]), picture_bytes(cells[image], Path(self.settings.path))

            yield Item(f"{shown(self.settings.path)}, row {number}", self.settings.kind, read)

    def count(self) -> int | None:
        """The number of rows, where the data set says it."""
        found = self._opened[0]
        if self.local:
            return len(found)
        split = (found.info.splits or {}).get(self.settings.split)
        return split.num_examples if split else None

    def inputs(self) -> Iterator[tuple[str, str]]:
        """Names and sizes of its files, or its name and version on the hub."""
        if not self.local:
            yield self.settings.path, str(self._opened[0].info.version)
            return
        for name, size in list_files(Path(self.settings.path)):
            yield shown(name), str(size)


def _columns(names: list[str], settings: SourceSettings, where: str) -> tuple[str, str]:
    image = pick_column(names, settings.image, IMAGES, "image", where)
    return image, pick_column(names, settings.caption, CAPTIONS, "caption", where)
