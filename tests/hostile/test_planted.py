"""A defect planted in each family is caught by the very check that the family's cases go through."""

import base64
import contextlib
import io
import json
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from comfy_pack import PACK_NAME
from PIL import Image, ImageFile, ImageOps

from stylear import StyleAR, checks, drawing, encoder, files, images, lora, pipeline, presets, vocabulary
from stylear.checkpoint import files as weights
from stylear.checkpoint import load
from stylear.errors import StyleARError
from training import config, curated, tokens

from . import (
    harness,
    test_command_line,
    test_faults,
    test_folders,
    test_invariants,
    test_kills,
    test_load,
    test_lora,
    test_manifests,
    test_node_inputs,
    test_paths,
    test_pickles,
    test_pictures,
    test_preset_files,
    test_safetensors,
    test_settings,
    test_shards,
    test_tokenizer,
    test_workflows,
)
from .graphs import Graphs


@contextlib.contextmanager
def caught(*kinds: type[BaseException]):
    """The check inside has to fail: with an AssertionError of its own, or with the raw error of the defect."""
    with pytest.raises((AssertionError, *kinds)) as told:
        yield told


def test_a_pickle_loaded_without_the_guard(tmp_path, monkeypatch):
    def unguarded(file, *args, **options):
        return pickle.loads(Path(getattr(file, "name", file)).read_bytes())

    content = {"state_dict": {"x": test_pickles.payload("open", tmp_path / "witness")}}
    data = test_pickles.contained(content, "plain pickle")
    test_pickles.check_nothing_runs(tmp_path, data, "vqgan.ckpt")
    monkeypatch.setattr(torch, "load", unguarded)
    test_pickles.check_nothing_runs(tmp_path, data, "vqgan.ckpt")  # what it claims is looked at before
    monkeypatch.setattr(weights, "check_claims", lambda *_: None)
    with caught():
        test_pickles.check_nothing_runs(tmp_path, data, "vqgan.ckpt")


def test_a_pickle_whose_claims_are_believed(tmp_path, monkeypatch):
    data = test_pickles.contained({"latents": torch.zeros(1).expand(1 << 20)}, "zip")
    test_pickles.check_bytes(tmp_path, data, "image_proj.pth")
    monkeypatch.setattr(weights, "_TIED", 1 << 40)
    with caught():
        test_pickles.check_bytes(tmp_path, data, "image_proj.pth")


def test_a_pickle_that_may_copy_itself(tmp_path, monkeypatch):
    data = test_pickles.contained(test_pickles.BOMBS["a text encoded again and again"](), "zip")
    with harness.case():
        test_pickles.check_bytes(tmp_path, data, "image_proj.pth")
    monkeypatch.setattr(weights, "check_claims", lambda *_: None)
    with caught(), harness.case():
        test_pickles.check_bytes(tmp_path, data, "image_proj.pth")


def test_weights_that_are_not_looked_at_for_nan(tmp_path, monkeypatch):
    bundle = tiny.write_bundle(tmp_path)
    test_safetensors.check_change(bundle, "resampler", 0, "nan", ())
    monkeypatch.setattr(load, "_check_finite", lambda *_: None)
    with caught():
        test_safetensors.check_change(bundle, "resampler", 0, "nan", ())


@pytest.mark.parametrize("change", [{"num_hidden_layers": 2.0}, {"vocab_size": 2**70}, {"vocab_size": -1}])
def test_a_size_without_a_kind_or_a_bound(tmp_path, monkeypatch, change):
    bundle = tiny.write_bundle(tmp_path)
    content = tiny.BASE_CONFIG | change
    test_folders.check_config(bundle / "base", "config.json", content, load.load_base)
    monkeypatch.setattr("stylear.chameleon_config.check_numbers", lambda config: None)
    with caught(TypeError, RuntimeError):
        test_folders.check_config(bundle / "base", "config.json", content, load.load_base)


