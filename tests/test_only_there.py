"""A command changes what it was told to write and nothing else: not its inputs, the home, the folder it is run from."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from stylear.__main__ import main
from training.__main__ import main as train


def there(root: Path) -> dict[str, str]:
    """Every file and link below a folder, with what is in it."""
    return {
        path.relative_to(root).as_posix(): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A small world: a home, a folder to be in, one for temporary files, inputs, and `out` for what is written."""
    for name in ("home", "here", "temporary", "in", "out"):
        (tmp_path / name).mkdir()
    tiny.write_bundle(tmp_path / "in" / "model")
    Image.new("RGB", (20, 24), "teal").save(tmp_path / "in" / "style.png")
    torch.save({"state_dict": tiny.resampler_state()}, tmp_path / "in" / "resampler.pth")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


GENERATE = ["generate", "--model", "../in/model", "--style", "../in/style.png", "--prompt", "a cat", "--device", "cpu"]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (main, [*GENERATE, "--out", "../out/x.png"]),
        (main, [*GENERATE, "--subtract", "--gamma", "1", "--batch", "2", "--out", "../out/x.png"]),
        (main, ["convert", "../in/resampler.pth", "../out/x.safetensors"]),
        (main, ["info", "../in/model"]),
        (train, ["example", "out=../out/example", "pictures=4"]),
    ],
    ids=["generate", "a batch", "convert", "info", "example"],
)
def test_a_command_changes_nothing_but_what_it_was_told_to_write(root, run, words):
    before = there(root)
    assert not run(words)
    after = there(root)
    assert {name: after.get(name) for name in before} == before
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} <= {"out"}
    assert len(after) > len(before) or words[0] == "info"


@pytest.mark.parametrize("place", ["../in", "../in/style.png", "../in/style.png/x", "../absent/x.png", "/dev/null", ""])
def test_a_place_that_cannot_be_written_is_refused_and_nothing_changes(root, place, capsys):
    before = there(root)
    assert main([*GENERATE, "--out", place]) and capsys.readouterr().err
    assert there(root) == before
