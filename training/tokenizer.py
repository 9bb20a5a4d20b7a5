"""The mini's text tokenizer: Chameleon's token names and pre-tokenizer, with a vocabulary of its own."""

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from stylear.vocabulary import code_name, grid_name

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_PICTURE = ("<eoss>", "<racm3:break>", "<reserved08706>", "<reserved08799>")


def train_tokenizer(texts: Iterable[str], *, codes: int, max_grid: int, text_tokens: int) -> str:
    """A tokenizer.json: special tokens, `codes` picture codes, `max_grid` sizes, then `text_tokens` of text.

    Byte-level, so that any prompt can be written; words of `texts` become short.
    """
    names = [
        *_SPECIAL,
        *(code_name(i) for i in range(codes)),
        *_PICTURE,
        *(grid_name(i + 1) for i in range(max_grid)),
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\t\n]"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(names) + text_tokens,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False)
