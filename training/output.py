"""The folder a command writes: one writer at a time, begun and gone on with the same settings."""

import hashlib
import importlib.metadata
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import torch
import yaml

from stylear.errors import BadInput

from .config import Settings
from .loop import write_atomically

SETTINGS = "settings.yaml"


@contextmanager
def output_folder(folder: Path, settings: Settings, ignore: Sequence[str] = ()) -> Iterator[Path]:
    """Make `folder` if need be and hold it: a second writer, or one with other settings, is refused with BadInput.

    `ignore`: keys that may change from one start to the next (`workers`, `steps`, ...). The settings lie in
    `folder`/settings.yaml. In a run of several processes only the first calls this.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise BadInput(f"{folder} is being written by another run. Wait for it, or give another `out`.") from error
    try:
        now = settings.model_dump(mode="json")
        file = folder / SETTINGS
        if file.exists():
            _compare(_read_yaml(file), now, folder, ignore)
        write_atomically(file, lambda path: path.write_text(yaml.safe_dump(now, sort_keys=False), encoding="utf-8"))
        yield folder
    finally:
        lock.release()


def _read_yaml(file: Path) -> dict:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{file} is damaged: move {file.parent} away and start again.") from error
    if not isinstance(found, dict):
        raise BadInput(f"{file} is damaged: move {file.parent} away and start again.")
    return found


def _compare(before: dict, now: dict, folder: Path, ignore: Sequence[str]) -> None:
    keys = [key for key in {**before, **now} if key not in ignore and before.get(key) != now.get(key)]
    if keys:
        told = ", ".join(f"{key} was {before.get(key)!r} and is now {now.get(key)!r}" for key in keys)
        raise BadInput(f"{folder} was begun with other settings: {told}. Give another `out`, or those of before.")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def read_json(path: Path, what: str = "record") -> Any:
    """Read JSON back; BadInput, calling it `what`, if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"There is no {what} {path}: run the command that makes it to its end.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"The {what} {path} is damaged: make it again. ({error})") from error


def provenance() -> dict[str, str]:
    """What made a file: the command's words and the versions of what ran."""
    words = " ".join(shlex.quote(word) for word in sys.argv[1:])
    return {
        "command": f"python -m training {words}".strip(),
        "stylear": _version(),
        "torch": torch.__version__,
    }


def _version() -> str:
    try:
        return importlib.metadata.version("stylear")
    except importlib.metadata.PackageNotFoundError:  # run from its folder without being installed
        return "not installed"
