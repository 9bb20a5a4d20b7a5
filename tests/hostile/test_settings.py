"""Training settings: YAML files and key=value changes of every kind, for every command."""

import json
import math

import pytest
import yaml
from hypothesis import strategies as st

from training.commands import COMMANDS
from training.config import CONFIGS, Settings, read_settings

from .harness import case, failed, hostile, outcome
from .strategies import damaged, edited, odd_names, odd_texts, odd_values

WHOLE = {name: (CONFIGS / f"{name}.yaml").read_bytes() for name in COMMANDS}
PLAIN = {name: yaml.safe_load(text) or {} for name, text in WHOLE.items()}
SNIPPETS = [
    "!!bool x",
    "!!int ''",
    "!!float ''",
    "!!int 1:x",
    "!!timestamp x",
    "!!binary x",
    "!!set {x}",
    "!!omap [1]",
    "!!python/object/apply:os.system ['exit']",
    "!!python/name:os.system",
    "!x y",
    "! y",
    "&a [*a]",
    "&a x",
    "<<: {a: 1}",
    "{a: 1, a: 2}",
    "? [a]\n: b",
    "%TAG ! tag:x,2000:",
    "--- a\n--- b",
    '"a\\0b"',
    '"\\ud800"',
    "9" * 5000,
    "1e999999999",
    "0x10",
    "010",
    "1:30",
    "2001-99-99",
    "[" * 2000,
    "{a: " * 150 + "1" + "}" * 150,
    "a: " * 50,
    "|\n x",
    "\t",
    "\x85",
    "\ufeff",
    "~",
    "null",
    ".nan",
    ".inf",
    "yes",
]


@pytest.fixture(scope="module")
def kinds() -> dict[str, type[Settings]]:
    """Each command's settings."""
    return {name: command.load()[0] for name, command in COMMANDS.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("settings") / "x.yaml"


def check(kind: type[Settings], file, changes=()) -> None:
    """Settings are read, finite and so that writing them down and reading them gives the same; or refused."""
    found = outcome(read_settings, kind, file, changes)
    if failed(found):
        assert len(str(found)) < 20_000
        return
    told = found.model_dump(mode="json")
    numbers = [value for value in _leaves(told) if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    file.write_text(json.dumps(told), encoding="utf-8")
    assert read_settings(kind, file) == found


def _leaves(value: object) -> list:
    if isinstance(value, dict | list):
        return [leaf for inner in (value.values() if isinstance(value, dict) else value) for leaf in _leaves(inner)]
    return [value]


commands = st.sampled_from(list(COMMANDS))


@hostile(250, data=st.data(), command=commands)
def test_edited_settings_are_read_or_refused(kinds, file, data, command):
    file.write_text(json.dumps(data.draw(edited(PLAIN[command]))), encoding="utf-8")
    check(kinds[command], file)


@hostile(100, data=st.data(), command=commands)
def test_a_damaged_settings_file_is_read_or_refused(kinds, file, data, command):
    file.write_bytes(data.draw(damaged(WHOLE[command])))
    check(kinds[command], file)


keys = st.sampled_from(
    [key for name in PLAIN for key in PLAIN[name]] + ["out", "model.base", "seed", "x", "", ".", "a.b.c", "." * 50]
)
values = st.sampled_from(SNIPPETS) | odd_texts | odd_values.map(str)


@hostile(
    250, command=commands, changes=st.lists(st.tuples(keys, values).map("=".join) | odd_texts, min_size=1, max_size=3)
)
def test_changes_of_any_text_are_taken_or_refused(kinds, file, command, changes):
    file.write_bytes(WHOLE[command])
    check(kinds[command], file, changes)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_yaml_that_is_no_plain_value_is_refused(kinds, file, number):
    with case():
        file.write_text(f"out: {SNIPPETS[number]}\n", encoding="utf-8", errors="replace")
        check(kinds["train"], file)
    with case():
        file.write_text(SNIPPETS[number], encoding="utf-8", errors="replace")
        check(kinds["train"], file)


def test_a_key_of_a_hundred_thousand_parts_is_refused(kinds, file):
    file.write_bytes(WHOLE["train"])
    with case():
        assert failed(outcome(read_settings, kinds["train"], file, [f"{'a.' * 100_000}b=1"]))


@hostile(40, name=odd_names)
def test_settings_at_a_path_that_cannot_be_are_refused(kinds, tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    assert failed(outcome(read_settings, kinds["train"], folder / name)) or (folder / name).is_file()


@hostile(40, name=odd_names)
def test_an_output_folder_that_cannot_be_is_refused(kinds, tmp_path_factory, name):
    from training.output import output_folder

    folder = tmp_path_factory.mktemp("out")
    settings = outcome(read_settings, kinds["train"], CONFIGS / "train.yaml", [])
    with case():
        place = folder / "inside" / name.replace("..", "").lstrip("/")
        outcome(_begin, output_folder, place, settings)
    assert not failed(settings)


def _begin(output_folder, place, settings) -> None:
    with output_folder(place, settings):
        pass
