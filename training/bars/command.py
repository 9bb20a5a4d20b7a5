"""`evaluate --model mini`: draws held-out pictures and prints one table of figures against their bars."""

from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from stylear import StyleAR
from stylear.checks import MAX_SETTING
from stylear.drawing import MAX_TOP_K, MIN_TEMPERATURE
from stylear.errors import BadInput

from ..config import ModelPaths, Settings
from ..drawing import record
from ..inputs import files_sha256, hold_inputs
from ..instruments import FILES, Instruments
from ..judge import BUNDLED
from ..metrics.clip import ClipScore
from ..output import output_folder
from ..parts import Parts
from ..processes import pool
from .cases import Case, draw, plan, prompt_of, read
from .measure import (
    Drawn,
    Seen,
    of_clip,
    of_depth,
    of_pairs,
    of_sam,
    of_unseen,
    of_vqgan,
    point_in,
    reconstruct,
    silhouette_iou,
    timed,
)
from .report import write_report
from .scores import Score, table

AFTERWARDS = (
    "instruments",
    "workers",
    "pairs",
    "unseen",
    "depth",
    "quick",
    "clip",
    "draws",
)  # pictures stay what they are when these change


class BarsSettings(Settings):
    """How many pictures are drawn, how, and what measures them."""

    model: ModelPaths = ModelPaths()
    instruments: Path | None = Field(None, description="folder of `pretrain instruments`; null: the bundled one")
    clip: str = Field("mini", description="CLIP for CLIP-T and CLIP-I: mini, or a folder")
    out: Path = Field(description="folder for pictures, figures.json, figures.md, index.html and cases.png")
    pairs: int = Field(216, ge=4, description="pictures of held-out pairs of concept and style, at most")
    unseen: int = Field(128, ge=4, description="pictures in styles never trained, at most")
    depth: int = Field(108, ge=4, description="how many of the pairs are drawn again with a depth map, at most")
    quick: bool = Field(False, description="a quarter of all these")
    noise: float = Field(0.1, ge=0, le=MAX_SETTING, description="gamma on the style tokens")
    cfg: float = Field(4.0, ge=0, le=MAX_SETTING, description="guidance; 1 is none")
    top_k: int = Field(2000, ge=1, le=MAX_TOP_K, description="how many of the likeliest codes may be drawn")
    temperature: float = Field(1.0, ge=MIN_TEMPERATURE, le=MAX_SETTING, description="of the codes' probabilities")
    workers: int = Field(2, ge=1, le=64, description="processes that draw, of one thread each; 1: this one alone")
    device: str = Field("cpu", description="cpu, cuda or mps")
    draws: int = Field(2000, ge=100, le=100_000, description="bootstrap samples behind the intervals of means")


