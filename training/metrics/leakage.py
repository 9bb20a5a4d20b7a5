"""Leakage: how much of what the reference shows, which was not asked for, came along with its style."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cells import Cell, Seeing


@dataclass(frozen=True)
class Leakage(Seeing):
    """CLIP-T of the reference's caption on the picture, minus that of the other references' captions, which is chance.

    A caption that is the picture's own prompt counts neither as content nor as chance. Needs no vision-language model.
    """

    name: str = "leakage"
    definition: str = (
        "CLIP's cosine of the picture and its reference's caption, minus the mean over other references' captions; "
        "0 is none"
    )
    higher: bool = False
    per_style: bool = False

    def score(self, cells: Sequence[Cell]) -> np.ndarray:
        """Differences of cosines, float64 [n]; NaN without a caption, without another, or where it was the prompt."""
        captions = list(dict.fromkeys(_plain(c.reference.caption) for c in cells if c.reference.caption))
        found = np.full(len(cells), np.nan)
        if len(captions) < 2:
            return found
        vectors = self.eyes.pictures([cell.picture for cell in cells])
        cosines = vectors @ self.eyes.model.texts(captions).double().numpy().T
        for i, cell in enumerate(cells):
            own, asked = _plain(cell.reference.caption or ""), _plain(cell.content)
            others = [k for k, caption in enumerate(captions) if caption not in (own, asked)]
            if own in captions and own != asked and others:
                found[i] = cosines[i, captions.index(own)] - cosines[i, others].mean()
        return found


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
