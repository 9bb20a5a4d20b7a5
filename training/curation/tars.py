"""WebDataset tars as a source: files of one name with different endings are one record."""

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from stylear.images import SUFFIXES

from .files import Files
from .items import CAPTIONS, MAX_BYTES, Item, Unusable, broken, shown, tidy_caption

MAX_TEXT = 1 << 20  # bytes of a caption's file
FAILURES = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError)  # what reading a damaged tar raises


class Tars(Files):
    """Plain tars, one after the other. Only plain files in them are looked at, and nothing is unpacked.

    Compressed tars are refused: going back to a member would read them from the start.
    """

    def items(self) -> Iterator[Item]:
        """In the order of the files; where one is damaged, one broken record stands for the rest of it."""
        for path in self.there():
            name = shown(str(path))
            try:
                with tarfile.open(path, "r:") as tar:
                    for key, members in _groups(tar):
                        read = partial(self._read, tar, members)
                        yield Item(f"{name}, member {shown(key)}", self.settings.kind, read)
            except FAILURES as error:
                yield broken(name, self.settings.kind, f"the tar is damaged: {error or type(error).__name__}")

    def _read(self, tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> tuple[str, bytes]:
        given = self.settings.image
        image = next((m for end, m in members.items() if (end == given if given else f".{end}" in SUFFIXES)), None)
        if image is None:
            raise Unusable("broken", f"there is no picture among {', '.join(map(shown, members))}")
        return tidy_caption(self._caption(tar, members)), _bytes(tar, image, MAX_BYTES)

    def _caption(self, tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> object:
        wanted = [self.settings.caption] if self.settings.caption else CAPTIONS
        for end in wanted:
            if end in members:
                return _bytes(tar, members[end], MAX_TEXT)
        if "json" not in members:
            return None
        try:
            row = json.loads(_bytes(tar, members["json"], MAX_TEXT))
        except (ValueError, RecursionError) as error:
            raise Unusable("no_caption", f"the .json is damaged: {error}") from error
        return next((row[name] for name in wanted if name in row), None) if isinstance(row, dict) else None


def _groups(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Neighbours with the same name up to the first dot, as {ending: member}. Raises tarfile.ReadError if cut off."""
    key, group, position = None, {}, 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # tarfile remembers every member it has seen
        position = tar.offset
        folder, name = PurePosixPath(member.name).parent, PurePosixPath(member.name).name
        stem, _, ending = name.partition(".")
        if not member.isreg() or not stem:
            continue
        if str(folder / stem) != key or ending.lower() in group:
            if group:
                yield key, group
            key, group = str(folder / stem), {}
        group[ending.lower()] = member
    if group:
        yield key, group
    tar.fileobj.seek(position)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it does not end as a tar does")


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most:
        raise Unusable("too_large", f"{shown(member.name)} is {member.size} bytes, above {most >> 20} MiB")
    try:
        return tar.extractfile(member).read()
    except FAILURES as error:
        raise Unusable("broken", f"{shown(member.name)} cannot be read: {error}") from error
