"""The log of a run, as TensorBoard reads it, and on a disk that fills."""

import errno
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.log import Log


def told(folder) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_shows_the_figures_and_the_picture_of_each_step(tmp_path):
    log = Log(tmp_path / "tensorboard", 0)
    for step in (1, 2):
        log.figures(step, {"loss": 0.5 / step, "held out": 3.0})
    Image.new("RGB", (6, 4), "red").save(tmp_path / "sheet.png")
    log.picture(2, "samples", tmp_path / "sheet.png")
    found = told(tmp_path / "tensorboard")
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [one.value for one in found.Scalars("held out")] == [3.0, 3.0]
    (shown,) = found.Images("samples")
    assert (shown.width, shown.height, shown.step) == (6, 4, 2)
    assert shown.encoded_image_string == (tmp_path / "sheet.png").read_bytes()


def test_a_step_taken_anew_is_shown_once(tmp_path):
    for first, values in ((1, (9.0, 8.0, 7.0)), (3, (1.0, 2.0))):
        log = Log(tmp_path, first)
        for step, value in enumerate(values, first):
            log.figures(step, {"loss": value})
    assert [(one.step, one.value) for one in told(tmp_path).Scalars("loss")] == [(1, 9), (2, 8), (3, 1), (4, 2)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_of_two_starts_in_one_second_the_later_is_shown_last_whatever_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr("training.log.time.time", lambda: 1_700_000_000.2)
    for pid, steps in ((900, range(1, 5)), (80, range(4, 7))):
        monkeypatch.setattr("training.log.os.getpid", lambda pid=pid: pid)
        log = Log(tmp_path / "log", steps.start)
        for step in steps:
            log.figures(step, {"loss": float(pid)})
    shown = EventAccumulator(str(tmp_path / "log")).Reload().Scalars("loss")
    assert [(one.step, one.value) for one in shown] == [(n, 900) for n in (1, 2, 3)] + [(n, 80) for n in (4, 5, 6)]


def test_what_the_disk_refuses_is_raised_by_the_call_that_writes(tmp_path):
    log = Log(tmp_path, 0)
    log.file.unlink()
    log.file.symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        log.figures(1, {"loss": 1.0})
    assert caught.value.errno == errno.ENOSPC
