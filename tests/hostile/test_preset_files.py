"""Style presets: files of strangers, and names for them that cannot be."""

import base64
import io
import json

import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from stylear import StyleTokens
from stylear.presets import load_preset, preset_path, save_preset
from stylear.style import KIND

from .harness import failed, hostile, outcome
from .strategies import damaged, edited, odd_names, odd_values
from .test_safetensors import file_of, header_of

STYLE = {"tokens": torch.ones(2, 3)}


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


def check(folder, data: bytes) -> None:
    """A preset is a finite style with a small thumbnail or none, or refused."""
    path = folder / "x.safetensors"
    path.write_bytes(data)
    found = outcome(load_preset, path, (2, 3))
    if not failed(found):
        style, shown = found
        assert style.tokens.shape == (2, 3) and style.tokens.isfinite().all()
        assert shown is None or (shown.mode == "RGB" and max(shown.size) <= 128)


def with_thumbnail(text: str, kind: object = KIND) -> dict:
    return header_of(STYLE) | {"__metadata__": {"stylear": json.dumps(kind), "thumbnail": text}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("presets")


@hostile(120, header=edited(with_thumbnail(base64.b64encode(png()).decode()), odd_values))
def test_an_edited_preset_is_read_or_refused(folder, header):
    check(folder, file_of(header, bytes(24)))


@hostile(120, data=damaged(png()) | st.sampled_from([png((129, 1)), png((5000, 5000)), b""]), plain=st.booleans())
def test_a_damaged_thumbnail_is_read_or_refused(folder, data, plain):
    text = base64.b64encode(data).decode() if plain else data.decode("latin-1")
    check(folder, file_of(with_thumbnail(text), bytes(24)))


@hostile(60, kind=edited(dict(KIND)))
def test_a_preset_of_another_kind_is_refused(folder, kind):
    check(folder, file_of(with_thumbnail("", kind), bytes(24)))


@hostile(120, name=odd_names | odd_values)
def test_a_name_of_any_kind_is_a_file_in_the_folder_or_refused(tmp_path_factory, name):
    check_name(tmp_path_factory.mktemp("named"), name)


def check_name(folder, name: object) -> None:
    """A preset of a name lies in its folder, or is refused."""
    path = outcome(preset_path, folder, name)
    if not failed(path):
        assert path.parent == folder
        outcome(save_preset, StyleTokens(STYLE["tokens"]), path)
        assert {file.parent for file in folder.rglob("*")} <= {folder}


def test_a_link_that_the_owner_made_is_followed_when_it_is_read_and_never_written_through(tmp_path):
    save_preset(StyleTokens(torch.ones(2, 3)), tmp_path / "own.safetensors")
    before, link = (tmp_path / "own.safetensors").read_bytes(), tmp_path / "link.safetensors"
    link.symlink_to("own.safetensors")
    assert torch.equal(load_preset(link)[0].tokens, torch.ones(2, 3))
    save_preset(StyleTokens(torch.zeros(2, 3)), link, overwrite=True)
    assert (tmp_path / "own.safetensors").read_bytes() == before
