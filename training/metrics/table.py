"""Means of metrics with 95 % intervals, over all pictures and for each style, and the table that shows them."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .cells import Cell, Metric

INTERVAL = (2.5, 97.5)  # percentiles
TEXT, HARMONIC = "CLIP-T", "harmonic mean"
_HARMONIC = "2 T S / (T + S) of the means T = {} and S = {}; 0 where either is not above 0"
STYLE = ("CSD", "CLIP-I")  # the style score of the harmonic mean is the first of these that was measured


@dataclass(frozen=True)
class Figure:
    """A metric's mean; `low` and `high`: its 95 % interval, None of fewer than two units.

    `units`: how many style-prompt cells (or styles) are its sample; `pictures`: how many of them had a value.
    `styles`: the mean of each style, by the reference's name.
    """

    name: str
    model: str
    definition: str
    higher: bool
    mean: float
    low: float | None
    high: float | None
    units: int
    pictures: int
    styles: dict[str, float]


def resampled(units: int, draws: int, seed: int = 0) -> np.ndarray:
    """Which units each of `draws` bootstrap samples has, int64 [draws, units]."""
    return np.random.default_rng(seed).integers(units, size=(draws, units))


def interval(statistic: Callable[[np.ndarray], np.ndarray], units: int, draws: int) -> tuple:
    """Percentile bootstrap: `statistic` of indices [draws, units] is float [draws]. (None, None) below two units."""
    if units < 2:
        return None, None
    low, high = np.percentile(statistic(resampled(units, draws)), INTERVAL)
    return float(low), float(high)


def harmonic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """2 a b / (a + b); 0 where either is not above 0."""
    good = (a > 0) & (b > 0)
    return np.where(good, 2 * a * b / np.where(good, a + b, 1), 0.0)


def figure(metric: Metric, cells: Sequence[Cell], values: np.ndarray, draws: int) -> Figure | None:
    """The figure of a metric's values [n]; None if it has none. Seeds of one style and prompt count as one unit."""
    means = _unit_means(cells, values, metric.per_style)
    if not means:
        return None
    units = np.array(list(means.values()))
    low, high = interval(lambda rows: units[rows].mean(1), len(units), draws)
    styles = _unit_means(cells, values, per_style=True)
    return Figure(
        metric.name, metric.model, metric.definition, metric.higher, float(units.mean()), low, high, len(units),
        int(np.isfinite(values).sum()), {key[0]: mean for key, mean in styles.items()},
    )  # fmt: skip


def balance(cells: Sequence[Cell], values: dict[str, np.ndarray], models: dict[str, str], draws: int) -> Figure | None:
    """The harmonic mean of the text score and the first style score there is (FineStyle's headline).

    Of the two means, as published figures are, and not the mean over pictures. None without both scores.
    """
    style = next((name for name in STYLE if name in values), None)
    if TEXT not in values or style is None:
        return None
    both = [_unit_means(cells, values[name], per_style=False) for name in (TEXT, style)]
    shared = [key for key in both[0] if key in both[1]]
    if not shared:
        return None
    text, like = (np.array([means[key] for key in shared]) for means in both)
    low, high = interval(lambda rows: harmonic(text[rows].mean(1), like[rows].mean(1)), len(shared), draws)
    styles = {}
    for name in dict.fromkeys(key[0] for key in shared):
        own = [i for i, key in enumerate(shared) if key[0] == name]
        styles[name] = float(harmonic(text[own].mean(), like[own].mean()))
    model, definition = "; ".join(dict.fromkeys([models[TEXT], models[style]])), _HARMONIC.format(TEXT, style)
    mean = float(harmonic(text.mean(), like.mean()))
    return Figure(HARMONIC, model, definition, True, mean, low, high, len(shared), len(cells), styles)


def _unit_means(cells: Sequence[Cell], values: np.ndarray, per_style: bool) -> dict[tuple, float]:
    """The mean of the values there are, by (style,) or (style, prompt)."""
    groups: dict[tuple, list[float]] = {}
    for cell, value in zip(cells, values, strict=True):
        if np.isfinite(value):
            key = (cell.reference.name,) if per_style else (cell.reference.name, cell.prompt)
            groups.setdefault(key, []).append(value)
    return {key: float(np.mean(group)) for key, group in groups.items()}


def markdown(results: dict) -> str:
    """results.md of what results.json holds: the metrics, those left out, seconds, and each style's figures."""
    figures, seconds = results["metrics"], results["seconds"]
    rows = ["| metric | mean | 95 % interval | better | over | model | definition |", "|---|---|---|---|---|---|---|"]
    for one in figures:
        spread = "–" if one["low"] is None else f"{one['low']:.3f} … {one['high']:.3f}"
        better = "higher" if one["higher"] else "lower"
        over = f"{one['pictures']} pictures"
        cells = (one["name"], f"{one['mean']:.3f}", spread, better, over, one["model"], one["definition"])
        rows.append(f"| {' | '.join(map(_plain, cells))} |")
    rows.append(f"| seconds per picture | {seconds['median']:.3g} | – | lower | {_plain(seconds['how'])} | | median |")
    rows += [f"| {_plain(name)} | not measured | | | | | {_plain(why)} |" for name, why in results["left_out"].items()]
    names = [one["name"] for one in figures]
    rows += ["", f"| style | {' | '.join(map(_plain, names))} |", f"|---|{'---|' * len(names)}"]
    for reference in results["references"]:
        found = [one["styles"].get(reference["name"]) for one in figures]
        shown = ["–" if value is None else f"{value:.3f}" for value in found]
        rows.append(f"| {_plain(reference['name'])} | {' | '.join(shown)} |")
    counts = results["counts"]
    told = f"{counts['references']} references × {counts['prompts']} prompts × {counts['seeds']} seeds"
    note = "Intervals: percentile bootstrap over style–prompt cells (over styles where styles are the sample)."
    return "\n".join([f"# Evaluation: {told} = {counts['pictures']} pictures", "", *rows, "", note, ""])


def _plain(text: str) -> str:
    """Text from anywhere inside a Markdown table's cell, as it is written."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))
