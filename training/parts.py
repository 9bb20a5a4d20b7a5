"""Loads the parts that a command's `model:` settings name, each when it is wanted."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import ChameleonForConditionalGeneration

from stylear import StyleAR
from stylear.checkpoint import (
    Place,
    find,
    find_tokenizer,
    holds,
    is_merged,
    load_image_encoder,
    load_segmenter,
    load_vqgan,
    trained_size,
)
from stylear.encoder import ImageEncoder
from stylear.errors import MissingPart
from stylear.pipeline import MINI, MINI_REMEDY
from stylear.segment import Segmenter
from stylear.vocabulary import Vocabulary
from stylear.vqgan import VQGAN

from .config import FrozenPaths
from .hf_model import load_base
from .inputs import files_of, files_sha256


@dataclass
class Parts:
    """The parts of a model by path, found as `StyleAR.load` finds them; errors as there.

    MissingPart, naming the setting, for a path that leads nowhere.
    """

    paths: FrozenPaths
    base_place: Place = field(init=False)

    def __post_init__(self):
        base = self.paths.base
        self.base_place = Place(MINI, MINI_REMEDY) if base == "mini" else Place(Path(base))

    def place(self, name: str) -> Place:
        """Where a part is looked for: adapter, vqgan, image_encoder or segmenter."""
        given = getattr(self.paths, name)
        self._check(name if given else "base")
        return Place(Path(given)) if given else self.base_place.folder

    def _check(self, name: str) -> None:
        given = getattr(self.paths, name)
        if given != "mini" and not Path(given).exists():
            first = "; `train` and `dpo` write one, in adapter/ of their folder" if name == "adapter" else ""
            raise MissingPart(f"model.{name} is {given} and nothing is there: correct the path{first}.")

    def base(self, dtype: torch.dtype = torch.float32) -> tuple[ChameleonForConditionalGeneration, Vocabulary]:
        """The frozen base as transformers' class, and the vocabulary."""
        return load_base(self.base_place, dtype, find("vqgan", self.place("vqgan")).path)

    def tokenizer(self) -> Path:
        """The file of the base's tokenizer."""
        beside = find("vqgan", self.place("vqgan")).path
        return find_tokenizer(find("base", self.base_place).path.parent, beside, self.base_place.remedy)

    def vqgan(self) -> VQGAN:
        return load_vqgan(self.place("vqgan"))

    def image_encoder(self) -> ImageEncoder:
        return load_image_encoder(self.place("image_encoder"))

    def has_segmenter(self) -> bool:
        """Whether one is given, or lies with the base."""
        return bool(self.paths.segmenter) or holds("segmenter", self.base_place.folder)

    def segmenter(self) -> Segmenter | None:
        return load_segmenter(self.place("segmenter")) if self.has_segmenter() else None

    def size(self) -> int | None:
        """Side in pixels that the base was trained at, where it says so."""
        return trained_size(self.base_place)

    def pipeline(self, adapter: str | Path | None = None, **options: object) -> StyleAR:
        """The whole model for drawing; `adapter` instead of the one the settings name."""
        places = {name: given for name, given in self.paths if given}
        for name in places:
            self._check(name)
        return StyleAR.load(**places | ({"adapter": adapter} if adapter else {}), **options)

    def inputs(self, *names: str) -> dict[str, str | None]:
        """For `hold_inputs`: each part by its setting's name, None for a segmenter that is not there."""
        return {f"model.{name}": self._sha256(name) for name in names}

    def _sha256(self, name: str) -> str | None:
        absent = name == "segmenter" and not self.has_segmenter()
        return None if absent else files_sha256(self._files(name))

    def files(self) -> list[Path]:
        """All files that the whole model is read from."""
        names = ("base", "adapter", "vqgan", "image_encoder", *(["segmenter"] if self.has_segmenter() else []))
        return sorted({file for name in names for file in self._files(name)})

    def _files(self, name: str) -> list[Path]:
        if name == "adapter":
            return adapter_files(self.place(name), is_merged(self.base_place))
        if name == "base":
            return [*files_of(find("base", self.base_place).file), self.tokenizer()]
        return files_of(find(name, self.place(name)).file)


def adapter_files(place: Place, merged: bool = False) -> list[Path]:
    """The files of LoRA and resampler; `merged`: of the resampler alone, as the base has the LoRA. Errors of `find`."""
    return [file for kind in ("lora", "resampler")[merged:] for file in files_of(find(kind, place).file)]
