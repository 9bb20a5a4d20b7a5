"""Styles of the drawing hand: pencil, pen, chalk, brush and carved blocks."""

import cv2
import numpy as np

from .toolkit import (
    Drawing,
    Renderer,
    angle_stripes,
    blur,
    displace,
    edges,
    hexcolour,
    luminance,
    noise,
    outline,
    over,
    paper,
    posterised,
    saturate,
    streaks,
    to_uint8,
)


def _dark(drawing: Drawing, least: float = 0.0) -> np.ndarray:
    """How much ink the object asks for, [H,W] in 0..1: its darkness, at least `least` inside, 0 outside."""
    return np.maximum(1 - luminance(drawing.rgb), least) * drawing.alpha


def _shaky(drawing: Drawing, amount: float, rng: np.random.Generator) -> Drawing:
    """The drawing as an unsteady hand would trace it; amount in pixels."""
    dx, dy = amount * noise(drawing.shape, 24, rng), amount * noise(drawing.shape, 24, rng)
    return Drawing(displace(drawing.rgb, dx, dy), displace(drawing.alpha, dx, dy))


def _line(drawing: Drawing, sigma: float, low: float = 0.25, high: float = 0.6) -> np.ndarray:
    """Edges as a clean line, [H,W] in 0..1: nothing below `low`, full ink above `high`."""
    return np.clip((edges(drawing, sigma) - low) / (high - low), 0, 1)


def _hatching(dark: np.ndarray, angles: tuple[tuple[float, float], ...], period: float, bend: np.ndarray) -> np.ndarray:
    """Layers of hatch lines, [H,W] in 0..1; each (least darkness, angle) adds one where it is dark enough."""
    ink = np.zeros_like(dark)
    for least, angle in angles:
        wave = angle_stripes(dark.shape, period, angle, bend)
        ink = np.maximum(ink, np.clip(wave * 5 - 2.6, 0, 1) * (dark > least))
    return ink


