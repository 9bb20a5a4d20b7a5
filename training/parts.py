"""Loads the parts that a command's `model:` settings name, each when it is wanted."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import ChameleonForConditionalGeneration

from stylear import StyleAR
from stylear.checkpoint import Place, find, load_image_encoder, load_vqgan, trained_size
from stylear.encoder import ImageEncoder
from stylear.pipeline import MINI, MINI_REMEDY
from stylear.vocabulary import Vocabulary
from stylear.vqgan import VQGAN

from .config import ModelPaths
from .hf_model import load_base


@dataclass
class Parts:
    """The parts of a model by path, found as `StyleAR.load` finds them; errors as there."""

    paths: ModelPaths
    base_place: Place = field(init=False)

    def __post_init__(self):
        base = self.paths.base
        self.base_place = Place(MINI, MINI_REMEDY) if base == "mini" else Place(Path(base))

    def place(self, name: str) -> Place:
        """Where a part is looked for: adapter, vqgan, image_encoder or segmenter."""
        given = getattr(self.paths, name)
        return Place(Path(given)) if given else self.base_place.folder

    def base(self, dtype: torch.dtype = torch.float32) -> tuple[ChameleonForConditionalGeneration, Vocabulary]:
        """The frozen base as transformers' class, and the vocabulary."""
        return load_base(self.base_place, dtype, find("vqgan", self.place("vqgan")).path)

    def vqgan(self) -> VQGAN:
        return load_vqgan(self.place("vqgan"))

    def image_encoder(self) -> ImageEncoder:
        return load_image_encoder(self.place("image_encoder"))

    def size(self) -> int | None:
        """Side in pixels that the base was trained at, where it says so."""
        return trained_size(self.base_place)

    def pipeline(self, adapter: str | Path | None = None, **options: object) -> StyleAR:
        """The whole model for drawing; `adapter` instead of the one the settings name."""
        p = self.paths
        return StyleAR.load(p.base, adapter or p.adapter, p.vqgan, p.image_encoder, p.segmenter, **options)
