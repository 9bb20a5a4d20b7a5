"""Draws the pictures of the nodes' help pages with the bundled mini, on the CPU, in a few minutes.

    python docs/help_pictures.py

Run it when the mini has changed. It writes web/docs/images/*.png; every picture keeps its seed, so that only the
setting under it differs.
"""

import argparse
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from stylear import StyleAR
from stylear.files import new_file
from stylear.images import open_image, to_pil
from stylear.pipeline import MINI
from stylear.style import blend

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "web" / "docs" / "images"
DEPTH = ROOT / "workflows" / "input" / "depth.png"
SIDE, LINE, MARGIN = 128, 24, 8  # pixels; the panel shows a sheet at about half its size
MOST_BYTES = 56_000
SEED, GAMMA = 1, 0.1
Rows = list[tuple[str, dict[str, Image.Image]]]  # a row's heading, then its pictures by their labels


def sheet(rows: Rows) -> Image.Image:
    """Rows of pictures, each enlarged pixel by pixel, under headings and labels."""
    step, tall = SIDE + MARGIN, 2 * LINE + SIDE + MARGIN
    across = max(len(cells) for _, cells in rows)
    drawn = Image.new("RGB", (step * across + MARGIN, tall * len(rows) + MARGIN), "white")
    pen = ImageDraw.Draw(drawn)
    large, small = (ImageFont.load_default(size) for size in (20, 18))
    for row, (heading, cells) in enumerate(rows):
        top = row * tall + MARGIN
        pen.text((MARGIN, top), heading, fill="black", font=large)
        for column, (label, picture) in enumerate(cells.items()):
            left = MARGIN + column * step
            pen.text((left, top + LINE), label.replace("_", " "), fill="dimgray", font=small)
            fitted = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            drawn.paste(fitted, (left, top + 2 * LINE))
    return drawn


def small_png(picture: Image.Image) -> bytes:
    """The picture as PNG, in as many colours as MOST_BYTES leave it, at least 32."""
    for colours in (256, 128, 64, 32):
        written = BytesIO()
        few = picture.quantize(colours, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(written, format="PNG", optimize=True)
        if written.tell() <= MOST_BYTES:
            break
    return written.getvalue()


class Sheets:
    """Each method returns the rows of the picture of its name."""

    def __init__(self, load: Callable[..., StyleAR] = StyleAR.load) -> None:
        self._load = load
        self._model = load("mini", device="cpu")

    def looks(self) -> Rows:
        """References and what is drawn in their look."""
        names = ("blueprint", "linocut", "oil", "stained_glass", "watercolour")
        shown = [("references", {name: _reference(name) for name in names})]
        for prompt in ("a house", "a rocket"):
            shown.append((prompt, {name: self._draw(self._noisy(name), prompt) for name in names}))
        return shown

    def subtract(self) -> Rows:
        """What alpha and beta do, beside the reference and what is subtracted of it."""
        reference = _reference("stained_glass")
        mask = self._model.segment(reference)
        encoded = self._model.encode_style(reference)
        rows = [("a house", {"reference": reference, "mask": to_pil(mask), "alpha 1": self._draw(encoded)})]
        for alpha in (0.5, 0.2, 0.0):
            styles = {
                beta: self._model.subtract(encoded, mask=mask, alpha=alpha, beta=beta) for beta in (0.4, 0.8, 1.6)
            }
            rows.append((f"alpha {alpha}", {f"beta {beta}": self._draw(style) for beta, style in styles.items()}))
        return rows

    def noise(self) -> Rows:
        """What gamma does."""
        encoded, values = self._model.encode_style(_reference("stained_glass")), (0.0, 0.1, 0.3, 1.0, 3.0)
        return [
            (f"{prompt}: gamma", {str(gamma): self._draw(encoded.with_noise(gamma, 0), prompt) for gamma in values})
            for prompt in ("a house", "a rocket")
        ]

    def guidance(self) -> Rows:
        """What cfg, style_cfg and style_strength do."""
        return [
            self._row("cfg", (1.0, 2.0, 4.0, 8.0, 16.0)),
            self._row("style_cfg", (0.0, 2.0, 4.0, 8.0, 16.0)),
            self._row("style_strength", (0.0, 0.5, 1.0, 1.5, 2.5)),
        ]

    def chance(self) -> Rows:
        """What top_k and temperature do."""
        return [self._row("top_k", (1, 10, 100, 500, 2000)), self._row("temperature", (0.5, 0.8, 1.0, 1.3, 2.0))]

    def blend(self) -> Rows:
        """From one style to another by weights."""
        names = ("blueprint", "watercolour")
        styles = [self._model.encode_style(_reference(name)) for name in names]
        mixed = {f"{a}, {b}": blend(styles, (a, b)) for a, b in ((1, 0), (2, 1), (1, 1), (1, 2), (0, 1))}
        drawn = {label: self._draw(style.with_noise(GAMMA, 0)) for label, style in mixed.items()}
        return [("references", {name: _reference(name) for name in names}), ("weights", drawn)]

    def depth(self) -> Rows:
        """With a depth map and without."""
        depth, names = open_image(DEPTH), ("linocut", "watercolour")
        rows = [("references", {name: _reference(name) for name in names} | {"depth map": depth})]
        for condition, heading in ((self._model.encode_condition(depth), "an apple, with the map"), (None, "without")):
            drawn = {name: self._draw(self._noisy(name), "an apple", condition=condition) for name in names}
            rows.append((heading, drawn))
        return rows

    def precision(self) -> Rows:
        """The same seeds with the decoder's matrices in fewer bits."""
        style, loaded = self._noisy("watercolour"), {"none": self._model}
        loaded |= {bits: self._load("mini", device="cpu", quantize=bits) for bits in ("int8", "int4")}
        return [
            (f"{prompt}: quantize", {name: self._draw(style, prompt, model) for name, model in loaded.items()})
            for prompt in ("a house", "a rocket")
        ]

    def _row(self, name: str, values: tuple) -> tuple[str, dict[str, Image.Image]]:
        style = self._noisy("blueprint")
        return name, {str(value): self._draw(style, **{name: value}) for value in values}

    def _noisy(self, name: str):
        return self._model.encode_style(_reference(name)).with_noise(GAMMA, 0)

    def _draw(self, style, prompt: str = "a house", model: StyleAR | None = None, **settings) -> Image.Image:
        return to_pil((model or self._model).generate(prompt, style, seed=SEED, **settings)[0])


def _reference(name: str) -> Image.Image:
    return open_image(MINI / "references" / f"{name}.png")


def names() -> Iterator[str]:
    """The pictures there are."""
    return (name for name in vars(Sheets) if not name.startswith("_"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", choices=[[], *names()], help="their names; all, if none is given")
    sheets = Sheets()
    for name in parser.parse_args().only or names():
        with new_file(IMAGES / f"{name}.png", overwrite=True) as draft:
            draft.write_bytes(small_png(sheet(getattr(sheets, name)())))


if __name__ == "__main__":
    main()
