"""A full disk, a folder that may not be written, data or a process that goes away, no memory, nobody who listens.

Each ends in success or in an error that says what to do; what was there is whole, and the same words go on from it.
"""

import errno
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
import tiny
import tiny_tokens
import torch
from PIL import Image

from stylear import StyleAR, files, presets
from stylear.errors import BadInput, Cancelled
from stylear.files import held

from .faults import Bench, Ended, contents, differing
from .harness import FACTOR, case, survived
from .victims import COMMANDS

FULL, LOCKED = "make room", "correct its permissions|give another folder"
GONE = "put it back|Give the path"
LEFT = {"full": 0.5, "cut": 0.8, "read-only": 0.4, "forbidden": 0.1, "memory": 0.6, "device memory": 0.3}
SAYS = {"full": FULL, "cut": FULL, "read-only": LOCKED, "forbidden": LOCKED, "memory": "Memory ran out"}
SAYS["device memory"] = SAYS["memory"]
DATA = {"curate": "in", "tokenize": "curated", "train": "tokens", "dpo": "styles", "evaluate": "styles"}


def check_told(ended: Ended, says: str) -> None:
    """It ended well, or in an error of ours with the remedy; `says`: remedies with | between them."""
    assert not ended.hangs and ended.status in (0, 2), ended
    if ended.status:
        told = [line for line in ended.said.splitlines() if line.startswith("error: ")]
        assert told and any(one in told[-1] for one in says.split("|")), ended.said


def check_mended(bench: Bench, command: str, folder) -> None:
    """With the fault mended the same words end with the files of an undisturbed run, and inputs are as they were."""
    last, (whole, _) = bench.run(command, folder), bench.whole(command)
    assert last.status == 0, last.said
    assert differing(contents(folder / "out"), whole) == []
    assert differing(contents(bench.inputs), bench.before) == []
    shutil.rmtree(folder)
    survived(1)


def check_fault(bench: Bench, command: str, kind: str, at: int, **more) -> None:
    """A run that a fault befalls at one of its changes is told, and goes on when it is mended."""
    folder = bench.folder()
    check_told(bench.run(command, folder, kind=kind, at=at, size=40, **more), SAYS[kind])
    check_mended(bench, command, folder)


def check_alone(bench: Bench, command: str, **more) -> None:
    """A run on a folder that is held is refused, changes nothing, and goes through when the folder is free."""
    folder = bench.folder()
    with held(folder / "out"):
        refused = bench.run(command, folder, **more)
        assert refused.status == 2 and "is being written by another run" in refused.said, refused
        assert contents(folder / "out") == {}
    check_mended(bench, command, folder)


def refusals():
    """Pairs of a command and what refuses: in CI a third, in which each command and each kind is."""
    pairs = [(i + j, command, kind) for i, command in enumerate(COMMANDS) for j, kind in enumerate(LEFT)]
    return [pair for number, *pair in pairs if FACTOR > 1 or number % 3 == 0]


@pytest.mark.parametrize(("command", "kind"), refusals())
def test_a_disk_or_memory_that_refuses_is_told_and_the_run_goes_on_when_it_is_mended(bench, command, kind):
    changes = bench.whole(command)[1]
    with case():
        check_fault(bench, command, kind, 1 + int(LEFT[kind] * changes))


