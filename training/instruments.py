"""What the mini is measured with, bundled: the judge, and held-out pictures with the masks of what they show."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stylear.errors import BadCheckpoint, BadInput, MissingPart
from stylear.files import read_text

from .bundle import write_notice
from .data.pictures import SIZE, PictureSet
from .judge import Judge, load_judge
from .loop import write_atomically
from .output import write_json

FILES = ("judge.safetensors", "pictures.webp", "masks.webp", "pictures.json")


@dataclass(frozen=True)
class Instruments:
    """A judge, and pictures uint8 [N, 64, 64, 3] that neither it nor the mini was trained on, masks uint8 [N, 64, 64].

    `concept`, `style` int64 [N]: what they show, as the judge's names are numbered. `unseen` bool [N]: in a style that
    is never trained; the others are of a held-out pair of a concept and a style.
    """

    judge: Judge
    pictures: np.ndarray
    masks: np.ndarray
    concept: np.ndarray
    style: np.ndarray
    unseen: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> "Instruments":
        """Read what `write_instruments` wrote; MissingPart without it, BadCheckpoint where it is damaged."""
        if absent := [name for name in FILES if not (folder / name).is_file()]:
            raise MissingPart(
                f"There is no {absent[0]} in {folder}: make it with `python -m training pretrain instruments`, "
                "which takes the stages icons, pictures and judge."
            )
        judge = load_judge(folder / "judge.safetensors")
        try:
            rows = json.loads(read_text(folder / "pictures.json"))["rows"]
            concept = np.array([judge.concept_names.index(row["concept"]) for row in rows])
            style = np.array([judge.style_names.index(row["style"]) for row in rows])
            unseen = np.array([bool(row["unseen"]) for row in rows])
            pictures, masks = (read_sheet(folder / f"{name}.webp", len(rows)) for name in ("pictures", "masks"))
        except (OSError, ValueError, KeyError, TypeError, SyntaxError) as error:
            raise BadCheckpoint(
                f"The instruments in {folder} are damaged or not of one making: make them again with "
                f"`python -m training pretrain instruments`. ({error})"
            ) from error
        return cls(judge, pictures, masks[..., 0], concept, style, unseen)


def write_instruments(work: Path, out: Path) -> None:
    """Write the judge of `work` and the pictures to measure with into `out`, with a NOTICE of whose drawings they are.

    BadInput where the judge is of another picture set.
    """
    pictures, judge = PictureSet(work / "pictures"), work / "judge" / "judge.safetensors"
    known = load_judge(judge)
    if (known.concept_names, known.style_names) != (pictures.taught, pictures.styles):
        raise BadInput(f"{judge} is of other pictures than {work / 'pictures'}: train the judge on them first.")
    rows = pictures.test_rows()
    write_atomically(out / "judge.safetensors", lambda draft: shutil.copyfile(judge, draft))
    write_sheet(pictures.pictures[rows], out / "pictures.webp")
    write_sheet(pictures.masks[rows], out / "masks.webp")
    write_notice("The judge was trained on, and the pictures are made from,", work, out)
    told = [
        {
            "concept": pictures.concepts[pictures.concept[row]],
            "style": pictures.styles[pictures.style[row]],
            "family": str(pictures.family[row]),
            "unseen": bool(pictures.split[row] == "style"),
        }
        for row in rows
    ]
    write_json(out / "pictures.json", {"rows": told})


def write_sheet(pictures: np.ndarray, path: Path) -> None:
    """Pictures uint8 [N, 64, 64] or [N, 64, 64, 3] side by side in one lossless WebP, in rows of their square root."""
    across = columns(len(pictures))
    blank = np.zeros((-len(pictures) % across, *pictures.shape[1:]), np.uint8)
    grid = np.concatenate([pictures, blank]).reshape(-1, across, *pictures.shape[1:]).swapaxes(1, 2)
    sheet = Image.fromarray(grid.reshape(-1, across * SIZE, *pictures.shape[3:])).convert("RGB")
    write_atomically(path, lambda draft: sheet.save(draft, "WEBP", lossless=True, quality=100, method=6))


def read_sheet(path: Path, count: int) -> np.ndarray:
    """The `count` pictures of `write_sheet`, uint8 [count, 64, 64, 3]. ValueError for a sheet of another size."""
    with Image.open(path, formats=["WEBP"]) as image:
        sheet = np.asarray(image.convert("RGB"))
    across = columns(count)
    grid = sheet.reshape(-(-count // across), SIZE, across, SIZE, 3).swapaxes(1, 2)
    return grid.reshape(-1, SIZE, SIZE, 3)[:count]


def columns(count: int) -> int:
    """How many pictures of a sheet of so many lie side by side."""
    return max(1, round(count**0.5))
