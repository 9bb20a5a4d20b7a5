"""Styles of the drawing hand: pencil, pen, chalk, brush and carved blocks."""

import cv2
import numpy as np

from .toolkit import (
    DIAGONAL,
    GRID,
    Drawing,
    Renderer,
    angle_stripes,
    blur,
    displace,
    edges,
    hexcolour,
    luminance,
    outline,
    over,
    posterised,
    saturate,
    to_uint8,
)


def _dark(drawing: Drawing, least: float = 0.0) -> np.ndarray:
    """How much ink the object asks for, [H,W] in 0..1: its darkness, at least `least` inside, 0 outside."""
    return np.maximum(1 - luminance(drawing.rgb), least) * drawing.alpha


def _shaky(drawing: Drawing, amount: float) -> Drawing:
    """The drawing as an unsteady hand would trace it; amount in pixels."""
    waves = (amount * (2 * angle_stripes(drawing.shape, 2 * GRID, turn) - 1) for turn in (0, np.pi / 2))
    dx, dy = waves
    return Drawing(displace(drawing.rgb, dx, dy), displace(drawing.alpha, dx, dy))


def _line(drawing: Drawing, sigma: float, low: float = 0.25, high: float = 0.6) -> np.ndarray:
    """Edges as a clean line, [H,W] in 0..1: nothing below `low`, full ink above `high`."""
    return np.clip((edges(drawing, sigma) - low) / (high - low), 0, 1)


def _strokes(shape: tuple[int, int], angle: float = -np.pi / 4, width: float = 0.5) -> np.ndarray:
    """Slanted or level strokes, [H,W] in 0..1, that repeat on the grid; width is their share of the period."""
    period = GRID if angle == 0 else DIAGONAL
    return np.clip((angle_stripes(shape, period, angle) - 0.5 - 0.5 * np.cos(np.pi * width)) * 4 + 0.5, 0, 1)


