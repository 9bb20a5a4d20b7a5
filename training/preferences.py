"""From styles and prompts to preference pairs: draw several pictures each, have them judged, keep best and worst."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, load_from_disk
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from stylear import StyleAR
from stylear.errors import BadInput
from stylear.images import open_image, to_rgb
from stylear.sampling import SamplingSettings, embed_prompt, sample
from stylear.segment import Segmenter, content_picture
from stylear.vqgan import VQGAN

from .config import Settings
from .judges import Judge, JudgeSettings, Reference, Scores
from .loop import write_atomically
from .metrics.cells import Reference as Style
from .metrics.inputs import Prompt, read_prompts, read_references
from .output import read_json, sha256_of, write_json
from .sheets import to_image

NOISE_SEEDS = 2**32  # the noise of a case's style tokens comes from seeds that no picture has
SHEET_ROWS = 24

_PICTURE = {
    "codes": List(List(Value("uint16"))),
    "seed": Value("int64"),
    "score": Value("float64"),
    "prompt": Value("float64"),
    "style": Value("float64"),
    "leakage": Value("float64"),
}
FEATURES = Features(
    {
        "case": Value("int32"),
        "style": Value("string"),
        "style_sha256": Value("string"),
        "prompt": Value("string"),
        "chosen": _PICTURE,
        "rejected": _PICTURE,
    }
)


class SampleSettings(Settings):
    """How the pictures to choose from are drawn."""

    cases: int | None = Field(None, ge=1, description="(style, prompt) combinations, drawn at random; null: all")
    per_prompt: int = Field(4, ge=2, le=256, description="pictures of each combination")
    cfg: float = Field(4.0, ge=0, le=1000, description="guidance")
    top_k: int = Field(2000, ge=1, description="how many of the likeliest codes may be drawn")
    temperature: float = Field(1.0, ge=0.001, le=1000, description="above 1 for more variety")


@dataclass(frozen=True)
class Case:
    """One (style, prompt): `number` names its files and seeds."""

    number: int
    style: Style
    style_sha256: str
    prompt: Prompt

    def seeds(self, seed: int, count: int) -> list[int]:
        """Seeds of its `count` pictures, in a run of `seed`."""
        return [seed + self.number * count + i for i in range(count)]

    def noise_seed(self, seed: int) -> int:
        """The seed of the noise on its style tokens: the same for all its pictures, wherever they are read again."""
        return NOISE_SEEDS + seed + self.number


def read_cases(styles: Path, prompts: Path, count: int | None, seed: int) -> list[Case]:
    """`count` combinations (None: all) of references and prompts, in random order, none twice.

    styles, prompts: as `read_references` and `read_prompts` take them; BadInput as theirs.
    """
    references, skipped = read_references(styles)
    for told in skipped:
        tqdm.write(f"skipped {told}")
    texts = read_prompts(prompts)
    chosen = np.random.default_rng(seed).permutation(len(references) * len(texts))[:count]
    pairs = [(references[index // len(texts)], texts[index % len(texts)]) for index in chosen]
    hashes = {reference.picture: sha256_of(reference.picture) for reference, _ in pairs}
    return [Case(i, style, hashes[style.picture], prompt) for i, (style, prompt) in enumerate(pairs)]


@torch.no_grad()
def draw_codes(
    model: StyleAR, case: Case, seeds: Sequence[int], settings: SampleSettings, noise: float, noise_seed: int
) -> Tensor:
    """Codes int64 [len(seeds), h, w], on the CPU, of pictures of the model's own size, drawn by the engine's sampler.

    `noise`: gamma on the style tokens (paper section 3.3), as in training. BadInput for a prompt that is too long.
    """
    style = model.encode_style(open_image(case.style.picture)).with_noise(noise, noise_seed)
    steps = model.size // model.grid
    picture = len(model.vocabulary.image_ids(torch.zeros(2 * steps, 2 * steps, dtype=torch.int64)))
    room = model.base.config.max_position_embeddings - picture
    prompt = model.vocabulary.prompt(case.prompt.text, style_tokens=model.resampler.config.tokens, max_length=room)
    how = SamplingSettings(settings.cfg, settings.top_k, settings.temperature)
    embedded = embed_prompt(model.base, prompt, style.tokens)
    return sample(model.base, model.vocabulary, embedded, (steps, steps), seeds, how).cpu()


@torch.no_grad()
def decode(vqgan: VQGAN, codes: Tensor) -> list[Image.Image]:
    """Pictures of codes int64 [B, h, w], decoded one by one as the engine does."""
    place = next(vqgan.parameters()).device
    return [to_image(vqgan.decode(one[None].to(place))[0]) for one in codes]


def samples_file(folder: Path, case: Case) -> Path:
    """Where a case's drawn codes are."""
    return folder / f"{case.number:05d}.safetensors"


