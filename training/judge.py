"""The judge: a small classifier of concept and style that measures pictures and takes no part in making them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from stylear.checkpoint import open_weights
from stylear.errors import BadCheckpoint, MissingPart

from .data.pictures import PictureSet
from .loop import Schedule, fit, training_device, write_atomically
from .metrics.vision import fill, read_weights
from .pretrain.clip import moved
from .pretrain.vqgan import to_pixels

BUNDLED = Path(__file__).parent / "eval"  # the judge and the pictures it reads, as `pretrain instruments` writes them
FAR = 1e4  # where a style without pictures is put; finite in half precision


@dataclass(frozen=True)
class JudgeSettings:
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=3000, batch=64, learning_rate=3e-3, warmup=50, clip=5.0)
    )


def _stage(inner: int, outer: int) -> nn.Sequential:
    def conv(a: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(a, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]

    return nn.Sequential(*conv(inner, 2), *conv(outer, 1))


@dataclass(frozen=True)
class Look:
    """What a judge sees in n pictures: log-probabilities of concepts [n, C] and of styles [n, S], and the style whose
    mean features are nearest, int64 [n]."""

    concepts: np.ndarray
    styles: np.ndarray
    nearest: np.ndarray

    def __getitem__(self, rows: np.ndarray | slice) -> "Look":
        return Look(self.concepts[rows], self.styles[rows], self.nearest[rows])

    @property
    def concept(self) -> np.ndarray:
        """The first guess, int64 [n]."""
        return self.concepts.argmax(1)

    @property
    def style(self) -> np.ndarray:
        """The first guess, int64 [n]; never a style without training pictures, which `nearest` can tell."""
        return self.styles.argmax(1)


class Judge(nn.Module):
    """Concept from where things are, style from statistics of textures; pixels float [B, 3, 64, 64] in -1..1.

    `means` [S, F]: each style's mean of those statistics, in units of their spread within a style, which is folded
    into `scale` [F]. Both are set by `know_styles`.
    """

    def __init__(self, concepts: Sequence[str], styles: Sequence[str]):
        super().__init__()
        self.concept_names, self.style_names = list(concepts), list(styles)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU())
        self.middle = nn.Sequential(_stage(32, 64), _stage(64, 128))
        self.last = _stage(128, 192)
        self.concept = nn.Sequential(nn.Dropout(0.3), nn.Linear(192 * 16, len(concepts)))
        self.style = nn.Linear(192 + 2 * 128, len(styles))
        self.register_buffer("means", torch.zeros(len(styles), self.style.in_features))
        self.register_buffer("scale", torch.ones(self.style.in_features))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of concepts [B, C] and of styles [B, S]."""
        shapes, statistics = self.features(pixels)
        return self.concept(shapes.flatten(1)), self.style(statistics)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What concepts are told by, [B, 192, 4, 4], and what styles are told by, [B, F]."""
        textures = self.middle(self.stem(pixels))
        shapes = self.last(textures)
        return shapes, torch.cat([shapes.mean((2, 3)), textures.mean((2, 3)), textures.std((2, 3))], dim=1)

    @torch.inference_mode()
    def look(self, pictures: np.ndarray) -> Look:
        """Look at pictures uint8 [n, 64, 64, 3], n at least 1."""
        self.eval()
        parts = []
        for part in np.array_split(pictures, -(-len(pictures) // 64)):
            shapes, statistics = self.features(self._pixels(part))
            logits = self.concept(shapes.flatten(1)), self.style(statistics)
            nearest = torch.cdist(statistics * self.scale, self.means).argmin(1)
            parts.append((*(one.log_softmax(1) for one in logits), nearest))
        return Look(*(torch.cat(found).cpu().numpy() for found in zip(*parts, strict=True)))

    @torch.inference_mode()
    def know_styles(self, pictures: np.ndarray, style: np.ndarray) -> None:
        """Set the mean features of styles from pictures uint8 [n, 64, 64, 3] and their styles int64 [n].

        A style without pictures is never the nearest.
        """
        self.eval()
        parts = np.array_split(np.arange(len(pictures)), -(-len(pictures) // 64))
        found = torch.cat([self.features(self._pixels(pictures[part]))[1] for part in parts])
        which = F.one_hot(torch.from_numpy(style), len(self.style_names)).to(found)
        count = which.sum(0)
        means = which.T @ found / count.clamp(min=1)[:, None]
        self.scale.copy_(1 / (found - which @ means).square().mean(0).sqrt().clamp(min=1e-3))
        self.means.copy_(torch.where(count[:, None] > 0, means * self.scale, FAR))

    def _pixels(self, pictures: np.ndarray) -> Tensor:
        return to_pixels(pictures).to(self.style.weight.device)


def train_judge(
    data: Path, out: Path, settings: JudgeSettings | None = None, device: torch.device | None = None
) -> None:
    """Train on real pictures of the train split and write `out`/judge.safetensors; resumes from `out`/state.pt."""
    settings, device = settings or JudgeSettings(), device or training_device()
    torch.manual_seed(settings.schedule.seed)
    pictures = PictureSet(data)
    train, test = pictures.where("train"), pictures.where("pair")[:1500]
    model = Judge(pictures.taught, pictures.styles).to(device, memory_format=torch.channels_last)
    concept, style = (torch.from_numpy(labels).to(device) for labels in (pictures.concept, pictures.style))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = np.sort(train[torch.randint(len(train), (settings.schedule.batch,)).numpy()])
        with torch.autocast(device.type, torch.bfloat16):
            found = model(moved(to_pixels(pictures.pictures[chosen])).to(device))
        wanted = concept[chosen], style[chosen]
        losses = [F.cross_entropy(a.float(), b, label_smoothing=0.05) for a, b in zip(found, wanted, strict=True)]
        return sum(losses), {}

    def evaluate(step: int) -> dict[str, float]:
        seen = model.look(pictures.pictures[test])
        return {
            "concept": (seen.concept == pictures.concept[test]).mean(),
            "style": (seen.style == pictures.style[test]).mean(),
        }

    fit("judge", model, model.parameters(), loss_of, settings.schedule, out, evaluate)
    known = rows_of_styles(pictures, np.setdiff1d(pictures.where("train", "style"), pictures.test_rows()))
    model.know_styles(pictures.pictures[known], pictures.style[known])
    save_judge(model, out / "judge.safetensors")


def rows_of_styles(pictures: PictureSet, among: np.ndarray, most: int = 64) -> np.ndarray:
    """At most `most` rows of each style among some, sorted, int64."""
    rng = np.random.default_rng(0)
    found = [rng.permutation(among[pictures.style[among] == style])[:most] for style in range(len(pictures.styles))]
    return np.sort(np.concatenate(found))


def save_judge(judge: Judge, path: Path) -> None:
    """Write the weights in half precision with the names of concepts and styles."""
    state = {name: (one.half() if one.is_floating_point() else one) for name, one in judge.state_dict().items()}
    names = json.dumps({"concepts": judge.concept_names, "styles": judge.style_names})
    kept = {name: one.contiguous() for name, one in state.items()}
    write_atomically(path, lambda draft: save_file(kept, draft, {"stylear": names}))


def load_judge(path: Path) -> Judge:
    """A judge as `save_judge` wrote it. MissingPart without the file, BadCheckpoint for another or a damaged one."""
    if not path.is_file():
        raise MissingPart(f"There is no judge {path}: make one with `python -m training pretrain judge`.")
    try:
        names = json.loads(open_weights(path).metadata["stylear"])
        judge = Judge(names["concepts"], names["styles"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path} is no judge: make one with `python -m training pretrain judge`.") from error
    return fill(judge, read_weights(path), path)
