"""Hostile material that several families draw from: odd values, edited documents, damaged bytes, names of files."""

import copy
from collections.abc import Iterator, MutableMapping, MutableSequence
from typing import Any

from hypothesis import strategies as st

NAN, INFINITY = float("nan"), float("inf")
NESTED: list = []
for _ in range(200):
    NESTED = [NESTED]

NUMBERS = [0, 1, -1, 2, 3, 0.5, -0.0, 1e-320, 1e30, 1e308, 255, 2**16, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30]
NUMBERS += [10**400, NAN, INFINITY, -INFINITY, True, False]
TEXTS = [
    "",
    " ",
    "x",
    "\0",
    "a\0b",
    "é",
    "日本語",
    "👩‍👩‍👧",
    "\u202etxt",
    "\ud800",
    "\x1b[2J",
    "%s{0}",
    "x" * 5000,
    "1",
    "nan",
    "1e999",
    "-1",
]
NAMES = [
    "../x",
    "../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "/dev/full",
    "/proc/self/mem",
    ".",
    "..",
    "",
    "~",
    "-",
    "a\0b",
    "x" * 300,
    "é" * 200,
    "/".join("x" * 200 for _ in range(40)),
    "\ud800",
    "\udcff",
    "a\nb",
    "CON",
    "NUL.png",
    "C:\\x",
    "C:x",
    "\\\\host\\share\\x",
    "a\\..\\x",
    "x.",
    "x ",
    "a:b",
    "a?*",
    "\x1b[2J",
]

odd_numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats()
odd_texts = st.sampled_from(TEXTS + NAMES) | st.text(st.characters(), max_size=20)
odd_names = st.sampled_from(NAMES) | st.text(st.characters(), min_size=1, max_size=12)
scalars = st.none() | odd_numbers | odd_texts
odd_values = st.one_of(
    scalars,
    st.sampled_from([[], {}, [[]], {"": None}, NESTED]),
    st.lists(scalars, max_size=3),
    st.dictionaries(st.text(max_size=3), scalars, max_size=2),
)


@st.composite
def edited(draw: st.DrawFn, document: Any, values: st.SearchStrategy = odd_values, most: int = 3) -> Any:
    """A copy of a JSON-like document with up to `most` things in it replaced, deleted, doubled or added.

    Each is found by going down from the top at random, so what stands at the top changes as often as what lies deep.
    """
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        holder, key = _place(draw, document)
        if holder is None:
            return copy.deepcopy(draw(values))
        how = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add", "swap"]))
        if how == "delete":
            del holder[key]
        elif how == "add" and isinstance(holder, MutableMapping):
            holder[draw(odd_texts)] = copy.deepcopy(draw(values))
        elif how == "add":
            holder.insert(key, copy.deepcopy(draw(values)))
        elif how == "swap":
            other = draw(st.sampled_from(list(_keys(holder))))
            holder[key], holder[other] = holder[other], holder[key]
        else:
            holder[key] = copy.deepcopy(draw(values))
    return document


def _place(draw: st.DrawFn, document: Any) -> tuple[Any, Any]:
    holder, key, below = None, None, document
    while isinstance(below, MutableMapping | MutableSequence) and len(below):
        if holder is not None and draw(st.integers(0, 3)) == 0:
            break
        holder, key = below, draw(st.sampled_from(list(_keys(below))))
        below = holder[key]
    return holder, key


def _keys(holder: MutableMapping | MutableSequence) -> Iterator:
    return iter(holder if isinstance(holder, MutableMapping) else range(len(holder)))


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with a few changed, cut out, put in or doubled, or cut off; the beginning is hit as often as the rest."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(256, len(data))) | st.integers(0, len(data)))
        length = draw(st.integers(1, 9))
        how = draw(st.sampled_from(["change", "change", "change", "cut out", "put in", "double", "cut off"]))
        if how == "change":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif how == "cut out":
            del data[at : at + length]
        elif how == "put in":
            data[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif how == "double":
            data[at:at] = data[at : at + length]
        else:
            del data[at:]
    return bytes(data)