def run(settings: BarsSettings) -> str:
    """Draw what is missing, measure and write the report; returns the table.

    Raises MissingPart without instruments or a segmenter, BadInput for inputs other than those that
    the folder was begun with.
    """
    place = _place(settings)
    tests, parts = Instruments.load(place), Parts(settings.model)
    clip = ClipScore.load(settings.clip, settings.device)
    part = 4 if settings.quick else 1
    cases = plan(tests, settings.pairs // part, settings.unseen // part, settings.depth // part)
    if not cases[0]:
        raise BadInput(f"No style of the pictures in {place} has two of them: make them of a larger picture set.")
    model = parts.pipeline(device=settings.device)
    model.need_segmenter()
    with output_folder(settings.out, settings, AFTERWARDS) as out:
        held = parts.inputs("base", "adapter", "vqgan", "image_encoder", "segmenter")
        hold_inputs(out, {**held, "instruments": files_sha256(place / name for name in FILES)})
        again, quality = reconstruct(model, tests.pictures)
        real, again = (Seen(pictures, tests.judge.look(pictures)) for pictures in (tests.pictures, again))
        _draw(model, tests, [case for some in cases for case in some], settings)
        pairs, unseen, depth = (Drawn.of(tests, some, read(some, out), real, again) if some else None for some in cases)
        scores = [
            *of_pairs(pairs, settings.draws),
            *(of_unseen(unseen) if unseen else []),
            *_depth(model, tests, depth, pairs, settings.draws),
            *of_vqgan(tests, quality, settings.draws),
            *of_sam(model, tests, np.arange(len(tests.pictures))[::part], settings.draws),
            *of_clip(pairs, tests, clip, settings.draws),
            *_costs(model, parts, tests, cases[0], place, settings),
        ]
        shown = {"pairs": pairs, "unseen": unseen, "depth": depth}
        write_report(out, scores, tests, {name: one for name, one in shown.items() if one}, model.info(), settings)
    missed = [score.name for score in scores if score.passed is False]
    told = f"Missed: {', '.join(missed)}." if missed else "No bar is missed."
    return f"{table(scores)}\n\n{told} Wrote {settings.out / 'index.html'}, cases.png, figures.json and figures.md."


def _draw(model: StyleAR, tests: Instruments, cases: list[Case], settings: BarsSettings) -> None:
    """Draw what is missing, in several processes of one thread each where that was asked for."""
    missing = [case for case in cases if record(settings.out / case.file) is None]
    workers = min(settings.workers, len(missing))
    if workers < 2:
        draw(model, tests, missing, settings.out, noise=settings.noise, **_sampling(settings))
        return
    with pool(workers) as processes:
        shares = [missing[k::workers] for k in range(workers)]
        list(processes.map(_draw_share, [settings] * workers, shares, [k > 0 for k in range(workers)]))


def _draw_share(settings: BarsSettings, cases: list[Case], quiet: bool) -> None:
    """A process's part of `_draw`; only the first shows how far it is."""
    torch.set_num_threads(1)
    model, tests = Parts(settings.model).pipeline(device=settings.device), Instruments.load(_place(settings))
    draw(model, tests, cases, settings.out, noise=settings.noise, quiet=quiet, **_sampling(settings))


def _place(settings: BarsSettings) -> Path:
    return settings.instruments or BUNDLED


def _depth(model: StyleAR, tests: Instruments, depth: Drawn, pairs: Drawn, draws: int) -> list[Score]:
    """The depth cases against the first of the pairs, which they are drawn again from."""
    plain, iou = pairs.first(len(depth.cases)), []
    for pictures in (depth.seen, plain.seen, depth.real, depth.again):
        found = []
        for picture, case in zip(pictures.pictures, depth.cases, strict=True):
            mask = tests.masks[case.target]
            found.append(silhouette_iou(model, picture, mask, point_in(mask, case.target)))
        iou.append(np.array(found))
    return of_depth(depth, plain, iou, draws)


def _costs(
    model: StyleAR, parts: Parts, tests: Instruments, cases: list[Case], place: Path, settings: BarsSettings
) -> list[Score]:
    """Bytes and seconds."""
    size = sum(file.stat().st_size for file in {*parts.files(), place / FILES[0]}) / 1e6
    style = model.encode_style(tests.pictures[cases[0].reference]).with_noise(settings.noise, 0)

    def picture(k: int) -> None:
        model.generate(prompt_of(tests, cases[k % len(cases)]), style, seed=k, **_sampling(settings))

    picture(0)  # the window is chosen and memory taken at the first
    place = f"on {settings.device}"
    return [
        Score("all weights", size, None, None, "MB", "1", "all files of the model, and the judge", 60.0, False),
        timed("loading", lambda _: parts.pipeline(device=settings.device), 3, 3.0, f"StyleAR.load {place}"),
        timed("a picture", picture, 4 if settings.quick else 8, 2.0, f"one alone {place}, style encoded before"),
    ]


def _sampling(settings: BarsSettings) -> dict[str, float]:
    return {name: getattr(settings, name) for name in ("cfg", "top_k", "temperature")}
