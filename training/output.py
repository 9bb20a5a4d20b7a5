"""The folder a command writes: one writer at a time, begun and gone on with the same settings."""

import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from stylear.errors import BadInput
from stylear.files import check_plain, held, in_words, is_draft, read_text, sweep_drafts, to_path

from .config import PlainLoader, Settings, brief
from .loop import write_atomically

SETTINGS = "settings.yaml"
BEGUN_BY = "# Settings of "


@contextmanager
def output_folder(folder: Path, settings: Settings, ignore: Sequence[str] = ()) -> Iterator[Path]:
    """Make `folder` if need be and hold it: a second writer, or one with other settings, is refused with BadInput.

    `ignore`: keys that may change from one start to the next (`workers`, `model.base`, ...), beside `out`. The settings
    lie in `folder`/settings.yaml; a folder with files in it but without them, or with a settings.yaml that no command
    wrote, is not one that a command began, and is refused, as is one that leads elsewhere by a link in it. One with
    nothing but settings takes others: a run that wrote nothing has begun nothing. What a killed run was writing is
    deleted. What the disk refuses meanwhile is raised as by `in_words`. In a run of several processes only the first
    calls this.
    """
    with held(to_path(folder, "out")), in_words(folder):
        now, command = settings.model_dump(mode="json"), type(settings).__name__.removesuffix("Settings").lower()
        file = folder / SETTINGS
        names = sorted(path.name for path in folder.iterdir())
        made = [name for name in names if name not in (SETTINGS, ".lock") and not is_draft(name)]
        if os.path.lexists(file):
            begun_by = _begun_by(file)
            _check_links(folder)
            if made:
                _check_command(folder, begun_by, command)
                _compare(_read_yaml(file), now, folder, ["out", *ignore])
            sweep_drafts(folder)  # only now is it known to be ours
        elif there := [name for name in made if not name.startswith(".")]:
            raise BadInput(f"{folder} has {there[0]} in it but no {SETTINGS}: give an empty or a new folder as `out`.")
        else:
            sweep_drafts(folder, f".{file.stem}.*")  # of a run that was killed before it had settings
        text = f"{BEGUN_BY}{command}\n{yaml.safe_dump(now, sort_keys=False)}"
        write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))
        yield folder


def _begun_by(file: Path) -> str:
    """The command that wrote the settings; BadInput if none did."""
    if not file.is_symlink():
        check_plain(file)
        with file.open(encoding="utf-8", errors="replace") as lines:
            first = lines.readline(200).strip()
        if first.startswith(BEGUN_BY):
            return first.removeprefix(BEGUN_BY)
    raise BadInput(
        f"{file} is damaged, or was written by another program: give an empty or a new folder as `out`, or move "
        f"{file.parent} away and start again."
    )


def _check_command(folder: Path, begun_by: str, command: str) -> None:
    """BadInput if the folder is another command's."""
    if begun_by != command:
        raise BadInput(f"{folder} belongs to `{begun_by}`, which wrote it: give `{command}` another `out`.")


def _check_links(folder: Path) -> None:
    """BadInput if something in a folder is a link, through which the command would write elsewhere."""
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink():
                raise BadInput(f"{path} is a link, and nothing is written through one: move it away and start again.")


def _read_yaml(file: Path) -> dict:
    try:
        found = PlainLoader(file.read_text(encoding="utf-8")).get_single_data()
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{file} is damaged: move {file.parent} away and start again.")
    return found


def _compare(before: dict, now: dict, folder: Path, ignore: Sequence[str]) -> None:
    old, new = dict(_flat(before)), dict(_flat(now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    keys = [key for key in keys if not any(f"{key}.".startswith(f"{free}.") for free in ignore)]
    if keys:
        told = ", ".join(f"{key} was {brief(old.get(key))} and is now {brief(new.get(key))}" for key in keys)
        raise BadInput(f"{folder} was begun with other settings: {told}. Give another `out`, or those of before.")


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by its key with dots."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; BadInput for a device or pipe, which may have no end."""
    check_plain(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    data = text.encode("utf-8", "backslashreplace")  # half a pair of surrogates as JSON escapes it
    write_atomically(path, lambda draft: draft.write_bytes(data))


def read_json(path: Path, what: str = "record", remedy: str = "make it again") -> Any:
    """Read JSON back; BadInput, calling it `what`, if it is missing or damaged, which asks for the `remedy`."""
    try:
        return json.loads(read_text(path))
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"There is no {what} {path}: run the command that makes it to its end.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"The {what} {path} is damaged: {remedy}. ({error})") from error


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
        project = Path(__file__).parents[1] / "pyproject.toml"
        return re.search(r'^version = "(.+)"', project.read_text(encoding="utf-8"), re.MULTILINE)[1]
