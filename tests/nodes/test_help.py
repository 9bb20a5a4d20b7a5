"""The help pages that ComfyUI shows beside a node."""

import re
from pathlib import Path

import pytest
from bench import ROOT
from PIL import Image
from test_pack import IDS

from stylear.vocabulary import Vocabulary

PAGES = ROOT / "web" / "docs"
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def test_comfyui_is_told_where_the_pages_are_and_finds_no_script_there(pack):
    web = ROOT / pack.WEB_DIRECTORY
    assert web / "docs" == PAGES
    assert {file.suffix for file in web.rglob("*") if file.is_file()} == {".md", ".png"}


def test_there_is_a_page_for_each_node_and_no_other():
    assert {file.stem for file in PAGES.glob("*.md")} == set(IDS)


@pytest.mark.parametrize("node_id", IDS)
def test_a_page_names_its_node_and_each_of_its_inputs_and_outputs(nodes, node_id):
    schema, text = nodes[node_id].define_schema(), page(node_id)
    assert text.startswith(f"# {schema.display_name}\n")
    rows = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| **"))
    assert re.findall(r"\*\*(\w+)\*\*", rows) == [item.id for item in schema.inputs]
    for item in schema.outputs:
        assert f"**{item.display_name}**" in text


@pytest.mark.parametrize("node_id", IDS)
def test_a_page_shows_only_pictures_that_are_there_with_words_for_who_cannot_see_them(node_id):
    for words, path in PICTURE.findall(page(node_id)):
        assert words and (PAGES / path).is_file(), path


def test_every_picture_is_shown_somewhere_small_and_made_by_the_command_that_makes_them():
    shown = {Path(path).stem for node_id in IDS for _, path in PICTURE.findall(page(node_id))}
    files = sorted((PAGES / "images").iterdir())
    assert {file.stem for file in files} == shown
    script = (ROOT / "docs" / "help_pictures.py").read_text(encoding="utf-8")
    for file in files:
        assert file.stat().st_size < 60_000, file
        assert Image.open(file).width <= 800, file
        assert f"    def {file.stem}(self) -> Rows:" in script


def test_the_words_that_the_mini_was_taught_are_listed_beside_the_prompt():
    lines = (ROOT / "training" / "configs" / "mini_words.txt").read_text(encoding="utf-8").splitlines()
    taught = [word for word in (line.partition("#")[0].strip() for line in lines) if word]
    _, listed = page("ARSample").split("\n## Words the mini knows\n\n")
    section = listed.split("\n\n")[1]
    assert section.replace("\n", " ") == ", ".join(taught) + "."


def test_the_largest_side_of_the_mini_is_said_wherever_a_person_chooses_one(nodes):
    tokenizer = ROOT / "stylear" / "mini" / "base" / "tokenizer.json"
    if not tokenizer.is_file():
        pytest.skip("the bundled mini is not there")
    largest = str(8 * Vocabulary(tokenizer.read_text(encoding="utf-8")).max_grid)
    sides = [item.tooltip for item in nodes["ARSample"].define_schema().inputs if item.id in ("width", "height")]
    for text in [*sides, page("ARSample"), (ROOT / "README.md").read_text(encoding="utf-8")]:
        assert re.search(rf"mini.*\b{largest}\b", text)


def test_every_page_and_note_that_names_the_download_says_into_which_folder_of_comfyui():
    files = [*PAGES.glob("*.md"), *(ROOT / "workflows").glob("*.json")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    commands = [said for text in texts for said in re.findall(r"stylear download (\S*)", text)]
    assert commands and all(said.startswith("PATH/TO/ComfyUI/models/stylear/") for said in commands)
