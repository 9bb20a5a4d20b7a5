"""The command that draws the pictures of the help pages, with a tiny model in the mini's place."""

import io
import runpy
from pathlib import Path

import pytest
import tiny
from PIL import Image

from stylear import StyleAR

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "help_pictures.py"))


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    folder = tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "model")
    return SCRIPT["Sheets"](lambda _, **options: StyleAR.load(folder, **options))


@pytest.mark.parametrize("name", list(SCRIPT["names"]()))
def test_every_sheet_is_drawn_and_fits_the_panel(sheets, name):
    rows = getattr(sheets, name)()
    drawn = SCRIPT["sheet"](rows)
    assert drawn.width <= 800 and min(low for low, _ in drawn.getextrema()) < 128


def test_a_picture_of_many_colours_is_kept_small_with_fewer_of_them():
    noise = Image.effect_noise((300, 200), 90).convert("RGB")
    data = SCRIPT["small_png"](noise)
    small = Image.open(io.BytesIO(data))
    assert len(data) < 60_000 < len(noise.tobytes()) and small.size == noise.size and small.mode == "P"
