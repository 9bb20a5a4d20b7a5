"""One record of a source before it is read: where it stands, and how to get its caption and its picture's bytes."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from stylear.errors import BadInput

Kind = Literal["raw", "stylised"]
MAX_BYTES = 1 << 28  # of one picture's file
MAX_CAPTION = 4000  # characters; alt texts of the web can be whole pages
CAPTIONS = ("text", "caption", "prompt", "txt")  # columns looked for when the settings name none
_CONTROLS = dict.fromkeys([*range(32), *range(127, 160)])


class Unusable(Exception):
    """A record that is left out: `reason` is a word to count by, `detail` says what was found."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Item:
    """A record by its place; `read` gives (caption, the bytes of the picture's file) or raises Unusable.

    A source's items have to be read in their order, each before the next is asked for, and need not be read at all.
    `reference` goes to the side-car for evaluation. `drawn`: the file in which `read` keeps a picture that it draws, so
    as not to draw it twice; whoever has the picture in a place of its own deletes it.
    """

    where: str
    kind: Kind
    read: Callable[[], tuple[str, bytes]]
    reference: dict | None = None
    drawn: Path | None = None


class Source(Protocol):
    """Where records come from, always in the same order."""

    def items(self) -> Iterator[Item]:
        """Every record, one in memory at a time. Raises BadInput if the source as a whole cannot be used."""

    def count(self) -> int | None:
        """How many there are, for the progress bar alone; None where that is not known without reading all."""

    def inputs(self) -> Iterator[tuple[str, str]]:
        """(file, what tells whether it changed), to notice that a run goes on with other data."""


def broken(where: str, kind: Kind, detail: str, reason: str = "broken") -> Item:
    """The one item that stands for a part of a source that cannot be read."""

    def read() -> tuple[str, bytes]:
        raise Unusable(reason, detail)

    return Item(where, kind, read)


def source_sha256(source: Source) -> str:
    """The SHA-256 over what a source reads, as its `inputs` tells it."""
    digest = hashlib.sha256()
    for name, state in source.inputs():
        digest.update(f"{name}\0{state}\n".encode())
    return digest.hexdigest()


def tidy_caption(value: object) -> str:
    """A caption as one line of text without control characters; Unusable if there is none left or it is too long."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if not isinstance(value, str):
        raise Unusable("no_caption", "there is none" if value is None else f"it is a {type(value).__name__}, not text")
    caption = " ".join(value.split()).translate(_CONTROLS).strip()
    if not caption:
        raise Unusable("no_caption", "it is empty")
    if any("\ud800" <= character <= "\udfff" for character in caption):
        raise Unusable("no_caption", "it is not UTF-8 text")
    if len(caption) > MAX_CAPTION:
        raise Unusable("long_caption", f"{len(caption)} characters; {MAX_CAPTION} are allowed")
    return caption


def check_there(place: Path) -> None:
    """BadInput if a file or folder of a source has gone since the run began; its records are not broken ones."""
    if not place.exists():
        raise BadInput(f"{place} is no longer there: put it back and run the same command again.")


def read_inside(folder: Path, name: str, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file below `folder`; Unusable if it leads out (.., absolute, symlink), is absent or too large.

    BadInput if the folder itself has gone.
    """
    check_there(folder)
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise Unusable("outside", f"{shown(name)} leads out of {folder}")
        if not path.is_file():
            raise Unusable("missing", f"there is no file {shown(name)} in {folder}")
        if path.stat().st_size > most:
            raise Unusable("too_large", f"{shown(name)} is above {most >> 20} MiB")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        raise Unusable("broken", f"{shown(name)} cannot be read: {error}") from error


def picture_bytes(value: object, folder: Path) -> bytes:
    """A cell of a table as the bytes of a picture file: bytes, {"bytes", "path"} as `datasets` has it, or a path."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        if len(value) > MAX_BYTES:
            raise Unusable("too_large", f"the file is above {MAX_BYTES >> 20} MiB")
        return value
    if isinstance(value, str) and value:
        return read_inside(folder, value)
    found = "nothing" if value in (None, "") else f"a {type(value).__name__}"
    raise Unusable("broken", f"there is {found} where the picture should be")


def pick_column(columns: Sequence[str], given: str | None, usual: Sequence[str], setting: str, where: str) -> str:
    """The column that holds a thing: the one given, or the first usual one there is; BadInput if there is none."""
    for column in [given] if given else usual:
        if column in columns:
            return column
    looked = given or ", ".join(usual)
    raise BadInput(
        f"{where} has no column {looked}; it has {', '.join(columns)}. Name one in the source's `{setting}`."
    )


def shown(name: str | bytes) -> str:
    """A file's name as text that can be written to JSON, whatever bytes it has."""
    try:
        name = os.fsencode(name)
    except UnicodeEncodeError:  # half a pair of surrogates, as JSON can hold
        name = name.encode("utf-8", "backslashreplace")
    return name.decode("utf-8", "backslashreplace")
