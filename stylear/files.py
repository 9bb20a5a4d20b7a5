"""Files: a new one appears whole or not at all, a text is read up to a limit, a path is one that can be looked up."""

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from reprlib import repr as short

import filelock

from .errors import BadCheckpoint, BadInput, StyleARError

_STEM = 40  # characters of a file's name that its draft keeps, so that the draft's is no longer than a name can be
_DRAFT = re.compile(
    r"\..*\.~[0-9a-f]{8}(\.[^.]*)?|\.tmp[0-9A-Za-z]{6}"
)  # the last is one that safetensors writes first
_NOT_PLAIN = re.compile(  # characters that move a cursor, ends that Windows drops, and the names of its devices
    r"[\x00-\x1f\x7f-\x9f]|[. ]\Z|\A(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)", re.IGNORECASE
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_SAYS = (  # writers that are not Python's: safetensors, SQLite, PyTorch
    *(f"(os error {number})" for number in _FULL),
    *(f"Os {{ code: {number}," for number in _FULL),
    *("disk is full", "disk I/O error", "PytorchStreamWriter", "unexpected pos"),
)
MAX_TEXT = 1 << 28  # bytes; the largest text there is, a tokenizer.json, has a few million


@contextmanager
def new_file(path: str | Path, overwrite: bool = False, how: str = "set overwrite on") -> Iterator[Path]:
    """Give a draft path to write to; it becomes `path` when the block ends well, else it is removed.

    Raises BadInput, before the block runs, if the folder is missing or the file is there and `overwrite` is
    false, which says `how` to have it so; and as `in_words` where the disk is full or refuses.
    """
    path = Path(path)
    _check_place(path, overwrite, how)
    draft = path.with_name(f".{path.stem[:_STEM]}.~{secrets.token_hex(4)}{path.suffix}")
    with in_words(path.parent):
        try:
            yield draft
            sync(draft)
            if overwrite or not _linked(draft, path):
                _check_place(path, overwrite, how)  # it may have come to be there meanwhile
                os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def _linked(draft: Path, path: Path) -> bool:
    """Give a draft its own name beside the hidden one, unless something came to be there, which is then left alone.

    False where there is no such thing as a second name, or the place is taken.
    """
    try:
        os.link(draft, path)
    except OSError:
        return False
    return True


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb+") as written:
        os.fsync(written.fileno())


def is_draft(name: str) -> bool:
    """Whether a file's name is one that `new_file` gives a draft, or safetensors its own beside that."""
    return bool(_DRAFT.fullmatch(name))


def sweep_drafts(folder: Path, pattern: str = "**/.*") -> None:
    """Delete what a killed run was writing in a folder of ours and those below it, which nobody else may be writing."""
    for path in list(folder.glob(pattern)):
        if is_draft(path.name) and path.is_file():
            path.unlink()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder if need be and hold it; BadInput where another run does, or where it cannot be written."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise BadInput(f"{folder} is being written by another run. Wait for it, or give another folder.") from error
    except OSError as error:
        raise BadInput(f"{folder} cannot be written: give another folder. ({error})") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def in_words(place: Path) -> Iterator[None]:
    """Raise what a disk or the system refuses as BadInput with what to do; `place`: what is written."""
    try:
        yield
    except (StyleARError, BrokenPipeError):
        raise
    except Exception as error:
        if told := _refusal(error, place):
            raise BadInput(f"{told} ({error})") from error
        raise


def _refusal(error: Exception, place: Path) -> str | None:
    """What an error of a disk or the system means and asks for; None for any other error."""
    code = error.errno if isinstance(error, OSError) else None
    if code in _FULL or any(said in str(error) for said in _FULL_SAYS):
        return f"The disk of {place} is full: make room and try again."
    if code is None:
        return None
    named = error.filename if isinstance(error.filename, str | os.PathLike) else place
    if code in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{named} may not be opened: correct its permissions or give another path, and try again."
    if code in (errno.ENOENT, errno.ENOTDIR):
        return f"{named} is no longer there: put it back and try again."
    return f"{named} cannot be used: see why, correct that and try again."


def check_new(path: Path, overwrite: bool = False, how: str = "set overwrite on") -> None:
    """BadInput if `path` cannot be written as asked, so that a person hears of it before the work begins.

    how: what the person would do to write over a file that is there. A nameless file is made in the folder, and goes.
    """
    _check_place(path, overwrite, how)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        if error.errno in _FULL:
            raise BadInput(f"{_refusal(error, path.parent)} ({error})") from error
        raise BadInput(f"{path.parent} cannot be written: {error.strerror}. Give a path in another folder.") from error


def _check_place(path: Path, overwrite: bool, how: str = "set overwrite on") -> None:
    """What `check_new` does, without a trial."""
    if not to_path(path).parent.is_dir():
        raise BadInput(f"There is no folder {path.parent}. Make it first.")
    if path.is_dir():
        raise BadInput(f"{path} is a folder. Give the path of a file.")
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is a device or a pipe. Give the path of a file.")
    if os.path.lexists(path) and not overwrite:
        raise BadInput(f"{path} is there already. Give another name or {how}.")


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
    """Whether a name that a file gives is that of a file beside it on any system: no path or device, not too long."""
    if not isinstance(name, str) or _NOT_PLAIN.search(name) or PureWindowsPath(name).name != name:
        return False
    return 0 < len(name.encode("utf-8", "surrogatepass")) <= 255


def check_plain(path: Path) -> None:
    """BadInput for what is there and no file, above all a device or a pipe, which may have no end."""
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is no file, but a folder, a device or a pipe. Give a file there.")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. BadInput or BadCheckpoint if it is none, or larger than any; UnicodeDecodeError."""
    check_plain(path)
    if path.stat().st_size > MAX_TEXT:
        raise BadCheckpoint(f"{path} has {path.stat().st_size} bytes, above {MAX_TEXT}. Put a whole one there.")
    return path.read_text(encoding="utf-8")
