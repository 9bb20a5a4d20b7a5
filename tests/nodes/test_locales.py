"""The nodes' words in each language, as ComfyUI's page looks them up."""

import json
import re

import pytest
from bench import ROOT

LOCALES = ROOT / "locales"
OTHERS = ("zh", "ja", "ko", "fr", "de", "es")
KEPT = re.compile(
    r"StyleAR|VQGAN|LoRA|CLIP ViT|RTX|GPU|Hugging Face|Depth Anything V2|models/\w+(?:/NAME)?|(?!^)image_encoder"
    r"|\b(?:SAM|7B|bfloat16|float16|float32|int8|int4|style_cfg|cfg|top_k|alpha|beta|gamma|auto|vqgan)\b"
    r"|\d+(?:[.,]\d+)*",
    re.ASCII,
)
SAME = {"fr": ("image", "style", "styles", "points", "prompt", "condition"), "es": ("prompt",)}  # words of theirs too
SPECIAL = set("@{}|$")  # vue-i18n would take these for its own syntax


def flat(tree: dict, path: str = "") -> dict[str, str]:
    """The texts of a tree by their paths."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: text for name, branch in tree.items() for key, text in flat(branch, f"{path}/{name}").items()}


def read(language: str) -> dict:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def own_words(schema) -> dict:
    """What a node itself says, in the form of a nodeDefs.json."""
    outputs = {str(place): item for place, item in enumerate(schema.outputs)}
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {item.id: {"name": item.id, "tooltip": item.tooltip} for item in schema.inputs},
        "outputs": {place: {"name": item.display_name, "tooltip": item.tooltip} for place, item in outputs.items()},
    }


def test_there_is_a_folder_for_each_language_and_no_other():
    assert {folder.name for folder in LOCALES.iterdir()} == {"en", *OTHERS}


def test_the_english_words_are_those_of_the_nodes_themselves(nodes):
    assert read("en") == {name: own_words(node.define_schema()) for name, node in nodes.items()}


@pytest.mark.parametrize("language", OTHERS)
def test_a_language_has_every_text_and_none_that_is_empty_or_english(language):
    english, other = flat(read("en")), flat(read(language))
    assert list(other) == list(english)
    for key, text in other.items():
        assert text.strip() == text and text, key
        if key.endswith(("description", "tooltip")):
            assert text != english[key] and len(text) > len(english[key]) / 5, key


@pytest.mark.parametrize("language", OTHERS)
def test_numbers_names_and_folders_are_the_same_in_every_language(language):
    def kept(text: str) -> set[str]:
        return {found.replace(",", ".") for found in KEPT.findall(text)}

    english, other = flat(read("en")), flat(read(language))
    for key, text in other.items():
        assert kept(text) == kept(english[key]), key


@pytest.mark.parametrize("language", OTHERS)
def test_a_node_is_called_in_the_texts_as_the_page_calls_it(language):
    english, other = read("en"), read(language)
    texts, translated = flat(english), flat(other)
    titles = {english[node]["display_name"]: other[node]["display_name"] for node in english}
    for key, text in texts.items():
        for title, name in titles.items():
            assert (title in text) == (name in translated[key]), (key, name)


@pytest.mark.parametrize("language", ["en", *OTHERS])
def test_no_text_holds_what_the_page_would_take_for_a_placeholder(language):
    for key, text in flat(read(language)).items():
        assert not SPECIAL & set(text), key


@pytest.mark.parametrize("language", ("de", "fr", "es"))
def test_decimals_have_a_comma_where_the_language_has_one(language):
    assert not [text for text in flat(read(language)).values() if re.search(r"\d\.\d", text)]


@pytest.mark.parametrize("language", OTHERS)
def test_an_input_keeps_its_english_name_only_where_the_field_uses_it_everywhere(language):
    english, other = read("en"), read(language)
    names = {(node, name): item["name"] for node in other for name, item in other[node]["inputs"].items()}
    kept = {name for (node, name), called in names.items() if called == english[node]["inputs"][name]["name"]}
    assert kept <= {"alpha", "beta", "gamma", "cfg", "style_cfg", "top_k", "vqgan", *SAME.get(language, ())}


def test_the_tooltip_of_the_prompt_says_that_the_mini_knows_few_words_and_where_they_are_listed():
    tooltip = read("en")["ARSample"]["inputs"]["prompt"]["tooltip"]
    assert "mini knows only a few words" in tooltip and "help page lists" in tooltip
