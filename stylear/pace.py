"""Which window is fastest: what a pass costs on this device, and how many guesses come true in this picture."""

import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch

from .chameleon import Chameleon
from .errors import Cancelled
from .graphs import Passes
from .memory import check_room

WINDOWS = (1, 2, 4, 8, 16, 32, 64)
_SLOTS = 256  # what a timed pass looks back at
_REPEATS = 2  # at least, of which the first also warms up
_ENOUGH = 0.05  # seconds of passes; the shorter they are, the more whatever else runs disturbs one
_TOKENS = 512  # of all rows; a pass of more is bound by arithmetic everywhere, and larger windows cannot pay
_WORTH = 1.03  # how much faster a window has to look than one code a pass
_NEAR = 0.92  # of the best speed; the largest such window is taken, for its passes also better the guesses to come
_HOPED, _TRUST = 0.8, 2.0  # the share of guesses that come true before any was seen, and how many those count for
_HALF_WINDOW = 16  # in half precision on other devices, which multiply so many codes nearly as fast as one
_CPU_WINDOWS = {"amx_bf16": 16, "avx512_bf16": 8}  # in bfloat16 on a CPU, by what it multiplies with, best first
_NEW = 0.1  # how much the newest pass counts in what is done around passes
_MEMORY = 0.98  # of what became of a guess, at the next one as far ahead


class Windows:
    """Chooses the window of each pass of one call.

    `costs`: what a pass of each allowed window costs, in any unit; what is done around a pass, whatever its window, is
    learnt from what passes took and added. With one there is nothing to choose. With several the expected codes a pass
    are weighed against the cost: 1 + p0 + p0 p1 + ..., where a guess with j guesses before it comes true with
    probability pj if those did. Each is counted by itself, for they differ: behind several that came true another
    mostly does. In float32 no choice changes a picture.
    """

    def __init__(self, costs: Mapping[int, float]):
        self._costs = dict(costs)
        self._right, self._tried = [_HOPED * _TRUST] * self.most, [_TRUST] * self.most
        self._around, self._took = 0.0, 0

    @property
    def most(self) -> int:
        """The largest window there may be."""
        return max(self._costs)

    def best(self) -> int:
        """The window for the next pass."""
        least = min(self._costs)
        codes = self._expected()
        speeds = {window: codes[window - 1] / (cost + self._around) for window, cost in self._costs.items()}
        enough = max(_NEAR * max(speeds.values()), _WORTH * speeds[least])
        return max((window for window, speed in speeds.items() if speed > enough), default=least)

    def ahead(self, window: int) -> int:
        """How many codes to guess beyond a pass: with a choice at least one, to see whether guesses come true."""
        return max(window - 1, int(len(self._costs) > 1))

    def tell(self, before: int, right: bool) -> None:
        """Whether a guess came true, with `before` guesses of the same pass that did before it."""
        self._right[before] = _MEMORY * self._right[before] + right
        self._tried[before] = _MEMORY * self._tried[before] + 1

    def took(self, window: int, cost: float) -> None:
        """What a pass of an allowed window took, with all that was done around it."""
        self._took += 1
        self._around += max(1 / self._took, _NEW) * (max(0.0, cost - self._costs[window]) - self._around)

    def _expected(self) -> list[float]:
        """The expected codes of a pass of window 1, 2 and so on."""
        codes, chance = [1.0], 1.0
        for right, tried in zip(self._right[:-1], self._tried[:-1], strict=True):
            chance *= right / tried
            codes.append(codes[-1] + chance)
        return codes


class Pace:
    """What passes of a model cost, measured once for each device, dtype and number of rows and kept here."""

    def __init__(self):
        self._known: dict[tuple, dict[int, float]] = {}

    def windows(
        self, model: Chameleon, codes: int, rows: int, most: int, cancelled: Callable[[], bool] | None = None
    ) -> int | Windows:
        """The window "auto" for `sample`: the fastest in float32, measured as `costs` does, whose names these are.

        In half precision rounding differs with the window, so what a clock chose would not repeat: it is always the
        same for a kind of device, and 1 on CPUs that do not multiply bfloat16 as such.
        """
        like = model.lm_head.weight
        if like.dtype == torch.float32:
            return Windows(self.costs(model, codes, rows, most, cancelled))
        if like.device.type != "cpu":
            return min(_HALF_WINDOW, most)
        able = getattr(torch.cpu, "get_capabilities", dict)() if like.dtype == torch.bfloat16 else {}
        return min(next((window for name, window in _CPU_WINDOWS.items() if able.get(name)), 1), most)

    def costs(
        self, model: Chameleon, codes: int, rows: int, most: int, cancelled: Callable[[], bool] | None = None
    ) -> dict[int, float]:
        """Seconds of a pass over `rows` rows for each of WINDOWS, up to `most`, that could pay, and halfway between.

        `codes`: how many rows of the head are read. What is not known yet is measured, in two passes for each window,
        more if they are short, and not for windows that make a pass longer than a device can profit from.
        `cancelled()` is asked before each of those passes and ends the call with Cancelled; what was measured stays
        known.
        """
        like = model.lm_head.weight
        known = self._known.setdefault((like.device, like.dtype, codes, rows), {})
        costs = {}
        for window in WINDOWS:
            if window > 1 and (window > most or rows * window > _TOKENS):
                break
            if window not in known:
                known[window] = _measure(model, codes, rows, window, cancelled)
            costs[window] = known[window]
            if window > 1 and costs[window] >= 2 * costs[window // 2]:
                break  # no code of it is cheaper, and larger ones will not be either
        for small, large in reversed(list(pairwise(costs))):
            costs[small] = min(costs[small], costs[large])  # what disturbs a timing only ever adds to it
        between = {(a + b) // 2: (costs[a] + costs[b]) / 2 for a, b in pairwise(costs) if b - a > 1}
        return costs | between


@torch.inference_mode()
def _measure(
    model: Chameleon, codes: int, rows: int, window: int, cancelled: Callable[[], bool] | None = None
) -> float:
    """Seconds of a pass: the best of a few."""
    check_room(model, rows, _SLOTS + window)
    cache, head = model.new_cache(rows, _SLOTS + window), model.lm_head.weight[:codes]
    clock = clock_of(head.device)
    passes, embeddings, seconds = Passes(model, cache), head.new_zeros(rows, window, head.shape[1]), []
    while len(seconds) < _REPEATS or len(seconds) * min(seconds) < _ENOUGH:
        if cancelled and cancelled():
            raise Cancelled("Sampling was stopped.")
        cache.lengths = [_SLOTS] * rows
        start = clock()
        model.logits(passes(embeddings), head).argmax(dim=-1).cpu()  # waits for the device
        seconds.append(clock() - start)
    return min(seconds)


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock for passes: on a CPU one that stands still while other programs run, too coarse on Windows."""
    return time.thread_time if device.type == "cpu" and sys.platform != "win32" else time.perf_counter
