"""The bundled mini's own parts, put where their stages would have trained them."""

import shutil
from pathlib import Path

from stylear.checkpoint import Place
from stylear.errors import BadInput

from .bundle import PARTS
from .export import source_record
from .inputs import files_sha256, read_inputs
from .judge import BUNDLED
from .loop import write_atomically
from .output import write_json
from .stages import MINI, RECORD, STAGES, TAKEN, alone, was_taken

ON_THE_WAY = ("style", "depth_corpus")  # what only the bundled adapter is made of: with it nobody needs them
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
    files = bundled_files(name)
    if not STAGES[name].is_made(work):
        return False
    told, there = files_sha256(files.values()), files_sha256(work / name / file for file in files)
    return read_inputs(work / name / RECORD).get(TAKEN) == told == there


def take(name: str, work: Path) -> None:
    """Copy a stage's product out of the bundle. BadInput where its folder holds anything else, or is in use."""
    folder, files = work / name, bundled_files(name)
    with alone(name, work):
        if folder.exists() and any(folder.iterdir()) and not was_taken(name, work):
            raise BadInput(f"{folder} was not taken from the bundled mini: move it away, or give another --work.")
        write_json(folder / RECORD, {TAKEN: files_sha256(files.values())})
        if name == "adapter":
            made = source_record(Place(MINI / "adapter"))
            write_json(folder / STEPS, {name: made[name] for name in ("steps", "init") if name in made})
        for file, source in files.items():
            write_atomically(folder / file, lambda draft, source=source: shutil.copyfile(source, draft))