@contextmanager
def small_disk(folder, size: int):
    """A disk of so many bytes at a folder, where the system lets us have one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
@pytest.mark.parametrize("command", COMMANDS if FACTOR > 1 else ("curate", "train"))
def test_a_disk_that_is_really_full_is_told_and_the_run_goes_on_with_more_room(bench, command):
    whole = sum(map(len, bench.whole(command)[0].values()))
    folder = bench.folder()
    with case():
        with small_disk(folder / "out", max(4096 * 3, whole // 2)):
            check_told(bench.run(command, folder), FULL)
        (folder / "out").rmdir()
        check_mended(bench, command, folder)


@pytest.mark.parametrize("command", DATA)
def test_data_that_goes_away_is_named_and_the_run_goes_on_when_it_is_back(bench, command):
    changes = bench.whole(command)[1]
    for part in (0.05, 0.5) if FACTOR > 1 else (0.05,):
        folder = bench.folder(copied=True)
        with case():
            told = bench.run(command, folder, kind="gone", at=1 + int(part * changes), what=DATA[command])
            check_told(told, GONE)
            (folder / f"{DATA[command]}.gone").rename(folder / DATA[command])
            check_mended(bench, command, folder)


@pytest.mark.parametrize("command", COMMANDS if FACTOR > 1 else ("curate", "download"))
def test_nobody_who_reads_what_it_says_is_no_harm(bench, command):
    folder = bench.folder()
    with case():
        ended = bench.run(command, folder, closed=True)
        assert ended.status in (0, 2) and not ended.hangs, ended
        check_mended(bench, command, folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_run_on_the_same_folder_is_refused_and_changes_nothing(bench, command):
    with case():
        check_alone(bench, command)


def test_a_reading_process_that_is_killed_is_told(bench):
    folder = bench.folder()
    with case():
        ended = bench.run("train", folder, "workers=1", setup="hostile.test_faults:kill_the_reader")
        assert ended.status == 2, ended
        check_told(ended, "lower workers")
        check_mended(bench, "train", folder)


def test_a_process_that_is_killed_ends_those_it_trains_with_and_the_run_goes_on(bench, monkeypatch):
    folder = bench.folder()
    monkeypatch.chdir(folder)
    words = ["train", "--config=train.yaml"]
    with case():
        assert tiny_tokens.in_processes(tiny_tokens.train_by_words, words, 1, processes=2) == [2, -9]
        ended = bench.run("train", folder)
        assert ended.status == 0 and (folder / "out" / "adapter" / "model.safetensors").exists(), ended
    survived(1)


def kill_the_reader() -> None:
    """In a victim: the process that reads ahead is killed when it reads."""
    import os
    import signal

    from training.steps import Samples

    parent, read = os.getpid(), Samples.__getitem__

    def die(self, numbers):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, numbers)

    Samples.__getitem__ = die


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return StyleAR.load(tiny.write_bundle(tmp_path_factory.mktemp("model")), device="cpu")


def test_cancelled_before_any_pass_the_next_call_draws_what_it_would_have(model):
    style, passes = model.encode_style(Image.new("RGB", (20, 24), "teal")), []
    options = {"width": 16, "height": 16, "window": 1, "top_k": 8}
    whole = model.generate("a cat", style, cancelled=lambda: passes.append(1), **options)
    for at in range(len(passes)):
        left = [at]

        def cancelled(left=left) -> bool:
            left[0] -= 1
            return left[0] < 0

        with case(), pytest.raises(Cancelled):
            model.generate("a cat", style, cancelled=cancelled, **options)
        survived(1)
    assert len(passes) >= 16 and torch.equal(model.generate("a cat", style, **options), whole)


@pytest.mark.parametrize("error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory")])
def test_memory_that_runs_out_at_any_pass_is_told_and_the_next_call_draws(model, monkeypatch, error):
    style = model.encode_style(Image.new("RGB", (20, 24), "teal"))
    options = {"width": 8, "height": 8, "window": 1}
    whole, forward = model.generate("a cat", style, **options), model.base.forward
    for at in range(3):
        left = [at]

        def fails(*arguments, left=left, **more):
            left[0] -= 1
            if left[0] < 0:
                raise error
            return forward(*arguments, **more)

        with case(), monkeypatch.context() as patch, pytest.raises(BadInput, match="Ask for fewer or smaller"):
            patch.setattr(model.base, "forward", fails)
            model.generate("a cat", style, **options)
        survived(1)
    assert torch.equal(model.generate("a cat", style, **options), whole)


def test_a_preset_on_a_disk_that_refuses_is_told_and_the_one_before_stays(tmp_path, model):
    style = model.encode_style(Image.new("RGB", (20, 24), "teal"))
    target = tmp_path / "teal.safetensors"
    presets.save_preset(style, target)
    before = target.read_bytes()
    with small_disk(tmp_path / "disk", 8192), case():
        (tmp_path / "disk" / "full").write_bytes(bytes(8192))
        with pytest.raises(BadInput, match="make room"):
            presets.save_preset(style, tmp_path / "disk" / "teal.safetensors")
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["full"]
    survived(1)
    assert target.read_bytes() == before


def test_a_disk_that_is_full_before_the_work_begins_is_told_as_full(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", full)
    with pytest.raises(BadInput, match="The disk of .* is full: make room"):
        files.check_new(tmp_path / "x.png")
