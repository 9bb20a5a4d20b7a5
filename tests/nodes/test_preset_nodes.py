"""Styles are saved to models/stylear_presets, listed there, and read by the model they fit."""

import pytest
import tiny
import torch


@pytest.fixture
def presets(comfy, host, models, tmp_path):
    """An empty models/stylear_presets of the test's own."""
    folder = tmp_path / "presets"
    comfy.folders.folder_names_and_paths["stylear_presets"] = ([str(folder)], {".safetensors"})
    return folder


@pytest.fixture
def model(nodes, models):
    tiny.write_bundle(models / "tiny")
    return nodes["LoadStyleAR"].execute(model="tiny").result[0]


@pytest.fixture
def style(nodes, model):
    return nodes["StyleTokenEncode"].execute(model=model, image=torch.ones(1, 20, 20, 3) / 2).result[0]


def choices(nodes):
    return next(item for item in nodes["LoadStylePreset"].define_schema().inputs if item.id == "preset").options


def test_a_style_is_saved_listed_and_read_with_its_thumbnail(nodes, presets, model, style):
    assert choices(nodes) == ["(none yet)"]
    nodes["SaveStylePreset"].execute(style=style, name="grey")
    assert choices(nodes) == ["grey.safetensors"]
    loaded, thumbnail = nodes["LoadStylePreset"].execute(model=model, preset="grey.safetensors").result
    assert torch.equal(loaded.tokens, style.tokens)
    assert thumbnail.shape == (1, 20, 20, 3) and thumbnail.mean() == pytest.approx(0.5, abs=0.01)


def test_another_thumbnail_is_shown_and_another_style_replaces_the_first_only_if_asked(
    nodes, presets, model, style, errors
):
    nodes["SaveStylePreset"].execute(style=style, name="grey", thumbnail=torch.zeros(1, 8, 8, 3))
    assert nodes["LoadStylePreset"].execute(model=model, preset="grey.safetensors").result[1].max() == 0
    noisy = style.with_noise(1, 0)
    with pytest.raises(errors.BadInput, match="is there already"):
        nodes["SaveStylePreset"].execute(style=noisy, name="grey")
    nodes["SaveStylePreset"].execute(style=noisy, name="grey", overwrite=True)
    loaded, _ = nodes["LoadStylePreset"].execute(model=model, preset="grey.safetensors").result
    assert torch.equal(loaded.tokens, noisy.tokens)


@pytest.mark.parametrize("name", ["../grey", "/grey", "", 5])
def test_a_strangers_name_does_not_leave_the_folder(nodes, presets, style, errors, name):
    with pytest.raises(errors.BadInput, match="preset"):
        nodes["SaveStylePreset"].execute(style=style, name=name)
    assert not list(presets.parent.glob("*.safetensors"))


@pytest.mark.parametrize("choice", ["../tiny/base/model.safetensors", "(none yet)", "gone.safetensors"])
def test_a_preset_that_is_not_listed_is_not_read(nodes, presets, model, errors, choice):
    with pytest.raises(errors.MissingPart, match="models/stylear_presets"):
        nodes["LoadStylePreset"].execute(model=model, preset=choice)


def test_a_preset_of_another_model_is_refused_with_both_shapes(nodes, presets, model, errors, style):
    nodes["SaveStylePreset"].execute(style=type(style)(style.tokens[:, :8]), name="other")
    with pytest.raises(errors.BadCheckpoint, match=r"\[16, 8\] and this model takes \[16, 32\]"):
        nodes["LoadStylePreset"].execute(model=model, preset="other.safetensors")


def test_presets_lie_beside_the_models_of_stylear(comfy, host, models):
    assert host.presets_folder().replace("\\", "/").endswith("models/stylear_presets")
