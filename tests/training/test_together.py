"""Processes that share a training make what one alone makes."""

import multiprocessing
import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from stylear.errors import BadInput
from training.loop import Schedule, fit
from training.together import place, together

SCHEDULE = Schedule(steps=4, batch=4, learning_rate=0.1, warmup=1, save_every=2)


def learn(out: Path) -> None:
    """A line through points, of which each process takes its rows."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss_of(step):
        rank, count = place()
        points = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))[rank::count]
        return (model(points)[:, 0] - points.sum(1)).square().mean(), {}

    fit("line", model, model.parameters(), loss_of, SCHEDULE, out)


def refuse(out: Path) -> None:
    if place()[0] == 1:
        raise BadInput("There is nothing to learn: give it something.")
    learn(out)


def not_finite(out: Path) -> None:
    model = nn.Linear(1, 1)
    worth = float("nan") if place()[0] == 1 else 1.0
    fit("line", model, model.parameters(), lambda step: (model(torch.ones(1, 1)).sum() * worth, {}), SCHEDULE, out)


def test_two_processes_learn_what_one_learns(tmp_path):
    for count in (1, 2):
        together(partial(learn, tmp_path / str(count)), count)
    alone, shared = (torch.load(tmp_path / str(count) / "state.pt", weights_only=True) for count in (1, 2))
    assert shared["step"] == 4
    for name, weight in alone["model"].items():
        torch.testing.assert_close(shared["model"][name], weight, atol=1e-6, rtol=0)


def test_the_error_of_one_process_is_that_of_all(tmp_path):
    with pytest.raises(BadInput, match="nothing to learn"):
        together(partial(refuse, tmp_path), 2)


def be_killed(out: Path) -> None:
    if place()[0] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    learn(out)


def test_a_process_that_is_killed_ends_the_training_in_words(tmp_path):
    with pytest.raises(BadInput, match="shares the training was ended.* run the same command again"):
        together(partial(be_killed, tmp_path), 2)


def wait_for_ever(out: Path) -> None:
    (out / str(place()[0])).touch()
    threading.Event().wait(600)


def test_who_interrupts_the_training_ends_every_process(tmp_path):
    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            threading.Event().wait(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist's workers ignore it
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            together(partial(wait_for_ever, tmp_path), 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()


def test_a_loss_that_is_not_finite_in_one_process_stops_all(tmp_path):
    with pytest.raises(FloatingPointError, match="loss of step 0"):
        together(partial(not_finite, tmp_path), 2)
    assert not (tmp_path / "state.pt").exists()
