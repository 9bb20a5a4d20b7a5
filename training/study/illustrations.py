"""The plot and the page of pictures of a question."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ..bars.cases import prompt_of, read
from ..loop import write_atomically
from .cells import Subjects, reference_of
from .questions import Cell, Question
from .settings import StudySettings

SHOWN = 12  # pictures of each row
SIDE = 64
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # has the Greek letters of the grid
GRID = re.compile("α")  # rows of a grid, of which pages of pictures leave out most
PANELS = {
    "prompt": "prompt recognised",
    "style": "style recognised",
    "nearest": "style nearest",
    "excess": "leak above chance",
}
INK, LINE, DOT = "#333333", "#dddddd", "#3b6ea5"


def plot(scored: Mapping[str, Mapping[str, tuple]], path: Path) -> None:
    """A PNG with a panel for each of PANELS: every row's value with its interval, in percent."""
    names = list(scored)
    canvas = Figure(figsize=(12, 0.9 + 0.27 * len(names)), dpi=100, layout="constrained")
    for axes, (measure, title) in zip(canvas.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        for y, name in enumerate(names):
            if measure in scored[name]:
                value, low, high = (100 * x if x is not None else None for x in scored[name][measure])
                if low is not None:
                    axes.plot([low, high], [y, y], color=DOT, linewidth=2, alpha=0.45, solid_capstyle="round")
                axes.plot([value], [y], "o", color=DOT, markersize=4.5)
        if measure == "excess":
            axes.axvline(0, color=INK, linewidth=1, linestyle=":")
            low, high = axes.get_xlim()
            axes.set_xlim(min(low, -5), max(high, 15))
        else:
            axes.set_xlim(-3, 103)
        axes.set_title(title, fontsize=9)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xlabel("% of pictures" if measure != "excess" else "points", fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.axes[0].set_ylim(len(names) - 0.5, -0.5)
    FigureCanvasAgg(canvas)
    write_atomically(path, lambda draft: canvas.savefig(draft, format="png"))


def pictures(settings: StudySettings, subjects: Subjects, question: Question, path: Path) -> None:
    """A WebP of the first SHOWN pictures of each row below their references and prompts; of a grid, its corners."""
    blocks: dict[tuple, list[tuple[str, Cell]]] = {}
    for name, cell in question.rows.items():
        if not GRID.search(name) or _is_corner(name, question):
            blocks.setdefault((cell.how.cases, cell.how.reference), []).append((name, cell))
    drawn = []
    for rows in blocks.values():
        how = rows[0][1].how
        cases = subjects.of_cell(how, settings.few)[:SHOWN]
        prompts = [prompt_of(subjects.instruments, case) for case in cases]
        references = np.stack([reference_of(subjects.instruments, case, how) for case in cases])
        drawn.append((prompts, [("reference", references), *((n, read(cases, settings.folder(c))) for n, c in rows)]))
    sheet(drawn, path)


def _is_corner(name: str, question: Question) -> bool:
    """Whether each number in a grid row's name is its column's least or largest."""
    numbers = {row: re.findall(r"[0-9.]+", row) for row in question.rows if GRID.search(row)}
    ends = [{min(column, key=float), max(column, key=float)} for column in zip(*numbers.values(), strict=True)]
    return all(number in end for number, end in zip(numbers[name], ends, strict=True))


def sheet(blocks: Sequence[tuple[list[str], list[tuple[str, np.ndarray]]]], path: Path) -> None:
    """Write a WebP of blocks, each of prompts over rows of a label and pictures uint8 [n, 64, 64, 3]."""
    font, top, step, gap = ImageFont.truetype(FONT, 10), 16, SIDE + 3, 10
    left = 12 + max(int(font.getlength(label)) for _, rows in blocks for label, _ in rows)
    width = left + step * max(len(prompts) for prompts, _ in blocks)
    height = sum(top + step * len(rows) + gap for _, rows in blocks)
    page = Image.new("RGB", (width, height), "white")
    pen, y = ImageDraw.Draw(page), 0
    for prompts, rows in blocks:
        for x, prompt in enumerate(prompts):
            pen.text((left + x * step, y + 2), _fitting(prompt, font), fill="black", font=font)
        y += top
        for k, (label, pictures) in enumerate(rows):
            pen.text((4, y + SIDE // 2 - 7), label, fill="black", font=font)
            for x, picture in enumerate(pictures):
                page.paste(Image.fromarray(picture), (left + x * step, y))
            y += step
            if k == 0:  # below the references
                pen.line([(left, y - 2), (width - 4, y - 2)], fill="#999999")
        y += gap
    write_atomically(path, lambda draft: page.save(draft, format="WEBP", quality=90, method=6))


def _fitting(text: str, font: Any) -> str:
    """The beginning of a text that fits over a picture, without its article."""
    text = re.sub(r"^an? ", "", text)
    while font.getlength(text) > SIDE:
        text = text[:-1]
    return text
