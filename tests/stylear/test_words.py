"""People are told of a prompt that the model was never taught a word of."""

import json

import pytest
import tiny

from stylear import StyleAR
from stylear.pipeline import MINI
from stylear.words import untaught
from training.data.pictures import read_words

WORDS = ("cat", "palm tree", "t-shirt", "ice cream")


@pytest.mark.parametrize("prompt", ["a cat", "CAT!", "palm tree, at night", "a t-shirt", "ice cream, a zebra", "", " "])
def test_a_prompt_with_a_word_that_was_taught_is_left_alone(prompt):
    assert untaught(prompt, WORDS) is None


@pytest.mark.parametrize("prompt", ["a zebra", "a tree", "palm-tree", "concatenate", "cream ice", "猫", "x" * 100_000])
def test_any_other_is_told_with_words_to_try(prompt):
    said = untaught(prompt, WORDS)
    assert "its 4:" in said and "cat" in said and len(said) <= 80  # two lines on the node


def test_a_model_that_is_bound_to_no_words_says_nothing():
    assert untaught("a zebra", ()) is None


def test_a_model_knows_the_words_of_its_base(tmp_path):
    folder = tiny.write_bundle(tmp_path / "model")
    config = folder / "base" / "config.json"
    assert StyleAR.load(folder).untaught("a zebra") is None
    for words, told in ((["cat"], True), ("cat", False), ([1], False), ([""], False), (["!"], False)):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"stylear": {"words": words}}))
        assert bool(StyleAR.load(folder).untaught("a zebra")) == told


def test_the_mini_knows_those_it_was_taught():
    assert json.loads((MINI / "base" / "config.json").read_text())["stylear"]["words"] == read_words()
