"""Shares of pictures that the mini's judge recognises: the prompt's concept, the style, the reference's concept."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from stylear.images import open_image

from ..data.pictures import SIZE
from ..judge import BUNDLED, Judge, load_judge
from .cells import Cell


@dataclass
class Readings:
    """A judge and what it read, each picture file once."""

    name: str
    judge: Judge
    read: dict[Path, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, weights: str) -> "Readings":
        """`weights`: a judge.safetensors, or mini for the bundled one."""
        path = BUNDLED / "judge.safetensors" if weights == "mini" else Path(weights)
        judge = load_judge(path)
        told = f"classifier of {len(judge.concept_names)} concepts, {len(judge.style_names)} styles"
        return cls(f"{path.name}: {told}", judge)

    def of(self, paths: Sequence[Path]) -> list[tuple[str, str]]:
        """Concept and style of each picture file."""
        new = [path for path in dict.fromkeys(paths) if path not in self.read]
        if new:
            small = [open_image(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC) for path in new]
            seen = self.judge.look(np.stack([np.asarray(image) for image in small]))
            for path, c, s in zip(new, seen.concept, seen.style, strict=True):
                self.read[path] = self.judge.concept_names[c], self.judge.style_names[s]
        return [self.read[path] for path in paths]

    def concept_in(self, text: str | None) -> str | None:
        """The longest concept's name that is in a text, whole words."""
        there = [
            name for name in self.judge.concept_names if re.search(rf"\b{re.escape(name)}s?\b", (text or "").lower())
        ]
        return max(there, key=len, default=None)

    def style_of(self, cell: Cell) -> str | None:
        """The style whose name the reference's file has, numbers at its end left out."""
        name = re.sub(r"[^a-z0-9]+", "_", cell.reference.name.lower())
        return next((one for one in (name, re.sub(r"_?\d+$", "", name)) if one in self.judge.style_names), None)


@dataclass(frozen=True)
class Recognised:
    """1 where the judge's reading `part` (0 concept, 1 style) is `wanted` of the cell, 0 elsewhere."""

    readings: Readings
    name: str
    definition: str
    part: int
    wanted: Callable[[Cell], str | None]
    higher: bool = True
    per_style: bool = False

    @property
    def model(self) -> str:
        return self.readings.name

    def score(self, cells: Sequence[Cell]) -> np.ndarray:
        """0 or 1, float64 [n]; NaN where the judge has no name for what is wanted."""
        found = self.readings.of([cell.picture for cell in cells])
        wanted = [self.wanted(cell) for cell in cells]
        return np.array([np.nan if w is None else f[self.part] == w for f, w in zip(found, wanted, strict=True)], float)


def recognised(readings: Readings) -> list[Recognised]:
    """The judge's three figures."""

    def content(cell: Cell) -> str | None:
        return readings.concept_in(cell.content)

    def leaked(cell: Cell) -> str | None:
        shown = readings.concept_in(cell.reference.caption)
        return None if shown == content(cell) else shown

    told = "share of pictures in which the classifier's first guess is "
    return [
        Recognised(readings, "prompt recognised", told + "the prompt's concept", 0, content),
        Recognised(readings, "style recognised", told + "the reference's style", 1, readings.style_of),
        Recognised(readings, "content leaked", told + "the concept the reference shows", 0, leaked, higher=False),
    ]
