"""Styles that imitate wet and dry paint: strokes, slabs, washes, wax, chalk, spray and plaster.

Every renderer takes a `Drawing` (128 x 128 by habit) and a numpy generator and returns uint8 [H, W, 3].
"""

from __future__ import annotations

import cv2
import numpy as np

from .toolkit import (
    Drawing,
    Renderer,
    blur,
    displace,
    edges,
    flatten,
    gradient_map,
    hexcolour,
    luminance,
    over,
    quantise,
    saturate,
    still_noise,
    tile_waves,
    to_uint8,
)

WOODBLOCK = ("#23395b", "#b23a2e", "#e2b56b", "#6f8f72", "#8a8470", "#2a2522", "#efe2c4", "#d98c5f")
GOUACHE = (
    "#2f4858", "#33a08c", "#edc56b", "#f08a5d", "#c8553d", "#fbf0d9", "#6b5876", "#b5677d", "#9dbf7d",
    "#86bbd8",
)  # fmt: skip


def wave_crests(shape: tuple[int, int]) -> np.ndarray:
    """Rims of overlapping round waves 16 pixels wide in rows 8 apart: float32 [H, W] in 0..1."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) + 0.5
    rim = np.zeros(shape, np.float32)
    for step in (2, 1, 0):
        row = np.floor(rows / 8) + step
        distance = np.hypot((columns + 8 * (row % 2)) % 16 - 8, rows - row * 8)
        rim = np.where(distance < 8.5, np.clip((distance - 5.5) / 2, 0, 1), rim)
    return rim


def relief(height: np.ndarray, strength: float) -> np.ndarray:
    """Brightness factor [H, W, 1] of a rough surface lit from the upper left."""
    slope = height - displace(height, -1, -1)
    return (1 + strength * np.clip(slope, -1, 1))[..., None]


def backdrop(drawing: Drawing, colour: np.ndarray | str) -> np.ndarray:
    """The drawing over a colour or a picture, float32 [H, W, 3]."""
    colour = hexcolour(colour) if isinstance(colour, str) else colour
    return over(colour, drawing.rgb.astype(np.float32), drawing.alpha)


def oil(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Merged slanting strokes of rich paint over a dark umber ground; they lie alike in every picture."""
    shape = drawing.alpha.shape
    bend = 4 * still_noise(shape, 32, 1)
    strokes = np.round(displace(tile_waves(shape, 1, 1, 32), bend, 0)) - 0.5
    colour = flatten(displace(backdrop(drawing, "#80603f"), 3 * strokes, -3 * strokes), 6)
    painted = colour * (0.94 + 0.18 * strokes)[..., None]
    return to_uint8(over(painted, colour * 0.45, 0.8 * edges(drawing, 1.6)))


