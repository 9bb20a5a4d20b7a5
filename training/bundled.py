"""The bundled mini's own parts, put where their stages would have trained them."""

import shutil
from pathlib import Path

import filelock

from stylear.checkpoint import Place
from stylear.errors import BadInput

from .bundle import PARTS
from .export import source_record
from .inputs import files_sha256
from .judge import BUNDLED
from .loop import write_atomically
from .output import read_json, write_json
from .stages import MINI, RECORD, STAGES

TAKEN = "bundled"  # in a stage's record: what tells the files that were put there
STEPS = "summary.json"  # of the adapter: how long it was trained


def bundled_files(name: str) -> dict[str, Path]:
    """Where the files of a stage's folder lie in the bundle; empty for a stage whose product is not in it."""
    if name == "adapter":
        return {file: MINI / file for file in STAGES["adapter"].files if file != STEPS}
    if name == "judge":
        return {file: BUNDLED / file for file in STAGES["judge"].files}
    for part, (stage, files) in PARTS.items():
        if stage == name:
            return {file: MINI / part / file for file in files}
    return {}


def is_taken(name: str, work: Path) -> bool:
    """Whether a stage's folder holds what the bundle has now."""
    record, files = work / name / RECORD, bundled_files(name)
    if not (record.exists() and STAGES[name].is_made(work)):
        return False
    told = files_sha256(files.values())
    return read_json(record).get(TAKEN) == told == files_sha256(work / name / file for file in files)


def was_taken(name: str, work: Path) -> bool:
    """Whether a stage's folder was filled out of a bundle, of now or of before."""
    record = work / name / RECORD
    return record.exists() and TAKEN in read_json(record)


def take(name: str, work: Path) -> None:
    """Copy a stage's product out of the bundle. BadInput where its folder holds anything else, or is in use."""
    folder, files = work / name, bundled_files(name)
    work.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(work / f".{name}.lock", timeout=0):
            if folder.exists() and any(folder.iterdir()) and not was_taken(name, work):
                raise BadInput(f"{folder} was not taken from the bundled mini: move it away, or give another --work.")
            write_json(folder / RECORD, {TAKEN: files_sha256(files.values())})
            for file, source in files.items():
                write_atomically(folder / file, lambda draft, source=source: shutil.copyfile(source, draft))
            if name == "adapter":
                steps = source_record(Place(MINI / "adapter")).get("steps")
                write_json(folder / STEPS, {} if steps is None else {"steps": steps})
    except filelock.Timeout as error:
        raise BadInput(f"{folder} is being written by another run: wait for it, or give another folder.") from error