def test_a_tokenizer_whose_ids_are_not_checked(monkeypatch):
    spec = test_tokenizer.WHOLE | test_tokenizer.RULES["an id past the table"]
    test_tokenizer.check(json.dumps(spec), "a cat")
    monkeypatch.setattr(vocabulary, "_check_ids", lambda *_: None)
    with caught(TypeError, OverflowError):
        test_tokenizer.check(json.dumps(spec), "a cat")


def test_a_lora_folded_in_place(monkeypatch):
    lora_state = tiny.lora_state()
    test_lora.check_fold(lora_state)

    def in_place(state, given):
        for name, (a, b) in lora.pairs(given).items():
            state[f"{name}.weight"] += (a @ b).T
        return state

    monkeypatch.setattr(test_lora, "fold", in_place)
    monkeypatch.setattr(test_lora, "BASE", tiny.base_state())
    with caught():
        test_lora.check_fold(lora_state)


def test_yaml_that_takes_numbers_that_are_none(tmp_path, monkeypatch):
    kind = config.ModelPaths
    (tmp_path / "x.yaml").write_text("base: !!int ''")
    test_settings.check(kind, tmp_path / "x.yaml")
    monkeypatch.setattr(config.PlainLoader, "compose_node", config.yaml.SafeLoader.compose_node)
    with caught(IndexError):
        test_settings.check(kind, tmp_path / "x.yaml")


def test_a_shard_whose_codes_are_not_checked(tmp_path, monkeypatch):
    folder = test_shards.write_tokens(tmp_path / "whole", 5, features=True)
    test_shards.check(folder)

    def unchecked(row, prefix, count):
        return np.full((4, 4), count)

    monkeypatch.setattr(tokens, "_grid", unchecked)
    with caught():
        test_shards.check(folder)


def test_a_manifest_that_may_name_any_file(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "outside.tar").write_bytes(test_manifests.SHARD)
    manifest = test_manifests.manifest_of(test_manifests.SHARD)
    manifest["shards"][0]["file"] = "../outside.tar"
    (tmp_path / "in" / "manifest.json").write_text(json.dumps(manifest))
    assert harness.failed(harness.outcome(test_manifests.curated, tmp_path / "in"))
    monkeypatch.setattr(curated, "is_plain_name", lambda name: True)
    with caught():
        assert harness.failed(harness.outcome(test_manifests.curated, tmp_path / "in"))


def test_a_rotation_that_is_applied_to_half_the_readers(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[test_pictures.ORIENTATION] = 6
    Image.new("RGB", (3, 5)).save(tmp_path / "x.jpg", exif=exif)
    data = (tmp_path / "x.jpg").read_bytes()
    test_pictures.check_file(tmp_path, data)
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda picture: picture)
    with caught():
        test_pictures.check_file(tmp_path, data)


def test_a_picture_without_a_bound(monkeypatch):
    grey, black = (np.full((2, 2, 3), value, np.float32) for value in (0.5, np.nan))
    for value in (grey, black):
        test_pictures.check_value(value)
    test_pictures.check_refused(black)
    monkeypatch.setattr(images.np, "isfinite", lambda value: np.ones_like(value, bool))
    test_pictures.check_value(grey)
    with caught():
        test_pictures.check_refused(black)


def test_a_picture_whose_size_is_not_looked_at(tmp_path, monkeypatch):
    bomb = test_pictures.png(images.MAX_PIXELS + 1, 1, bits=1, colour=0)
    test_pictures.check_file(tmp_path, bomb)
    monkeypatch.setattr(images, "_check_size", lambda *_: None)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with caught():
        test_pictures.check_file(tmp_path, bomb)


def test_a_preset_whose_thumbnail_has_no_bound(tmp_path, monkeypatch):
    text = base64.b64encode(test_preset_files.png((129, 1))).decode()
    data = test_safetensors.file_of(test_preset_files.with_thumbnail(text), bytes(24))
    test_preset_files.check(tmp_path, data)
    monkeypatch.setattr(presets, "decode_png", lambda data, most, name: Image.open(io.BytesIO(data)))
    with caught():
        test_preset_files.check(tmp_path, data)


