"""Pickles and shards become one safetensors file that loads as they did; nothing is lost unasked."""

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stylear import checkpoint
from stylear.convert import convert
from stylear.errors import BadCheckpoint, BadInput, MissingPart


def equal(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return tiny.write_official(tmp_path_factory.mktemp("official"))


def test_both_released_pickles_become_safetensors_that_load(official, tmp_path):
    names = convert(official["vqgan"] / "vqgan.ckpt", tmp_path / "vqgan.safetensors")
    assert names == ("VQGAN picture tokenizer",)
    convert(official["adapter"] / "image_proj.pth", tmp_path / "image_proj.safetensors")
    assert equal(load_file(tmp_path / "vqgan.safetensors"), tiny.vqgan_state())
    assert equal(load_file(tmp_path / "image_proj.safetensors"), tiny.resampler_state())
    checkpoint.load_vqgan(tmp_path)


def test_shards_become_one_file_from_their_index_or_their_folder(official, tmp_path):
    for source in (official["base"], official["base"] / "model.safetensors.index.json"):
        convert(source, tmp_path / "model.safetensors", overwrite=True)
        assert equal(load_file(tmp_path / "model.safetensors"), tiny.base_state())


def test_the_same_weights_and_metadata_become_the_same_bytes(tmp_path):
    metadata = {name: f'a "quoted\\ {name} \x1f \x7f é 猫 😀' for name in ("stylear", "format", "a", "b", "c")}
    written = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        checkpoint.save_weights(tiny.resampler_state(), path, dict(sorted(metadata.items(), reverse=number % 2)))
        written.add(path.read_bytes())
    with safe_open(path, "pt") as file:
        assert len(written) == 1 and file.metadata() == metadata
    assert equal(load_file(path), tiny.resampler_state())


def test_weights_that_share_memory_are_written_twice(tmp_path):
    state = tiny.resampler_state()
    state["norm_out.bias"] = state["norm_out.weight"]
    torch.save(state, tmp_path / "shared.pth")
    convert(tmp_path / "shared.pth", tmp_path / "x.safetensors")
    assert equal(load_file(tmp_path / "x.safetensors"), state)


def test_metadata_of_a_safetensors_file_is_kept(tmp_path):
    save_file(tiny.sam_state(), tmp_path / "a.safetensors", metadata={"stylear": "{}"})
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert checkpoint.open_weights(tmp_path / "b.safetensors").metadata["stylear"] == "{}"


def test_a_file_that_is_there_is_kept_unless_it_may_be_overwritten(official, tmp_path):
    (tmp_path / "x.safetensors").write_text("precious")
    with pytest.raises(BadInput, match="is there already"):
        convert(official["vqgan"], tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_text() == "precious"
    convert(official["vqgan"], tmp_path / "x.safetensors", overwrite=True)
    assert equal(load_file(tmp_path / "x.safetensors"), tiny.vqgan_state())


def test_a_failed_write_leaves_the_old_file_and_no_draft(official, tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("stylear.convert.save_weights", full)
    (tmp_path / "x.safetensors").write_text("old")
    with pytest.raises(OSError, match="No space"):
        convert(official["vqgan"], tmp_path / "x.safetensors", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_text() == "old"


@pytest.mark.parametrize(
    "target,reason",
    [
        ("x.pth", "does not end in .safetensors"),
        ("no/x.safetensors", "no folder"),
        ("d.safetensors", "is a folder"),
    ],
)
def test_a_target_that_cannot_be_is_refused_first(tmp_path, target, reason):
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(BadInput, match=reason):
        convert(tmp_path / "nowhere.ckpt", tmp_path / target)


def test_what_is_not_one_part_of_a_model_is_not_converted(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(BadCheckpoint, match="no part of StyleAR, its first key is x"):
        convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    with pytest.raises(BadInput, match="holds 2 files of weights: image_proj.pth, model.safetensors"):
        convert(tiny.write_adapter(tmp_path / "adapter"), tmp_path / "y.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingPart, match="no weights to convert"):
        convert(tmp_path / "empty", tmp_path / "y.safetensors")
    (tmp_path / "empty" / "x.pth").write_text("broken")
    with pytest.raises(MissingPart, match="neither safetensors nor"):
        convert(tmp_path / "empty", tmp_path / "y.safetensors")


def test_weights_that_memory_does_not_hold_are_refused_before_any_is_read(official, tmp_path, monkeypatch):
    monkeypatch.setattr("stylear.memory.free_bytes", lambda device: 0)
    monkeypatch.setattr("stylear.memory._linux", lambda name: 0)
    with pytest.raises(BadInput, match=r"vqgan\.ckpt takes .* GiB .*Close what else"):
        convert(official["vqgan"] / "vqgan.ckpt", tmp_path / "vqgan.safetensors")
    assert not list(tmp_path.iterdir())
