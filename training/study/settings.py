"""Settings of `study`, and where in its folder everything is."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from ..config import ModelPaths, Settings
from .questions import SHIPPED, VARIANTS, Cell, Variant

Letter = Literal["a", "b", "c", "d", "e", "f", "g", "h", "i"]


class StudySettings(Settings):
    """Which questions, how long each variant trains and how many pictures each cell has."""

    work: Path = Field(Path("mini-work"), description="folder of `pretrain`, with the mini's parts and pictures")
    out: Path = Field(Path("work/study"), description="folder to write: variants/, cells/")
    report: Path = Field(Path("docs/study.md"), description="the page; its plots and pictures go beside it")
    remarks: Path = Field(Path("docs/study_remarks.md"), description="a person's remarks, taken into the page")
    questions: tuple[Letter, ...] = Field(tuple("abcdefghi"), min_length=1, description="which are answered")
    plan: bool = Field(False, description="only say what there is to do, and how long it takes")
    recipe: Path | None = Field(None, description="settings of `train` that variants change; null: mini.yaml")
    preferences: Path | None = Field(None, description="settings of `dpo` that variants change; null: dpo.yaml")
    steps: int = Field(600, ge=1, description="of each training")
    batch: int = Field(16, ge=1, description="pictures in a step")
    seed: int = Field(0, ge=0, lt=2**31, description="of every training")
    cases: int = Field(96, ge=1, description="styles with prompts that preference pairs are drawn of, four each")
    preference_steps: int = Field(48, ge=1, description="of each preference training")
    pictures: int = Field(160, ge=4, description="of each cell, at most")
    few: int = Field(48, ge=4, description="of each cell of the grid over alpha, beta and gamma")
    first_seed: int = Field(0, ge=0, lt=2**31, description="of the pictures; the others' follow it")
    workers: int = Field(2, ge=1, le=64, description="processes, of one thread each; 1: this one alone")
    compile: bool | None = Field(None, description="torch.compile in training; null: where there is a compiler")
    draws: int = Field(4000, ge=100, le=100_000, description="bootstrap samples behind intervals and verdicts")

    def folder(self, one: Variant | Cell) -> Path:
        """Where a variant or a cell is."""
        return self.out / ("cells" if isinstance(one, Cell) else "variants") / one.name

    def parts(self, variant: Variant) -> ModelPaths:
        """The model that a variant draws with."""
        w = self.work
        first = VARIANTS[variant.of] if variant.of else variant
        places = {
            "base": self.folder(first) / "run" / "base" if first.joint else w / "base",
            "adapter": (w / "adapter" if variant.name == SHIPPED else self.folder(variant) / "run") / "adapter",
            "vqgan": w / "vqgan",
            "image_encoder": w / "clip",
            "segmenter": w / "sam",
        }
        return ModelPaths(**{name: str(place) for name, place in places.items()})
