"""Checkpoint folders: files missing, doubled, emptied, in each other's place, and configs that say what cannot be."""

import json
import os
import shutil

import pytest
import tiny
from hypothesis import strategies as st

from stylear import StyleAR, StyleTokens, checkpoint
from stylear.checkpoint.describe import describe
from stylear.depth_model import load_depth_model
from stylear.errors import BadCheckpoint

from .harness import case, failed, hostile, outcome
from .strategies import NAMES, edited, odd_values

LOADERS = [checkpoint.load_adapter, checkpoint.load_image_encoder, checkpoint.load_segmenter, checkpoint.load_base]
HOWS = ("delete", "empty", "folder", "pipe", "loop", "dangling", "swap", "double", "other", "device")
OTHER = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b"\0" * 100,
    b"PK\x03\x04",
    b"\x80\x02}.",
    b"version https://git-lfs.github.com/spec/v1",
]
CONFIG = tiny.BASE_CONFIG | {"stylear": {"size": tiny.SIZE, "merged": False}, "rope_parameters": {"rope_theta": 1e4}}
INDEX = {"metadata": {"total_size": 1}, "weight_map": {key: "model.safetensors" for key in ("a", "b")}}


def disturb(folder, number: int, other: int, how: str, content: bytes) -> None:
    """Do one thing to one file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, second = files[number % len(files)], files[other % len(files)]
    if how == "swap":
        kept = path.read_bytes()
        path.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    elif how == "double":
        shutil.copyfile(path, path.with_name(f"copy of {path.name}"))
    elif how in ("empty", "other"):
        path.write_bytes(content if how == "other" else b"")
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "pipe" and hasattr(os, "mkfifo"):
            os.mkfifo(path)
        elif how in ("loop", "dangling", "device"):
            path.symlink_to({"loop": path.name, "dangling": "nowhere", "device": "/dev/zero"}[how])


def check_folder(folder, load) -> None:
    """A part loads, twice the same, or is refused; its folder can be described; nothing in it changes."""
    before = sorted(path.name for path in folder.rglob("*"))
    found = outcome(load, folder)
    assert failed(outcome(load, folder)) == failed(found)
    outcome(describe, folder)
    outcome(checkpoint.trained_size, folder)
    assert sorted(path.name for path in folder.rglob("*")) == before


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "model")


@pytest.fixture(scope="module")
def model(bundle):
    return StyleAR.load(bundle, device="cpu")


numbers = st.integers(0, 99)
acts = st.lists(st.tuples(numbers, numbers, st.sampled_from(HOWS), st.sampled_from(OTHER)), min_size=1, max_size=3)


@hostile(90, acts=acts, load=st.sampled_from(LOADERS))
def test_a_disturbed_folder_loads_or_says_what_is_wrong(bundle, tmp_path_factory, acts, load):
    folder = tmp_path_factory.mktemp("disturbed") / "model"
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("vqgan"))
    for act in acts:
        disturb(folder, *act)
    check_folder(folder, load)
    shutil.rmtree(folder)


def check_config(folder, name: str, content: object, load) -> None:
    """A part whose JSON file says something else loads or is refused."""
    path = folder / name
    kept = path.read_bytes() if path.exists() else None
    path.write_text(json.dumps(content))
    try:
        outcome(load, folder)
        outcome(checkpoint.trained_size, folder)
    finally:
        path.unlink() if kept is None else path.write_bytes(kept)


@hostile(100, content=edited(CONFIG))
def test_a_base_whose_config_is_edited_loads_or_is_refused(bundle, content):
    check_config(bundle / "base", "config.json", content, checkpoint.load_base)


HF, OPEN = (
    tiny.HF_CLIP_CONFIG,
    {"model_cfg": tiny.OPEN_CLIP_CONFIG, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}},
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("encoder")
    save_file(tiny.open_clip_state(), folder / "x.safetensors")
    return folder


@hostile(90, content=edited(HF))
def test_an_image_encoder_whose_config_is_edited_loads_or_is_refused(encoder, content):
    check_config(encoder, "config.json", content, checkpoint.load_image_encoder)


@hostile(90, content=edited(OPEN))
def test_an_image_encoder_whose_open_clip_config_is_edited_loads_or_is_refused(encoder, content):
    check_config(encoder, "open_clip_config.json", content, checkpoint.load_image_encoder)


@hostile(40, content=edited({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}))
def test_a_preprocessor_that_makes_no_numbers_is_refused(encoder, content):
    (encoder / "config.json").write_text(json.dumps(HF))
    (encoder / "preprocessor_config.json").write_text(json.dumps(content))
    try:
        loaded = outcome(checkpoint.load_image_encoder, encoder)
        if not failed(loaded):
            assert loaded.encode(_grey()).isfinite().all()
    finally:
        (encoder / "config.json").unlink()
        (encoder / "preprocessor_config.json").unlink()


IMPOSSIBLE = [
    {"layers": 2**20},
    {"image_size": []},
    {"image_size": {}},
    {"mlp_ratio": 1e999},
    {"width": 10**400},
    {"head_width": float("nan")},
    {"patch_size": 2**20},
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE, ids=lambda wrong: next(iter(wrong)))
def test_an_encoder_of_a_size_that_cannot_be_is_refused_before_it_is_built(encoder, wrong):
    with case():
        content = {"model_cfg": {"vision_cfg": tiny.OPEN_CLIP_CONFIG["vision_cfg"] | wrong}}
        check_config(encoder, "open_clip_config.json", content, checkpoint.load_image_encoder)


def _grey():
    from PIL import Image

    return Image.new("RGB", (20, 24), "grey")


@hostile(80, content=edited(INDEX, odd_values | st.sampled_from(NAMES)))
def test_an_index_that_is_edited_is_refused(bundle, content):
    check_config(
        bundle / "base", "model.safetensors.index.json", content, lambda folder: checkpoint.find("base", folder)
    )
    path = bundle / "x.index.json"
    path.write_text(json.dumps(content))
    outcome(checkpoint.open_weights, path)
    path.unlink()


@pytest.mark.parametrize("size", [10**9, 2**20, 65, 7, True, -1, "64", None, 1.5])
def test_a_base_that_says_to_draw_pictures_it_has_no_tokens_for_is_refused(bundle, model, size):
    with case():
        content = CONFIG | {"stylear": {"size": size}}
        path = bundle / "base" / "config.json"
        kept = path.read_bytes()
        path.write_text(json.dumps(content))
        try:
            loaded = outcome(StyleAR.load, bundle, device="cpu")
        finally:
            path.write_bytes(kept)
        if failed(loaded):
            assert isinstance(loaded, BadCheckpoint)
        else:
            assert loaded.encode_condition(_grey()).numel() and 8 <= loaded.size <= loaded.info()["largest"]


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_model_at_a_path_that_cannot_be_is_refused(number, tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with case():
        assert failed(outcome(StyleAR.load, NAMES[number], device="cpu"))
        for load in (checkpoint.load_vqgan, describe, StyleTokens.load, load_depth_model):
            assert failed(outcome(load, NAMES[number]))
        outcome(checkpoint.holds, "segmenter", NAMES[number])


def test_text_files_of_gigabytes_are_refused_before_they_are_read(bundle, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        shutil.copytree(bundle / "base", tmp_path / name)
        with (tmp_path / name / name).open("r+b") as file:
            file.truncate(4 << 30)
        with case():
            assert isinstance(outcome(checkpoint.load_base, tmp_path / name), BadCheckpoint)


VQGAN_YAML = ["", "{", "!!python/object/apply:os.system ['touch witness']", "a: &a [*a]", "\0", "x" * 10_000]


@hostile(30, text=st.sampled_from(VQGAN_YAML) | st.text(max_size=50).filter(lambda text: "\ud800" not in text))
def test_a_vqgan_yaml_is_not_read_whatever_it_says(bundle, text):
    """Everything is known from the weights."""
    path = bundle / "vqgan" / "vqgan.yaml"
    path.write_bytes(text.encode("utf-8", "replace"))
    assert checkpoint.find("vqgan", bundle).path.name == "vqgan.safetensors"
    assert not (path.parent / "witness").exists() and len(describe(bundle)) == 6