def scores_file(folder: Path, case: Case) -> Path:
    """Where a case's scores are."""
    return folder / f"{case.number:05d}.json"


def sample_cases(
    cases: Iterable[Case], folder: Path, model: StyleAR, settings: SampleSettings, noise: float, seed: int
) -> None:
    """Draw cases, each into a file of `folder` with codes int32 [n, h, w] and seeds int64 [n]."""
    for case in cases:
        seeds = case.seeds(seed, settings.per_prompt)
        codes = draw_codes(model, case, seeds, settings, noise, case.noise_seed(seed))
        tensors = {"codes": codes.to(torch.int32), "seeds": torch.tensor(seeds)}
        write_atomically(samples_file(folder, case), lambda path, kept=tensors: save_file(kept, path))


def read_samples(folder: Path, case: Case) -> tuple[Tensor, list[int]]:
    """Codes int64 [n, h, w] and seeds of a case's pictures; BadInput if the file is missing or damaged."""
    file = samples_file(folder, case)
    try:
        kept = load_file(file)
        return kept["codes"].long(), kept["seeds"].tolist()
    except (OSError, SafetensorError, KeyError) as error:
        raise BadInput(
            f"The samples {file} are damaged: remove the file and run the command again. ({error})"
        ) from error


def judge_cases(
    cases: Iterable[Case], samples: Path, folder: Path, judge: Judge, vqgan: VQGAN, segmenter: Segmenter | None
) -> None:
    """Have cases judged, each into a file of `folder` with its pictures' scores and what was said."""
    for case in cases:
        pictures = decode(vqgan, read_samples(samples, case)[0])
        verdicts = judge(reference_of(case.style, segmenter), case.prompt.content, pictures)
        record = {"judge": judge.name, "verdicts": [asdict(verdict) for verdict in verdicts]}
        write_json(scores_file(folder, case), record)


def reference_of(style: Style, segmenter: Segmenter | None) -> Reference:
    """A style picture with its caption, or without one its cut-out object, if there is a segmenter and an object."""
    picture = to_rgb(open_image(style.picture))
    if style.caption or segmenter is None:
        return Reference(picture, style.caption)
    try:
        return Reference(picture, content=content_picture(picture, segmenter.mask(picture)))
    except BadInput:  # nothing stands out in it: there is no content to leak
        return Reference(picture)


def read_scores(folder: Path, case: Case) -> list[Scores | None]:
    """The scores of a case's pictures, None for those whose judge's answer could not be read."""
    file = scores_file(folder, case)
    try:
        found = [verdict["scores"] for verdict in read_json(file, "scores")["verdicts"]]
        return [scores and Scores(**scores) for scores in found]
    except (KeyError, TypeError) as error:
        raise BadInput(f"The scores {file} are damaged: remove the file and run the command again.") from error


def choose(totals: Sequence[float | None], min_margin: float) -> tuple[int, int] | None:
    """Places of the best and the worst, or None if they are equal or less than `min_margin` apart; None is no score."""
    scored = [i for i, total in enumerate(totals) if total is not None]
    if not scored:
        return None
    best, worst = (pick(scored, key=lambda i: totals[i]) for pick in (max, min))
    margin = totals[best] - totals[worst]
    return (best, worst) if margin > 0 and margin >= min_margin else None


