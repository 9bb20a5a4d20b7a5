"""References and prompts of an evaluation, read from what people have: folders, lists, text files."""

from dataclasses import dataclass
from pathlib import Path

from stylear.errors import BadInput
from stylear.files import check_plain
from stylear.images import SUFFIXES, is_picture, open_image

from ..output import read_json
from .cells import Reference


@dataclass(frozen=True)
class Prompt:
    """What is drawn, and what of it is content: the same unless it names a style."""

    text: str
    content: str


def read_prompts(path: Path, most: int | None = None) -> list[Prompt]:
    """The first `most` prompts of a UTF-8 text file: one a line, # begins a comment line, empty lines count as none.

    A prompt that names a style is followed by a tab and its words without it. BadInput, with the line, for a prompt
    that is there twice, for one without content, and for a file without any.
    """
    try:
        check_plain(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The prompts {path} cannot be read: give a text file, one prompt a line ({error}).") from error
    found: dict[str, Prompt] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        text, *rest = (part.strip() for part in line.split("\t", 1))
        content = rest[0] if rest else text
        if not text or not content:
            raise BadInput(f"{path}, line {number}: write the prompt, a tab, and the prompt without style words.")
        if text in found:
            raise BadInput(f"{path}, line {number}: this prompt is there twice. Keep one.")
        found[text] = Prompt(text, content)
    if not found:
        raise BadInput(f"There are no prompts in {path}. Write one a line.")
    return list(found.values())[:most]


def read_references(path: Path, most: int | None = None) -> tuple[list[Reference], list[str]]:
    """The first `most` references that are pictures, and why others were skipped.

    `path`: a folder of pictures, by name, what each shows in a .txt of its name; or a JSON list of
    {"picture": path beside the list, "caption": optional, "name": optional}. BadInput if none can be read.
    """
    if not path.exists():
        raise BadInput(f"There is no folder of pictures and no list at {path}: correct the path.")
    found = _from_folder(path) if path.is_dir() else _from_list(path)
    good, skipped = [], []
    for reference in found:
        if len(good) == most:
            break
        try:
            open_image(reference.picture)
        except BadInput as error:
            skipped.append(f"{reference.picture}: {error}")
        else:
            good.append(reference)
    if not good:
        why = skipped[0] if skipped else f"{path} has no file of {', '.join(SUFFIXES)}"
        raise BadInput(f"There is no reference picture to draw from in {path}. Give one. ({why})")
    return good, skipped


def _from_folder(folder: Path) -> list[Reference]:
    pictures = [path for path in sorted(folder.iterdir()) if is_picture(path)]
    stems = [path.stem for path in pictures]
    return [
        Reference(path.stem if stems.count(path.stem) == 1 else path.name, path, _caption(path.with_suffix(".txt")))
        for path in pictures
    ]


def _caption(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split()) or None
    except UnicodeDecodeError as error:
        raise BadInput(f"The caption {path} is no UTF-8 text. Save it as UTF-8.") from error


def _from_list(path: Path) -> list[Reference]:
    rows = read_json(path, "folder or list of references")
    if not isinstance(rows, list):
        raise BadInput(f'{path} has to be a JSON list of {{"picture": ..., "caption": ...}}.')
    found: dict[str, Reference] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("picture"), str):
            raise BadInput(f'{path}, entry {number}: it has to be {{"picture": path, "caption": optional text}}.')
        caption, name = row.get("caption"), row.get("name", Path(row["picture"]).stem)
        if not isinstance(caption, str | None) or not isinstance(name, str) or not name.strip():
            raise BadInput(f"{path}, entry {number}: caption and name have to be texts.")
        if name in found:
            raise BadInput(f"{path}, entry {number}: a second reference is named {name!r}. Give it another name.")
        found[name] = Reference(name, path.parent / row["picture"], " ".join((caption or "").split()) or None)
    return list(found.values())
