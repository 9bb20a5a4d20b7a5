"""Styles are saved to models/stylear_presets, listed there, and read by the model they fit."""

from types import SimpleNamespace

import pytest
import tiny
import torch


@pytest.fixture
def presets(comfy, folders, models, tmp_path):
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


def test_without_any_preset_a_person_is_told_how_to_make_one(nodes, model, errors):
    with pytest.raises(errors.MissingPart, match="no preset yet: keep a style with Save Style Preset"):
        nodes["LoadStylePreset"].execute(model=model, preset="(none yet)")


@pytest.mark.parametrize("choice", ["../tiny/base/model.safetensors", "gone.safetensors"])
def test_a_preset_that_is_not_listed_is_not_read(nodes, presets, model, errors, choice):
    with pytest.raises(errors.MissingPart, match="models/stylear_presets"):
        nodes["LoadStylePreset"].execute(model=model, preset=choice)


def test_a_preset_of_another_model_is_refused_with_both_shapes(nodes, presets, model, errors, style):
    nodes["SaveStylePreset"].execute(style=type(style)(style.tokens[:, :8]), name="other")
    with pytest.raises(errors.BadCheckpoint, match=r"\[16, 8\] and this model takes \[16, 32\]"):
        nodes["LoadStylePreset"].execute(model=model, preset="other.safetensors")


def fingerprint(nodes, node="LoadStylePreset", /, **inputs):
    return nodes[node].fingerprint_inputs(**inputs)


def test_a_preset_whose_file_has_changed_is_read_again_and_one_that_has_not_is_not(nodes, presets, model, style):
    nodes["SaveStylePreset"].execute(style=style, name="grey")
    before = fingerprint(nodes, model=None, preset="grey.safetensors")
    assert fingerprint(nodes, model=None, preset="grey.safetensors") == before
    nodes["SaveStylePreset"].execute(style=style.with_noise(1, 0), name="grey", overwrite=True)
    assert fingerprint(nodes, model=None, preset="grey.safetensors") != before


@pytest.mark.parametrize("choice", ["gone.safetensors", "../tiny/base/model.safetensors", None, 5])
def test_a_preset_that_cannot_be_looked_up_yet_is_looked_for_at_every_run(nodes, presets, choice):
    first, second = (fingerprint(nodes, model=None, preset=choice) for _ in range(2))
    assert first != first and first is not second, "ComfyUI compares by identity first"


def test_a_preset_is_saved_at_every_run_as_its_file_may_have_gone(nodes):
    first, second = (fingerprint(nodes, "SaveStylePreset", style=None, name="grey") for _ in range(2))
    assert first != first and first is not second


def test_a_save_says_on_the_node_what_was_saved_where_and_whether_it_was_there_already(
    comfy, nodes, presets, style, monkeypatch
):
    shown = []
    listening = SimpleNamespace(send_progress_text=lambda text, node: shown.append((text, node)))
    monkeypatch.setattr(comfy.server, "instance", listening, raising=False)
    node = type("Prepared", (nodes["SaveStylePreset"],), {"hidden": SimpleNamespace(unique_id="7")})  # as for a run
    said = [node.execute(style=style, name="grey").ui["text"][0] for _ in range(2)]
    assert said == [f"{how} as grey.safetensors\nin {presets}" for how in ("Saved", "Saved already")]
    assert shown == [(text, "7") for text in said]
    nodes["SaveStylePreset"].execute(style=style, name="grey")
    assert len(shown) == 2, "outside of a run there is no node to show it on"


