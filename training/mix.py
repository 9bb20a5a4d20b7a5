"""The order of samples: an exact, endless, shuffled mix of stylised and raw pictures, without storing an order."""

from collections.abc import Sequence

import numpy as np

from stylear.errors import BadInput

from .tokens import KINDS

ROUNDS = 48


class Mix:
    """Which picture is sample number 0, 1, 2, ... of a run: a pure function of the seed and the number.

    Of every `sum(ratio)` consecutive samples, counted from 0, exactly `ratio[0]` are stylised and `ratio[1]` raw, at
    shuffled places (the paper's mixture is 1:3, section 3.4). Each kind is gone through in a new random order each
    pass, every one of its pictures once a pass.
    """

    def __init__(self, kinds: np.ndarray, ratio: Sequence[int] = (1, 3), seed: int = 0):
        """`kinds`: uint8 [N], 0 stylised and 1 raw; `seed`: 0 to 2^64-1.

        BadInput for a ratio that is not two whole numbers with one above 0, and for one that asks for a kind of
        which there is no picture.
        """
        if len(ratio) != 2 or any(type(share) is not int or share < 0 for share in ratio) or not any(ratio):
            raise BadInput(f"The ratio is {ratio!r}: give two whole numbers, stylised and raw, not both 0.")
        self.ratio, self.block = tuple(ratio), sum(ratio)
        number = np.min_scalar_type(len(kinds))  # the only thing here that grows with the data
        self.places = tuple(np.flatnonzero(kinds == kind).astype(number) for kind in range(len(KINDS)))
        for name, share, places in zip(KINDS, self.ratio, self.places, strict=True):
            if share and not len(places):
                raise BadInput(f"The data has no {name} pictures and the ratio {self.ratio} wants some. Give it a 0.")
        self._keys = np.random.SeedSequence(seed).generate_state(1 + len(KINDS), np.uint64)

    @property
    def epoch(self) -> int:
        """Samples, a whole number of blocks, until every picture of each wanted kind was seen at least once."""
        blocks = (-(-len(places) // share) for share, places in zip(self.ratio, self.places, strict=True) if share)
        return self.block * max(blocks)

    def indices(self, start: int, count: int) -> np.ndarray:
        """The pictures of samples start .. start + count - 1, as places in `kinds`: int64 [count].

        Takes time and memory in proportion to `count` alone.
        """
        blocks = np.arange(start // self.block, -(-(start + count) // self.block), dtype=np.uint64)
        drawn = _mixed(_mixed(blocks + self._keys[0])[:, None] + np.arange(self.block, dtype=np.uint64))
        stylised = drawn.argsort(axis=1, kind="stable").argsort(axis=1) < self.ratio[0]  # at shuffled places
        numbers = slice(start % self.block, start % self.block + count)
        found = np.empty(count, np.int64)
        for kind, (share, wanted) in enumerate(zip(self.ratio, (stylised, ~stylised), strict=True)):
            before = blocks * np.uint64(share)  # of this kind, in the blocks that came before
            ordinal = before[:, None] + wanted.cumsum(axis=1, dtype=np.uint64) - np.uint64(1)
            chosen = wanted.ravel()[numbers]
            found[chosen] = self._in_order(kind, ordinal.ravel()[numbers][chosen])
        return found

    def _in_order(self, kind: int, ordinal: np.ndarray) -> np.ndarray:
        """The pictures that come as number `ordinal` (uint64 [n]) of a kind."""
        places = self.places[kind]
        if not len(ordinal):
            return places[:0]
        passes, which = np.unique(ordinal // np.uint64(len(places)), return_inverse=True)
        keys = _mixed(passes + self._keys[1 + kind])
        return places[shuffled(ordinal % np.uint64(len(places)), len(places), keys, which)]


def shuffled(x: np.ndarray, size: int, keys: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Random permutations of 0 .. size-1 at x: uint64 [n]; element i goes through the one of keys[which[i]].

    Swap or not (Hoang, Morris, Rogaway, CRYPTO 2012): in each round x and pivot - x form a pair, of which a hash says
    whether they change places. So each round is a permutation for any size, and nothing is stored.
    """
    whole = np.uint64(size)
    drawn = _mixed(keys[:, None] + np.arange(2 * ROUNDS, dtype=np.uint64))
    pivots, salts = (drawn[:, :ROUNDS] % whole).T, drawn[:, ROUNDS:].T
    for pivot, salt in zip(pivots, salts, strict=True):
        partner = (pivot[which] + (whole - x)) % whole
        swap = _mixed(np.maximum(x, partner) ^ salt[which]) >> np.uint64(63)
        x = np.where(swap, partner, x)
    return x


def _mixed(x: np.ndarray) -> np.ndarray:
    """uint64 to uint64, one to one, every bit depending on every bit: splitmix64's finaliser (Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
