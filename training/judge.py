"""The judge: a small classifier of concept and style that measures pictures and takes no part in making them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .data.pictures import PictureSet
from .loop import Schedule, fit, training_device, write_atomically
from .pretrain.clip import moved
from .pretrain.vqgan import to_pixels


@dataclass(frozen=True)
class JudgeSettings:
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=3000, batch=64, learning_rate=3e-3, warmup=50, clip=5.0)
    )


def _stage(inner: int, outer: int) -> nn.Sequential:
    def conv(a: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(a, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]

    return nn.Sequential(*conv(inner, 2), *conv(outer, 1))


class Judge(nn.Module):
    """Concept from where things are, style from statistics of textures; pixels float [B, 3, 64, 64] in -1..1."""

    def __init__(self, concepts: int, styles: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU())
        self.middle = nn.Sequential(_stage(32, 64), _stage(64, 128))
        self.last = _stage(128, 192)
        self.concept = nn.Sequential(nn.Dropout(0.3), nn.Linear(192 * 16, concepts))
        self.style = nn.Linear(192 + 2 * 128, styles)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of concepts [B, C] and of styles [B, S]."""
        textures = self.middle(self.stem(pixels))
        shapes = self.last(textures)
        statistics = [shapes.mean((2, 3)), textures.mean((2, 3)), textures.std((2, 3))]
        return self.concept(shapes.flatten(1)), self.style(torch.cat(statistics, dim=1))

    @torch.inference_mode()
    def read(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Concept and style indices of pictures uint8 [B, 64, 64, 3]."""
        self.eval()
        device = self.style.weight.device
        parts = [self(to_pixels(part).to(device)) for part in np.array_split(pictures, -(-len(pictures) // 64))]
        return tuple(torch.cat(found).argmax(1).cpu().numpy() for found in zip(*parts, strict=True))


def train_judge(
    data: Path, out: Path, settings: JudgeSettings | None = None, device: torch.device | None = None
) -> None:
    """Train on real pictures of the train split and write `out`/judge.safetensors; resumes from `out`/state.pt."""
    settings, device = settings or JudgeSettings(), device or training_device()
    torch.manual_seed(settings.schedule.seed)
    pictures = PictureSet(data)
    train, test = pictures.where("train"), pictures.where("pair")[:1500]
    model = Judge(len(pictures.taught), len(pictures.styles)).to(device, memory_format=torch.channels_last)
    concept, style = (torch.from_numpy(labels).to(device) for labels in (pictures.concept, pictures.style))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = np.sort(train[torch.randint(len(train), (settings.schedule.batch,)).numpy()])
        with torch.autocast(device.type, torch.bfloat16):
            found = model(moved(to_pixels(pictures.pictures[chosen])).to(device))
        wanted = concept[chosen], style[chosen]
        losses = [F.cross_entropy(a.float(), b, label_smoothing=0.05) for a, b in zip(found, wanted, strict=True)]
        return sum(losses), {}

    def evaluate(step: int) -> dict[str, float]:
        found_concept, found_style = model.read(pictures.pictures[test])
        return {
            "concept": (found_concept == pictures.concept[test]).mean(),
            "style": (found_style == pictures.style[test]).mean(),
        }

    fit("judge", model, model.parameters(), loss_of, settings.schedule, out, evaluate)
    product = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(out / "judge.safetensors", lambda path: save_file(product, path))


def load_judge(path: Path, pictures: PictureSet) -> Judge:
    """The trained judge of a picture set: it knows the taught concepts alone."""
    model = Judge(len(pictures.taught), len(pictures.styles))
    model.load_state_dict(load_file(path))
    return model.eval()
