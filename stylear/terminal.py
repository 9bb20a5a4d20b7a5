"""What a command shows: lines of text and progress bars."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


def open_streams() -> None:
    """Open what was closed before this process began, as by `>&-`, so that it leads nowhere.

    Else Python has no `sys.stdout` to print to, and the next file that is opened takes what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def say(text: str, stream: TextIO | None = None) -> None:
    """Print text in which names of files and of weights stand: what would move the cursor is spelled out.

    Where nobody reads any more, as behind `| head`, nothing is printed, and the work goes on.
    """
    shown = "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)
    stream = stream or sys.stdout
    code = stream.encoding or "utf-8"
    try:
        print(shown.encode(code, "backslashreplace").decode(code), file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of `unit`, moved by calls with what is done and the total."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


@contextmanager
def byte_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar in bytes for each file."""
    from tqdm import tqdm

    bars = {}

    def progress(name: str, done: int, total: int) -> None:
        if name not in bars:
            bars[name] = tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=None)
        bars[name].update(done - bars[name].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()
