"""Prompts and pictures become the token ids the released code makes."""

import json
from pathlib import Path

import pytest
import torch
from tiny_tokenizer import tiny_tokenizer_json

from stylear.errors import BadCheckpoint, BadInput, MissingPart
from stylear.vocabulary import STYLE_TOKENS, Vocabulary, template_texts

CASES = ["case_a_style", "case_b_style_subtract", "case_c_style_depth", "case_d_forced_128x128"]


@pytest.fixture(scope="module")
def tiny() -> Vocabulary:
    return Vocabulary(tiny_tokenizer_json())


@pytest.fixture
def released(golden: Path) -> Vocabulary:
    return Vocabulary.from_file(golden / "tiny/Alpha-VLLM/Lumina-mGPT-7B-768/tokenizer.json")


def names(vocabulary: Vocabulary) -> dict[int, str]:
    return {index: name for name, index in vocabulary._ids.items()}


def codes_of(ids: list[int], vocabulary: Vocabulary) -> torch.Tensor:
    """Codes [h, w] of a picture's tokens, start and end included."""
    height, width = (2 * (size - vocabulary.grid_id(1) + 1) for size in ids[1:3])
    codes = [token - int(vocabulary.code_ids[0]) for token in ids[3:-1] if token != vocabulary.new_line]
    return torch.tensor(codes).view(height, width)


@pytest.mark.parametrize("case", CASES)
def test_golden_prompt_ids_and_style_places_are_the_released_ones(golden, released, case):
    recorded = json.loads((golden / f"{case}.json").read_text())
    condition = None
    if recorded["cond_images"]:
        ids = recorded["prompt_ids"]
        picture = ids[ids.index(released.image_start) : ids.index(released.image_end) + 1]
        condition = codes_of(picture, released)
    prompt = released.prompt(recorded["prompt"], condition)
    assert list(prompt.ids) == recorded["prompt_ids"]
    assert list(prompt.style_slots) == recorded["style_index"]


def test_golden_ids_of_special_tokens_are_chameleons(released):
    found = (released.bos, released.image_end, released.image_start, released.end_of_turn, released.new_line)
    assert found == (0, 8196, 8197, 8710, 8803)
    assert released.grid_id(24) == 8828
    assert torch.equal(released.code_ids, torch.arange(4, 8196))


def test_golden_text_without_special_tokens_is_encoded_as_released(golden, released):
    samples = json.loads((golden / "components.json").read_text())["tokenize"]
    plain = {text: ids for text, ids in samples.items() if "<" not in text}
    assert len(plain) == 6
    for text, ids in plain.items():
        assert [released.bos, *released.encode(text)] == ids


def test_golden_pictures_are_laid_out_as_released(golden, released):
    for picture in json.loads((golden / "components.json").read_text())["process_image"]:
        assert released.image_ids(codes_of(picture["input_ids"], released)) == picture["input_ids"]


def test_a_prompt_without_condition_is_the_released_template_word_for_word(tiny):
    ids = tiny.prompt("a ship").ids
    text = "".join(names(tiny)[token] for token in ids[1:-1]).replace("Ġ", " ")
    assert text == (
        "Instant style Generation. Given image style is " + " ".join(["S*"] * 16) + ". Please generate an same style "
        "image according to my instruction: a ship"
    )
    assert (ids[0], ids[-1]) == (tiny.bos, tiny.end_of_turn)


def test_the_wording_to_learn_a_tokenizer_from_is_that_of_the_prompts(tiny):
    plain, before, after, base = (tiny.encode(text) for text in template_texts(64, 32))
    codes = torch.zeros(2, 2, dtype=torch.int64)
    conditional = [tiny.bos, *before, *tiny.image_ids(codes), *after, tiny.end_of_turn]
    assert tiny.prompt("").ids == (tiny.bos, *plain, tiny.end_of_turn)
    assert tiny.prompt("", codes).ids == tuple(conditional)
    assert tiny.text_prompt("", 64, 32) == (tiny.bos, *base, tiny.end_of_turn)


def test_a_condition_picture_stands_between_its_two_halves_of_the_template(tiny):
    codes = torch.arange(8).view(2, 4)
    prompt = tiny.prompt("a ship", codes)
    picture = tiny.image_ids(codes)
    start = prompt.ids.index(tiny.image_start)
    assert list(prompt.ids[start : start + len(picture)]) == picture
    after = "".join(names(tiny)[token] for token in prompt.ids[start + len(picture) : -1]).replace("Ġ", " ")
    assert after == " and according to my instruction: a ship"
    assert prompt.style_slots == tiny.prompt("another").style_slots


def test_style_slots_are_the_stars_of_the_template(tiny):
    prompt = tiny.prompt("a ship")
    assert len(prompt.style_slots) == STYLE_TOKENS
    assert {names(tiny)[prompt.ids[slot]] for slot in prompt.style_slots} == {"*"}