def pencil(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Graphite on white: doubled search lines and light slanted shading."""
    angle = -0.9 + rng.uniform(-0.15, 0.15)
    grain = np.clip(0.55 + 0.4 * streaks(drawing.shape, 13, angle, rng), 0, 1)
    shade = np.clip(blur(_dark(drawing, 0.06), 1.5) * 1.0, 0, 1) * grain
    first, second = (_line(_shaky(drawing, 1.0, rng), 0.9, 0.12, 0.7) for _ in range(2))
    ink = np.maximum(0.62 * shade, np.maximum(0.75 * first, 0.5 * second) * (0.75 + 0.25 * grain))
    return to_uint8(over(hexcolour("#fdfdfb"), hexcolour("#3c3c40"), ink))


def colour_pencil(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Coloured strokes in one slant, the paper showing between them."""
    angle = -0.8 + rng.uniform(-0.2, 0.2)
    strokes = np.clip(0.62 + 0.42 * streaks(drawing.shape, 17, angle, rng), 0.08, 1)
    sketch = _shaky(drawing, 0.8, rng)
    colour = saturate(blur(sketch.rgb, 1.0), 1.3)
    sheet = paper(drawing.shape, "#fbf6ea", rng, 3)
    shaded = over(sheet, colour * 0.92, strokes * sketch.alpha)
    return to_uint8(over(shaded, colour * 0.45, 0.7 * edges(sketch, 1.0) * np.clip(strokes + 0.2, 0, 1)))


def crosshatch(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Black pen: up to three crossing layers of straight lines, the darker the more."""
    turn = rng.uniform(-0.12, 0.12)
    angles = ((0.1, -0.78 + turn), (0.38, 0.78 + turn), (0.68, turn))
    ink = _hatching(blur(_dark(drawing, 0.12), 1), angles, 6.5, 0.3 * noise(drawing.shape, 30, rng))
    ink = np.maximum(ink * (drawing.alpha > 0.5), _line(drawing, 1.0))
    return to_uint8(over(hexcolour("#fcfaf3"), hexcolour("#161616"), ink))


def blue_pen(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A ballpoint doodle: loose blue scribble on a ruled page with a red margin."""
    height, width = drawing.shape
    page = np.broadcast_to(hexcolour("#fffef9"), (height, width, 3)).copy()
    first = int(rng.integers(8, 14))
    for row in range(first, height, 18):
        page[row : row + 2] = hexcolour("#b3d4ee")
    page[:, 12:14] = hexcolour("#f2909a")
    sketch = _shaky(drawing, 1.1, rng)
    bend = 1.1 * noise(drawing.shape, 14, rng)
    angles = ((0.1, -0.5 + rng.uniform(-0.15, 0.15)), (0.55, -1.05))
    scribble = _hatching(blur(_dark(sketch, 0.12), 1), angles, 7, bend) * (sketch.alpha > 0.4)
    ink = np.maximum(0.85 * scribble, _line(sketch, 1.0))
    return to_uint8(over(page, hexcolour("#1b3bb8"), ink))


def charcoal(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Soft black, rubbed over rough grey paper."""
    angle = -0.7 + rng.uniform(-0.3, 0.3)
    tooth = 0.78 + 0.17 * noise(drawing.shape, 2, rng) + 0.16 * streaks(drawing.shape, 21, angle, rng)
    smudge = 0.3 * blur(_dark(drawing, 0.25), 6)
    body = 0.85 * blur(_dark(drawing, 0.22), 1.6) + 0.75 * edges(drawing, 1.8)
    ink = np.clip(body * np.clip(tooth, 0, 1) + smudge, 0, 0.96)
    return to_uint8(over(paper(drawing.shape, "#cdc8c0", rng, 5), hexcolour("#131211"), ink))


def chalkboard(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Crumbly chalk on a wiped green board, filled with thin coloured chalk."""
    board = hexcolour("#1f4034") + (7 * noise(drawing.shape, 50, rng))[..., None]
    sketch = _shaky(drawing, 0.8, rng)
    crumble = np.clip(0.85 + 0.35 * noise(drawing.shape, 2, rng), 0, 1)
    rubbed = np.clip(0.35 + 0.35 * streaks(drawing.shape, 19, -0.9 + rng.uniform(-0.2, 0.2), rng), 0, 1)
    colour = 0.55 * saturate(sketch.rgb, 1.1) + 0.45 * 255
    board = over(board, colour, 0.6 * rubbed * sketch.alpha)
    return to_uint8(over(board, hexcolour("#f4f4ec"), _line(sketch, 1.1, 0.2, 0.6) * crumble))


def blueprint(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """White construction lines on blue squared paper."""
    height, width = drawing.shape
    sheet = np.broadcast_to(hexcolour("#1c56a8"), (height, width, 3)).copy()
    x, y = (int(rng.integers(0, 16)) for _ in range(2))
    for start in (0, 1):
        sheet[y + start :: 16] = hexcolour("#4a80c8")
        sheet[:, x + start :: 16] = hexcolour("#4a80c8")
    sheet = over(sheet, hexcolour("#2a66ba"), 0.6 * drawing.alpha)
    return to_uint8(over(sheet, hexcolour("#f2f8ff"), _line(drawing, 1.0, 0.2, 0.55)))


def ink_wash(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Diluted ink bleeding into rice paper, a few brush lines and a red seal."""
    height, width = drawing.shape
    wet = _shaky(drawing, 1.5, rng)
    pool = np.clip(1 + 0.3 * noise(drawing.shape, 16, rng), 0.3, 1.6)
    wash = 0.68 * blur(_dark(wet, 0.15), 2.2) * pool
    rim = np.clip(blur(wet.alpha, 1.2) - blur(wet.alpha, 4), 0, 1)
    brush = _line(wet, 1.3, 0.35, 0.9) * np.clip(0.55 + 0.4 * noise(drawing.shape, 24, rng), 0, 1)
    sheet = paper(drawing.shape, "#f2ecdc", rng, 4)
    sheet = over(sheet, hexcolour("#20242a"), np.clip(wash + 0.35 * rim + 0.75 * brush, 0, 0.92))
    size, left = width // 9, width - width // 9 - 5
    top = height - size - 5 - int(rng.integers(0, 6))
    sheet[top : top + size, left : left + size] = hexcolour("#b8261c")
    return to_uint8(sheet)


def silhouette(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A black cut-out on flat amber, the inner outlines left open."""
    inside = cv2.erode(drawing.alpha, np.ones((5, 5), np.uint8))
    cut = _line(drawing, 0.9, 0.45, 0.8) * inside
    ground = hexcolour("#f2ab2c") + np.float32(rng.uniform(-8, 8))
    return to_uint8(over(ground, hexcolour("#17141f"), drawing.alpha * (1 - cut)))


def _along(drawing: Drawing, sigma: float) -> np.ndarray:
    """Phase [H,W] in radians whose crests follow the outline and the tones, as a gouge does."""
    mask = (drawing.alpha > 0.5).astype(np.uint8)
    inside, outside = (np.minimum(cv2.distanceTransform(part, cv2.DIST_L2, 3), 99) for part in (mask, 1 - mask))
    return blur(inside - outside + 10 * luminance(drawing.rgb), sigma)


def _linocut(ink: str, sheet: str, drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Dark masses in one ink, cuts along the form in the middle tones, stray cuts around it."""
    dark = blur(1 - luminance(posterised(drawing)), 1.0)
    bend = 0.6 * noise(drawing.shape, 12, rng)
    cuts = np.sin(_along(drawing, 2.5) * (2 * np.pi / 8) + bend)
    inside = np.clip((cuts + (dark - 0.4) * 5) * 2, 0, 1) * (drawing.alpha > 0.5) * (dark > 0.06)
    chatter = streaks(drawing.shape, 15, rng.uniform(-0.5, 0.5), rng) > 2.15
    ink_map = np.maximum(inside, _line(drawing, 0.9, 0.4, 0.7))
    ink_map = np.maximum(ink_map, 0.9 * chatter * (drawing.alpha < 0.1))
    ink_map = np.clip(blur(ink_map, 0.7) * 3 - 1, 0, 1)
    return to_uint8(over(hexcolour(sheet), hexcolour(ink), ink_map))


def linocut(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Linocut in black on cream."""
    return _linocut("#141414", "#f3ecdc", drawing, rng)


def linocut_red(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Linocut in brick red on pale pink paper."""
    return _linocut("#b01c1c", "#f8e0d0", drawing, rng)


def woodcut(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A night-dark block with vertical grain, the object carved out of it in long light cuts."""
    shape = drawing.shape
    grain = angle_stripes(shape, 9, np.pi / 2 + rng.uniform(-0.08, 0.08), 2.2 * noise(shape, 40, rng))
    light = blur(0.25 + 0.75 * luminance(drawing.rgb), 1.0) * drawing.alpha
    cuts = angle_stripes(shape, 7, np.pi / 2 + rng.uniform(-0.08, 0.08), 0.8 * noise(shape, 30, rng))
    carved = np.clip((cuts + light * 1.5 - 1.15) * 4, 0, 1) * (drawing.alpha > 0.5)
    carved = np.maximum(carved, (grain > 0.93) * (drawing.alpha < 0.02) * 0.75)
    carved = np.maximum(carved * (1 - _line(drawing, 1.1, 0.5, 0.8)), _line(outline(drawing), 1.2))
    return to_uint8(over(hexcolour("#2a1a14"), hexcolour("#e9cf9f"), carved))


def engraving(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Banknote lines: level waves that swell with the darkness, in brown ink on cream."""
    shape = drawing.shape
    swing = 2.2 * (angle_stripes(shape, 44, np.pi / 2, rng.uniform(0, 6)) * 2 - 1)
    waves = angle_stripes(shape, 6.5, 0, swing + 2.5 * blur(luminance(drawing.rgb), 3))
    dark = 0.22 + 0.68 * blur(_dark(drawing), 0.8)
    ink = np.clip((dark - waves) * 4 + 0.5, 0, 1) * drawing.alpha
    ink = np.maximum(ink, _line(drawing, 0.9, 0.3, 0.7))
    return to_uint8(over(hexcolour("#f3e9cc"), hexcolour("#3a2413"), ink))


def line_art(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Even black outlines on white and nothing else."""
    ink = np.maximum(_line(drawing, 0.9, 0.4, 0.7), _line(outline(drawing), rng.uniform(1.3, 1.6), 0.3, 0.5))
    return to_uint8(over(hexcolour("#ffffff"), hexcolour("#0a0a0a"), ink))


def toon(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Cartoon cel: flat loud colours, heavy black outlines, a coloured card behind."""
    flat = saturate(posterised(drawing, 90), 1.5)
    steps = np.clip(luminance(flat), 0.1, 1)
    flat = flat * (np.ceil(steps * 3) / 3 / steps)[..., None] ** 0.6
    ground = hexcolour("#bfe6ff") + np.float32(rng.uniform(-6, 6))
    cel = over(ground, flat, drawing.alpha)
    ink = np.maximum(_line(drawing, 0.9, 0.4, 0.6), _line(outline(drawing), rng.uniform(2.0, 2.3), 0.3, 0.45))
    return to_uint8(over(cel, hexcolour("#0c0c10"), ink))


def stipple(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Only dots, scattered by hand, closer together where it is darker."""
    height, width = drawing.shape
    target = np.clip(0.75 * _dark(drawing, 0.12) ** 1.5 + 1.2 * _line(drawing, 0.7), 0.003, 1)
    rows, columns = np.mgrid[1:height:2.5, 1:width:2.5].astype(int)
    rows = np.clip(rows + rng.integers(-1, 2, rows.shape), 0, height - 1)
    columns = np.clip(columns + rng.integers(-1, 2, columns.shape), 0, width - 1)
    chosen = rng.random(rows.shape) < target[rows, columns]
    kernel = cv2.getGaussianKernel(5, 0.8)
    dots = np.zeros((height, width), np.float32)
    dots[rows[chosen], columns[chosen]] = 1
    dots = np.clip(cv2.filter2D(dots, -1, kernel @ kernel.T) * 6.5, 0, 1)
    return to_uint8(over(hexcolour("#fefdf8"), hexcolour("#111111"), dots))


RENDERERS: dict[str, Renderer] = {
    style.__name__: style
    for style in (
        pencil, colour_pencil, crosshatch, blue_pen, charcoal, chalkboard, blueprint, ink_wash,
        silhouette, linocut, linocut_red, engraving, line_art, toon, stipple, woodcut,
    )
}  # fmt: skip
