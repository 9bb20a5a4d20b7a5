"""Writing a file so that it appears whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BadInput


@contextmanager
def new_file(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a draft path to write to; it becomes `path` when the block ends well, else it is removed.

    Raises BadInput, before the block runs, if the folder is missing or the file is there and `overwrite` is
    false.
    """
    path = Path(path)
    check_new(path, overwrite)
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield draft
        with draft.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def check_new(path: Path, overwrite: bool = False) -> None:
    """BadInput if `path` cannot be written as asked, so that a person hears of it before the work begins."""
    if not path.parent.is_dir():
        raise BadInput(f"There is no folder {path.parent}. Make it first.")
    if path.is_dir():
        raise BadInput(f"{path} is a folder. Give the path of a file.")
    if path.exists() and not overwrite:
        raise BadInput(f"{path} is there already. Give another name, or say overwrite (--overwrite).")
