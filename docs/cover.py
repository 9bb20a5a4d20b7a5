"""Draws the pack's icon and banner with the bundled mini, on the CPU, in a minute.

    python docs/cover.py

Run it when the mini has changed. It writes docs/icon.png and docs/banner.png, which the Comfy Registry shows.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from stylear import StyleAR
from stylear.files import new_file
from stylear.images import open_image, to_pil
from stylear.pipeline import MINI

DOCS = Path(__file__).parent
SEED, GAMMA = 0, 0.1  # those of `python -m stylear sheet`
ICON = [
    [("neon", "a house"), ("watercolour", "a rabbit")],
    [("stained_glass", "a skull"), ("blueprint", "a guitar")],
]
STYLES = ("stained_glass", "blueprint", "neon")
PROMPTS = (None, "a house", "a skull", "a guitar", "an apple", "a rabbit", "a rocket")  # first the reference itself
BANNER = [[(style, prompt) for prompt in PROMPTS] for style in STYLES]  # 7 x 3 is the registry's 21:9
Cells = Sequence[Sequence[tuple[str, str | None]]]


def drawn(model: StyleAR, style: str, prompt: str | None) -> Image.Image:
    """A reference picture of the mini or, with a prompt, what is drawn in its style."""
    reference = open_image(MINI / "references" / f"{style}.png")
    if prompt is None:
        return reference.convert("RGB")
    return to_pil(model.generate(prompt, model.encode_style(reference).with_noise(GAMMA, 0), seed=SEED)[0])


def mosaic(model: StyleAR, cells: Cells, side: int) -> Image.Image:
    """Rows of pictures edge to edge, each `side` pixels wide and high."""
    sheet = Image.new("RGB", (side * len(cells[0]), side * len(cells)))
    for row, line in enumerate(cells):
        for column, (style, prompt) in enumerate(line):
            picture = drawn(model, style, prompt).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(picture, (column * side, row * side))
    return sheet


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    model = StyleAR.load("mini", device="cpu")
    for name, cells, side in (("icon", ICON, 200), ("banner", BANNER, 120)):
        with new_file(DOCS / f"{name}.png", overwrite=True) as draft:
            mosaic(model, cells, side).quantize(256).save(draft, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
