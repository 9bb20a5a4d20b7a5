"""Paths: nothing is written outside the folder given, over a file unasked, or by halves; devices are not files."""

import errno
import json
import os
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from stylear import StyleTokens, checkpoint, files
from stylear.convert import convert
from stylear.errors import BadInput
from training.curate import CurateSettings
from training.curated import Curated
from training.curation.files import SourceSettings
from training.curation.items import Unusable, read_inside
from training.curation.sources import open_source
from training.inputs import read_inputs
from training.loop import write_atomically
from training.metrics.inputs import read_prompts, read_references
from training.output import output_folder, sha256_of

from .harness import case, failed, hostile, outcome
from .strategies import NAMES, odd_names

CONTENT = b"what was there"


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file, link and folder below a folder, with what is in it."""
    return {
        os.fsencode(path.relative_to(folder)).decode("latin-1"): (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        )
        for path in sorted(folder.rglob("*"))
    }


def style() -> StyleTokens:
    return StyleTokens(torch.ones(2, 3))


def write_new(path) -> None:
    with files.new_file(path) as draft:
        draft.write_bytes(b"new")


WRITERS = {
    "new_file": write_new,
    "style": lambda path: style().save(path),
    "training": lambda path: write_atomically(Path(path), lambda draft: draft.write_bytes(b"new")),
}


def check_write(root: Path, writer, name: str) -> None:
    """A writer asked for a name in root/in changes that one file of it, or nothing anywhere, and leaves no draft."""
    before = tree(root)
    target = root / "in" / name
    result = outcome(writer, target, errors=(BadInput, OSError))
    after = tree(root)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    if failed(result):
        assert not {key for key in changed if after.get(key) != "folder"}, changed
    else:
        assert all(
            Path(os.fsdecode(key.encode("latin-1"))) == target.relative_to(root) or after[key] == "folder"
            for key in changed
        )


@pytest.fixture
def root(tmp_path):
    return made(tmp_path)


def made(root: Path) -> Path:
    """A folder with files, links that lead out of it and a pipe in it."""
    (root / "in" / "sub").mkdir(parents=True)
    (root / "outside").write_bytes(CONTENT)
    (root / "in" / "there").write_bytes(CONTENT)
    (root / "in" / "link").symlink_to("../outside")
    (root / "in" / "dangling").symlink_to("../nowhere")
    (root / "in" / "loop").symlink_to("loop")
    (root / "in" / "null").symlink_to("/dev/null")
    return root


PLACES = ["there", "link", "dangling", "loop", "null", "sub", "sub/new", "there/new", "nowhere/new", "new"]


@hostile(
    150,
    name=odd_names.filter(lambda name: ".." not in name and not name.startswith("/")) | st.sampled_from(PLACES),
    how=st.sampled_from(["new_file", "style"]),
)
def test_a_writer_changes_the_one_file_it_was_asked_for(tmp_path_factory, name, how):
    check_write(made(tmp_path_factory.mktemp("root")), WRITERS[how], name)


@pytest.mark.parametrize("name", ["there", "link", "dangling", "null", "sub", "loop"])
def test_what_is_there_is_not_written_over_unasked(root, name):
    before = tree(root)
    with case():
        assert isinstance(outcome(write_new, root / "in" / name), BadInput)
    assert tree(root) == before


def test_what_comes_to_be_there_meanwhile_is_not_written_over(root):
    target = root / "in" / "new"
    with case(), pytest.raises(BadInput, match="there already"), files.new_file(target) as draft:
        draft.write_bytes(b"new")
        target.write_bytes(CONTENT)
    assert target.read_bytes() == CONTENT and not list(root.rglob(".*"))


def test_what_comes_to_be_there_in_the_last_moment_is_not_written_over(root, monkeypatch):
    target, link = root / "in" / "new", os.link

    def meanwhile(draft: Path, path: Path) -> None:
        path.write_bytes(CONTENT)
        link(draft, path)

    monkeypatch.setattr(os, "link", meanwhile)
    with case(), pytest.raises(BadInput, match="there already"):
        write_new(target)
    assert target.read_bytes() == CONTENT and not list(root.rglob(".*"))


def test_where_a_file_has_one_name_only_it_is_moved(root, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    with case():
        write_new(root / "in" / "new")
    assert (root / "in" / "new").is_file() and not list(root.rglob(".*"))


def test_a_lock_that_is_a_link_is_not_written_through(root):
    (root / "in" / ".lock").symlink_to(root / "outside")
    before = tree(root)

    def hold() -> None:
        with files.held(root / "in"):
            pass

    with case():
        assert failed(outcome(hold))
    assert tree(root) == before


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full", "/dev/zero", "a pipe"])
def test_a_device_is_not_replaced_by_a_file(root, device):
    target = Path(device)
    if device == "a pipe":
        target = root / "pipe"
        os.mkfifo(target)
    with case():
        assert isinstance(outcome(files.check_new, target, True), BadInput)
    assert not target.is_file() and target.exists()


READERS = {
    "tokens.json": files.read_text,
    "manifest.json": lambda path: Curated(path.parent).manifest,
    "inputs.json": read_inputs,
    "settings.yaml": lambda path: output_folder(path.parent, CurateSettings(out=path.parent)).__enter__(),
    "shard.arrow": sha256_of,
    "prompts.txt": read_prompts,
    "list.json": read_references,
    "metadata.jsonl": lambda path: open_source(SourceSettings(kind="raw", path=str(path))),
    "metadata.csv": lambda path: open_source(SourceSettings(kind="raw", path=str(path))),
    "a.tar": lambda path: open_source(SourceSettings(kind="raw", path=str(path))),
    "a.parquet": lambda path: open_source(SourceSettings(kind="raw", path=str(path.parent))),
}


@pytest.mark.parametrize("device", ["/dev/zero", "a pipe"])
@pytest.mark.parametrize("name", READERS)
def test_what_may_have_no_end_is_not_read(tmp_path, name, device):
    path = tmp_path / name
    if device == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(device)
    with case():
        assert isinstance(outcome(READERS[name], path), BadInput)


def check_half(write, root: Path) -> None:
    """A writer that fails in its middle leaves what was there, and no draft."""
    before = tree(root)
    with pytest.raises(ZeroDivisionError):
        write(root / "in" / "there")
    assert tree(root) == before


def half(path: Path) -> None:
    with files.new_file(path, overwrite=True) as draft:
        draft.write_bytes(b"ha")
        raise ZeroDivisionError


def half_trained(path: Path) -> None:
    def write(draft: Path) -> None:
        draft.write_bytes(b"ha")
        raise ZeroDivisionError

    write_atomically(path, write)


@pytest.mark.parametrize("write", [half, half_trained])
def test_a_writer_that_fails_in_the_middle_leaves_what_was_there(root, write):
    with case():
        check_half(write, root)


@pytest.mark.parametrize("length", [200, 240, 251, 255, 256, 300])
def test_a_long_name_is_written_or_refused_before_the_work(root, length):
    target, begun = root / "in" / ("x" * (length - 4) + ".png"), []

    def write() -> None:
        with files.new_file(target) as draft:
            begun.append(draft)
            draft.write_bytes(b"new")

    with case():
        assert failed(outcome(write)) == (length > 255) and bool(begun) == (length <= 255)


@hostile(150, name=odd_names | st.sampled_from([*PLACES, "../outside", "sub/../../outside", "link/x"]))
def test_nothing_outside_a_folder_of_pictures_is_read(tmp_path_factory, name):
    root = made(tmp_path_factory.mktemp("root"))
    found = outcome(read_inside, root / "in", name, errors=(Unusable,))
    assert failed(found) or (root / "in" / name).resolve().is_relative_to((root / "in").resolve())


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_an_index_of_shards_names_only_files_beside_it(tmp_path, number):
    folder = tmp_path / "in"
    folder.mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "x")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": NAMES[number]}}))
    with case():
        assert failed(outcome(checkpoint.open_weights, index))
        assert checkpoint.weight_files(folder)[0] == []


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_conversion_to_a_name_that_cannot_be_is_refused(tmp_path, number, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    save_file(tiny.resampler_state(), tmp_path / "x.safetensors")
    before = tree(tmp_path)
    with case():
        assert failed(outcome(convert, tmp_path / "x.safetensors", NAMES[number]))
        assert failed(outcome(convert, NAMES[number], tmp_path / "y.safetensors"))
    assert tree(tmp_path) == before
