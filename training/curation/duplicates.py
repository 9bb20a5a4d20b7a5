"""Which pictures were seen before, kept in a table on the disk so that memory does not depend on their number."""

import sqlite3
from pathlib import Path

from .items import Unusable

BITS = 64


class Seen:
    """The pictures so far by the hash of their pixels and, with `near`, by how they look.

    Two looks that differ in at most `near` bits agree in at least one of near + 1 bands of bits, so only pictures
    with a band in common are compared. The table is begun anew: whoever goes on tells it of all the pictures again.
    """

    def __init__(self, file: Path, near: int | None):
        file.unlink(missing_ok=True)
        self.near = near
        self._table = sqlite3.connect(file, isolation_level=None)
        self._table.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;"
            "CREATE TABLE pixels (hash BLOB PRIMARY KEY, place TEXT) WITHOUT ROWID;"
            "CREATE TABLE looks (band INT, bits INT, look BLOB, place TEXT, PRIMARY KEY (band, bits, look))"
            " WITHOUT ROWID;"
        )
        edges = [BITS * i // ((near or 0) + 1) for i in range((near or 0) + 2)]
        self._bands = list(zip(edges, edges[1:], strict=False)) if near is not None else []

    def add(self, pixels: bytes, look: int, place: str) -> None:
        """Remember a picture and where it is from; Unusable, naming the earlier one, if it was there before."""
        found = self._table.execute("SELECT place FROM pixels WHERE hash = ?", (pixels,)).fetchone()
        if found:
            raise Unusable("duplicate", f"the pixels of {found[0]}")
        bands = [(number, (look >> low) % (1 << (high - low))) for number, (low, high) in enumerate(self._bands)]
        for number, bits in bands:
            bits = _signed(bits)
            for other, earlier in self._table.execute(
                "SELECT look, place FROM looks WHERE band = ? AND bits = ?", (number, bits)
            ):
                differ = (int.from_bytes(other, "big") ^ look).bit_count()
                if differ <= self.near:
                    raise Unusable("near_duplicate", f"looks like {earlier} ({differ} of {BITS} bits differ)")
        self._table.execute("INSERT INTO pixels VALUES (?, ?)", (pixels, place))
        rows = [(number, _signed(bits), look.to_bytes(8, "big"), place) for number, bits in bands]
        self._table.executemany("INSERT INTO looks VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Let go of the file."""
        self._table.close()


def _signed(bits: int) -> int:
    """64 bits as SQLite's signed integer."""
    return bits - (1 << 64) if bits >> 63 else bits
