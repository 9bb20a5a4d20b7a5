"""Which pictures the mini is measured by, each from a reference of another concept in the same style."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from stylear import StyleAR
from stylear.images import open_image

from ..data.captions import article
from ..data.pictures import SIZE, depth_of
from ..drawing import record, save
from ..instruments import Instruments


@dataclass(frozen=True)
class Case:
    """One picture to draw: what the test picture `target` shows, in the style of the test picture `reference`.

    `number` is its seed. `kind`: pair (held out), unseen (a style never trained), or depth, which is a pair with the
    silhouette of `target` as its condition.
    """

    kind: str
    number: int
    reference: int
    target: int

    @property
    def file(self) -> str:
        return f"pictures/{self.kind}-{self.number:03d}.png"


def plan(tests: Instruments, pairs: int, unseen: int, depth: int) -> tuple[list[Case], list[Case], list[Case]]:
    """The first so many of each kind, in the order of the test pictures, so that few already show most styles.

    A depth case is the pair case of its place drawn again.
    """
    held = [Case("pair", *one) for one in asked(tests, ~tests.unseen, (1,))][:pairs]
    fresh = [Case("unseen", *one) for one in asked(tests, tests.unseen, (1, 2))][:unseen]
    return held, fresh, [replace(case, kind="depth") for case in held[:depth]]


def asked(tests: Instruments, among: np.ndarray, steps: Sequence[int]) -> Iterable[tuple[int, int, int]]:
    """Number, reference and target: each of some pictures is asked for from the one `step` further on in its style."""
    rows, number = np.flatnonzero(among), 0
    for step in steps:
        for target in rows:
            own = rows[tests.style[rows] == tests.style[target]]
            reference = own[(np.flatnonzero(own == target)[0] + step) % len(own)]
            if tests.concept[reference] != tests.concept[target]:
                yield number, int(reference), int(target)
                number += 1


def prompt_of(tests: Instruments, case: Case) -> str:
    """What is asked for, in words."""
    noun = tests.judge.concept_names[tests.concept[case.target]]
    return f"{article(noun)} {noun}"


def draw(
    model: StyleAR,
    tests: Instruments,
    cases: Sequence[Case],
    out: Path,
    *,
    noise: float,
    quiet: bool = False,
    **sampling: float,
) -> None:
    """Draw the cases' pictures that are not in `out` yet, and keep them there."""
    for case in tqdm(cases, desc="pictures", unit="pic", mininterval=5, disable=quiet or not cases):
        if record(out / case.file) is None:
            style = model.encode_style(tests.pictures[case.reference]).with_noise(noise, case.number)
            depth = depth_of(tests.masks[case.target] / 255) if case.kind == "depth" else None
            condition = None if depth is None else model.encode_condition(depth)
            prompt = prompt_of(tests, case)
            (picture,) = model.generate(prompt, style, condition, seed=case.number, **sampling)
            told = {"prompt": prompt, "style": tests.judge.style_names[tests.style[case.target]], "seed": case.number}
            save(picture, told, out / case.file)


def read(cases: Sequence[Case], out: Path) -> np.ndarray:
    """What was drawn, at the size that the judge reads: uint8 [n, 64, 64, 3]."""
    pictures = (open_image(out / case.file).convert("RGB") for case in cases)
    side = SIZE, SIZE
    return np.stack([np.asarray(p if p.size == side else p.resize(side, Image.Resampling.BICUBIC)) for p in pictures])
