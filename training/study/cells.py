"""Draws the pictures of a cell, one by one, has the judge read them, and writes what it read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from stylear import StyleAR
from stylear.errors import BadInput
from stylear.style import StyleTokens

from ..bars.cases import Case, asked, prompt_of, read
from ..bars.measure import reconstruct
from ..data.pictures import SIZE, PictureSet
from ..data.renderers import STYLES, render
from ..data.renderers.toolkit import Drawing, noise
from ..drawing import record, save
from ..inputs import add_inputs, changed_inputs, files_sha256
from ..instruments import Instruments
from ..judge import load_judge
from ..output import provenance, read_json, write_json
from ..parts import Parts
from ..stages import STAGES
from .questions import SHIPPED, VARIANTS, Cell, How
from .settings import StudySettings
from .variants import refusal

INPUTS, RESULT = "inputs.json", "result.json"
ERODED, SHIFTED = 4, SIZE // 4  # pixels
CEILINGS = "ceilings.json"
EACH = {"pair": 3, "unseen": 16, "family": 3}  # test pictures of each style


@dataclass(frozen=True)
class Subjects:
    """The instruments with pictures of held-out families too, and the cases of each kind."""

    instruments: Instruments
    cases: dict[str, list[Case]]

    @classmethod
    def of(cls, settings: StudySettings) -> "Subjects":
        """From the work folder's pictures and judge; BadInput where the judge is of other pictures."""
        pictures, judge = PictureSet(settings.work / "pictures"), load_judge(_judge(settings))
        if (judge.concept_names, judge.style_names) != (pictures.taught, pictures.styles):
            raise BadInput(f"{_judge(settings)} is of other pictures than {settings.work / 'pictures'}: train it anew.")
        rows = pictures.test_rows(*EACH.values())
        unseen = pictures.split[rows] == "style"
        held = pictures.pictures[rows], pictures.masks[rows], pictures.concept[rows], pictures.style[rows]
        instruments = Instruments(judge, *held, unseen)
        family = pictures.split[rows] == "family"
        among = {"pair": ~unseen & ~family, "unseen": unseen, "family": family}
        cases = {
            kind: [Case(kind, *one) for one in asked(instruments, chosen, (1,))][: settings.pictures]
            for kind, chosen in among.items()
        }
        return cls(instruments, cases)

    def of_cell(self, how: How, few: int) -> list[Case]:
        """The cases that a cell draws."""
        cases = self.cases[how.cases]
        return cases[:few] if how.few else cases


def _judge(settings: StudySettings) -> Path:
    return settings.work / "judge" / "judge.safetensors"


def inputs_of(settings: StudySettings, cell: Cell) -> dict[str, Any]:
    """What a cell's pictures and figures depend on, as JSON values; MissingPart before its variant is made."""
    s, drawn_with = settings, ["base", "adapter", "vqgan", "image_encoder"]
    if cell.how.mask == "sam":
        drawn_with.append("segmenter")
    return {
        **Parts(s.parts(VARIANTS[cell.variant])).inputs(*drawn_with),
        "judge": files_sha256([_judge(s)]),
        "pictures": files_sha256([s.work / "pictures" / "pictures.json"]),
        "each": EACH[cell.how.cases],
        "how": asdict(cell.how),
        "first_seed": s.first_seed,
        "count": s.few if cell.how.few else s.pictures,
    }


def state_of(settings: StudySettings, cell: Cell) -> str:
    """done, begun or to do; else what its folder is of that is not so now."""
    folder = settings.folder(cell)
    if not (folder / INPUTS).exists():
        return "to do"
    if changed := changed_inputs(folder / INPUTS, inputs_of(settings, cell)):
        return f"of another {', '.join(changed)}"
    return "done" if (folder / RESULT).exists() else "begun"


def draw_cells(settings: StudySettings, cells: Sequence[Cell], quiet: bool = False) -> None:
    """Draw and measure cells that are not done, those of one variant behind each other; only one process shows how
    far it is."""
    torch.set_num_threads(1)
    subjects, loaded = Subjects.of(settings), ("", None)
    for cell in tqdm(cells, desc="cells", unit="cell", disable=quiet):
        folder, state = settings.folder(cell), state_of(settings, cell)
        if state == "done":
            continue
        if state.startswith("of another"):
            raise BadInput(refusal(folder, state))
        if loaded[0] != cell.variant:
            loaded = cell.variant, Parts(settings.parts(VARIANTS[cell.variant])).pipeline(device="cpu")
        folder.mkdir(parents=True, exist_ok=True)
        add_inputs(folder / INPUTS, inputs_of(settings, cell))
        cases, tests = subjects.of_cell(cell.how, settings.few), subjects.instruments
        subtracted = _draw(loaded[1], tests, cases, cell.how, folder, settings.first_seed)
        told = {"cell": cell.name, "subtracted": subtracted}
        write_json(folder / RESULT, told | reading(tests, cases, cell.how, read(cases, folder)))


def _draw(model: StyleAR, tests: Instruments, cases: Sequence[Case], how: How, folder: Path, first_seed: int) -> int:
    """Draw the pictures that are not in `folder` yet; returns of how many styles something was subtracted."""
    subtracted = 0
    for place, case in enumerate(cases):
        drawn = record(folder / case.file) is not None
        if drawn and how.mask == "none":
            continue
        style, less = style_of(model, tests, cases, place, how)
        subtracted += less
        if not drawn:
            prompt, seed = prompt_of(tests, case), first_seed + case.number
            (picture,) = model.generate(prompt, style, seed=seed, cfg=how.cfg, style_cfg=how.style_cfg)
            told = {"prompt": prompt, "style": tests.judge.style_names[tests.style[case.target]], "seed": seed}
            save(picture, told, folder / case.file)

    return subtracted


