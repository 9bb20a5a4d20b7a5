"""From what the judge read to figures with intervals, and from intervals to verdicts, by one rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..bars.scores import wilson
from ..metrics.table import INTERVAL, harmonic, interval, resampled
from .questions import Claim

CONFIRMS, CONTRADICTS, OPEN = "confirms", "contradicts", "cannot tell"
CHANCE = "chance"
LEVEL = 5.0  # percent of intervals that may miss the truth, of all comparisons of a claim together


@dataclass(frozen=True)
class Values:
    """Of each picture of a cell, float64 [n]: prompt, style and nearest as 0 or 1; leak, and what of it is chance.

    `leak`, `chance` and `pull`, in nats, are empty where the references show nothing. `cases`: their kind; cells of one
    kind have the same pictures to draw, in the same order. `styles`: how many there are; `wanted`: which, int64 [n].
    """

    cases: str
    styles: int
    prompt: np.ndarray
    style: np.ndarray
    nearest: np.ndarray
    leak: np.ndarray
    chance: np.ndarray
    pull: np.ndarray = field(default_factory=lambda: np.empty(0))
    wanted: np.ndarray = field(default_factory=lambda: np.empty(0, int))

    @classmethod
    def of(cls, reading: Mapping[str, Any]) -> "Values":
        """From what `cells.reading` returned."""
        read = {name: np.array(value) for name, value in reading["read"].items()}
        asked, style = np.array(reading["asked"]), np.array(reading["style"])
        leak = chance = pull = np.empty(0)
        if reading["shown"] is not None:
            leak = (read["concept"] == np.array(reading["shown"])).astype(float)
            chance = chance_of(read["concept"], np.array(reading["shown"]), asked)
            pull = np.array(reading["pull"])
        right = [read["concept"] == asked, read["style"] == style, read["nearest"] == style]
        shares = [one.astype(float) for one in right]
        return cls(reading["cases"], reading["styles"], *shares, leak, chance, pull, style)

    def __len__(self) -> int:
        return len(self.prompt)

    def first(self, count: int) -> "Values":
        """The first so many pictures alone."""
        arrays = {name: value[:count] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)

    def with_two_more(self, right: tuple[float, float]) -> "Values":
        """These and two made-up pictures, of which all is right, or wrong, as given."""
        more = {name: np.append(getattr(self, name), right) for name in ("prompt", "style", "nearest", "leak")}
        return replace(self, **more, chance=np.append(self.chance, (0.0, 0.0)))

    def mean(self, measure: str, rows: np.ndarray) -> np.ndarray:
        """A measure over pictures int64 [draws, n]: float64 [draws]."""
        if measure == "balance":
            return harmonic(self.prompt[rows].mean(1), self.style[rows].mean(1))
        values = self.leak - self.chance if measure == "leak" else getattr(self, measure)
        return values[rows].mean(1)


def chance_of(read: np.ndarray, shown: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How often what is read in each picture is what the reference of another shows, if it was not asked for, [n]."""
    counted = (shown[None, :] != asked[:, None]) & ~np.eye(len(read), dtype=bool)
    hits = (read[:, None] == shown[None, :]) & counted
    return hits.sum(1) / np.maximum(1, counted.sum(1))


def figures(values: Values, draws: int) -> dict[str, tuple[float, float | None, float | None]]:
    """Each measure that there is, with its 95 % interval: Wilson's of shares, bootstrapped of balance.

    `excess`: leak above chance. `pull`: in nats, bootstrapped. Styles never trained on have no `style`, which the judge
    cannot name, and no balance; being few, they are what `nearest` is bootstrapped over.
    """
    named = ("prompt", "nearest", "leak") if values.cases == "unseen" else ("prompt", "style", "nearest", "leak")
    found = {}
    for name in named:
        if len(shares := getattr(values, name)):
            found[name] = float(shares.mean()), *wilson(int(shares.sum()), len(shares))
    if "leak" in found:
        found["excess"] = tuple(x - float(values.chance.mean()) for x in found["leak"])
    if len(values.pull):
        found["pull"] = float(values.pull.mean()), *interval(lambda rows: values.pull[rows].mean(1), len(values), draws)
    if values.cases == "unseen":
        spread = np.percentile(values.mean("nearest", _rows(values, draws, 0)), INTERVAL)
        found["nearest"] = found["nearest"][0], *map(float, spread)
    if "style" in found:
        spread = interval(lambda rows: values.mean("balance", rows), len(values), draws)
        found["balance"] = float(values.mean("balance", np.arange(len(values))[None])[0]), *spread
    return found


