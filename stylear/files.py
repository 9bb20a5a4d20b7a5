"""Files: a new one appears whole or not at all, a text is read up to a limit, a path is one that can be looked up."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from reprlib import repr as short

from .errors import BadCheckpoint, BadInput

_STEM = 40  # characters of a file's name that its draft keeps, so that the draft's is no longer than a name can be
MAX_TEXT = 1 << 28  # bytes; the largest text there is, a tokenizer.json, has a few million


@contextmanager
def new_file(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a draft path to write to; it becomes `path` when the block ends well, else it is removed.

    Raises BadInput, before the block runs, if the folder is missing or the file is there and `overwrite` is
    false.
    """
    path = Path(path)
    check_new(path, overwrite)
    draft = path.with_name(f".{path.stem[:_STEM]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield draft
        with draft.open("rb+") as written:
            os.fsync(written.fileno())
        check_new(path, overwrite)  # it may have come to be there meanwhile
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def check_new(path: Path, overwrite: bool = False) -> None:
    """BadInput if `path` cannot be written as asked, so that a person hears of it before the work begins."""
    if not to_path(path).parent.is_dir():
        raise BadInput(f"There is no folder {path.parent}. Make it first.")
    if path.is_dir():
        raise BadInput(f"{path} is a folder. Give the path of a file.")
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is a device or a pipe. Give the path of a file.")
    if os.path.lexists(path) and not overwrite:
        raise BadInput(f"{path} is there already. Give another name, or say overwrite (--overwrite).")


def to_path(value: str | os.PathLike, name: str = "path") -> Path:
    """A path that the system can look up, whether or not anything is there; BadInput, calling it `name`, for others."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise BadInput(f"There is no {name} {short(value)}. Give a path.")
    try:
        path = Path(value)
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path
    except (OSError, ValueError, TypeError) as error:  # too long, a NUL in it, no text, bytes
        raise BadInput(f"{short(str(value))} is no {name} that can be: {error}. Give another.") from error
    return path


def is_plain_name(name: object) -> bool:
    """Whether a name that a file gives is that of one beside it on any system: no path, no drive, not too long."""
    if not isinstance(name, str) or name in ("", ".", "..") or "\0" in name or PureWindowsPath(name).name != name:
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= 255


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. BadCheckpoint if it is larger than any that is meant; UnicodeDecodeError."""
    if path.stat().st_size > MAX_TEXT:
        raise BadCheckpoint(f"{path} has {path.stat().st_size} bytes, above {MAX_TEXT}. Download it again.")
    return path.read_text(encoding="utf-8")