def test_a_preset_that_may_lie_anywhere(tmp_path, monkeypatch):
    named = test_preset_files.check_name
    (tmp_path / "sound").mkdir()
    named(tmp_path / "sound", "../up")
    monkeypatch.setattr(test_preset_files, "preset_path", lambda folder, name: folder / f"{name}.safetensors")
    (tmp_path / "in").mkdir()
    with caught():
        named(tmp_path / "in", "../up")


def test_a_node_that_trusts_its_wires(nodes, models, monkeypatch):
    graphs = Graphs(nodes, models)
    inputs = test_node_inputs.SOUND["StyleTokenEncode"] | {"model": None}
    test_node_inputs.check_node(graphs, "StyleTokenEncode", inputs)
    monkeypatch.setattr(f"{PACK_NAME}.nodes.host.HostedModel.on", staticmethod(lambda model: model))
    with caught(AttributeError):
        test_node_inputs.check_node(graphs, "StyleTokenEncode", inputs)


def test_a_workflow_whose_choices_are_believed(nodes, models, monkeypatch):
    graphs = Graphs(nodes, models)
    graph = {"1": {"class_type": "LoadStyleAR", "inputs": {"model": {"a": 1}}}}
    test_workflows.check_graph(graphs, graph)
    monkeypatch.setattr(f"{PACK_NAME}.nodes.folders._chosen", lambda choice, kind: choice)
    with caught(AttributeError):
        test_workflows.check_graph(graphs, graph)


