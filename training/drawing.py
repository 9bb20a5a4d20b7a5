"""Draws the pictures of an evaluation, each once, with a record of itself in its file."""

import itertools
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import Field
from tqdm import tqdm

from stylear import StyleAR
from stylear.checks import MAX_SETTING
from stylear.drawing import MAX_TOP_K, MIN_TEMPERATURE
from stylear.images import open_image
from stylear.pipeline import MAX_BATCH
from stylear.style import StyleTokens

from .config import Settings
from .loop import write_atomically
from .metrics.cells import Cell, Reference
from .metrics.inputs import Prompt


class DrawSettings(Settings):
    """How each picture is drawn."""

    seeds: int = Field(4, ge=1, le=10_000, description="pictures of each reference and prompt")
    first_seed: int = Field(0, ge=0, le=2**63, description="the first picture's seed; the others' follow it")
    width: int | None = Field(None, ge=1, description="pixels; null: what the model was trained at")
    height: int | None = Field(None, ge=1, description="the same for the height")
    cfg: float = Field(4.0, ge=0, le=MAX_SETTING, description="guidance; 1 is none")
    top_k: int = Field(2000, ge=1, le=MAX_TOP_K, description="how many of the likeliest codes may be drawn")
    temperature: float = Field(1.0, ge=MIN_TEMPERATURE, le=MAX_SETTING, description="of the codes' probabilities")
    noise: float = Field(0.0, ge=0, le=MAX_SETTING, description="gamma on the style tokens, another for each prompt")
    subtract: bool = Field(False, description="take the reference's salient object out of its style (SAM)")
    alpha: float = Field(0.2, ge=-MAX_SETTING, le=MAX_SETTING, description="of the subtraction (paper 3.3)")
    beta: float = Field(0.8, ge=-MAX_SETTING, le=MAX_SETTING, description="of the subtraction (paper 3.3)")
    batch: int = Field(1, ge=1, le=MAX_BATCH, description="seeds drawn at once; pictures do not change, seconds do")


def plan(out: Path, references: Sequence[Reference], prompts: Sequence[Prompt], settings: DrawSettings) -> list[Cell]:
    """Every picture there will be, seeds innermost: `out`/pictures/<number>-<style>/<prompt number>-<seed>.png."""
    cells = []
    for (r, reference), (p, prompt) in itertools.product(enumerate(references), enumerate(prompts)):
        folder = out / "pictures" / f"{r:02d}-{_slug(reference.name)}"
        for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
            cells.append(Cell(reference, prompt.text, prompt.content, seed, folder / f"{p:03d}-{seed}.png"))
    return cells


def draw(model: StyleAR, cells: Sequence[Cell], settings: DrawSettings, state: PartialState) -> int:
    """Draw this process's share of the pictures that are not there yet; returns how many it drew.

    A picture's file says in its text chunk `stylear` what it is and how many seconds it took.
    """
    groups = [list(group) for _, group in itertools.groupby(cells, lambda cell: (cell.reference, cell.prompt))]
    parts = [group[i : i + settings.batch] for group in groups for i in range(0, len(group), settings.batch)]
    prompts = list(dict.fromkeys(cell.prompt for cell in cells))
    own = parts[state.process_index :: state.num_processes]
    todo = [part for part in own if any(record(cell.picture) is None for cell in part)]
    bar = tqdm(total=sum(map(len, todo)), desc="pictures", unit="pic", disable=not (todo and state.is_main_process))
    known: tuple[Reference, StyleTokens] | None = None
    base = model.info()["parts"]["base"]
    with bar:
        for part in todo:
            reference, prompt = part[0].reference, part[0].prompt
            if known is None or known[0] != reference:
                known = reference, _style(model, reference, settings)
            style = known[1].with_noise(settings.noise, prompts.index(prompt))
            begin = time.perf_counter()
            pictures = model.generate(
                prompt, style, seed=part[0].seed, batch_size=len(part), width=settings.width, height=settings.height,
                cfg=settings.cfg, top_k=settings.top_k, temperature=settings.temperature,
            )  # fmt: skip
            seconds = (time.perf_counter() - begin) / len(part)
            for cell, picture in zip(part, pictures, strict=True):
                told = {"prompt": prompt, "reference": reference.name, "seed": cell.seed, "seconds": seconds}
                told |= {"batch": len(part), "device": _device_name(base["device"]), "dtype": base["dtype"]}
                save(picture, told, cell.picture)
            bar.update(len(part))
    return sum(map(len, todo))


def _style(model: StyleAR, reference: Reference, settings: DrawSettings) -> StyleTokens:
    style = model.encode_style(open_image(reference.picture))
    return model.subtract(style, alpha=settings.alpha, beta=settings.beta) if settings.subtract else style


def record(path: Path) -> dict | None:
    """What a drawn picture says of itself; None if it is not there, not whole, or not one of these."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            return json.loads(image.info["stylear"]) | {"width": image.width, "height": image.height}
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return None


def save(picture: torch.Tensor, told: dict, path: Path) -> None:
    """Write a picture, float [H, W, 3] in 0..1, with what it says of itself."""
    chunk = PngInfo()
    chunk.add_text("stylear", json.dumps(told))
    image = Image.fromarray((picture * 255).round().byte().numpy())
    write_atomically(path, lambda draft: image.save(draft, format="PNG", pnginfo=chunk))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "style"


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
