"""Measures a model on held-out pairs of concept and style: prompt followed, style followed, content leaked."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stylear.pipeline import StyleAR

from .data.captions import article
from .data.pictures import PictureSet
from .judge import load_judge
from .sheets import save_grid


@dataclass(frozen=True)
class Figures:
    """Shares of the pictures, 0 to 1, as the judge reads them (top-1 of all concepts or of all styles).

    `leak`: the picture is recognised as the reference's concept. The ceilings are the same readings of real held-out
    pictures after a round trip through the VQGAN.
    """

    prompt: float
    style: float
    leak: float
    prompt_ceiling: float
    style_ceiling: float
    pictures: int


def to_uint8(pictures: Tensor) -> np.ndarray:
    """Float [B, H, W, 3] in 0..1 as uint8."""
    return (pictures * 255).round().byte().numpy()


def check(
    model: StyleAR, data: Path, judge: Path, sheet: Path, *, pairs: int = 200, gamma: float = 0.1, **sampling
) -> Figures:
    """Draw `pairs` held-out (concept, style) pictures, each from a reference of another concept, and read them.

    Writes a sheet of the first 64: references in odd rows, what was drawn in even ones.
    """
    pictures = PictureSet(data)
    reader = load_judge(judge, pictures)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(pictures.where("pair"))[:pairs]
    train = pictures.where("train")
    references, drawn = [], []
    for k, index in enumerate(tqdm(chosen, desc="pictures", unit="pic", mininterval=10)):
        same = train[
            (pictures.style[train] == pictures.style[index]) & (pictures.concept[train] != pictures.concept[index])
        ]
        references.append(rng.choice(same))
        style = model.encode_style(pictures.pictures[references[-1]]).with_noise(gamma, k)
        noun = pictures.concepts[pictures.concept[index]]
        drawn.append(to_uint8(model.generate(f"{article(noun)} {noun}", style, seed=k, **sampling))[0])
    drawn, references = np.stack(drawn), np.array(references)
    real = torch.from_numpy(pictures.pictures[np.sort(chosen)]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        again = torch.cat([model.vqgan.decode(model.vqgan.encode(part)) for part in real.split(32)])
    real_concept, real_style = reader.read(to_uint8(((again.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1)))
    concept, style = reader.read(drawn)
    shown = range(min(64, len(chosen)))
    rows = [
        [x for i in range(c, len(shown), 16) for x in (pictures.pictures[references[i]], drawn[i])] for c in range(16)
    ]
    save_grid([row for row in rows if len(row) == len(rows[0])], sheet)
    wanted = np.sort(chosen)
    return Figures(
        prompt=float((concept == pictures.concept[chosen]).mean()),
        style=float((style == pictures.style[chosen]).mean()),
        leak=float((concept == pictures.concept[references]).mean()),
        prompt_ceiling=float((real_concept == pictures.concept[wanted]).mean()),
        style_ceiling=float((real_style == pictures.style[wanted]).mean()),
        pictures=len(chosen),
    )


def report(figures: Figures) -> str:
    """The figures as lines of a table."""
    return "\n".join(f"| {name.replace('_', ' ')} | {value:.3g} |" for name, value in asdict(figures).items())
