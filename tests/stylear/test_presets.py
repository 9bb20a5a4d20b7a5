"""A style preset comes back as it was saved, stays in its folder, and is refused if anything in it is not sound."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stylear.errors import BadCheckpoint, BadInput, MissingPart
from stylear.presets import MAX_THUMBNAIL, load_preset, preset_path, save_preset
from stylear.style import KIND, StyleTokens

TOKENS = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
NOISE = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
STYLE = StyleTokens(TOKENS, torch.ones(3, 4), NOISE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "neon.safetensors"


def write(path, tokens=TOKENS, **metadata):
    """A file as a stranger may make it."""
    save_file({"tokens": tokens}, path, {"stylear": json.dumps(KIND), **metadata})


def png(width, height, kind="PNG") -> str:
    data = io.BytesIO()
    Image.new("RGB", (width, height)).save(data, format=kind)
    return base64.b64encode(data.getvalue()).decode()


def test_a_preset_comes_back_bit_for_bit_with_a_thumbnail_of_the_reference(path):
    save_preset(STYLE, path)
    style, thumbnail = load_preset(path, (16, 8))
    assert torch.equal(style.tokens, TOKENS) and style.features is None
    assert max(thumbnail.size) <= 128 and thumbnail.width / thumbnail.height == pytest.approx(2 / 3, abs=0.02)
    assert torch.equal(StyleTokens.load(path).tokens, TOKENS)
    assert path.stat().st_size < MAX_THUMBNAIL + 4096 and [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_thumbnail_may_be_another_picture_or_none(path):
    save_preset(STYLE, path, Image.new("RGB", (10, 10), "red"))
    assert load_preset(path)[1].getpixel((5, 5)) == (255, 0, 0)
    save_preset(StyleTokens(TOKENS), path.with_name("bare.safetensors"))
    assert load_preset(path.with_name("bare.safetensors"))[1] is None


def test_another_preset_is_never_overwritten_unasked_and_the_same_one_is_left(path):
    assert save_preset(STYLE, path) is True
    before = path.read_bytes()
    assert save_preset(STYLE, path) is False and save_preset(StyleTokens(TOKENS), path) is False
    with pytest.raises(BadInput, match="is there already"):
        save_preset(STYLE, path, Image.new("RGB", (10, 10)))
    with pytest.raises(BadInput, match="is there already"):
        save_preset(STYLE.with_noise(1, 0), path)
    assert path.read_bytes() == before
    save_preset(STYLE.with_noise(1, 0), path, overwrite=True)
    assert not torch.equal(load_preset(path)[0].tokens, TOKENS)


def test_a_file_that_is_no_preset_is_not_overwritten_either(path):
    path.write_text("mine")
    with pytest.raises(BadInput, match="is there already"):
        save_preset(STYLE, path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["", " ", "../neon", "a/b", "a\\b", "/etc/neon", "C:neon", ".neon", "neon.", "x" * 61, "nul", "COM1.old"]
)
def test_a_name_that_is_a_path_or_no_name_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="preset.* (Give|Use) "):
        preset_path(tmp_path, name)


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\u202eb", None, 5])
def test_a_name_with_what_cannot_be_seen_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="preset"):
        preset_path(tmp_path, name)


@pytest.mark.parametrize("name", ["neon", "neon.safetensors", " neon "])
def test_a_name_becomes_a_file_directly_in_the_folder(tmp_path, name):
    assert preset_path(tmp_path, name) == tmp_path / "neon.safetensors"


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (TOKENS / 0, "NaN or infinite"),
        (TOKENS.half(), "not F32"),
        (TOKENS.to(torch.int8), "not F32"),
        (TOKENS[None], "two dimensions"),
        (TOKENS[:, :4], r"\[16, 4\] and this model takes \[16, 8\]"),
        (TOKENS[:3], r"\[3, 8\] and this model takes"),
        (TOKENS * 1e9, "beyond 10000"),
        (torch.zeros(2048, 1024), "bytes; a preset has at most"),
    ],
    ids=["nan", "half", "integers", "dimensions", "width", "count", "huge numbers", "huge file"],
)
def test_tokens_that_are_not_a_style_of_this_model_are_refused(path, tokens, reason):
    write(path, tokens.contiguous())
    with pytest.raises(BadCheckpoint, match=reason):
        load_preset(path, (16, 8))


@pytest.mark.parametrize(
    "thumbnail",
    ["not base64!", "AAAA", "A" * (MAX_THUMBNAIL + 4), png(129, 5), png(9, 9, "GIF"), png(9, 9)[:40], ""],
    ids=["text", "bytes", "too long", "too wide", "a GIF", "cut off", "empty"],
)
def test_a_thumbnail_that_is_not_a_small_png_is_refused(path, thumbnail):
    write(path, thumbnail=thumbnail)
    with pytest.raises(BadCheckpoint, match="thumbnail of neon.safetensors.* Ask for another file.") as refusal:
        load_preset(path)
    assert "BytesIO" not in str(refusal.value) and "Save it again" not in str(refusal.value)


def test_what_is_no_preset_at_all_is_refused(path):
    with pytest.raises(MissingPart, match="no style file"):
        load_preset(path)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(BadCheckpoint, match="not a saved style.* Save Style Preset") as refusal:
        load_preset(path)
    assert "StyleTokens.save" not in str(refusal.value)
    with pytest.raises(BadInput, match="style is of type str, not a style"):
        save_preset("style", path)