@pytest.mark.parametrize("text", ["a * b", "*", "S* S*", "**bold**"])
def test_a_star_in_the_users_prompt_is_ordinary_text(tiny, text):
    assert tiny.prompt(text).style_slots == tiny.prompt("plain").style_slots


def test_the_number_of_style_places_follows_the_adapter(tiny):
    assert len(tiny.prompt("a * b", style_tokens=4).style_slots) == 4


@pytest.mark.parametrize(
    "text",
    ["<s>", "<eoss>", "<racm3:break>", "<reserved08706>", "<sentinel:1>", "IMGIMGAZ", "<|image|>", "S*<s>"],
)
def test_special_tokens_spelled_in_a_prompt_are_ordinary_text(tiny, text):
    first_byte = tiny._ids["!"]
    assert all(token >= first_byte for token in tiny.encode(text))
    assert "".join(names(tiny)[token] for token in tiny.encode(text)) == text


@pytest.mark.parametrize("text", ["<reserved08706>", "IMGIMGAZ", "<eoss>"])
def test_golden_special_tokens_spelled_in_a_prompt_are_ordinary_text(released, text):
    assert all(token >= released._ids["!"] for token in released.encode(text))


def test_an_empty_prompt_works(tiny):
    prompt = tiny.prompt("")
    assert [names(tiny)[token] for token in prompt.ids[-3:-1]] == [":", "Ġ"]
    assert prompt.style_slots == tiny.prompt("plain").style_slots


def test_an_over_long_prompt_is_refused_with_how_much(tiny):
    length = len(tiny.prompt("word " * 10).ids)
    assert tiny.prompt("word " * 10, max_length=length)
    with pytest.raises(BadInput, match="is 3 tokens longer than there is room for"):
        tiny.prompt("word " * 10, max_length=length - 3)


@pytest.mark.parametrize("text", [None, 3, b"bytes", "\ud800"])
def test_a_prompt_that_is_not_text_is_refused(tiny, text):
    with pytest.raises(BadInput):
        tiny.encode(text)


def test_the_base_models_own_prompt_names_the_size_in_pixels(tiny):
    ids = tiny.text_prompt("a ship", 64, 32)
    text = "".join(names(tiny)[token] for token in ids[1:-1]).replace("Ġ", " ").replace("Ċ", "\n")
    assert text == "Generate an image of 64x32 according to the following prompt:\na ship"
    assert (ids[0], ids[-1]) == (tiny.bos, tiny.end_of_turn)


def test_a_picture_is_height_width_rows_with_new_lines_and_an_end(tiny):
    ids = tiny.image_ids(torch.tensor([[0, 1, 2, 3], [1020, 1021, 1022, 1023]]))
    assert [names(tiny)[token] for token in ids] == [
        *("<racm3:break>", "<reserved08801>", "<reserved08802>"),
        *("IMGIMGAZ", "IMGIMGBZ", "IMGIMGCZ", "IMGIMGDZ", "<reserved08799>"),
        *("IMGIMGBACAZ", "IMGIMGBACBZ", "IMGIMGBACCZ", "IMGIMGBACDZ", "<reserved08799>", "<eoss>"),
    ]


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(3, 4, dtype=torch.int64),
        torch.zeros(1, 2, 2, dtype=torch.int64),
        torch.full((2, 2), 1024),
        torch.full((2, 2), -1),
        torch.zeros(0, 2, dtype=torch.int64),
    ],
)
def test_codes_that_are_no_picture_are_refused(tiny, codes):
    with pytest.raises(BadInput):
        tiny.image_ids(codes)


def test_sizes_end_where_the_tokens_end(tiny):
    assert (tiny.max_grid, len(tiny.code_ids)) == (16, 1024)
    assert names(tiny)[tiny.grid_id(16)] == "<reserved08816>"
    for n in (0, -1, 17):
        with pytest.raises(BadInput, match="1 to 16 grid steps"):
            tiny.grid_id(n)


def test_a_tokenizer_with_other_numbers_of_tokens_works():
    small = Vocabulary(tiny_tokenizer_json(codes=12, grids=3))
    assert (len(small.code_ids), small.max_grid) == (12, 3)
    assert names(small)[int(small.code_ids[10])] == "IMGIMGBAZ"
    assert small.size == len(small._ids)


def test_a_missing_tokenizer_is_named_with_its_place(tmp_path):
    with pytest.raises(MissingPart, match=r"tokenizer\.json"):
        Vocabulary.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {"vocab": {}}}', "\x00"])
def test_a_file_that_is_no_tokenizer_is_refused_with_its_place(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json"):
        Vocabulary.from_file(path)


def test_a_tokenizer_of_another_model_is_refused_with_the_missing_token():
    other = tiny_tokenizer_json().replace("<racm3:break>", "<other>")
    with pytest.raises(BadCheckpoint, match="<racm3:break>"):
        Vocabulary(other)
