"""Command lines: every option of python -m stylear and python -m training, with values of every kind."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import strategies as st
from PIL import Image

from stylear import StyleAR
from stylear.__main__ import COMMANDS, main
from stylear.errors import StyleARError
from stylear.options import parser
from training import __main__ as training
from training import commands
from training.stages import STAGES

from .harness import case, hostile
from .strategies import NAMES, TEXTS

PLAIN = [
    "1",
    "2",
    "0",
    "-1",
    "0.5",
    "nan",
    "inf",
    "1e400",
    "9" * 5000,
    "1,2",
    "3,4,5,6",
    "1,2,3",
    "auto",
    "cpu",
    "cuda:99",
    "meta",
    "float32",
    "int8",
]
PLAIN += [
    "reference.png",
    "style.safetensors",
    "out.png",
    "model",
    "nowhere",
    "x.safetensors",
    "--",
    "-h",
    "--prompt",
]
words = st.sampled_from(PLAIN) | st.sampled_from(TEXTS) | st.sampled_from(NAMES) | st.text(max_size=8)


def options_of(command: str) -> list[str]:
    """Every option of a command."""
    subparsers = next(action for action in parser(COMMANDS)._actions if action.choices and command in action.choices)
    return [word for action in subparsers.choices[command]._actions for word in action.option_strings]


OPTIONS = {name: options_of(name) for name in ("generate", "sheet", "bench", "info", "convert")}
HEADS = {
    "generate": [
        "--style",
        "reference.png",
        "--prompt",
        "a cat",
        "--out",
        "out.png",
        "--model",
        "model",
        "--device",
        "cpu",
    ],
    "sheet": [
        "--styles",
        "reference.png",
        "--prompts",
        "a cat",
        "--out",
        "out.png",
        "--model",
        "model",
        "--device",
        "cpu",
    ],
    "bench": ["--model", "nowhere"],
    "info": [],
    "convert": [],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    tiny.write_bundle(folder / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "reference.png")
    return folder


@pytest.fixture(scope="module")
def loaded():
    """StyleAR.load, which remembers what it made of which words."""
    known, load = {}, StyleAR.load

    def remembered(*args, **options):
        key = repr((args, sorted(options.items())))
        if key not in known:
            try:
                known[key] = load(*args, **options)
            except StyleARError as error:
                known[key] = error
        if isinstance(known[key], StyleARError):
            raise known[key]
        return known[key]

    return remembered


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(arguments: list[str], place: Path, run, capsys) -> None:
    """A command ends with status 0 and the files it names, or 2 and a reason, and changes no file that was there."""
    before, left = tree(place), None
    sys.stderr.reconfigure(errors="backslashreplace")  # as Python's own is
    try:
        status = run(arguments)
    except SystemExit as end:
        status = end.code
    out, error = capsys.readouterr()
    assert status in (0, 2), status
    assert (status == 0) or error.startswith(("error: ", "usage: ")), error
    assert "Traceback" not in error and "\x1b[" not in out
    assert "\x1b[" not in error or error.startswith("usage: "), "argparse alone repeats words as they are"
    left = tree(place)
    assert {name: left.get(name) for name in before} == before or "--overwrite" in arguments
    made = left.keys() - before.keys()
    assert all(Path(name).suffix in (".png", ".safetensors") for name in made) and (status == 0 or not made)
    for name in made:
        (place / name).unlink()


def test_both_command_lines_end_well(place, loaded, capsys, monkeypatch):
    """One test for each would load everything anew."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(StyleAR, "load", loaded)
    few = st.lists(st.tuples(st.integers(0, 99), words), max_size=3)

    @hostile(
        250, command=st.sampled_from(["generate"] * 5 + ["sheet", "bench"]), few=few, alone=st.lists(words, max_size=2)
    )
    def generate(command, few, alone):
        names = OPTIONS[command]
        more = [word for number, value in few for word in (names[number % len(names)], value)]
        if "--shape" not in more:  # a 7B of random numbers is asked for in good faith
            check([command, *HEADS[command], *more, *(alone if len(alone) > 1 else [])], place, main, capsys)

    @hostile(150, command=st.sampled_from(["info", "convert", "generate", ""]), alone=st.lists(words, max_size=4))
    def others(command, alone):
        check([command, *alone], place, main, capsys)

    generate()
    others()


def test_the_training_ends_well_whatever_it_is_told(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    load = commands.Command.load
    monkeypatch.setattr(commands.Command, "load", lambda self: (load(self)[0], lambda settings: "read"))
    monkeypatch.setattr(training, "_pretrain", lambda given: None)
    keys = st.sampled_from(["out", "seed", "steps", "model.base", "config", "x", "", "data.x.y"])
    changes = st.lists(
        st.tuples(keys, words).map("=".join) | words | st.sampled_from(["--config", "--work"]), max_size=4
    )

    @hostile(
        150,
        command=st.sampled_from([*commands.COMMANDS, "pretrain", ""]),
        stage=st.sampled_from(["", *STAGES]),
        changes=changes,
    )
    def train(command, stage, changes):
        check([command, *([stage] if command == "pretrain" else []), *changes], place, training.main, capsys)

    train()


@pytest.mark.parametrize("name", ["\udcff.png", "é日本.png", "\x1b[2J.png", "a\nb.png", "x" * 247 + ".png"])
def test_a_picture_of_any_name_is_written_and_told(place, loaded, capsys, monkeypatch, name):
    monkeypatch.chdir(place)
    monkeypatch.setattr(StyleAR, "load", loaded)
    words = [*HEADS["generate"]]
    words[words.index("--out") + 1] = name
    with case():
        assert main(["generate", *words]) == 0
    assert Path(name).is_file() and "\x1b" not in capsys.readouterr().out
    Path(name).unlink()


@pytest.mark.parametrize("passes", ["-1", "-5", "0"])
def test_a_bench_of_passes_below_one_is_refused(place, capsys, monkeypatch, passes):
    monkeypatch.chdir(place)
    with case():
        check(["bench", "--model", "model", "--reference-passes", passes, "--windows", "1"], place, main, capsys)


def test_info_shows_no_key_that_moves_the_cursor(place, capsys, monkeypatch):
    import torch
    from safetensors.torch import save_file

    monkeypatch.chdir(place)
    (place / "keys").mkdir()
    save_file({"\x1b[2J\x07": torch.ones(1)}, place / "keys" / "x.safetensors")
    with case():
        assert main(["info", "keys/x.safetensors"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    shutil.rmtree(place / "keys")


def test_a_path_that_moves_the_cursor_is_spelled_out_by_the_training(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    with case():
        check(["train", "--config", "\x1b[2J"], place, training.main, capsys)
