"""python -m training COMMAND: what each command says of itself, and how a run ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field
from safetensors import SafetensorError

from stylear.errors import BadInput, MissingPart
from training import __main__
from training.__main__ import main
from training.commands import COMMANDS
from training.config import CONFIGS, Settings, describe, read_settings


class Example(Settings):
    steps: int = Field(3, ge=1, description="how long")
    name: str = Field("", description="what it is called")


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Put a command `try` in the others' place; it runs what the test gives and finds an empty YAML."""
    (tmp_path / "try.yaml").touch()
    monkeypatch.setattr(__main__, "CONFIGS", tmp_path)

    def command(run) -> None:
        class Try:
            help, mini = "try", None

            @staticmethod
            def load():
                return Example, run

        monkeypatch.setattr(__main__, "COMMANDS", {"try": Try})

    return command


def failing(error: BaseException):
    def run(_):
        raise error

    return run


def test_a_run_that_ends_well_prints_its_summary(command, capsys):
    command(lambda settings: f"{settings.steps} steps of {settings.name}")
    assert main(["try", "steps=5", "name=x"]) == 0
    assert capsys.readouterr().out == "5 steps of x\n"


def test_a_process_without_a_summary_prints_nothing(command, capsys):
    command(lambda _: "")
    assert main(["try"]) == 0
    assert capsys.readouterr() == ("", "")


def test_another_settings_file_is_taken_with_config(command, capsys, tmp_path):
    command(lambda settings: str(settings.steps))
    (tmp_path / "own.yaml").write_text("steps: 8")
    assert main(["try", "--config", str(tmp_path / "own.yaml")]) == 0
    assert capsys.readouterr().out == "8\n"


def test_changes_may_stand_before_and_after_an_option(command, capsys, tmp_path):
    command(lambda settings: f"{settings.steps}{settings.name}")
    assert main(["try", "steps=5", "--config", str(tmp_path / "try.yaml"), "name=x"]) == 0
    assert capsys.readouterr().out == "5x\n"


@pytest.mark.parametrize(
    "error",
    [
        BadInput("that is bad"),
        MissingPart("that is bad"),
        OSError(28, "that is bad"),
        FloatingPointError("that is bad"),
        SafetensorError("that is bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_person_can_mend_ends_with_2_and_one_line(command, capsys, error):
    command(failing(error))
    assert main(["try"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.endswith("that is bad\n") and err.count("\n") == 1


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(command, capsys):
    command(failing(KeyboardInterrupt()))
    assert main(["try"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_fault_of_ours_is_not_hidden(command):
    command(failing(RuntimeError("bug")))
    with pytest.raises(RuntimeError, match="bug"):
        main(["try"])


def test_a_library_that_is_missing_is_named_with_what_to_install(command, capsys):
    command(failing(ModuleNotFoundError("No module named 'diffusers'", name="diffusers")))
    assert main(["try"]) == 2
    told = "error: diffusers is not installed: python -m pip install -e '.[train]' in its folder\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("words", [["train", "--help"], ["pretrain", "all", "--plan"], ["evaluate", "--model", "mini"]])
def test_without_the_packages_of_training_every_command_says_what_to_install(words):
    without = "import sys; sys.modules.update(accelerate=None, peft=None, datasets=None, psutil=None, cv2=None)"
    run = f"{without}; from training.__main__ import main; sys.exit(main({words}))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", run], cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "is not installed: python -m pip install -e '.[train]'" in done.stderr


def test_a_module_of_ours_that_is_missing_is_a_fault_of_ours(command):
    command(failing(ModuleNotFoundError("No module named 'training.x'", name="training.x")))
    with pytest.raises(ModuleNotFoundError):
        main(["try"])


@pytest.mark.parametrize("words", [["stepz=3"], ["steps=0"], ["steps"], ["--config", "none.yaml"]])
def test_settings_that_do_not_fit_end_with_2_before_anything_runs(command, capsys, words):
    command(failing(AssertionError("it ran")))
    assert main(["try", *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "words", [[], ["nothing"], ["try", "--steps", "3"], ["try", "--config"], ["pretrain", "base", "x=1"]]
)
def test_words_that_are_none_of_the_command_lines_end_with_2(command, capsys, words):
    command(failing(AssertionError("it ran")))
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "error: " in capsys.readouterr().err


def test_an_unknown_option_is_told_to_be_key_and_value(command, capsys):
    command(failing(AssertionError("it ran")))
    with pytest.raises(SystemExit):
        main(["try", "--steps", "3"])
    assert "no option --steps; settings are given as key=value" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    places = [text.index(f"  {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_lists_every_setting(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    text = capsys.readouterr().out
    kind, _ = COMMANDS[name].load()
    for field in kind.model_fields:
        assert f"\n  {field} (" in text or f"\n  {field}." in text
    shipped = read_settings(kind, CONFIGS / f"{name}.yaml")
    assert all(f"\n{line}\n" in text for line in describe(kind, shipped))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_of_a_command_is_described(name):
    kind, _ = COMMANDS[name].load()
    bare = [line for line in describe(kind) if not line.partition(")  ")[2]]
    assert bare == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_shipped_settings_are_read_as_they_are(name):
    kind, _ = COMMANDS[name].load()
    settings = read_settings(kind, CONFIGS / f"{name}.yaml")
    assert json.dumps(settings.model_dump(mode="json"))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_shipped_settings_begin_with_their_command(name):
    first = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]
    assert first.startswith("#") and f"python -m training {name}" in first
