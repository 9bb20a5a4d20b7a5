"""Folders, memory, progress, stop button and tensors: what lies between ComfyUI and the engine."""

import gc
import os
import weakref

import pytest
import torch


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


# -- folders -------------------------------------------------------------------------------------------------


def test_the_bundled_mini_is_always_first_in_the_list(host, models):
    assert host.model_choices() == [host.MINI]


def test_a_folder_that_holds_a_base_model_is_a_choice_at_once(host, models):
    put(
        models,
        "own/base/config.json",
        "own/base/tokenizer.json",
        "bare/config.json",
        "bare/tokenizer.json",
        "x/a.txt",
    )
    assert host.model_choices() == [host.MINI, "own", "bare"]


def test_a_base_in_huggingfaces_layout_may_lie_among_comfyuis_diffusion_models(comfy, host, errors, models, tmp_path):
    shared = tmp_path / "diffusion_models"
    put(shared, "lumina/config.json", "lumina/tokenizer.json", "lumina/model.safetensors")
    put(shared, "flux/config.json", "flux/diffusion_pytorch_model.safetensors", "alone.safetensors")
    comfy.folders.folder_names_and_paths["diffusion_models"] = ([str(shared)], {".safetensors"})
    assert host.model_choices() == [host.MINI, "diffusion_models/lumina"]
    assert host.locate_model("diffusion_models/lumina") == str(shared / "lumina")
    for choice in ("diffusion_models/flux", "diffusion_models/../diffusion_models/lumina"):
        with pytest.raises(errors.MissingPart, match="put it into models/diffusion_models"):
            host.locate_model(choice)


def test_names_that_windows_lists_are_shown_and_found_with_forward_slashes(comfy, host, models, monkeypatch):
    put(models, "own/base/config.json", "own/vqgan/a.safetensors")
    names = ["own\\base\\config.json", "own\\vqgan\\a.safetensors"]
    with monkeypatch.context() as windows:
        windows.setattr(comfy.folders, "get_filename_list", lambda key: names if key == "stylear" else [])
        windows.setattr(os, "sep", "\\")
        assert host.model_choices() == [host.MINI, "own"]
        assert host.part_choices("vqgan")[1:] == ["stylear/own/vqgan", "stylear/own/vqgan/a.safetensors"]
    assert host.locate_part("stylear/own/vqgan/a.safetensors", "vqgan") == str(
        models / "own" / "vqgan" / "a.safetensors"
    )


def test_sams_that_other_packs_use_are_offered_as_segmenters_and_their_settings_stay(comfy, host, models, tmp_path):
    folders = comfy.folders.folder_names_and_paths
    theirs = {".pth"}
    folders["sams"] = ([str(tmp_path / "sams")], theirs)
    put(tmp_path / "sams", "sam_vit_b_01ec64.pth", "notes.txt")
    host.register_folders()
    assert folders["sams"] == ([str(tmp_path / "sams"), os.path.join(comfy.folders.models_dir, "sams")], {".pth"})
    assert host.part_choices("segmenter") == [host.WITH_MODEL, "sams/sam_vit_b_01ec64.pth"]
    del folders["sams"]
    host.register_folders()
    assert folders["sams"][1] >= {".pth", ".safetensors"}


def test_a_part_may_come_from_our_folder_or_from_comfyuis_own(comfy, host, models, tmp_path):
    put(models, "own/vqgan/vqgan.safetensors")
    put(tmp_path / "vae", "vqgan.ckpt", "notes.txt")
    comfy.folders.folder_names_and_paths["vae"] = ([str(tmp_path / "vae")], {".ckpt"})
    assert host.part_choices("vqgan") == [
        host.WITH_MODEL,
        "stylear/own/vqgan",
        "stylear/own/vqgan/vqgan.safetensors",
        "vae/vqgan.ckpt",
    ]
    assert host.locate_part("vae/vqgan.ckpt", "vqgan") == str(tmp_path / "vae" / "vqgan.ckpt")
    assert host.locate_part("stylear/own/vqgan", "vqgan") == str(models / "own" / "vqgan")


