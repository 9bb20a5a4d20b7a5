"""Captions: what is in a picture, in varied words and without a word of its style."""

import numpy as np

_FORMS = (
    "{a} {noun}",
    "{a} {noun}",
    "{a} {noun}",
    "{noun}",
    "the {noun}",
    "a picture of {a} {noun}",
    "an image of {a} {noun}",
    "one {noun}",
)


def article(noun: str) -> str:
    """The indefinite article a noun takes."""
    return "an" if noun[0] in "aeiou" and not noun.startswith("uni") else "a"


def caption(noun: str, rng: np.random.Generator) -> str:
    """One wording for a picture of `noun`."""
    return _FORMS[rng.integers(len(_FORMS))].format(a=article(noun), noun=noun)


def styled_caption(noun: str, style: str, rng: np.random.Generator) -> str:
    """A wording that also names the style; only the image encoder's training sees these."""
    return f"{caption(noun, rng)} in {style.replace('_', ' ')} style"
