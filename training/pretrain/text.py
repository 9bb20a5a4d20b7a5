"""The mini's vocabulary, learned from the captions of what it is taught and the prompt templates it will meet."""

import numpy as np

from stylear.vocabulary import template_texts

from ..data.captions import caption, styled_caption
from ..data.pictures import SIZE, read_words
from ..data.renderers import STYLES
from ..tokenizer import train_tokenizer
from .vqgan import MINI

TEXT_TOKENS = 1100
MAX_GRID = 16


def mini_tokenizer() -> str:
    """The mini's tokenizer.json, the same each time."""
    rng = np.random.default_rng(0)
    nouns, styles = read_words(), [*STYLES]
    texts = [caption(noun, rng) for noun in nouns for _ in range(20)]
    texts += [styled_caption(nouns[i % len(nouns)], styles[i % len(styles)], rng) for i in range(4000)]
    texts += [*template_texts(SIZE, SIZE)] * 200
    return train_tokenizer(texts, codes=MINI.codes, max_grid=MAX_GRID, text_tokens=TEXT_TOKENS)