def style_of(
    model: StyleAR, tests: Instruments, cases: Sequence[Case], place: int, how: How
) -> tuple[StyleTokens, bool]:
    """The style tokens that a case is drawn with, and whether something was subtracted from them."""
    case, subtracted = cases[place], False
    style = model.encode_style(reference_of(tests, case, how))
    if how.mask != "none":
        given = {}
        if how.mask == "whole":
            given["content"] = style.picture
        elif how.mask != "sam":
            other = cases[(place + 1) % len(cases)].reference
            given["mask"] = mask_of(how.mask, tests.masks[case.reference], tests.masks[other])
        try:
            style, subtracted = model.subtract(style, **given, alpha=how.alpha, beta=how.beta), True
        except BadInput:  # SAM found nothing, or the mask is empty: there is nothing to take out
            pass
    gamma = how.gamma * float(style.tokens.square().mean().sqrt()) if how.relative else how.gamma
    return style.with_noise(gamma, case.number), subtracted


def reference_of(tests: Instruments, case: Case, how: How) -> np.ndarray:
    """The reference picture, uint8 [64, 64, 3]."""
    if how.reference == "texture":
        return texture(tests.judge.style_names[tests.style[case.reference]], case.number)
    return tests.pictures[case.reference]


def texture(style: str, number: int) -> np.ndarray:
    """A sheet of soft colour fields without any object in a style, uint8 [64, 64, 3]; drawn by its number."""
    rng = np.random.default_rng([7, number])
    fields = np.stack([128 + 60 * noise((128, 128), 64, rng) for _ in range(3)], axis=2)
    drawing = Drawing(np.clip(fields, 0, 255).astype(np.uint8), np.ones((128, 128), np.float32))
    picture = render(style if style in STYLES else "plain", drawing, rng)
    return cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def mask_of(kind: str, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The mask that is given instead of SAM's, float32 [H, W] in 0..1, from those of the reference and of another."""
    mask = own
    if kind == "eroded":
        mask = cv2.erode(own, np.ones((2 * ERODED + 1, 2 * ERODED + 1), np.uint8), borderValue=0)
    elif kind == "shifted":
        mask = np.zeros_like(own)
        mask[SHIFTED:, SHIFTED:] = own[:-SHIFTED, :-SHIFTED]
    elif kind == "random":
        mask = other
    return mask.astype(np.float32) / 255


def reading(tests: Instruments, cases: Sequence[Case], how: How, pictures: np.ndarray) -> dict[str, Any]:
    """What the judge reads in pictures uint8 [n, 64, 64, 3] beside what was asked for, as JSON values.

    `shown`: what the references show; None for textures, which show nothing. `pull`: see `pull_of`.
    """
    look, (target, reference) = tests.judge.look(pictures), _rows(cases)
    asked, shown, pull = tests.concept[target], None, None
    if how.reference != "texture":
        shown = tests.concept[reference].tolist()
        pull = pull_of(look.concepts, tests.concept[reference], asked).tolist()
    return {
        "cases": how.cases,
        "asked": asked.tolist(),
        "shown": shown,
        "pull": pull,
        "style": tests.style[target].tolist(),
        "styles": len(tests.judge.style_names),
        "read": {name: getattr(look, name).tolist() for name in ("concept", "style", "nearest")},
        "provenance": provenance(),
    }


def pull_of(concepts: np.ndarray, shown: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How much more the judge sees in each picture what its reference shows than what other references show.

    Nats, float64 [n], of log-probabilities [n, C]. It finds a leak long before that is the first guess. What was asked
    for, and other references that show the same, do not count.
    """
    others = (shown[None, :] != asked[:, None]) & (shown[None, :] != shown[:, None])
    other = np.where(others, concepts[:, shown], 0).sum(1) / np.maximum(1, others.sum(1))
    return (concepts[np.arange(len(shown)), shown] - other).astype(float)


def _rows(cases: Sequence[Case]) -> tuple[list[int], list[int]]:
    return [case.target for case in cases], [case.reference for case in cases]


def measure_ceilings(settings: StudySettings, subjects: Subjects) -> dict[str, Any]:
    """The same reading of real pictures of what is asked for, of their reconstructions by the VQGAN, by kind, and of
    textures as they are; read anew only where something they depend on has changed."""
    file, counts = settings.out / CEILINGS, {kind: len(cases) for kind, cases in subjects.cases.items()}
    read_with = files_sha256([_judge(settings), settings.work / "pictures" / "pictures.json"])
    inputs = {"vqgan": STAGES["vqgan"].content(settings.work), "read with": read_with, "each": EACH, "counts": counts}
    if file.exists() and (before := read_json(file, "ceilings")).get("inputs") == inputs:
        return before["found"]
    model, found = SimpleNamespace(vqgan=Parts(settings.parts(VARIANTS[SHIPPED])).vqgan()), {}
    for kind, cases in subjects.cases.items():
        if not cases:
            continue
        real = subjects.instruments.pictures[_rows(cases)[0]]
        again, _ = reconstruct(model, real)
        for name, pictures in (("real", real), ("through the VQGAN", again)):
            found[f"{kind}, {name}"] = reading(subjects.instruments, cases, How(cases=kind), pictures)
    how, cases = How(reference="texture"), subjects.cases["pair"]
    sheets = np.stack([reference_of(subjects.instruments, case, how) for case in cases])
    found["textures as they are"] = reading(subjects.instruments, cases, how, sheets)
    write_json(file, {"inputs": inputs, "found": found})
    return found
