"""A state comes back as it was saved, the newest whole one is used, and a damaged one is refused by name."""

import json
import os

import pytest
import torch
from torch import nn

from stylear.errors import BadCheckpoint, BadInput
from training.checkpoints import (
    Progress,
    load_state,
    read_progress,
    released,
    save_state,
    states_in,
    sweep,
)


class Model(nn.Module):
    """One frozen and two trained parts."""

    def __init__(self):
        super().__init__()
        self.frozen, self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.second(self.first(self.frozen(x)).tanh())


def made(seed: int = 0) -> tuple[Model, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Model()
    groups = [{"params": list(model.first.parameters()), "lr": 0.1}, {"params": list(model.second.parameters())}]
    return model, torch.optim.AdamW(groups, lr=0.01)


def take(model: Model, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        model(torch.full((3, 4), float(step))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def saved(tmp_path):
    """A folder with the state of step 5, and the model and optimizer it was made of."""
    model, optimizer = made()
    take(model, optimizer, 5)
    save_state(tmp_path, Progress(5, 1.5, [0.1] * 5, [(5, 0.2)]), model, optimizer)
    return tmp_path, model, optimizer


def test_a_model_goes_on_from_a_state_bit_for_bit(saved):
    folder, model, optimizer = saved
    other, its_optimizer = made()
    load_state(states_in(folder)[-1], other, its_optimizer)
    take(model, optimizer, 5)
    take(other, its_optimizer, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_only_what_trains_is_saved(saved):
    folder, _, _ = saved
    other, optimizer = made(1)
    frozen = other.frozen.weight.clone()
    load_state(states_in(folder)[-1], other, optimizer)
    assert torch.equal(other.frozen.weight, frozen)


def test_progress_comes_back(saved):
    progress = read_progress(states_in(saved[0])[-1])
    assert (progress.step, progress.seconds, progress.losses) == (5, 1.5, [0.1] * 5)


def test_older_states_go_when_a_new_one_is_whole(saved):
    folder, model, optimizer = saved
    save_state(folder, Progress(1_000_000), model, optimizer)
    assert [path.name for path in folder.iterdir()] == ["state-1000000"]


def test_an_older_state_stays_when_writing_a_new_one_fails(saved, monkeypatch):
    folder, model, optimizer = saved

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(folder, Progress(6), model, optimizer)
    assert [path.name for path in folder.iterdir()] == ["state-000005"]


def test_the_newest_of_several_states_is_last(tmp_path):
    for name in ("state-000009", "state-1000000", "state-000010", ".state-000011.x", "state-12"):
        (tmp_path / name).mkdir()
    assert [path.name for path in states_in(tmp_path)] == ["state-000009", "state-000010", "state-1000000"]


def test_what_a_killed_run_left_of_states_is_deleted_and_the_newest_whole_one_kept(tmp_path):
    for name in ("state-000009", "state-1000000", "state-000010", ".state-000011.x", "state-12"):
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"state-1000000", "state-12"}


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt"])
def test_a_truncated_file_is_refused_by_name(saved, name):
    file = states_in(saved[0])[-1] / name
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(BadInput, match=f"{name} is not what was written"):
        read_progress(file.parent)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt"])
@pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.99])
def test_a_flipped_bit_is_noticed(saved, name, place):
    file = states_in(saved[0])[-1] / name
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInput, match=f"{name} is not what was written"):
        read_progress(file.parent)


@pytest.mark.parametrize(
    "change",
    [
        {"losses": ["x"]},
        {"losses": [0.5]},
        {"losses": None},
        {"held_out": [["a", "b"]]},
        {"held_out": [1]},
        {"step": 10**30},
        {"step": 3},
        {"step": True},
        {"step": -5},
        {"seconds": float("nan")},
        {"seconds": True},
        {"files": {}},
        {"files": {"../x": 1}},
        {"other": 1},
        {"format": 1},
    ],
)
def test_progress_that_is_none_is_refused(saved, change):
    file = states_in(saved[0])[-1] / "progress.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BadInput, match=r"Delete .*state-000005 to start again"):
        read_progress(file.parent)


@pytest.mark.parametrize("content", [{}, [], None, {"param_groups": []}, {"state": {}, "param_groups": [{"x": 1}]}])
def test_an_optimizer_file_of_something_else_is_refused(saved, content):
    state = states_in(saved[0])[-1]
    torch.save(content, state / "optimizer.pt")
    with pytest.raises(BadCheckpoint, match="is damaged: delete it"):
        load_state(state, *made())


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt"])
def test_a_damaged_file_is_refused(saved, name):
    state = states_in(saved[0])[-1]
    (state / name).write_bytes(b"\0" * (state / name).stat().st_size)
    with pytest.raises(BadCheckpoint, match="is damaged: delete it"):
        load_state(state, *made())


def test_an_optimizer_file_that_would_run_code_is_refused(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    state = states_in(saved[0])[-1]
    torch.save({"state": Evil()}, state / "optimizer.pt")
    with pytest.raises(BadCheckpoint, match="is damaged"):
        load_state(state, *made())
    assert not (tmp_path / "ran").exists()


def test_a_state_of_another_model_is_refused(saved):
    model = Model()
    model.second = nn.Linear(4, 3)
    with pytest.raises(BadCheckpoint, match="is of another model"):
        load_state(states_in(saved[0])[-1], model, torch.optim.AdamW(model.second.parameters()))


def test_weights_by_the_models_own_names_become_the_released_files():
    name = "styled.base.base_model.model.model.layers.0.self_attn.q_proj"
    halves = {
        f"{name}.lora_A.default.weight": torch.ones(2, 3),
        f"{name}.lora_B.default.weight": torch.ones(4, 2),
    }
    lora, resampler = released(halves | {"styled.resampler.latents": torch.zeros(1)})
    assert {key: value.shape for key, value in lora.items()} == {
        "model.layers.0.self_attn.q_proj_lora.A": (3, 2),
        "model.layers.0.self_attn.q_proj_lora.B": (2, 4),
    }
    assert list(resampler) == ["latents"]
