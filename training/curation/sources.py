"""Opens a source of pictures with captions by its settings: what format it has, and where its files are."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from stylear.errors import BadInput
from stylear.files import check_plain

from .files import SourceSettings
from .folders import PictureFolder, PictureList
from .items import Item, Source
from .tars import Tars

FILES = {  # what of a format is looked for in a folder
    "list": ("metadata.jsonl", "metadata.csv"),
    "parquet": ("*.parquet",),
    "webdataset": ("*.tar",),
}
ENDS = {"list": (".jsonl", ".csv"), "parquet": (".parquet",), "webdataset": (".tar",)}


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
    from .tables import DataSet, Parquet  # pyarrow takes a third of a second, and most sources are pictures

    path = Path(settings.path)
    kind = _format_of(path) if settings.format == "auto" else settings.format
    if kind == "datasets":
        return DataSet(settings)
    if kind == "pictures":
        if not path.is_dir():
            raise BadInput(f"There is no folder {path}: correct the source's `path`.")
        return PictureFolder(path, settings.kind)
    files = _files(path, kind)
    for file in files:
        check_plain(file)
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
