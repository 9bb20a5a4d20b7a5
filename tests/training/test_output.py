"""The folder a command writes: one run at a time, always with the settings it was begun with."""

import errno
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field
from safetensors import SafetensorError

from stylear.errors import BadInput
from training.config import ModelPaths, Settings
from training.output import output_folder, provenance, read_json, sha256_of, write_json


class Example(Settings):
    model: ModelPaths = ModelPaths()
    out: Path = Path("out")
    steps: int = 3
    rate: float = 1e-5
    ratio: tuple[int, int] = (1, 3)
    name: str | None = None
    workers: int = 2
    table: dict[str, float] = Field({})


def begin(folder: Path, ignore=(), **settings) -> None:
    with output_folder(folder, Example(**settings), ignore):
        (folder / "made.bin").write_bytes(b"made")


def test_the_folder_is_made_with_the_ones_above_it(tmp_path):
    with output_folder(tmp_path / "a" / "b", Example()) as folder:
        assert folder == tmp_path / "a" / "b"
        assert folder.is_dir()


def test_a_second_run_with_the_same_settings_goes_on(tmp_path):
    begin(tmp_path)
    (tmp_path / "work.bin").write_bytes(b"done")
    begin(tmp_path)
    assert (tmp_path / "work.bin").read_bytes() == b"done"


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "yes"},
        {"name": "2020-01-01"},
        {"name": "1e3"},
        {"name": "a: b\n# 'c' \"d\" 猫 \x85 \u2028"},
        {"rate": 1e300},
        {"table": {"1": 0.1, "no": 2}},
        {"out": Path("a b/ü")},
    ],
)
def test_settings_of_any_kind_are_known_again(tmp_path, settings):
    begin(tmp_path, **settings)
    begin(tmp_path, **settings)


def test_other_settings_are_refused_by_key_with_both_values(tmp_path):
    begin(tmp_path)
    with pytest.raises(BadInput) as caught:
        begin(tmp_path, steps=4, model=ModelPaths(base="other"))
    assert "steps was 3 and is now 4" in str(caught.value)
    assert "model.base was 'mini' and is now 'other'" in str(caught.value)
    assert "rate" not in str(caught.value)


def test_a_folder_of_another_command_is_refused_naming_both_commands_and_no_setting(tmp_path):
    class OtherSettings(Settings):
        steps: int = 3

    begin(tmp_path)
    with pytest.raises(BadInput, match="belongs to `example`.*give `other` another `out`") as caught:
        with output_folder(tmp_path, OtherSettings()):
            pass
    assert "steps" not in str(caught.value)


def test_a_run_that_wrote_nothing_leaves_the_folder_to_other_settings(tmp_path):
    with pytest.raises(BadInput), output_folder(tmp_path, Example(name="mistyped")):
        raise BadInput("There is no mistyped.")
    begin(tmp_path, name="right")
    assert "right" in (tmp_path / "settings.yaml").read_text()


def test_a_folder_that_was_moved_is_gone_on_with(tmp_path):
    begin(tmp_path / "a", out=tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    begin(tmp_path / "b", out=tmp_path / "b")


def test_refused_settings_leave_those_of_before(tmp_path):
    begin(tmp_path)
    with pytest.raises(BadInput):
        begin(tmp_path, steps=4)
    begin(tmp_path)


@pytest.mark.parametrize(
    ("ignore", "change"),
    [
        ("workers", {"workers": 8}),
        ("model", {"model": ModelPaths(base="x")}),
        ("model.base", {"model": ModelPaths(base="x")}),
    ],
)
def test_ignored_keys_may_change(tmp_path, ignore, change):
    begin(tmp_path)
    begin(tmp_path, [ignore], **change)


@pytest.mark.parametrize("ignore", ["work", "model.base"])
def test_an_ignored_key_frees_no_other(tmp_path, ignore):
    begin(tmp_path)
    with pytest.raises(BadInput, match="begun with other settings"):
        begin(tmp_path, [ignore], workers=8, model=ModelPaths(adapter="x"))


def test_an_ignored_key_that_changed_is_written_down(tmp_path):
    begin(tmp_path)
    begin(tmp_path, ["workers"], workers=8)
    assert "workers: 8" in (tmp_path / "settings.yaml").read_text()


def test_a_setting_that_another_version_had_is_refused_by_name(tmp_path):
    begin(tmp_path)
    file = tmp_path / "settings.yaml"
    file.write_text(file.read_text() + "gone: 5\n")
    with pytest.raises(BadInput, match="gone was 5 and is now None"):
        begin(tmp_path)


def test_two_runs_cannot_write_one_folder(tmp_path):
    with output_folder(tmp_path, Example()), pytest.raises(BadInput, match="is being written by another run"):
        begin(tmp_path)


def test_the_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), output_folder(tmp_path, Example()):
        raise ZeroDivisionError
    begin(tmp_path)


def test_a_refused_run_frees_the_folder(tmp_path):
    begin(tmp_path)
    with pytest.raises(BadInput):
        begin(tmp_path, steps=4)
    begin(tmp_path)


def test_a_run_that_was_killed_frees_the_folder(tmp_path):
    begin(tmp_path)
    hold = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    words = [sys.executable, "-c", hold, tmp_path / ".lock"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        try:
            with pytest.raises(BadInput, match="another run"):
                begin(tmp_path)
        finally:
            other.kill()
    begin(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"steps: [", b"- 1", b"\xff\xfe", b"a: &a [*a", b"d: 2020-99-99", b"n: " + b"9" * 5000, b"[" * 600, b"\x00"],
)
def test_damaged_settings_are_refused(tmp_path, data):
    begin(tmp_path)
    (tmp_path / "settings.yaml").write_bytes(data)
    with pytest.raises(BadInput, match=r"settings\.yaml is damaged.* move .* away"):
        begin(tmp_path)


