"""Builds, in memory, a tokenizer.json with Chameleon's token names and few of each."""

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Punctuation, Sequence, Split

MERGES = [("Ġ", "S"), ("Ġ", "a"), ("i", "n"), ("Ġa", "n")]


def tiny_tokenizer_json(codes: int = 1024, grids: int = 16) -> str:
    """Text of a tokenizer.json with `codes` picture codes and tokens for 0 to `grids` grid steps.

    Ids as in Chameleon: four special tokens, the codes from 4 on, picture end and start, two sentinels, the
    reserved tokens, the 256 bytes, then a few merged words. Text goes through Chameleon's own chain of
    pre-tokenizers.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    special += ["IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z" for code in range(codes)]
    special += ["<eoss>", "<racm3:break>", "<sentinel:0>", "<sentinel:1>"]
    special += [f"<reserved{number:05d}>" for number in (8706, 8799, *range(8800, 8801 + grids))]
    names = special + sorted(ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES]
    tokenizer = Tokenizer(BPE(vocab={name: index for index, name in enumerate(names)}, merges=MERGES))
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex("<sentinel:[0-9]+>"), "isolated"),
            Split(Regex("IMGIMG[A-I]{1,4}Z"), "isolated"),
            Split(Regex("[\t\n]|    |  "), "isolated"),
            Digits(individual_digits=True),
            Punctuation("isolated"),
            ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer.to_str()
