"""The words that a small model was taught: for any other it draws something else, and people are told so."""

import re
from collections.abc import Sequence

SHOWN = 3


def untaught(prompt: str, words: Sequence[str]) -> str | None:
    """What to say of a prompt that has none of `words` in it; None if it has one or is empty, or there are no words."""
    said, known = _parts(prompt), {tuple(_parts(word)) for word in words} - {()}
    if not said or not known:
        return None
    lengths = {len(word) for word in known}
    runs = (tuple(said[i : i + n]) for n in lengths for i in range(len(said) - n + 1))
    if any(run in known for run in runs):
        return None
    some = ", ".join(words[:: max(1, len(words) // SHOWN)][:SHOWN])
    return f"This model knows no word of this. Try one of its {len(words)}: {some}."


def _parts(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())
