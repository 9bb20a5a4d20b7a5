"""Which metrics an evaluation has: those whose models are given, and why each other one is left out."""

import torch
from pydantic import Field

from ..config import Settings
from .agreement import WithinSet, WithReference, WithText
from .cells import Eyes, Metric
from .clip import ClipScore
from .csd import CsdScore
from .dino import DinoScore
from .leakage import Leakage
from .recognised import Readings, recognised


class MetricModels(Settings):
    """The model of each metric, local files all; null leaves its metrics out."""

    clip: str | None = Field(None, description="CLIP for CLIP-T, CLIP-I, leakage: mini, Hugging Face or open_clip")
    dino_reference: str | None = Field(None, description="DINO ViT-S/16 for the cosine with the reference")
    dino_set: str | None = Field(None, description="DINO ViT-B/8 for the mean cosine within the pictures of a style")
    csd: str | None = Field(None, description="CSD ViT-L/14 checkpoint for the style score")
    judge: str | None = Field(None, description="judge.safetensors for recognised prompts and styles, or mini for ours")


def measures(settings: MetricModels, device: str | torch.device) -> tuple[list[Metric], dict[str, str]]:
    """The metrics whose models are given, loaded, and for each other one why it is left out."""
    found: list[Metric] = []
    left_out: dict[str, str] = {}
    if settings.clip:
        clip = Eyes(ClipScore.load(settings.clip, device))
        found += [WithText(clip), WithReference(clip, "CLIP-I", _cosine("CLIP") + "; rewards copied content too")]
    else:
        left_out |= dict.fromkeys(("CLIP-T", "CLIP-I", "leakage"), "no metrics.clip was given")
    if settings.dino_reference:
        dino = Eyes(DinoScore.load(settings.dino_reference, device))
        found.append(WithReference(dino, "DINO (reference)", _cosine("DINO") + ", as DreamBooth's score"))
    else:
        left_out["DINO (reference)"] = "no metrics.dino_reference was given"
    if settings.dino_set:
        found.append(WithinSet(Eyes(DinoScore.load(settings.dino_set, device))))
    else:
        left_out["DINO (set)"] = "no metrics.dino_set was given"
    if settings.csd:
        csd = Eyes(CsdScore.load(settings.csd, device))
        found.append(WithReference(csd, "CSD", _cosine("CSD's style head")))
    else:
        left_out["CSD"] = "no metrics.csd was given"
    if settings.clip:
        found.append(Leakage(clip))
    if settings.judge:
        found += recognised(Readings.load(settings.judge))
    return found, left_out


def _cosine(whose: str) -> str:
    return f"cosine of {whose} vectors of the picture and of its reference"