@pytest.mark.parametrize("choice", ["../secret", "own/../../secret", "/etc", "C:\\models", "own/base", "", "gone"])
def test_a_workflow_cannot_open_what_the_list_does_not_show(host, errors, models, tmp_path, choice):
    put(models, "own/base/config.json", "own/base/model.safetensors")
    put(tmp_path / "models", "secret/config.json", "secret/tokenizer.json")
    with pytest.raises(errors.MissingPart, match="There is no model") as refusal:
        host.locate_model(choice)
    assert str(models) in str(refusal.value) and "own" in str(refusal.value)
    with pytest.raises(errors.MissingPart):
        host.locate_part(f"stylear/{choice}x", "vqgan")


def test_a_model_that_vanished_after_it_was_listed_is_a_missing_part(host, errors, models, monkeypatch):
    put(models, "own/base/config.json")
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    with pytest.raises(errors.MissingPart):
        host.locate_model("own")


def test_a_part_that_is_gone_is_missed_in_the_folder_it_was_chosen_from(comfy, host, errors, models, tmp_path):
    folders = {"adapter": "loras", "vqgan": "vae", "image_encoder": "clip_vision", "segmenter": "sams"}
    for part, key in folders.items():
        comfy.folders.folder_names_and_paths[key] = ([str(tmp_path / key)], {".safetensors"})
        with pytest.raises(errors.MissingPart, match=f"'gone.safetensors': put it into models/{key} ") as refusal:
            host.locate_part(f"{key}/gone.safetensors", part)
        assert f"Searched: {tmp_path / key}\n" in str(refusal.value)
        with pytest.raises(errors.MissingPart, match="put it into models/stylear "):
            host.locate_part("checkpoints/gone.safetensors", part)
    del comfy.folders.folder_names_and_paths["sams"]
    with pytest.raises(errors.MissingPart, match="put it into models/stylear "):
        host.locate_part("sams/gone.safetensors", "segmenter")


def test_a_depth_model_is_a_folder_that_reads_pictures_and_no_text(host, models):
    put(models, "depth/config.json", "depth/preprocessor_config.json", "depth/model.safetensors")
    put(models, "clip/config.json", "clip/preprocessor_config.json", "clip/tokenizer.json")
    assert host.depth_model_choices() == ["depth"]
    assert host.locate_model("depth") == str(models / "depth")


# -- memory --------------------------------------------------------------------------------------------------


def test_only_the_parts_a_node_needs_are_loaded(comfy, host, model):
    comfy.management.unload_all_models()
    assert model.ready("vqgan", "no such part") is model.model
    assert comfy.management.loaded_models() == [model.patchers["vqgan"]]
    comfy.management.unload_all_models()
    assert comfy.management.loaded_models() == []


def test_comfyuis_cache_recognises_the_wire_by_its_largest_part(model, engine):
    assert model.patcher.model.part in engine.parts.values()
    assert model.patcher.model_size() == max(p.model_size() for p in model.patchers.values())


def test_a_model_leaves_memory_when_its_last_wire_goes(comfy, host, engine):
    model = host.HostedModel(engine)
    model.ready("base")
    gone = weakref.ref(model.patchers["base"])
    del model
    assert gone() is None, "something else holds the patcher"
    gc.collect()
    assert all(patcher is not None for patcher in comfy.management.loaded_models())


def test_a_borrowed_module_is_on_the_device_only_inside_the_block(comfy, host):
    comfy.management.unload_all_models()
    with host.on_device(torch.nn.Linear(1, 1)) as module:
        assert [p.model.part for p in comfy.management.loaded_models()] == [module]
    del module
    assert comfy.management.loaded_models() == []


def test_the_dtype_is_comfyuis_choice_unless_the_person_chose(host):
    assert host.weights_dtype("auto") == torch.float32  # on a CPU
    assert host.weights_dtype("float16") == torch.float16


def test_auto_is_bfloat16_where_the_device_is_good_at_it(comfy, host, monkeypatch):
    monkeypatch.setattr(comfy.management, "should_use_bf16", lambda device: True)
    assert host.weights_dtype("auto") == torch.bfloat16


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt()])
def test_a_library_that_exits_does_not_take_comfyuis_worker_with_it(host, error):
    with pytest.raises(RuntimeError, match="tried to end ComfyUI"), host.contained():
        raise error


