"""The command that draws the pack's icon and banner, with a tiny model in the mini's place."""

import runpy
from pathlib import Path

import pytest
import tiny

from stylear import StyleAR

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "cover.py"))


@pytest.mark.parametrize(("name", "size"), [("ICON", (12, 12)), ("BANNER", (42, 18))])
def test_every_cell_is_drawn_in_its_place(tmp_path, name, size):
    model = StyleAR.load(tiny.write_bundle(tmp_path / "model"), device="cpu")
    sheet = SCRIPT["mosaic"](model, SCRIPT[name], 6)
    first = SCRIPT["drawn"](model, *SCRIPT[name][0][0]).resize((6, 6), 3)
    assert sheet.size == size and sheet.crop((0, 0, 6, 6)).tobytes() == first.tobytes()
