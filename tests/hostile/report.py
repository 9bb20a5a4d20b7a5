"""The table of what was tried: a row for each family of cases, a column for each figure."""

from collections import Counter
from collections.abc import Mapping


def total(families: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The figures of all families together, those of 0 left out."""
    return dict(+sum(map(Counter, families.values()), Counter()))


def lines(families: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The table's lines; the last one is the sum."""
    everything = total(families)
    columns = sorted(everything)
    head = f"{'family':15}" + "".join(f"{column:>18}" for column in columns)
    rows = {**families, "all": everything}.items()
    return [head, *(f"{name:15}" + "".join(f"{row.get(column, 0):18,}" for column in columns) for name, row in rows)]
