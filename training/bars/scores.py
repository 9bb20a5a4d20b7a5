"""A figure with its interval, its ceilings and the bar it has to reach, and the table of all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from ..metrics.table import interval

NORMAL = 1.959964  # 97.5 % of a normal distribution lie below
FORMATS = {
    "%": lambda value: f"{100 * value:.1f} %",
    "points": lambda value: f"{100 * value:+.1f}",
    "s": lambda value: f"{value:.2f} s",
    "": lambda value: f"{value:.3f}",
}
HEAD = ("figure", "value", "95 % interval", "bar", "", "real pictures", "through the VQGAN", "over", "how")


@dataclass(frozen=True)
class Score:
    """One figure; shares, and differences of shares, are of 1.

    `low`, `high`: its 95 % interval. `bar`: what it may be at the least, or else (`at_least` false) at the most; None
    where it is told only. `real`, `again`: its ceilings, the same reading of real held-out pictures and of their
    reconstructions by the VQGAN. `judged`: whether the circumstances allow to say that the bar is missed.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    unit: str
    over: str
    how: str
    bar: float | None = None
    at_least: bool = True
    real: float | None = None
    again: float | None = None
    judged: bool = True

    @property
    def passed(self) -> bool | None:
        """Whether the value reaches its bar; None without a bar, and where a miss cannot be judged."""
        if self.bar is None:
            return None
        reached = self.value >= self.bar if self.at_least else self.value <= self.bar
        return True if reached else (False if self.judged else None)

    @property
    def verdict(self) -> str:
        """pass, FAIL, "not judged", or nothing without a bar."""
        return {True: "pass", False: "FAIL", None: "" if self.bar is None else "not judged"}[self.passed]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` (Wilson 1927)."""
    share, z = hits / count, NORMAL
    middle = share + z * z / (2 * count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    below = 1 + z * z / count
    return max(0.0, (middle - half) / below), min(1.0, (middle + half) / below)


def share(name: str, hits: np.ndarray, how: str, **more: float | bool | None) -> Score:
    """How many of `hits` bool [n] are true, with Wilson's interval; `more`: bar, at_least, real, again."""
    return Score(name, float(hits.mean()), *wilson(int(hits.sum()), len(hits)), "%", f"{len(hits)}", how, **more)


def mean(name: str, values: np.ndarray, unit: str, draws: int, how: str, **more: float | bool | None) -> Score:
    """The mean of values [n] with a bootstrapped interval."""
    low, high = interval(lambda rows: values[rows].mean(1), len(values), draws)
    return Score(name, float(values.mean()), low, high, unit, f"{len(values)}", how, **more)


def ratio(name: str, part: np.ndarray, whole: np.ndarray, draws: int, how: str, **more: float | bool | None) -> Score:
    """The mean of `part` over that of `whole`, [n] each and of the same pictures; 0 where nothing is in the whole."""

    def of(rows: np.ndarray) -> np.ndarray:
        below = whole[rows].mean(1)
        return np.where(below > 0, part[rows].mean(1) / np.where(below > 0, below, 1), 0.0)

    value = float(of(np.arange(len(part))[None])[0])
    return Score(name, value, *interval(of, len(part), draws), "", f"{len(part)}", how, **more)


def cells(score: Score) -> list[str]:
    """A row of the table, as HEAD names its columns."""
    tell: Callable[[float], str] = FORMATS.get(score.unit, lambda value: f"{value:.1f} {score.unit}")
    shown = [None if one is None else tell(one) for one in (score.low, score.high, score.bar, score.real, score.again)]
    low, high, bar, real, again = shown
    spread = "–" if low is None or high is None else f"{low} … {high}"
    bar = "" if bar is None else f"{'≥' if score.at_least else '≤'} {bar}"
    return [
        score.name, tell(score.value), spread, bar, score.verdict, real or "", again or "", score.over, score.how,
    ]  # fmt: skip


def table(scores: Sequence[Score]) -> str:
    """All figures as a Markdown table that lines up in a terminal too, but for its last column."""
    rows = [list(HEAD), *(cells(score) for score in scores)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD) - 1)] + [0]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (max(width, 3) + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
