"""What lies in ComfyUI's folders is offered, and what was chosen of it is found."""

import os

import pytest


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_bundled_mini_is_always_first_in_the_list(folders, models):
    assert folders.model_choices() == [folders.MINI]


def test_a_folder_that_holds_a_base_model_is_a_choice_at_once(folders, models):
    put(
        models,
        "own/base/config.json",
        "own/base/tokenizer.json",
        "bare/config.json",
        "bare/tokenizer.json",
        "x/a.txt",
    )
    assert folders.model_choices() == [folders.MINI, "own", "bare"]


def test_a_base_in_hugging_faces_layout_may_lie_in_diffusion_models(comfy, folders, errors, models, tmp_path):
    shared = tmp_path / "diffusion_models"
    put(shared, "lumina/config.json", "lumina/tokenizer.json", "lumina/model.safetensors")
    put(shared, "flux/config.json", "flux/diffusion_pytorch_model.safetensors", "alone.safetensors")
    comfy.folders.folder_names_and_paths["diffusion_models"] = ([str(shared)], {".safetensors"})
    assert folders.model_choices() == [folders.MINI, "diffusion_models/lumina"]
    assert folders.locate_model("diffusion_models/lumina") == str(shared / "lumina")
    for choice in ("diffusion_models/flux", "diffusion_models/../diffusion_models/lumina"):
        with pytest.raises(errors.MissingPart, match="put it into models/diffusion_models"):
            folders.locate_model(choice)


def test_names_that_windows_lists_are_shown_and_found_with_forward_slashes(comfy, folders, models, monkeypatch):
    put(models, "own/base/config.json", "own/vqgan/a.safetensors")
    names = ["own\\base\\config.json", "own\\vqgan\\a.safetensors"]
    with monkeypatch.context() as windows:
        windows.setattr(comfy.folders, "get_filename_list", lambda key: names if key == "stylear" else [])
        windows.setattr(os, "sep", "\\")
        assert folders.model_choices() == [folders.MINI, "own"]
        assert folders.part_choices("vqgan")[1:] == ["stylear/own/vqgan", "stylear/own/vqgan/a.safetensors"]
    assert folders.locate_part("stylear/own/vqgan/a.safetensors", "vqgan") == str(
        models / "own" / "vqgan" / "a.safetensors"
    )


def test_sams_that_other_packs_use_are_offered_as_segmenters_and_their_settings_stay(comfy, folders, models, tmp_path):
    known = comfy.folders.folder_names_and_paths
    theirs = {".pth"}
    known["sams"] = ([str(tmp_path / "sams")], theirs)
    put(tmp_path / "sams", "sam_vit_b_01ec64.pth", "notes.txt")
    folders.register_folders()
    assert known["sams"] == ([str(tmp_path / "sams"), os.path.join(comfy.folders.models_dir, "sams")], {".pth"})
    assert folders.part_choices("segmenter") == [folders.WITH_MODEL, "sams/sam_vit_b_01ec64.pth"]
    del known["sams"]
    folders.register_folders()
    assert known["sams"][1] >= {".pth", ".safetensors"}


def test_a_part_may_come_from_our_folder_or_from_comfyuis_own(comfy, folders, models, tmp_path):
    put(models, "own/vqgan/vqgan.safetensors")
    put(tmp_path / "vae", "vqgan.ckpt", "notes.txt")
    comfy.folders.folder_names_and_paths["vae"] = ([str(tmp_path / "vae")], {".ckpt"})
    assert folders.part_choices("vqgan") == [
        folders.WITH_MODEL,
        "stylear/own/vqgan",
        "stylear/own/vqgan/vqgan.safetensors",
        "vae/vqgan.ckpt",
    ]
    assert folders.locate_part("vae/vqgan.ckpt", "vqgan") == str(tmp_path / "vae" / "vqgan.ckpt")
    assert folders.locate_part("stylear/own/vqgan", "vqgan") == str(models / "own" / "vqgan")


@pytest.mark.parametrize("choice", ["../secret", "own/../../secret", "/etc", "C:\\models", "own/base", "", "gone"])
def test_a_workflow_cannot_open_what_the_list_does_not_show(folders, errors, models, tmp_path, choice):
    put(models, "own/base/config.json", "own/base/model.safetensors")
    put(tmp_path / "models", "secret/config.json", "secret/tokenizer.json")
    with pytest.raises(errors.MissingPart, match="There is no model") as refusal:
        folders.locate_model(choice)
    assert str(models) in str(refusal.value) and "own" in str(refusal.value)
    with pytest.raises(errors.MissingPart):
        folders.locate_part(f"stylear/{choice}x", "vqgan")


def test_a_model_that_vanished_after_it_was_listed_is_a_missing_part(folders, errors, models, monkeypatch):
    put(models, "own/base/config.json")
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    with pytest.raises(errors.MissingPart):
        folders.locate_model("own")


def test_a_part_that_is_gone_is_missed_in_the_folder_it_was_chosen_from(comfy, folders, errors, models, tmp_path):
    keys = {"adapter": "loras", "vqgan": "vae", "image_encoder": "clip_vision", "segmenter": "sams"}
    for part, key in keys.items():
        comfy.folders.folder_names_and_paths[key] = ([str(tmp_path / key)], {".safetensors"})
        with pytest.raises(errors.MissingPart, match=f"'gone.safetensors': put it into models/{key} ") as refusal:
            folders.locate_part(f"{key}/gone.safetensors", part)
        assert f"Searched: {tmp_path / key}\n" in str(refusal.value)
        with pytest.raises(errors.MissingPart, match="put it into models/stylear "):
            folders.locate_part("checkpoints/gone.safetensors", part)
    del comfy.folders.folder_names_and_paths["sams"]
    with pytest.raises(errors.MissingPart, match="put it into models/stylear "):
        folders.locate_part("sams/gone.safetensors", "segmenter")


def test_a_depth_model_is_a_folder_that_reads_pictures_and_no_text(folders, models):
    put(models, "depth/config.json", "depth/preprocessor_config.json", "depth/model.safetensors")
    put(models, "clip/config.json", "clip/preprocessor_config.json", "clip/tokenizer.json")
    assert folders.depth_model_choices() == ["depth"]
    assert folders.locate_model("depth") == str(models / "depth")
