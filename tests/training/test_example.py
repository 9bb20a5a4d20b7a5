"""Checks that the example data are different, captioned, the same every time, and what the other commands read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.commands import COMMANDS
from training.config import CONFIGS, read_settings
from training.curate import CurateSettings
from training.curate import run as curate
from training.example import COLOURS, SHAPES, STYLES, ExampleSettings, draw_shape, run
from training.metrics.inputs import read_prompts, read_references


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """Sixty pictures and the rest."""
    out = tmp_path_factory.mktemp("example")
    run(ExampleSettings(out=out, pictures=60))
    return out


def test_every_picture_has_a_caption_that_names_its_shape_and_colour(example):
    pictures = sorted((example / "pictures").glob("*.png"))
    assert len(pictures) == 60
    for number, path in enumerate(pictures):
        words = path.with_suffix(".txt").read_text()
        assert list(SHAPES)[number % 10] in words
        assert list(COLOURS)[number // 10] in words


def test_pictures_are_all_different(example):
    assert len({path.read_bytes() for path in (example / "pictures").glob("*.png")}) == 60


def test_pictures_have_the_size_asked_for(example):
    assert {Image.open(path).size for path in example.glob("*/*.png")} == {(64, 64)}


def test_styles_and_prompts_are_what_evaluating_reads(example):
    references, skipped = read_references(example / "styles")
    assert len(references) == len(STYLES)
    assert not skipped
    assert len(read_prompts(example / "prompts.txt")) == 20


def test_the_same_settings_give_the_same_bytes(example, tmp_path):
    run(ExampleSettings(out=tmp_path, pictures=60))
    for path in sorted(example.rglob("*")):
        if path.is_file() and path.suffix in (".png", ".txt", ".safetensors"):
            assert (tmp_path / path.relative_to(example)).read_bytes() == path.read_bytes()


def test_curate_draws_with_the_example_s_own_models(example, tmp_path):
    models = {"sdxl": example / "sdxl", "ip_adapter": example / "ip_adapter", "size": 64, "steps": 1, "device": "cpu"}
    stylised = {"styles": example / "styles", "prompts": example / "prompts.txt", "per_style": 1}
    settings = CurateSettings(
        out=tmp_path / "out",
        sources=[{"kind": "raw", "path": str(example / "pictures")}],
        stylised=stylised | {"instantstyle": models},
        filters={"min_side": 64},
    )
    told = curate(settings)
    assert "68 pictures" in told
    assert "left out                   0" in told


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_fills_part_of_the_canvas_and_stays_on_it(name):
    for seed in range(5):
        drawing = draw_shape(name, (200, 30, 30), np.random.default_rng(seed))
        assert 0.03 < drawing.alpha.mean() < 0.6
        border = np.concatenate([drawing.alpha[[0, -1]].ravel(), drawing.alpha[:, [0, -1]].ravel()])
        assert border.max() == 0


def test_the_shipped_settings_are_valid_and_their_command_is_known():
    kind, start = COMMANDS["example"].load()
    assert start is run
    assert read_settings(kind, CONFIGS / "example.yaml") == ExampleSettings()
