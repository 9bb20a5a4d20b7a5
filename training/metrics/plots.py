"""Plots of an evaluation: styles by text score and style score, and each style's figures as bars."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from ..loop import write_atomically
from .table import STYLE, TEXT

INK, GRID, COLOURS = "#333333", "#dddddd", ("#3b6ea5", "#d1742f", "#4f9153", "#8a5ea8", "#b5495b", "#6b7280")


def scatter(figures: Sequence[dict], path: Path) -> bool:
    """Text score across, style score up, a dot for each style; False, and no file, without both scores."""
    by_name = {figure["name"]: figure["styles"] for figure in figures}
    style = next((name for name in STYLE if name in by_name), None)
    if style is None or TEXT not in by_name:
        return False
    canvas = Canvas(figsize=(6, 5), dpi=120, layout="constrained")
    axes = canvas.add_subplot()
    shared = [name for name in by_name[TEXT] if name in by_name[style]]
    axes.scatter([by_name[TEXT][n] for n in shared], [by_name[style][n] for n in shared], s=40, color=COLOURS[0])
    for name in shared:
        at = (by_name[TEXT][name], by_name[style][name])
        axes.annotate(_literal(name), at, (5, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.set(xlabel=f"{TEXT} (follows the prompt)", ylabel=f"{style} (follows the style)", title="Styles")
    axes.margins(0.15)
    _save(canvas, axes, path)
    return True


def bars(figures: Sequence[dict], path: Path) -> bool:
    """One panel for each metric, one bar with its value for each style; False, and no file, without metrics."""
    if not figures:
        return False
    names = list(dict.fromkeys(name for figure in figures for name in figure["styles"]))
    columns = min(3, len(figures))
    rows = -(-len(figures) // columns)
    canvas = Canvas(figsize=(4 * columns, (0.9 + 0.28 * len(names)) * rows), dpi=120, layout="constrained")
    for i, figure in enumerate(figures):
        axes = canvas.add_subplot(rows, columns, i + 1)
        means = [figure["styles"].get(name) for name in reversed(names)]
        drawn = axes.barh(range(len(names)), [mean or 0.0 for mean in means], color=COLOURS[i % len(COLOURS)])
        axes.bar_label(drawn, ["–" if mean is None else f"{mean:.3f}" for mean in means], padding=2, fontsize=7)
        axes.margins(x=0.25)
        if not any(means):
            told = textwrap.fill(f"0 everywhere: {figure['definition']}", 36)
            axes.text(0.98, 0.5, _literal(told, None), transform=axes.transAxes, ha="right", va="center", fontsize=7)
        axes.set_yticks(range(len(names)), [_literal(name) for name in reversed(names)], fontsize=8)
        axes.axvline(figure["mean"], color=INK, linewidth=1, linestyle=":")
        arrow = "higher" if figure["higher"] else "lower"
        axes.set_title(f"{figure['name']} ({arrow} is better)", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        _finish(axes)
    _save(canvas, None, path)
    return True


def _literal(name: str, most: int | None = 28) -> str:
    """A name, of so many signs at most, that matplotlib must not read as mathematics."""
    return name[:most].replace("$", r"\$")


def _finish(axes) -> None:
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(canvas: Canvas, axes, path: Path) -> None:
    if axes is not None:
        _finish(axes)
    FigureCanvasAgg(canvas)
    write_atomically(path, lambda draft: canvas.savefig(draft, format="png"))
