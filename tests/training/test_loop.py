"""The training loop keeps its promises when it is stopped."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from training.loop import Schedule, can_compile, fit, training_device, write_atomically

SCHEDULE = Schedule(steps=6, batch=4, learning_rate=0.1, warmup=2, save_every=2)


class Stop(Exception):
    pass


def train(folder, model, stop_at=None):
    def loss_of(step):
        if step == stop_at:
            raise Stop
        return model(torch.randn(SCHEDULE.batch, 3)).square().mean(), {"draw": torch.rand(1).item()}

    fit("test", model, model.parameters(), loss_of, SCHEDULE, folder)


def fresh():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path):
    whole, stopped, resumed = fresh(), fresh(), fresh()
    train(tmp_path / "whole", whole)
    with pytest.raises(Stop):
        train(tmp_path / "parts", stopped, stop_at=5)
    train(tmp_path / "parts", resumed)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize("change", ["recipe", "model"])
def test_a_state_of_another_model_or_recipe_is_not_gone_on_with(tmp_path, change):
    train(tmp_path, fresh())
    other = nn.Linear(3, 3) if change == "model" else fresh()
    recipe = replace(SCHEDULE, steps=9) if change == "recipe" else SCHEDULE
    with pytest.raises(ValueError, match="another model or recipe"):
        fit("test", other, other.parameters(), lambda step: (other(torch.ones(4, 3)).sum(), {}), recipe, tmp_path)


def test_muon_trains_the_projections_and_resumes_as_exactly(tmp_path):
    recipe = replace(SCHEDULE, muon=True)

    def run(folder, stop_at=None):
        torch.manual_seed(1)
        model = nn.ModuleDict({"q_proj": nn.Linear(4, 4, bias=False), "out": nn.Linear(4, 2)})

        def loss_of(step):
            if step == stop_at:
                raise Stop
            return model["out"](model["q_proj"](torch.randn(4, 4))).square().mean(), {}

        fit("test", model, model.parameters(), loss_of, recipe, folder)
        return model.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "parts", stop_at=3)
    for name, tensor in run(tmp_path / "parts").items():
        assert torch.equal(tensor, whole[name]), name


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    model = fresh()

    def loss_of(step):
        value = model(torch.randn(4, 3)).square().mean()
        return (value * float("nan") if step == 3 else value), {}

    with pytest.raises(FloatingPointError, match="step 3 is nan"):
        fit("test", model, model.parameters(), loss_of, SCHEDULE, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 2 and all(v.isfinite().all() for v in state["model"].values())


def test_frozen_weights_are_neither_trained_nor_saved(tmp_path):
    model = fresh()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    train(tmp_path, model)
    assert torch.equal(model[0].weight, before)
    assert not any(name.startswith("0.") for name in torch.load(tmp_path / "state.pt", weights_only=True)["model"])


def test_the_rate_stays_until_the_share_in_which_it_falls():
    rates = [Schedule(100, 1, 1.0, warmup=10, floor=0.05, decay=0.25).rate(step) for step in range(100)]
    assert rates[10:75] == [1.0] * 65 and all(a > b for a, b in zip(rates[75:], rates[76:], strict=False))
    assert rates[-1] == pytest.approx(0.05, abs=0.01)


def test_the_rate_rises_then_falls_to_its_floor():
    rates = [Schedule(100, 1, 1.0, warmup=10, floor=0.05).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == max(rates[8:12])
    assert rates[-1] == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("there", [True, False])
def test_training_is_on_the_gpu_where_there_is_one_and_compiled_on_a_cpu_alone(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert training_device().type == ("cuda" if there else "cpu")
    assert can_compile(training_device()) is not there


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "file"
    write_atomically(target, lambda path: path.write_text("old"))

    def fail(path):
        path.write_text("half")
        raise Stop

    with pytest.raises(Stop):
        write_atomically(target, fail)
    assert target.read_text() == "old"