def test_a_command_line_that_prints_what_it_is_given(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test_command_line.check(["info", "\x1b[2J"], tmp_path, test_command_line.main, capsys)
    monkeypatch.setattr("stylear.__main__.say", lambda text, stream=None: print(text, file=stream))
    with caught():
        test_command_line.check(["info", "\x1b[2J"], tmp_path, test_command_line.main, capsys)


def test_a_draw_that_does_not_repeat_and_a_missing_bound(tmp_path, monkeypatch):
    model = StyleAR.load(tiny.write_bundle(tmp_path), device="cpu")
    style = model.encode_style(Image.new("RGB", (20, 24), "teal"))
    options = {"prompt": "a cat", "width": 8, "height": 8, "seed": 0, "batch_size": 1, "window": 1, "temperature": 1000}
    test_invariants.check_drawn(model, style, options)
    with monkeypatch.context() as planted:
        planted.setattr(drawing, "exponential", lambda count, generator: torch.rand(count) + 0.1)
        with caught():
            test_invariants.check_drawn(model, style, options)
    monkeypatch.setattr(pipeline, "whole", lambda name, value, least, most, hint="": value)
    with caught(TypeError, ValueError, RuntimeError):
        test_invariants.check_drawn(model, style, options | {"batch_size": 0})
    assert checks.whole("x", 1, 0, 2) == 1


def test_a_style_whose_numbers_are_not_looked_at(tmp_path, monkeypatch):
    model, picture = StyleAR.load(tiny.write_bundle(tmp_path), device="cpu"), Image.new("RGB", (20, 24))
    test_invariants.check_style(model.encode_style(picture))
    monkeypatch.setattr(encoder.ImageEncoder, "encode", lambda self, picture: torch.full((5, 24), float("nan")))
    with pytest.raises(StyleARError):
        model.encode_style(picture)
    monkeypatch.setattr("stylear.style._own", lambda name, value: value)
    with caught():
        test_invariants.check_style(model.encode_style(picture))


@contextlib.contextmanager
def straight(path, overwrite=False):
    """A writer that writes where it was told, at once."""
    yield Path(path)


def test_a_write_that_is_not_atomic(tmp_path, monkeypatch):
    root = test_paths.made(tmp_path)
    test_paths.check_half(test_paths.half, root)
    monkeypatch.setattr(files, "new_file", straight)
    with caught():
        test_paths.check_half(test_paths.half, root)


def test_a_write_that_follows_links(tmp_path, monkeypatch):
    root = test_paths.made(tmp_path)
    test_paths.check_write(root, test_paths.write_new, "link")
    monkeypatch.setattr(files, "new_file", straight)
    with caught():
        test_paths.check_write(root, test_paths.write_new, "link")


def test_a_case_that_takes_gigabytes_or_has_no_message():
    def greedy() -> None:
        with harness.case():
            bytearray(harness.MORE_MEMORY + harness._peak())

    with caught(MemoryError):
        greedy()
    with caught():
        harness.outcome(lambda: (_ for _ in ()).throw(files.BadInput("no")))


def write_straight() -> None:
    """In a victim: files are written where they belong, at once."""
    from training import loop

    files.new_file = loop.new_file = straight


def test_a_command_whose_writes_are_not_atomic(bench):
    torn = {"kind": "torn", "only": "inputs", "size": 10}
    test_kills.check_resumed(bench, "tokenize", torn)
    with caught():
        test_kills.check_resumed(bench, "tokenize", torn, setup=f"{__name__}:write_straight")


def take_orphans() -> None:
    """In a victim: a state that was being written when the run was killed is gone on with."""
    from training import checkpoints

    checkpoints._NAME = re.compile(r"\.?state-(\d{6,}).*")


def test_a_resume_that_accepts_an_orphan(bench):
    killed = {"kind": "kill", "only": "/.state-000001", "at": 2}
    test_kills.check_resumed(bench, "train", killed)
    with caught():
        test_kills.check_resumed(bench, "train", killed, setup=f"{__name__}:take_orphans")


def forget_weights() -> None:
    """In a victim: a run goes on from where it was, with weights that were never trained."""
    from training import trainer

    trainer.load_state = lambda state, model, optimizer: None


def test_a_resume_that_forgets_what_was_trained(bench):
    killed = {"kind": "kill", "only": "/.state-000002", "at": 1}
    test_kills.check_resumed(bench, "train", killed)
    with caught() as told:
        test_kills.check_resumed(bench, "train", killed, setup=f"{__name__}:forget_weights")
    assert "adapter/model.safetensors" in str(told.value), "it was noticed by something else than the weights"


def say_errors_raw() -> None:
    """In a victim: what the disk refuses is raised as it is."""
    files._refusal = lambda error, place: None


def test_a_full_disk_that_is_not_told_in_words(bench):
    test_faults.check_fault(bench, "download", "full", 12)
    with caught():
        test_faults.check_fault(bench, "download", "full", 12, setup=f"{__name__}:say_errors_raw")


def test_a_defect_that_could_not_be_planted_is_none(bench):
    with pytest.raises(RuntimeError, match="no_such_defect failed: "):
        bench.run("download", bench.folder(), setup=f"{__name__}:no_such_defect")


def hold_nothing() -> None:
    """In a victim: a folder that another run holds is written."""
    from stylear import download

    download.held = lambda folder: contextlib.nullcontext()


def test_a_folder_that_two_runs_may_write(bench):
    test_faults.check_alone(bench, "download")
    with caught():
        test_faults.check_alone(bench, "download", setup=f"{__name__}:hold_nothing")


def test_a_parser_that_does_not_end(tmp_path, monkeypatch):
    def spin(*_, **__):
        while True:
            pass

    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr(harness, "SECONDS", 2)
    with harness.case():
        harness.outcome(images.open_image, tmp_path / "a.png")
    monkeypatch.setattr(harness, "SECONDS", 0.2)
    monkeypatch.setattr(Image, "open", spin)
    with pytest.raises(harness.Hangs), harness.case():
        harness.outcome(images.open_image, tmp_path / "a.png")


def test_a_model_that_is_kept(tmp_path):
    bundle, kept = tiny.write_bundle(tmp_path), []
    test_load.check_flat(lambda: load.load_vqgan(bundle), 2)
    with caught():
        test_load.check_flat(lambda: kept.append(load.load_vqgan(bundle)), 2)


def test_a_thread_that_is_kept():
    waits = threading.Event()
    with caught():
        test_load.check_flat(lambda: threading.Thread(target=waits.wait, daemon=True).start(), 2)
    waits.set()