@dataclass(frozen=True)
class Tested:
    """A claim's verdict, and for each row it was compared with the difference and its interval."""

    claim: Claim
    verdict: str
    differences: dict[str, tuple[float, float, float]]


def check(claim: Claim, rows: Mapping[str, Values], draws: int) -> Tested:
    """Compare by bootstrap: of the same pictures where both rows have them, else each for itself.

    A difference counts as the claim would have it: more, and of leaks less. With k comparisons the intervals are of
    100 - 5 / k percent. Two made-up pictures, one for either side, keep an interval from being empty where all are
    alike (Agresti and Min 2005; Agresti and Caffo 2000). Confirmed: every interval lies above -margin; contradicted:
    one lies below it.
    """
    tail, found = LEVEL / len(claim.others) / 2, {}
    for other in claim.others:
        spread = _difference(claim.measure, rows[claim.better], rows.get(other), draws)
        found[other] = spread[0], *(float(x) for x in np.percentile(spread[1], (tail, 100 - tail)))
    lows, highs = ([one[k] for one in found.values()] for k in (1, 2))
    if min(lows) > -claim.margin:
        verdict = CONFIRMS
    else:
        verdict = CONTRADICTS if min(highs) < -claim.margin else OPEN
    return Tested(claim, verdict, found)


def _difference(measure: str, one: Values, other: Values | None, draws: int) -> tuple[float, np.ndarray]:
    """How much better a measure is in one cell than in another, and the same of bootstrap samples, float64 [draws]."""
    sign, paired = -1 if measure == "leak" else 1, other is not None and one.cases == other.cases
    counts = [min(len(one), len(other))] * 2 if paired else [len(one), len(other) if other else 0]
    seeds = (0, 0) if paired else (0, 1)

    def better(one: Values, other: Values | None, rows: Sequence[np.ndarray]) -> np.ndarray:
        than = 1 / one.styles if other is None else other.mean(measure, rows[1])
        return sign * (one.mean(measure, rows[0]) - than)

    found = better(one, other, [np.arange(count)[None] for count in counts])
    if paired:
        one, other = one.first(counts[0]), other.first(counts[0])
    widened = one.with_two_more((1.0, 0.0)), other and other.with_two_more((0.0, 1.0))
    drawn = [one and _rows(one, draws, seed) for one, seed in zip(widened, seeds, strict=True)]
    return float(found[0]), better(*widened, drawn)


def _rows(values: Values, draws: int, seed: int) -> np.ndarray:
    """Which pictures bootstrap samples have, int64 [draws, n]; of styles never trained on, which are few, whole styles.

    The made-up pictures, which `wanted` does not know, are drawn by themselves then.
    """
    count, known = len(values), len(values.wanted)
    if values.cases != "unseen" or not known:
        return resampled(count, draws, seed)
    own = [np.flatnonzero(values.wanted == style) for style in np.unique(values.wanted)]
    least = min(map(len, own))
    blocks = np.stack([one[:least] for one in own])
    rows = blocks[resampled(len(own), draws, seed)].reshape(draws, -1)
    made_up = known + resampled(count - known, draws, seed + 1) if count > known else np.empty((draws, 0), int)
    return np.concatenate([rows, made_up], axis=1)


def pulled(one: Values, other: Values, draws: int) -> tuple[float, float, float] | None:
    """How much less `pull` there is in one cell than in another, nats, with its 95 % interval; None without any."""
    if not (len(one.pull) and len(other.pull)):
        return None
    if one.cases == other.cases:
        count = min(len(one), len(other))
        less = other.pull[:count] - one.pull[:count]
        return float(less.mean()), *interval(lambda rows: less[rows].mean(1), count, draws)
    drawn = [values.pull[resampled(len(values), draws, k)].mean(1) for k, values in enumerate((one, other))]
    low, high = np.percentile(drawn[1] - drawn[0], INTERVAL)
    return float(other.pull.mean() - one.pull.mean()), float(low), float(high)


def together(tested: Sequence[Tested]) -> str:
    """The verdict on a question, by the claims that are the paper's, or by ours where it has none: contradicts if one
    is contradicted, confirms if all are confirmed."""
    papers = [one for one in tested if not one.claim.ours]
    verdicts = {one.verdict for one in papers or tested}
    return CONTRADICTS if CONTRADICTS in verdicts else CONFIRMS if verdicts == {CONFIRMS} else OPEN
