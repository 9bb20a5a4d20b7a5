"""Settings of `train`: what is read and written, the model that trains, the samples, the optimizer."""

import math
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stylear.vocabulary import STYLE_TOKENS

from .config import FrozenPaths, Settings
from .styled import RANK, TARGETS
from .views import Views

Share = Annotated[float, Field(ge=0, lt=1)]


class ResamplerShape(Settings):
    """Shape of a new resampler; the defaults are the released one's."""

    tokens: int = Field(STYLE_TOKENS, ge=1, le=256, description="style tokens that it makes, M in the paper")
    width: int = Field(4096, ge=1, description="of its latents")
    depth: int = Field(4, ge=1, le=64, description="layers")
    heads: int = Field(12, ge=1, description="attention heads of 64")
    expansion: int = Field(4, ge=1, le=16, description="width of the feed-forward layers over that of the latents")


class StyleContrast(Settings):
    """A second look at some pictures of each step, with the style of another picture of it (0 pairs: none).

    Adds the mean of softplus(-sharpness (log p(picture | own style) - log p(picture | another's))), as the base's
    training does for prompts. In a picture's hundreds of nats its style is only a few, since what is drawn already
    shows it; so a small base that was never told a style otherwise takes very long to read the style tokens at all.
    Which picture is looked at with whose style is a function of the seed and the sample numbers (Samples.contrasted).
    """

    weight: float = Field(0.0, ge=0, description="beside the loss in nats a token; 0: none")
    pairs: int = Field(0, ge=0, description="pictures of each step that are looked at again")
    sharpness: float = Field(0.2, gt=0, description="per nat")

    @property
    def looks(self) -> int:
        """Pictures of each step that are looked at again, 0 if that weighs nothing."""
        return self.pairs if self.weight else 0


class Opening(Settings):
    """Steps at the beginning that show no more than the first tokens of each picture (0 steps: none).

    Where nothing is drawn yet only the style tokens tell the style; and short sequences pass quickly.
    """

    steps: int = Field(0, ge=0, description="how many")
    tokens: int = Field(64, ge=4, description="of a picture, its start and sizes and the ends of rows counted")


class TrainSettings(Settings):
    """Settings of `train`."""

    instead: ClassVar[dict[str, str]] = {
        "model.adapter": "the adapter to go on from is `init`.",
        "model.segmenter": "neither training nor its samples take an object out of a style: leave it out.",
    }

    mode: Literal["train", "plan", "benchmark"] = Field(
        "train", description="plan: print the memory it takes and stop; benchmark: time some steps and stop"
    )
    model: FrozenPaths = Field(FrozenPaths(), description="the frozen parts")
    data: Path = Field(Path("work/tokens"), description="folder that tokenize wrote")
    out: Path = Field(Path("work/adapter"), description="folder to write")
    init: Path | None = Field(None, description="adapter to go on from; its rank, targets and shape hold")
    init_share: Share = Field(
        0.0, description="share of init's weights in the adapter that is written, beside the trained ones'"
    )
    rank: int = Field(RANK, ge=1, le=1024, description="of a new LoRA; it is not scaled")
    targets: tuple[Literal[TARGETS], ...] = Field(TARGETS, min_length=1, description="modules that get a LoRA")
    resampler: ResamplerShape = Field(ResamplerShape(), description="shape of a new resampler")
    noise: float = Field(0.1, ge=0, le=1000, description="gamma: standard deviation of the noise on the style tokens")
    noise_relative: bool = Field(False, description="noise in units of the root mean square of each sample's tokens")
    style_drop: Share = Field(0.0, description="share of the style tokens that are zero, others in each sample")
    views: Views = Field(Views(), description="changes to the picture that the style comes from")
    contrast: StyleContrast = Field(StyleContrast(), description="against the style of another picture")
    misread: float = Field(
        0.0, ge=0, le=1, description="largest share of a sample's codes that are read as any code; its own is drawn"
    )
    opening: Opening = Field(Opening(), description="the first steps show no more of a picture than its first tokens")
    context_drop: float = Field(0.1, ge=0, le=1, description="share of samples without a prompt, for guidance")
    ratio: tuple[int, int] = Field((1, 3), description="stylised and raw pictures in every few samples")
    data_share: float = Field(1.0, gt=0, le=1, description="share of the pictures of each kind that is used at all")
    held_out: int = Field(0, ge=0, description="pictures kept from training to measure the loss on")
    steps: int = Field(1000, ge=1, description="optimizer steps")
    batch: int = Field(8, ge=1, description="pictures in a step, over all processes")
    micro_batch: int = Field(8, ge=1, description="pictures in a forward pass; more passes are added up")
    lora_rate: float = Field(2e-5, ge=0, description="learning rate of the LoRA")
    resampler_rate: float = Field(1e-4, ge=0, description="learning rate of the resampler")
    base_rate: float = Field(0.0, ge=0, description="learning rate of the base itself, then written too; 0: frozen")
    warmup: int = Field(0, ge=0, description="steps over which the rates rise")
    final_rate: float = Field(
        1.0, ge=0, le=1, description="share of the rates left at the end of the cosine; 1: constant"
    )
    betas: tuple[Share, Share] = Field((0.9, 0.95), description="AdamW's")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's")
    z_loss: float = Field(1e-5, ge=0, description="weight of log(Z)^2")
    clip: float = Field(4.0, gt=0, description="largest norm of the gradient")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the frozen base and of the arithmetic")
    gradient_checkpointing: bool = Field(False, description="layers computed twice instead of kept")
    loss_chunk: int = Field(512, ge=1, description="places of which logits are held at a time")
    compile: bool = Field(False, description="torch.compile; sequences are padded so that shapes repeat")
    seed: int = Field(0, ge=0, lt=2**63, description="decides every draw")
    workers: int = Field(0, ge=0, le=64, description="processes that read ahead, for each training process")
    save_every: int = Field(100, ge=1, description="steps between saved states: what a stop loses at most")
    sample_every: int = Field(0, ge=0, description="steps between evaluations and one at the end; 0: none")
    prompts: tuple[str, ...] = Field((), description="what the samples show; none: captions of the references")
    references: tuple[Path, ...] = Field((), description="pictures that the samples are in the style of; none: of data")
    benchmark_steps: int = Field(20, ge=1, description="steps that mode=benchmark times")

    def rate(self, step: int) -> float:
        """Share of the learning rates at a step, counted from 0: linear rise, then cosine to `final_rate`."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return min(1.0, (step + 1) / max(1, self.warmup)) * (self.final_rate + (1 - self.final_rate) * cosine)
