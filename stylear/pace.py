"""Which window is fastest: what a pass costs on this device, and how many guesses come true in this picture."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from .chameleon import Cache, Chameleon
from .graphs import Passes

WINDOWS = (1, 2, 4, 8, 16, 32, 64)
_SLOTS = 256  # what a timed pass looks back at
_REPEATS = 3
_WORTH = 1.03  # how much faster a window has to look than one code a pass
_MEMORY = 0.98  # of a guess that came true, at the next


class Windows:
    """Chooses the window of each pass of one call.

    `costs`: what a pass of each allowed window costs, in any unit. With one there is nothing to choose. With several
    the expected codes a pass, (1 - p^w) / (1 - p) for guesses that come true with probability p, are weighed against
    the cost. In float32 no choice changes a picture.
    """

    def __init__(self, costs: Mapping[int, float]):
        self._costs = dict(costs)
        self._right, self._tried = 4.0, 8.0  # before anything is known, half of the guesses come true

    @property
    def most(self) -> int:
        """The largest window there may be."""
        return max(self._costs)

    def best(self) -> int:
        """The window for the next pass."""
        least = min(self._costs)
        speeds = {window: self._expected(window) / cost for window, cost in self._costs.items()}
        best = max(speeds, key=speeds.get)
        return best if speeds[best] > _WORTH * speeds[least] else least

    def ahead(self, window: int) -> int:
        """How many codes to guess beyond a pass: with a choice at least one, to see whether guesses come true."""
        return max(window - 1, int(len(self._costs) > 1))

    def tell(self, right: int, tried: int) -> None:
        """How many guesses of a pass came true."""
        kept = _MEMORY**tried
        self._right, self._tried = kept * self._right + right, kept * self._tried + tried

    def _expected(self, window: int) -> float:
        chance = min(self._right / self._tried, 0.999)
        return (1 - chance**window) / (1 - chance)


class Pace:
    """What passes of a model cost, measured once for each device, dtype and number of rows and kept here."""

    def __init__(self):
        self._known: dict[tuple, dict[int, float]] = {}

    def costs(self, model: Chameleon, codes: int, rows: int) -> dict[int, float]:
        """Seconds of a pass over `rows` rows for each of WINDOWS that could pay, with `codes` rows of the head."""
        like = model.lm_head.weight
        key = (like.device, like.dtype, codes, rows)
        if key not in self._known:
            self._known[key] = _measure(model, codes, rows)
        return self._known[key]


@torch.inference_mode()
def _measure(model: Chameleon, codes: int, rows: int) -> dict[int, float]:
    cache, costs = model.new_cache(rows, _SLOTS + max(WINDOWS)), {}
    head, passes = model.lm_head.weight[:codes], Passes(model, cache)
    for window in WINDOWS:
        embeddings = head.new_zeros(rows, window, head.shape[1])
        costs[window] = min(_timed(model, embeddings, cache, head, passes) for _ in range(_REPEATS))
        if costs[window] > costs[1] * window:
            break  # so dear that larger ones cannot pay either
    return costs


def _timed(model: Chameleon, embeddings: Tensor, cache: Cache, head: Tensor, passes: Passes) -> float:
    cache.lengths = [_SLOTS] * embeddings.shape[0]
    start = time.perf_counter()
    drawn = model.logits(passes(embeddings), head).argmax(dim=-1)
    drawn.cpu()  # waits for the device
    return time.perf_counter() - start