def build_pairs(
    cases: Sequence[Case], samples: Path, scores: Path, weights: JudgeSettings, min_margin: float
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A row of FEATURES for each case with a clear best and worst, and counts: cases, pairs, ties, refused answers."""
    rows, refused = [], 0
    for case in cases:
        found = read_scores(scores, case)
        refused += found.count(None)
        pair = choose([one and one.total(weights) for one in found], min_margin)
        if pair is None:
            continue
        codes, seeds = read_samples(samples, case)
        told = [
            {
                "codes": codes[i].numpy().astype(np.uint16),
                "seed": seeds[i],
                "score": found[i].total(weights),
                **asdict(found[i]),
            }
            for i in pair
        ]
        style = {"style": str(case.style.picture), "style_sha256": case.style_sha256}
        rows.append({"case": case.number, **style, "prompt": case.prompt.text, "chosen": told[0], "rejected": told[1]})
    ties = len(cases) - len(rows)
    return rows, {"cases": len(cases), "pairs": len(rows), "without a clear best": ties, "answers not read": refused}


def save_pairs(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write rows of FEATURES as a `datasets` folder, instead of one that is there; it appears whole or not at all."""
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    Dataset.from_list(rows, FEATURES).save_to_disk(draft)
    for path in draft.iterdir():
        with path.open("rb+") as written:
            os.fsync(written.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)


def load_pairs(folder: Path) -> Dataset:
    """The pairs that `save_pairs` wrote, memory-mapped; BadInput for another data set or a damaged one."""
    try:
        pairs = load_from_disk(folder)
    except Exception as error:  # datasets and arrow raise nearly anything for a damaged file
        raise BadInput(f"The pairs {folder} are damaged: remove the folder and run the command again.") from error
    if pairs.features != FEATURES:
        raise BadInput(f"{folder} holds another kind of data: remove it and run the command again.")
    return pairs


def pairs_sheet(pairs: Dataset, vqgan: VQGAN, path: Path, side: int = 128) -> None:
    """A PNG to look at: a row for each of the first SHEET_ROWS pairs with reference, chosen, rejected and scores."""
    rows = []
    for pair in pairs.select(range(min(SHEET_ROWS, len(pairs)))):
        pictures = [decode(vqgan, torch.tensor([pair[name]["codes"]]))[0] for name in ("chosen", "rejected")]
        told = [
            "{}: {score:.3f}\nprompt {prompt:.3f}\nstyle {style:.3f}\nleakage {leakage:.3f}".format(name, **pair[name])
            for name in ("chosen", "rejected")
        ]
        rows.append(([to_rgb(open_image(pair["style"])), *pictures], [pair["prompt"], *told]))
    write_sheet(rows, path, side)


def write_sheet(rows: Sequence[tuple[list[Image.Image], list[str]]], path: Path, side: int = 128) -> None:
    """A PNG of rows of pictures, each fitted into a square of `side` pixels, with its text below."""
    below, gap, font = 52, 8, ImageFont.load_default()
    columns = max(len(pictures) for pictures, _ in rows)
    sheet = Image.new("RGB", (gap + columns * (side + gap), gap + len(rows) * (side + below + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (pictures, texts) in enumerate(rows):
        top = gap + y * (side + below + gap)
        for x, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
            scale = side / max(picture.size)
            size = [max(1, round(length * scale)) for length in picture.size]
            left = gap + x * (side + gap)
            sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
            lines = [line[i : i + 20] for line in text.splitlines() for i in range(0, len(line), 20)]
            pen.multiline_text((left, top + side + 1), "\n".join(lines[:4]), fill="black", font=font, spacing=1)
    write_atomically(path, lambda draft: sheet.save(draft, format="PNG"))
