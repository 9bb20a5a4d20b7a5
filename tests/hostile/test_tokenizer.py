"""tokenizer.json: ids that are none, words that are missing, rules that blow text up."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import strategies as st

from stylear.errors import BadCheckpoint
from stylear.vocabulary import STYLE_TOKENS, Vocabulary

from .harness import case, failed, hostile, outcome
from .strategies import damaged, edited, odd_texts, odd_values

WHOLE = json.loads(tiny.TOKENIZER)
PLAIN = Vocabulary(tiny.TOKENIZER)
RULES = {
    "padding to gigabytes": {
        "padding": {
            "strategy": {"Fixed": 10**9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        }
    },
    "truncation to nothing": {
        "truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0}
    },
    "text that doubles 40 times": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40,
        }
    },
    "a pattern without end": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(a|a)*(a|a)*(a|a)*$"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "a pattern that only looks": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": ".{0,60}.{0,60}.{0,60}(?!.)(?<=@)"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "patterns by the thousand": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "(?=a)x"}, "behavior": "Isolated", "invert": False}
            ]
            * 20_000,
        }
    },
    "rules that are no list": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": {"type": "Digits"}}},
    "no unknown word": {"model": {"type": "WordLevel", "vocab": WHOLE["model"]["vocab"], "unk_token": "nothing"}},
    "words in pieces": {
        "model": {
            "type": "WordPiece",
            "vocab": WHOLE["model"]["vocab"],
            "unk_token": "nothing",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        }
    },
    "a list of words": {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}},
    "a prefix longer than words": {"model": WHOLE["model"] | {"continuing_subword_prefix": "longer than any word"}},
    "dropout": {"model": WHOLE["model"] | {"dropout": 0.9}},
    "a post processor": {"post_processor": {"type": "ByteLevel"}},
    "one id for two words": {
        "added_tokens": [*WHOLE["added_tokens"], WHOLE["added_tokens"][0] | {"content": "IMGIMGACZ"}]
    },
    "an id past the table": {
        "added_tokens": [*WHOLE["added_tokens"], WHOLE["added_tokens"][0] | {"id": 2**62, "content": "IMGIMGCEZ"}]
    },
    "a word the added ones hide": {
        "model": WHOLE["model"] | {"vocab": WHOLE["model"]["vocab"] | {"a": 10**6}},
        "added_tokens": [*WHOLE["added_tokens"], WHOLE["added_tokens"][0] | {"id": 3, "content": "a"}],
    },
}


def check(text: str, prompt: str) -> None:
    """A vocabulary is refused, or every id that it ever gives is one of its own, and the same twice."""
    vocabulary = outcome(Vocabulary, text)
    if failed(vocabulary):
        return
    assert vocabulary.code_ids.dtype == torch.int64 and 0 <= int(vocabulary.code_ids.min())
    codes = torch.tensor([[0, len(vocabulary.code_ids) - 1]] * 2)
    for condition in (None, codes):
        made = outcome(vocabulary.prompt, prompt, condition, max_length=600)
        again = outcome(vocabulary.prompt, prompt, condition, max_length=600)
        if not failed(made):
            ids = (*made.ids, *vocabulary.image_ids(codes), *vocabulary.text_prompt(prompt, 64, 64))
            assert all(type(token) is int and 0 <= token < vocabulary.size for token in ids)
            assert len(made.ids) <= 600 and len(made.style_slots) <= STYLE_TOKENS
            assert made == again, "the same prompt has two readings"
    known = [vocabulary.bos, vocabulary.image_start, vocabulary.image_end, vocabulary.new_line, vocabulary.end_of_turn]
    assert all(0 <= token < vocabulary.size for token in [*known, *vocabulary.code_ids.tolist()])
    assert len(set(vocabulary.code_ids.tolist())) == len(vocabulary.code_ids), "two codes are one token"
    assert vocabulary.size <= 2**20, "no base has so many tokens"


@hostile(200, spec=edited(WHOLE, odd_values | st.integers(0, 300)), prompt=odd_texts)
def test_an_edited_tokenizer_is_refused_or_gives_ids_of_its_own(spec, prompt):
    check(json.dumps(spec), prompt)


NAMES = [
    "<s>",
    "<racm3:break>",
    "<eoss>",
    "<reserved08706>",
    "<reserved08799>",
    "<reserved08801>",
    "IMGIMGAZ",
    "IMGIMGBZ",
    "a",
    "*",
]


@hostile(80, name=st.sampled_from(NAMES), to=odd_values | st.integers(-1, 300), added=st.booleans())
def test_a_token_whose_id_is_none_is_refused(name, to, added):
    words = [*WHOLE["added_tokens"], WHOLE["added_tokens"][0] | {"content": name, "id": to}]
    model = WHOLE["model"] | {"vocab": WHOLE["model"]["vocab"] | {name: to}}
    check(json.dumps(WHOLE | ({"added_tokens": words} if added else {"model": model})), "a cat")


@hostile(100, data=damaged(tiny.TOKENIZER.encode()))
def test_a_damaged_tokenizer_is_refused(tmp_path_factory, data):
    path = Path(tmp_path_factory.getbasetemp()) / "tokenizer.json"
    path.write_bytes(data)
    if not failed(outcome(Vocabulary.from_file, path)):
        check(data.decode(), "a cat")


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_blows_text_up_is_refused_or_without_effect(rule):
    with case():
        check(json.dumps(WHOLE | RULES[rule]), "a" * 30 + "b")


@hostile(150, prompt=st.text(st.characters(), max_size=200) | odd_texts)
def test_any_text_is_a_prompt_or_refused(prompt):
    made = outcome(PLAIN.prompt, prompt, max_length=600)
    if not failed(made):
        assert len(made.style_slots) == STYLE_TOKENS and all(0 <= token < PLAIN.size for token in made.ids)
        assert not set(made.ids[1:-1]) & {PLAIN.bos, PLAIN.image_start, PLAIN.image_end}, "text became a special token"


@pytest.mark.parametrize(
    "prompt", ["a" * 3_000_000, "ab " * 3_000_000, "*" * 1_000_000], ids=["a word", "words", "marks"]
)
def test_a_prompt_of_megabytes_is_refused(prompt):
    with case():
        assert failed(outcome(PLAIN.prompt, prompt, max_length=600))


CHAMELEON = (  # how the released tokenizer.json cuts text up, before ByteLevel
    "<sentinel:[0-9]+>",
    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    "([\t\n]|    |  )",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
)


def with_rules(*patterns: str) -> str:
    splits = [{"type": "Split", "pattern": {"Regex": one}, "behavior": "Isolated", "invert": False} for one in patterns]
    rule = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return json.dumps(WHOLE | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, rule]}})


def test_the_rules_of_the_released_tokenizer_are_taken():
    assert Vocabulary(with_rules(*CHAMELEON)).encode("a cat, 12 of (them)")


@pytest.mark.parametrize("pattern", ["(a+)+b", "(?=a)x", r"(\\+|\\)+[bc]", r"\p{N}+x*", "[a](b*)+]", "x" * 101])
def test_a_rule_that_may_not_end_is_refused(pattern):
    with pytest.raises(BadCheckpoint, match="which may not end"):
        Vocabulary(with_rules(pattern))
