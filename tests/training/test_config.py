"""Settings: a YAML file and key=value become one checked object, or an error that names file, line and key."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from stylear.errors import BadInput
from training.config import ModelPaths, Settings, describe, read_settings


class Part(Settings):
    rate: float = Field(0.5, gt=0, le=10, description="how fast")
    ratio: tuple[int, int] = Field((1, 3), description="how many")


class Example(Settings):
    model: ModelPaths = Field(ModelPaths(), description="which model")
    part: Part = Field(Part(), description="a part")
    maybe: Part | None = Field(None, description="a part that may be absent")
    several: list[Part] = Field([], description="any number of parts")
    out: Path = Field(Path("work/out"), description="folder to write")
    steps: int = Field(3, ge=1, description="how long")
    name: str | None = Field(None, description="what it is called")
    words: list[str] = Field([], description="some words")
    fast: bool = Field(False, description="in a hurry")
    kind: Literal["red", "blue"] = Field("red", description="which kind")


class Ordered(Settings):
    low: int = Field(0, description="the lower")
    high: int = Field(1, description="the higher")

    @model_validator(mode="after")
    def _check(self):
        if self.low > self.high:
            raise ValueError("low is above high. Swap them.")
        return self


@pytest.fixture
def read(tmp_path):
    def read(text: str | bytes = "", *changes: str, kind: type[Settings] = Example) -> Settings:
        file = tmp_path / "some.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return read_settings(kind, file, changes)

    return read


@pytest.fixture
def refused(read):
    def refused(text: str | bytes, *words: str, changes: tuple[str, ...] = (), kind: type[Settings] = Example) -> str:
        with pytest.raises(BadInput) as caught:
            read(text, *changes, kind=kind)
        for word in words:
            assert word in str(caught.value)
        return str(caught.value)

    return refused


def test_an_empty_file_gives_every_default(read):
    assert read("# nothing\n") == Example()


def test_values_of_the_file_are_taken(read):
    settings = read("steps: 7\npart:\n  rate: 2\nwords: [a, b]\n")
    assert (settings.steps, settings.part.rate, settings.words) == (7, 2.0, ["a", "b"])


def test_settings_cannot_be_changed_afterwards(read):
    with pytest.raises(ValueError, match="frozen"):
        read().steps = 4


def test_a_file_with_a_byte_order_mark_is_read(read):
    assert read("\ufeffsteps: 7").steps == 7


@pytest.mark.parametrize(
    ("text", "where", "told"),
    [
        ("steps: 3\nstepz: 3", "line 2", "there is no setting stepz; did you mean steps?"),
        ("zzz: 3", "line 1", "there are model, part, maybe"),
        ("part:\n  rat: 1", "line 2", "no setting part.rat; did you mean part.rate?"),
        ("maybe: {rat: 1}", "line 1", "did you mean maybe.rate?"),
        ("several:\n- rate: 1\n- rat: 1", "line 3", "did you mean several.1.rate?"),
        ("steps: many", "line 1", "steps is 'many'"),
        ("steps: 0", "line 1", "steps is 0; input should be greater than or equal to 1"),
        ("steps: 2.5", "line 1", "steps is 2.5"),
        ("steps: .nan", "line 1", "steps is"),
        ("part: {rate: nan}", "line 1", "part.rate is 'nan'; input should be a finite number"),
        ("part: {rate: inf}", "line 1", "part.rate is 'inf'"),
        ("several:\n- rate: 1\n- rate: -2", "line 3", "several.1.rate is -2"),
        ("part:\n  ratio: [1, 2, 3]", "line 2", "part.ratio"),
        ("kind: green", "line 1", "input should be 'red' or 'blue'"),
        ("fast: maybe", "line 1", "fast is 'maybe'"),
        ("out: 2024", "line 1", "out is 2024; it has to be text: put it in quotes"),
        ("name: 2024", "line 1", "name is 2024; it has to be text: put it in quotes"),
        ("part: 3", "line 1", "part is 3; it has settings below it"),
        ("part:", "line 1", "part is None; it has settings below it"),
        ("words: [1, b]", "line 1", "words.0 is 1"),
        ("words: a", "line 1", "words is 'a'; input should be a valid list"),
    ],
)
def test_a_bad_key_or_value_is_told_with_file_line_and_key(refused, text, where, told):
    refused(text, f"some.yaml, {where}: ", told)


def test_every_fault_has_a_line_of_its_own(refused):
    assert len(refused("steps: 0\nstepz: 1\nkind: green").splitlines()) == 3


def test_of_thousands_of_faults_the_first_are_told(refused):
    lines = refused("\n".join(f"k{number}: 1" for number in range(9000))).splitlines()
    assert len(lines) == 21 and lines[-1].endswith("some.yaml: and 8980 more. Correct these first.")


def test_a_rule_between_settings_speaks_in_its_own_words(refused):
    assert refused("low: 3", kind=Ordered).endswith("some.yaml: low is above high. Swap them.")


@pytest.mark.parametrize("text", ["steps: 3\nsteps: 4", "steps: 3\n'steps': 4"])
def test_a_key_given_twice_is_refused(refused, text):
    refused(text, "line 2: steps is there twice. Keep one.")


def test_a_key_given_twice_inside_a_part_is_refused(refused):
    refused("part:\n  rate: 1\n  ratio: [1, 2]\n  rate: 2", "line 4: rate is there twice")


@pytest.mark.parametrize("text", ["1: 2", "null: 2", "true: 2", "? [a, b]\n: 3", "? {a: b}\n: 3", "? \n: 3"])
def test_a_key_that_is_no_word_is_refused(refused, text):
    refused(text, "line 1: a key has to be a word")


def test_aliases_are_refused_so_that_a_small_file_cannot_become_a_large_one(refused):
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
    refused(bomb, "line 2", "aliases (*name) are not read; write the value out")


def test_merge_keys_are_no_settings(refused):
    refused("<<: {steps: 4}", "there is no setting <<")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!own x"])
def test_tags_that_make_objects_are_refused(refused, tag):
    refused(f"steps: 3\nname: {tag}", "line 2", "tags (!name) are not read")


@pytest.mark.parametrize("text", ["[" * 600, "[" * 600 + "]" * 600, "{a: " * 600 + "1" + "}" * 600])
def test_deep_nesting_is_refused(refused, text):
    assert len(refused(text, "some.yaml")) < 300


def test_a_huge_file_is_refused_before_it_is_read(refused):
    refused(b"# \n" * 500_000, "some.yaml are 1500000 bytes long")


def test_a_huge_number_is_refused(refused):
    refused("steps: " + "9" * 5000, "some.yaml is no YAML")


@pytest.mark.parametrize("text", ["- 1", "3", "steps", "[]"])
def test_a_file_that_is_not_keys_and_values_is_refused(refused, text):
    refused(text, "some.yaml has to be `key: value` lines")


@pytest.mark.parametrize(
    "text", ["steps: 3\n  x: [", "steps: 3\nname: a: b", "steps: 3\n\tname: x", "steps: 3\n---\nx: 1"]
)
def test_a_text_that_is_no_yaml_is_told_with_its_line(refused, text):
    refused(text, "line 2: this is no YAML", "goes in quotes")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", "steps: 3".encode("utf-16"), b"name: \xe9"])
def test_a_file_that_is_not_utf_8_is_refused(refused, data):
    refused(data, "some.yaml cannot be read", "UTF-8")


def test_control_characters_are_refused(refused):
    refused("name: a\x00b", "some.yaml is no YAML")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"no settings .*none\.yaml"):
        read_settings(Example, tmp_path / "none.yaml")


def test_a_folder_is_no_settings_file(tmp_path):
    with pytest.raises(BadInput, match="give a YAML file"):
        read_settings(Example, tmp_path)


def test_an_endless_file_is_refused():
    with pytest.raises(BadInput, match="give a YAML file"):
        read_settings(Example, Path("/dev/zero"))


@pytest.mark.parametrize("word", ["no", "off", "yes", "1:30", "2020-01-01", "1_0e", "0x1F", "=", "."])
def test_plain_words_stay_text(read, word):
    assert read(f"name: {word}").name == word


@pytest.mark.parametrize(("text", "value"), [("010", 10), ("08", 8), ("+5", 5), ("1e3", 1000), ("3.0", 3)])
def test_whole_numbers_are_decimal(read, text, value):
    assert read(f"steps: {text}").steps == value


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), (".5", 0.5), ("1.", 1.0), ("2.5E+0", 2.5), ("3", 3.0)])
def test_numbers_with_an_exponent_need_no_point(read, text, value):
    assert read(f"part: {{rate: {text}}}").part.rate == value


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("yes", True), ("on", True), ("false", False), ("no", False)]
)
def test_yes_and_no_are_understood_where_they_are_asked_for(read, text, value):
    assert read(f"fast: {text}").fast is value


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("steps=4", {"steps": 4}),
        ("part.rate=1e-4", {"part": {"rate": 1e-4}}),
        ("part={rate: 2}", {"part": {"rate": 2.0}}),
        ("part.ratio=[1, 6]", {"part": {"ratio": (1, 6)}}),
        ("maybe.rate=2", {"maybe": {"rate": 2.0}}),
        ("several=[{rate: 2}]", {"several": [{"rate": 2.0}]}),
        ("model.base=/a b/c=d", {"model": {"base": "/a b/c=d"}}),
        ("name=a=b", {"name": "a=b"}),
        ("name='a: b # c'", {"name": "a: b # c"}),
        ("name='2024'", {"name": "2024"}),
        ("name=http://a/b:c", {"name": "http://a/b:c"}),
        ("name=猫", {"name": "猫"}),
        ("name=null", {}),
        ("name=", {}),
        ("words=[a, b]", {"words": ["a", "b"]}),
        ("out=C:\\x", {"out": Path("C:\\x")}),
    ],
)
def test_a_change_is_taken_as_yaml(read, change, found):
    assert read("", change).model_dump(exclude_defaults=True, exclude_unset=True) == found


def test_a_change_wins_over_the_file_and_leaves_its_neighbours(read):
    settings = read("steps: 5\npart: {rate: 2, ratio: [2, 2]}", "part.rate=3")
    assert (settings.steps, settings.part.rate, settings.part.ratio) == (5, 3.0, (2, 2))


def test_the_last_of_two_changes_wins(read):
    assert read("", "steps=4", "steps=5").steps == 5


@pytest.mark.parametrize("text", ["part:", "maybe: null"])
def test_a_change_reaches_into_a_part_that_is_empty_in_the_file(read, text):
    key = text.partition(":")[0]
    assert getattr(read(text, f"{key}.rate=2"), key).rate == 2


@pytest.mark.parametrize("change", ["steps", "=3", "=", ".steps=3", "steps.=3", "part..rate=3"])
def test_a_change_that_is_none_is_refused(refused, change):
    refused("", f"{change!r} is no setting: write key=value", changes=(change,))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("stepz=4", "did you mean steps?"),
        ("part.rat=4", "did you mean part.rate?"),
        ("steps=x", "steps is 'x'"),
        ("steps=", "steps is None"),
        ("steps==3", "steps is '=3'"),
        ("part.rate.x=1", "part.rate has no settings below it"),
        ("maybe.rate.x=1", "maybe.rate is {'x': 1}"),
        ("steps.x=1", "steps is {'x': 1}"),
        ("part={rate: -2}", "part.rate is -2"),
        ("part=3", "it has settings below it"),
        ("model=null", "it has settings below it"),
        ("words=a,b", "input should be a valid list"),
        ("name=-1", "put it in quotes"),
        ("name=*a", "aliases"),
        ("name=a: b", "goes in quotes"),
        ("name=[", "this is no YAML"),
        ("name=!!python/name:os.system", "tags (!name) are not read"),
        ("name=a\nsteps: 7", "more than one value"),
    ],
)
def test_a_bad_change_is_told_with_its_own_words(refused, change, told):
    assert refused("part:\n  rate: 1", told, changes=(change,)).startswith(repr(change))


def test_a_change_below_a_plain_value_of_the_file_is_refused(refused):
    refused("part: 3", "part has no settings below it", changes=("part.rate=1",))


def test_a_very_long_change_does_not_fill_the_screen(refused):
    assert len(refused("", "name", changes=("name=" + "[" * 600,))) < 400


def test_every_setting_is_described_with_default_bounds_and_meaning():
    lines = [line.split("  ") for line in describe(Example)]
    told = {line[1].partition(" ")[0]: line for line in lines}
    assert told["steps"][1:] == ["steps (3; >= 1)", "how long"]
    assert told["kind"][1:] == ['kind ("red"; red | blue)', "which kind"]
    assert told["part.rate"][1:] == ["part.rate (0.5; > 0, <= 10)", "how fast"]
    assert told.keys() == {
        *(f"model.{name}" for name in ("base", "adapter", "vqgan", "image_encoder", "segmenter")),
        *("part.rate", "part.ratio", "maybe", "maybe.rate", "maybe.ratio"),
        *("several", "several[].rate", "several[].ratio", "out", "steps", "name", "words", "fast", "kind"),
    }


def test_settings_are_described_with_the_values_that_a_file_gives_them():
    given = Example.model_validate({"steps": 5, "part": {"rate": 0.25}, "maybe": {"rate": 0.75}})
    lines = "\n".join(describe(Example, given))
    assert "  steps (5; >= 1)" in lines and "  part.rate (0.25;" in lines and "  maybe.rate (0.75;" in lines
    assert "  maybe (" not in lines


def test_a_setting_without_default_is_shown_as_required():
    class Needs(Settings):
        data: Path = Field(description="where from")

    assert list(describe(Needs)) == ["  data (required)  where from"]


def test_a_required_setting_that_is_missing_is_named(refused):
    class Needs(Settings):
        data: Path = Field(description="where from")

    refused("", "data is not set. Add it.", kind=Needs)