def pencil(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Graphite on white: doubled search lines and light slanted shading."""
    grain = 0.4 + 0.6 * _strokes(drawing.shape)
    shade = blur(_dark(drawing, 0.1), 1) * grain
    first, second = _line(drawing, 1.3, 0.35, 0.8), _line(_shaky(drawing, 2.5), 1.3, 0.4, 0.8)
    ink = np.maximum(0.6 * shade, np.maximum(0.75 * first, 0.4 * second))
    return to_uint8(over(hexcolour("#fdfdfb"), hexcolour("#3c3c40"), ink))


def colour_pencil(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Coloured strokes in one slant, the paper showing between them."""
    strokes = 0.3 + 0.65 * _strokes(drawing.shape, width=0.65)
    colour = saturate(blur(posterised(drawing), 1.0), 1.3)
    shaded = over(hexcolour("#fbf6ea"), colour * 0.92, strokes * drawing.alpha)
    return to_uint8(over(shaded, colour * 0.5, 0.75 * _line(drawing, 1.4, 0.3, 0.9)))


def crosshatch(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Black pen: up to three crossing layers of straight lines, the darker the more."""
    dark = blur(_dark(drawing, 0.12), 2)
    layers = ((0.1, -np.pi / 4), (0.4, np.pi / 4), (0.72, 0))
    ink = np.max([_strokes(drawing.shape, angle, 0.38) * (dark > least) for least, angle in layers], axis=0)
    ink = np.maximum(ink * (drawing.alpha > 0.5), _line(drawing, 1.3, 0.35, 0.7))
    return to_uint8(over(hexcolour("#fcfaf3"), hexcolour("#262626"), ink))


def blue_pen(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A ballpoint doodle: loose blue scribble on a ruled page with a red margin."""
    height, width = drawing.shape
    page = np.broadcast_to(hexcolour("#fffef9"), (height, width, 3)).copy()
    for row in range(GRID // 2, height, GRID):
        page[row : row + 2] = hexcolour("#bcd8ee")
    page[:, GRID - 4 : GRID - 2] = hexcolour("#f2a4ac")
    sketch = _shaky(drawing, 1.5)
    scribble = _strokes(drawing.shape, width=0.5) * (blur(_dark(sketch, 0.12), 2) > 0.1) * (sketch.alpha > 0.4)
    ink = np.maximum(0.6 * scribble, 0.9 * _line(sketch, 1.4, 0.3, 0.7))
    return to_uint8(over(page, hexcolour("#1b3bb8"), ink))


def charcoal(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Soft black, rubbed over grey paper in broad slanted strokes."""
    smudge = 0.2 * blur(drawing.alpha, 3)
    rubbed = 0.6 + 0.4 * angle_stripes(drawing.shape, DIAGONAL, np.pi / 4)
    body = 0.75 * blur(_dark(drawing, 0.22), 1.5) * rubbed + 0.7 * _line(drawing, 2.0, 0.4, 1.0)
    return to_uint8(over(hexcolour("#cdc8c0"), hexcolour("#131211"), np.clip(body + smudge, 0, 0.94)))


def chalkboard(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Chalk on a green board: thick white lines, filled with slanted strokes of thin coloured chalk."""
    rubbed = 0.2 + 0.35 * _strokes(drawing.shape)
    colour = 0.55 * saturate(posterised(drawing, 90), 1.1) + 0.45 * 255
    board = over(hexcolour("#1f4034"), colour, rubbed * drawing.alpha)
    return to_uint8(over(board, hexcolour("#eeeee4"), 0.95 * _line(drawing, 1.5, 0.4, 0.8)))


def blueprint(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """White construction lines on blue squared paper."""
    height, width = drawing.shape
    sheet = np.broadcast_to(hexcolour("#1c56a8"), (height, width, 3)).copy()
    for start in (0, 1):
        sheet[start::GRID] = hexcolour("#3a72bc")
        sheet[:, start::GRID] = hexcolour("#3a72bc")
    sheet = over(sheet, hexcolour("#2a66ba"), drawing.alpha)
    return to_uint8(over(sheet, hexcolour("#e6f0fa"), _line(drawing, 1.3, 0.5, 0.8)))


def ink_wash(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Diluted ink bleeding into rice paper, a few brush lines and a red seal."""
    height, width = drawing.shape
    tone = np.maximum(np.rint(_dark(drawing) * 4) / 4, 0.18 * drawing.alpha)
    wash = 0.72 * blur(tone, 2.5)
    rim = np.clip(blur(drawing.alpha, 1.5) - blur(drawing.alpha, 4), 0, 1)
    brush = _line(drawing, 1.8, 0.45, 1.0)
    sheet = over(hexcolour("#f2ecdc"), hexcolour("#20242a"), np.clip(wash + 0.4 * rim + 0.4 * brush, 0, 0.9))
    size = GRID * height // 128
    sheet[-size - size // 2 : -size // 2, -size - size // 2 : -size // 2] = hexcolour("#b8261c")
    return to_uint8(sheet)


def silhouette(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A black cut-out on flat amber, the inner outlines left open."""
    inside = cv2.erode(drawing.alpha, np.ones((7, 7), np.uint8))
    cut = _line(drawing, 1.2, 0.5, 0.8) * inside
    return to_uint8(over(hexcolour("#f2ab2c"), hexcolour("#17141f"), drawing.alpha * (1 - cut)))


def _along(drawing: Drawing, sigma: float) -> np.ndarray:
    """Phase [H,W] in radians whose crests follow the outline and the tones, as a gouge does."""
    mask = (drawing.alpha > 0.5).astype(np.uint8)
    inside, outside = (np.minimum(cv2.distanceTransform(part, cv2.DIST_L2, 3), 99) for part in (mask, 1 - mask))
    return blur(inside - outside + 10 * luminance(drawing.rgb), sigma)


def _linocut(ink: str, sheet: str, drawing: Drawing) -> np.ndarray:
    """Dark masses in one ink, cuts along the form in the middle tones, rows of short cuts left around it."""
    dark = blur(1 - luminance(posterised(drawing)), 2.0)
    cuts = np.sin(_along(drawing, 3.5) * (2 * np.pi / GRID))
    inside = np.clip((cuts + (dark - 0.4) * 5) * 1.5, 0, 1) * (drawing.alpha > 0.5) * (dark > 0.06)
    ink_map = np.maximum(inside, _line(drawing, 1.3, 0.5, 0.8))
    ink_map = np.clip(blur(ink_map, 1.0) * 4 - 1.5, 0, 1)
    rows, columns = np.indices(drawing.shape)
    left = (rows % (2 * GRID) < 4) & ((columns + rows // (2 * GRID) * GRID) % (2 * GRID) < GRID)
    near = cv2.dilate(drawing.alpha, np.ones((9, 9), np.uint8))
    return to_uint8(over(hexcolour(sheet), hexcolour(ink), np.maximum(ink_map, 0.16 * left * (1 - near))))


def linocut(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Linocut in black on cream."""
    return _linocut("#141414", "#f3ecdc", drawing)


def linocut_red(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Linocut in brick red on pale pink paper."""
    return _linocut("#b01c1c", "#f8e0d0", drawing)


def woodcut(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A night-dark block with upright grain, the object carved out of it in broad light cuts."""
    shape = drawing.shape
    stripes = angle_stripes(shape, GRID, np.pi / 2)
    light = 0.25 + 0.75 * luminance(posterised(drawing, 90))
    carved = np.clip((stripes + light * 1.5 - 1.05) * 5, 0, 1) * (drawing.alpha > 0.5)
    carved = np.maximum(carved, 0.14 * (stripes > 0.5) * (drawing.alpha < 0.5))
    carved = np.maximum(carved * (1 - _line(drawing, 1.4, 0.5, 0.9)), _line(outline(drawing), 1.5))
    return to_uint8(over(hexcolour("#2a1a14"), hexcolour("#e9cf9f"), carved))


def engraving(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Banknote lines: level waves that swell with the darkness, in brown ink on cream."""
    shape = drawing.shape
    waves = angle_stripes(shape, GRID, 0, 1.6 * (angle_stripes(shape, 2 * GRID, np.pi / 2) * 2 - 1))
    dark = 0.14 + 0.6 * blur(_dark(drawing), 1.5)
    ink = np.clip((dark - waves) * 3 + 0.5, 0, 1) * drawing.alpha
    ink = np.maximum(ink, _line(drawing, 1.3, 0.35, 0.8))
    return to_uint8(over(hexcolour("#f3e9cc"), hexcolour("#4a311c"), ink))


def line_art(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Even black outlines on white and nothing else."""
    ink = np.maximum(_line(drawing, 1.2, 0.6, 0.8), _line(outline(drawing), 1.6, 0.4, 0.6))
    return to_uint8(over(hexcolour("#ffffff"), hexcolour("#1c1c1c"), ink))


def toon(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Cartoon cel: flat loud colours, heavy black outlines, a coloured card behind."""
    flat = saturate(posterised(drawing, 120), 1.4)
    steps = np.clip(luminance(flat), 0.1, 1)
    flat = flat * (np.ceil(steps * 3) / 3 / steps)[..., None] ** 0.6
    cel = over(hexcolour("#bfe6ff"), flat, drawing.alpha)
    ink = np.maximum(_line(drawing, 1.1, 0.7, 0.9), _line(outline(drawing), 2.0, 0.4, 0.5))
    return to_uint8(over(cel, hexcolour("#181820"), ink))


RENDERERS: dict[str, Renderer] = {
    style.__name__: style
    for style in (
        pencil, colour_pencil, crosshatch, blue_pen, charcoal, chalkboard, blueprint, ink_wash,
        silhouette, linocut, linocut_red, engraving, line_art, toon, woodcut,
    )
}  # fmt: skip
