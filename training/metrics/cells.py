"""What is measured: a picture drawn for a prompt in the style of a reference; and how a metric is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from stylear.images import open_image

from ..processes import processes
from .vision import BATCH


@dataclass(frozen=True)
class Reference:
    """A style picture. `caption`: what it shows, without its style, or None if nobody said."""

    name: str
    picture: Path
    caption: str | None = None


@dataclass(frozen=True)
class Cell:
    """One drawn picture. `content`: the prompt without style words, which is what a picture's text score is of."""

    reference: Reference
    prompt: str
    content: str
    seed: int
    picture: Path


class Metric(Protocol):
    """A number for every picture.

    `name`; `model`, whose it is; `definition`, in a sentence; `higher`: whether more is better; `per_style`: whether
    a style's pictures are measured as one set, so that styles, not pictures, are the sample.
    """

    name: str
    model: str
    definition: str
    higher: bool
    per_style: bool

    def score(self, cells: Sequence[Cell]) -> np.ndarray:
        """Float64 [n], one for each cell; NaN where the metric is not defined."""


class Views(Protocol):
    """A model that turns pictures into unit vectors."""

    name: str

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Float [n, d], rows of length 1."""


@dataclass
class Eyes:
    """One model looking at picture files, at each once; several processes share the work, so all have to ask alike."""

    model: Views
    seen: dict[Path, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.model.name

    def pictures(self, paths: Sequence[Path]) -> np.ndarray:
        """Unit vectors float64 [n, d] of picture files. BadInput for a file that is no picture."""
        state = processes()
        new = [path for path in dict.fromkeys(paths) if path not in self.seen]
        own = new[state.process_index :: state.num_processes]
        found = []
        starts = range(0, len(own), BATCH)
        quiet = not own or not state.is_main_process
        for start in tqdm(starts, desc=f"seen by {self.name.split(':')[0]}", unit="batch", disable=quiet):
            part = own[start : start + BATCH]
            vectors = self.model.images([open_image(path) for path in part]).double().numpy()
            found += zip(part, vectors, strict=True)
        self.seen.update(gather_object(found) if new else [])
        return np.stack([self.seen[path] for path in paths])


@dataclass(frozen=True)
class Seeing:
    """A metric's model, where it is whose eyes it has."""

    eyes: Eyes

    @property
    def model(self) -> str:
        return self.eyes.name