def test_truncated_settings_are_never_taken_for_whole(tmp_path):
    begin(tmp_path)
    whole = (tmp_path / "settings.yaml").read_bytes()
    for length in range(len(whole) - 1):
        (tmp_path / "settings.yaml").write_bytes(whole[:length])
        with pytest.raises(BadInput):
            begin(tmp_path)


def test_a_folder_with_other_files_is_not_begun(tmp_path):
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"has letters\.txt in it but no settings\.yaml"):
        begin(tmp_path)
    assert not (tmp_path / "settings.yaml").exists()


@pytest.mark.parametrize("name", [".notes.~deadbeef", "sub/.keep.~0a1b2c3d.txt"])
def test_a_folder_that_is_refused_keeps_what_looks_like_a_draft(tmp_path, name):
    for file in ("letters.txt", name):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("mine")
    with pytest.raises(BadInput, match="in it but no settings"):
        begin(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_hidden_files_of_a_folder_that_was_not_begun_stay(tmp_path):
    (tmp_path / ".cache").mkdir()
    kept = [".tmpAb12Cd", ".cache/.notes.~deadbeef.txt", ".cache/.tmpAb12Cd"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    begin(tmp_path)
    assert [(tmp_path / name).read_text() for name in kept] == ["mine"] * 3


@pytest.mark.parametrize("text", ["my_app: important\n", "# my own\nsteps: 3\n"])
def test_settings_of_a_person_or_another_program_are_not_written_over(tmp_path, text):
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"settings\.yaml is damaged, or was written by another program"):
        begin(tmp_path)
    assert (tmp_path / "settings.yaml").read_text() == text


@pytest.mark.parametrize("name", ["adapter", "sub/blocks", "made.bin", "settings.yaml"])
def test_a_folder_that_leads_elsewhere_is_refused(tmp_path, name):
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    begin(folder)
    (folder / "sub").mkdir()
    target = elsewhere / "own" if (folder / name).suffix else elsewhere
    elsewhere.mkdir()
    (elsewhere / "own").write_bytes((folder / "settings.yaml").read_bytes())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    with pytest.raises(BadInput, match=r"is a link|written by another program"):
        begin(folder)
    assert [path.name for path in elsewhere.iterdir()] == ["own"]


def test_a_run_killed_before_it_wrote_its_settings_can_begin_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".settings.~0a1b2c3d.yaml").write_text("ste")
    begin(tmp_path)
    assert not (tmp_path / ".settings.~0a1b2c3d.yaml").exists()


def test_what_a_killed_run_was_writing_is_deleted_and_nothing_else(tmp_path):
    begin(tmp_path)
    (tmp_path / "sub").mkdir()
    drafts = [".model.~0a1b2c3d.safetensors", "sub/.000-1.~deadbeef.png", ".settings.~00000000.yaml", ".x.~12345678"]
    drafts += ["sub/.tmpJ6ystM", ".tmpa00Zz9"]  # safetensors' own
    kept = [
        ".state.yaml",
        ".model.~0a1b2c3d4e.safetensors",
        "sub/model.~0a1b2c3d.png",
        ".x.~1234567g",
        ".notes.20261123.md",
    ]
    kept += [".tmpJ6ystM.txt", ".tmpnotes", "sub/tmpJ6ystM", ".tmp"]
    for name in drafts + kept:
        (tmp_path / name).touch()
    begin(tmp_path)
    assert [(tmp_path / name).exists() for name in drafts + kept] == [False] * 6 + [True] * 9


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk of .* is full: make room and try again"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "make room"),
        (SafetensorError("Error while serializing: I/O error: No space left (os error 28)"), "make room"),
        (SafetensorError('IoError(Os { code: 27, kind: FileTooLarge, message: "File too large" })'), "make room"),
        (sqlite3.OperationalError("database or disk is full"), "make room"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "make room"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "make room"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "a/b may not be opened: correct its permissions"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), "a/b is no longer there: put it back"),
        (OSError(errno.EIO, "Input/output error", "a/b"), "a/b cannot be used: see why, correct that"),
    ],
)
def test_what_the_system_refuses_is_told_with_what_to_do(tmp_path, error, told):
    with pytest.raises(BadInput, match=told), output_folder(tmp_path, Example()):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), OSError("no number"), BrokenPipeError(32, "Broken pipe")])
def test_other_errors_go_through_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, output_folder(tmp_path, Example()):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_way_is_told(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written: give another folder"):
        begin(tmp_path / place)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="only where permissions bind")
def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="cannot be written"):
        begin(tmp_path)


def test_sha256_is_that_of_the_whole_file(tmp_path):
    (tmp_path / "file").write_bytes(b"a" * 3_000_000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"a" * 3_000_000).hexdigest()
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"name": "猫", "n": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_json_that_cannot_be_written_leaves_the_file_of_before(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json") == 1


def test_missing_json_is_called_by_what_it_is(tmp_path):
    with pytest.raises(BadInput, match=r"There is no manifest .*a\.json: run the command that makes it"):
        read_json(tmp_path / "a.json", "manifest")


@pytest.mark.parametrize("data", [b"", b"{", b"{} x", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_damaged_json_is_named(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(BadInput, match=r"The manifest .*a\.json is damaged"):
        read_json(tmp_path / "a.json", "manifest")


def test_provenance_gives_words_that_can_be_typed_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "train", "name=a b", "steps=3"])
    made = provenance()
    assert made["command"] == "python -m training train 'name=a b' steps=3"
    assert made.keys() == {"command", "stylear", "torch"}
    assert json.dumps(made)
