"""Cosines: of a picture with its prompt, with its reference, and with the other pictures of its style."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cells import Cell, Seeing


@dataclass(frozen=True)
class WithText(Seeing):
    """CLIP-T: how well a picture shows what its prompt says."""

    name: str = "CLIP-T"
    definition: str = "cosine of CLIP's vectors of the picture and of its prompt without style words"
    higher: bool = True
    per_style: bool = False

    def score(self, cells: Sequence[Cell]) -> np.ndarray:
        """Cosines, float64 [n]."""
        texts = list(dict.fromkeys(cell.content for cell in cells))
        rows = [texts.index(cell.content) for cell in cells]
        vectors = self.eyes.model.texts(texts).double().numpy()[rows]
        return (self.eyes.pictures([cell.picture for cell in cells]) * vectors).sum(1)


@dataclass(frozen=True)
class WithReference(Seeing):
    """CLIP-I, DINO or CSD, by whose eyes it is: how like its reference a picture is."""

    name: str
    definition: str
    higher: bool = True
    per_style: bool = False

    def score(self, cells: Sequence[Cell]) -> np.ndarray:
        """Cosines, float64 [n]."""
        wanted = self.eyes.pictures([cell.reference.picture for cell in cells])
        return (self.eyes.pictures([cell.picture for cell in cells]) * wanted).sum(1)


@dataclass(frozen=True)
class WithinSet(Seeing):
    """DINO as StyleAligned uses it: how alike the pictures of one style are, whatever they show."""

    name: str = "DINO (set)"
    definition: str = (
        "mean cosine of DINO's vectors of two pictures of one style and different prompts, as StyleAligned's set "
        "consistency"
    )
    higher: bool = True
    per_style: bool = True

    def score(self, cells: Sequence[Cell]) -> np.ndarray:
        """Of each picture the mean cosine with its style's pictures of other prompts, float64 [n]; NaN without any."""
        vectors = self.eyes.pictures([cell.picture for cell in cells])
        found = np.full(len(cells), np.nan)
        for i, cell in enumerate(cells):
            others = [
                k for k, other in enumerate(cells) if other.reference == cell.reference and other.prompt != cell.prompt
            ]
            if others:
                found[i] = (vectors[others] @ vectors[i]).mean()
        return found