def test_the_stop_button_passes_through(comfy, host):
    with pytest.raises(comfy.management.InterruptProcessingException), host.contained():
        raise comfy.management.InterruptProcessingException


# -- while it runs -------------------------------------------------------------------------------------------


@pytest.fixture
def shown(comfy):
    """What the progress bar sends to the page: (value, total, preview)."""
    sent = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **_: sent.append((value, total, preview)))
    yield sent
    comfy.utils.set_progress_bar_global_hook(None)


def test_progress_reaches_the_page_from_the_first_step_to_the_last(host, shown):
    run = host.Run()
    for done in range(1, 11):
        run.progress(done, 10)
    assert shown[0] == (1, 10, None) and shown[-1] == (10, 10, None)


def test_the_stop_button_is_looked_at_on_every_step_not_only_when_the_bar_moves(comfy, host):
    run = host.Run()
    assert run.cancelled() is False
    comfy.management.interrupt_current_processing()
    with pytest.raises(comfy.management.InterruptProcessingException):
        run.cancelled()
    assert run.cancelled() is False, "the stop is used up"


def test_no_preview_is_made_when_the_person_has_previews_off(host):
    assert host.Run().preview is None


@pytest.fixture
def previews_on(comfy, monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Auto)


@pytest.mark.parametrize(
    "pictures",
    [torch.rand(1, 4, 6, 3), torch.rand(3, 4, 6, 3), torch.rand(1, 4, 6, 4), torch.rand(1, 4, 6).half()],
    ids=["one", "batch", "rgba", "grey"],
)
def test_a_preview_is_always_an_rgb_image_that_jpeg_can_hold(comfy, host, shown, previews_on, pictures):
    run = host.Run()
    run.progress(1, 4)
    run.preview(pictures)
    kind, image, size = shown[-1][2]
    assert (kind, image.mode, image.size, size) == ("JPEG", "RGB", (6, 4), comfy.cli_args.args.preview_size)
    assert shown[-1][:2] == (1, 4)


def test_a_preview_before_the_first_step_is_left_out(host, shown, previews_on):
    host.Run().preview(torch.rand(1, 4, 6, 3))
    assert shown == []


# -- pictures ------------------------------------------------------------------------------------------------


def test_a_half_precision_batch_gives_its_first_picture_in_float32(host):
    batch = torch.rand(3, 4, 5, 3).half()
    picture = host.first_picture(batch, "image")
    assert picture.dtype == torch.float32
    assert torch.equal(picture, batch[0].float())


@pytest.mark.parametrize("value", ["a string", 3, None])
def test_a_value_written_where_a_wire_belongs_is_refused_by_the_inputs_name(host, errors, value):
    with pytest.raises(errors.BadInput, match="model is a .* Connect Load StyleAR"):
        host.HostedModel.on(value)
    with pytest.raises(errors.BadInput, match="image is a .* Connect an IMAGE"):
        host.first_picture(value, "image")
    if value is not None:
        with pytest.raises(errors.BadInput, match="Connect a MASK"):
            host.first_mask(value)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 0, 4, 3), (4, 4, 3)])
def test_an_image_without_a_picture_is_refused_with_its_shape(host, errors, shape):
    with pytest.raises(errors.BadInput, match=str(list(shape))[1:-1]):
        host.first_picture(torch.zeros(shape), "image")


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 64, 64), torch.zeros(0, 8, 8)], ids=["none", "64x64", "empty"])
def test_a_mask_that_marks_nothing_counts_as_none(host, mask):
    assert host.first_mask(mask) is None


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (2, 4, 5), (1, 1, 4, 5)])
def test_masks_of_every_usual_shape_are_read(host, shape):
    mask = host.first_mask(torch.ones(shape, dtype=torch.float16))
    assert mask.shape == (4, 5) and mask.dtype == torch.float32


def test_results_go_out_in_the_dtype_comfyui_asks_for(comfy, host, monkeypatch):
    monkeypatch.setattr(comfy.management, "intermediate_dtype", lambda: torch.float16)
    assert host.to_output(torch.rand(1, 2, 2, 3)).dtype == torch.float16