def impasto(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Slabs of thick paint whose rims catch the light, on ivory; the slabs lie alike in every picture."""
    colour = saturate(flatten(backdrop(drawing, "#dccba6"), 6), 1.15)
    slabs = np.round(still_noise(drawing.alpha.shape, 42, 5))
    height = blur(luminance(colour) * 3 + drawing.alpha * 3 + slabs, 1.2)
    return to_uint8(colour * relief(height, 0.5))


def starry(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A night sky of blue rings that curl around four yellow stars, the object outlined in its darkest blue."""
    height, width = drawing.alpha.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    middles = [(fy * height, fx * width) for fy in (0.125, 0.875) for fx in (0.125, 0.875)]
    nearest = np.min([np.hypot(rows - y, columns - x) for y, x in middles], axis=0)
    ring = np.clip(4 * np.cos(nearest * np.float32(2 * np.pi / 24)) + 0.5, 0, 1)
    sky = over(hexcolour("#1b3674"), hexcolour("#3f78bd"), ring)
    sky = over(sky, hexcolour("#f4d35a"), np.clip((12 - nearest) / 2, 0, 1))
    body = saturate(flatten(drawing.rgb, 6), 1.2)
    picture = over(sky, body, drawing.alpha)
    return to_uint8(over(picture, hexcolour("#0c1738"), 0.8 * edges(drawing, 1.6)))


def watercolour(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Pale bleeding washes with dark drying rims and a wet halo on white paper."""
    shape = drawing.alpha.shape
    dx, dy = 2.2 * still_noise(shape, 20, 1), 2.2 * still_noise(shape, 20, 2)
    flat, alpha = displace(flatten(drawing.rgb, 6), dx, dy), displace(drawing.alpha, dx, dy)
    pool = np.clip(0.62 + 0.2 * still_noise(shape, 36, 3), 0.3, 1.0)
    rim = np.clip(alpha - blur(alpha, 2.5), 0, 1) + 0.5 * edges(Drawing(to_uint8(flat), alpha), 1.4)
    pigment = (255 - flat) * (pool + 0.35 * rim)[..., None] + (18 * rim * alpha)[..., None]
    halo = blur((255 - flat) * alpha[..., None], 6) * (0.2 * (1 - alpha))[..., None]
    return to_uint8(hexcolour("#fdfbf5") - pigment * alpha[..., None] - halo)


def gouache(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Opaque flat shapes in a muted palette with a dry brush edge, on dusty teal."""
    shape = drawing.alpha.shape
    flat = quantise(flatten(drawing.rgb, 6), GOUACHE)
    sweep = tile_waves(shape, 0, 1) - 0.5
    alpha = np.clip((blur(drawing.alpha, 1.5) - 0.5) * 4 + 0.5, 0, 1)
    ground = hexcolour("#7aa59d") * (1 + 0.08 * sweep)[..., None]
    return to_uint8(over(ground, flat, alpha))


def pastel(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Soft chalky diagonal smears with the mauve paper showing through."""
    soft = blur(flatten(drawing.rgb, 4), 2.0) * 0.72 + 78
    chalk = 0.62 + 0.38 * tile_waves(drawing.alpha.shape, 1, 1)
    return to_uint8(over(hexcolour("#b3a2b8"), soft, blur(drawing.alpha, 2.0) * chalk))


def crayon(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Wax scribbles at one slant, bare white paper between them, heavy coloured outlines."""
    flat = flatten(drawing.rgb, 6)
    scribble = tile_waves(drawing.alpha.shape, -1, 1)
    wax = np.clip((scribble - 0.25) * 3, 0.15, 1) * drawing.alpha
    line = np.clip(edges(Drawing(to_uint8(flat), drawing.alpha), 1.6) * 1.8 - 0.4, 0, 1)
    colour = saturate(flat, 1.35)
    page = over(hexcolour("#fffdf8"), np.minimum(colour, 235), wax)
    return to_uint8(over(page, blur(colour, 1.5) * 0.5, line))


def fauvism(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Wild shifted hues with dark teal contours on broad slanting bands of burning orange and pink."""
    flat = to_uint8(flatten(drawing.rgb, 7))
    hsv = cv2.cvtColor(flat, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + 105 + 35 * (hsv[..., 2] < 140)) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.3 + 70, 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2] * 0.8 + 60, 0, 255)
    wild = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    bands = np.clip(tile_waves(drawing.alpha.shape, 1, 1, 64) * 6 - 2.5, 0, 1)
    fire = gradient_map(bands, ("#ff4f8b", "#ff8a24"))
    contour = np.clip(edges(Drawing(flat, drawing.alpha), 1.7) * 1.8 - 0.5, 0, 0.95)
    return to_uint8(over(over(fire, wild, drawing.alpha), hexcolour("#123a52"), contour))


def spray_paint(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Soft sprayed colour with overspray and three drips on a grey brick wall."""
    height, width = drawing.alpha.shape
    rows, columns = np.mgrid[0:height, 0:width]
    shifted = columns + 16 * (rows // 16 % 2)
    joints = (rows % 16 < 2) | (shifted % 32 < 2)
    wall = hexcolour("#8d8a88") * np.where(joints, 0.8, 1.0)[..., None]
    soft = saturate(blur(flatten(drawing.rgb, 4), 1.6), 1.4)
    drips = np.zeros((height, width), np.float32)
    solid = drawing.alpha > 0.6
    for part, length in ((0.34, 14), (0.5, 22), (0.66, 10)):
        column = np.flatnonzero(solid[:, int(part * width)])
        if column.size:
            x, bottom = int(part * width), int(column[-1])
            cv2.line(drips, (x, bottom - 4), (x, bottom + length), 1.0, 3, cv2.LINE_AA)
    spill = blur(drawing.rgb * drawing.alpha[..., None], 8.0) / (blur(drawing.alpha, 8.0) + 1e-3)[..., None]
    spill = saturate(np.clip(spill, 0, 255), 1.4)
    mist = np.clip(blur(drawing.alpha, 5.0), 0, 0.6)
    sprayed = over(over(wall, spill, np.maximum(mist, drips)), soft, blur(drawing.alpha, 2.0))
    contour = np.clip(blur(edges(drawing, 1.6), 1.2) * 1.5 - 0.3, 0, 0.8)
    return to_uint8(over(sprayed, hexcolour("#15131a"), contour))


def ukiyoe(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Woodblock print: eight pigments, ink contours, a banded blue sky and rows of waves on tan paper."""
    shape = drawing.alpha.shape
    rows = np.repeat(np.arange(shape[0]) / shape[0], shape[1]).reshape(shape)
    sheet = over(hexcolour("#e9d7ae"), hexcolour("#2c4f7c"), np.select([rows < 0.125, rows < 0.25], [0.85, 0.45], 0))
    sheet = over(sheet, hexcolour("#3b6a8c"), np.where(rows >= 0.75, 0.75 * wave_crests(shape) + 0.15, 0))
    printed = quantise(flatten(drawing.rgb, 6), WOODBLOCK)
    line = np.clip(edges(Drawing(to_uint8(printed), drawing.alpha), 1.4) * 2.2 - 0.7, 0, 0.92)
    return to_uint8(over(over(sheet, printed, drawing.alpha), hexcolour("#1d1a1c"), line))


def fresco(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Faded earth pigments on plaster, flaked off in the same places and crossed by the same cracks."""
    shape = drawing.alpha.shape
    earth = saturate(flatten(drawing.rgb, 5), 0.55) * hexcolour("#e8b98c") / 235
    worn = np.clip(0.9 + 1.2 * (still_noise(shape, 32, 1) + 0.9), 0.25, 0.85)
    picture = over(hexcolour("#dcc7a8"), earth * 0.85 + 16, drawing.alpha * worn)
    picture = over(picture, hexcolour("#6b3d28"), np.clip(edges(drawing, 1.4) - 0.2, 0, 0.6))
    cracks = blur((np.abs(still_noise(shape, 48, 4)) < 0.08).astype(np.float32), 0.8)
    return to_uint8(over(picture, hexcolour("#4d3a2c"), 0.8 * cracks))


RENDERERS: dict[str, Renderer] = {
    "oil": oil,
    "impasto": impasto,
    "starry": starry,
    "watercolour": watercolour,
    "gouache": gouache,
    "pastel": pastel,
    "crayon": crayon,
    "fauvism": fauvism,
    "spray_paint": spray_paint,
    "ukiyoe": ukiyoe,
    "fresco": fresco,
}