def test_a_file_that_came_to_be_there_meanwhile_is_told_in_the_nodes_words(
    nodes, presets, style, errors, tmp_path, monkeypatch
):
    presets.mkdir()
    (presets / "grey.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(errors.BadInput, match="is there already. Give another name or set overwrite on") as refusal:
        nodes["SaveStylePreset"].execute(style=style, name="grey")
    assert "--overwrite" not in str(refusal.value)


@pytest.mark.parametrize("name", ["stars \N{GLOWING STAR}", "\u58a8\u7d75", "x" * 60])
def test_a_preset_may_be_called_in_any_script_as_the_tooltip_says(nodes, presets, style, name):
    nodes["SaveStylePreset"].execute(style=style, name=name)
    assert choices(nodes) == [f"{name}.safetensors"]


@pytest.mark.parametrize("name", ["a/b", "a:b", "a\u200bb", "nul", ".a", "a.", "x" * 61])
def test_a_name_that_is_no_files_on_every_system_is_refused_as_the_tooltip_says(nodes, presets, style, errors, name):
    (tooltip,) = (item.tooltip for item in nodes["SaveStylePreset"].define_schema().inputs if item.id == "name")
    assert "60 characters" in tooltip and "on every system" in tooltip and "invisible" in tooltip
    with pytest.raises(errors.BadInput, match="name|called"):
        nodes["SaveStylePreset"].execute(style=style, name=name)


def test_another_thumbnail_of_the_same_style_is_not_dropped_silently(nodes, presets, style, errors):
    nodes["SaveStylePreset"].execute(style=style, name="grey")
    with pytest.raises(errors.BadInput, match="is there already.* overwrite on") as refusal:
        nodes["SaveStylePreset"].execute(style=style, name="grey", thumbnail=torch.zeros(1, 8, 8, 3))
    assert "--overwrite" not in str(refusal.value)


def test_a_presets_folder_that_was_deleted_while_the_server_runs_is_an_empty_list(comfy, nodes, presets, monkeypatch):
    def moved_under_the_cache(key):
        raise FileNotFoundError(key)

    monkeypatch.setattr(comfy.folders, "get_filename_list", moved_under_the_cache)
    assert choices(nodes) == ["(none yet)"]


def test_a_folder_that_is_gone_hides_no_other_of_its_key(comfy, nodes, presets, style, monkeypatch, tmp_path):
    nodes["SaveStylePreset"].execute(style=style, name="grey")
    comfy.folders.folder_names_and_paths["stylear_presets"][0].append(str(tmp_path / "gone"))
    monkeypatch.setattr(comfy.folders, "get_filename_list", lambda key: (tmp_path / "gone").stat())
    assert choices(nodes) == ["grey.safetensors"]


def test_a_preset_that_is_gone_is_called_a_preset(nodes, presets, model, errors):
    with pytest.raises(errors.MissingPart, match="There is no preset 'gone.safetensors'"):
        nodes["LoadStylePreset"].execute(model=model, preset="gone.safetensors")
    with pytest.raises(errors.BadInput, match="The preset is chosen by its name"):
        nodes["LoadStylePreset"].execute(model=model, preset=5)


def test_a_list_of_what_was_found_has_an_end(nodes, presets, model, errors):
    presets.mkdir()
    for place in range(30):
        (presets / f"look{place:02}.safetensors").touch()
    with pytest.raises(errors.MissingPart, match="look09.safetensors and 20 more") as refusal:
        nodes["LoadStylePreset"].execute(model=model, preset="gone.safetensors")
    assert "look10" not in str(refusal.value)


def test_nothing_can_be_subtracted_from_a_preset_and_one_message_says_so(nodes, presets, model, style, errors):
    nodes["SaveStylePreset"].execute(style=style, name="grey")
    loaded = nodes["LoadStylePreset"].execute(model=model, preset="grey.safetensors").result[0]
    for content in (None, torch.zeros(1, 8, 8, 3)):
        with pytest.raises(errors.BadInput, match="preset or a blend.* before it is saved or blended"):
            nodes["SAMSubtract"].execute(model=model, style=loaded, alpha=0.2, beta=0.8, content=content)


def test_presets_lie_beside_the_models_of_stylear(comfy, folders, models):
    assert folders.presets_folder().replace("\\", "/").endswith("models/stylear_presets")
