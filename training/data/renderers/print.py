"""Styles of the press and the screen: dots, inks, plates, stamps, squared paper and faulty monitors.

Every renderer takes a `Drawing` (128 x 128 by habit) and a numpy generator and returns uint8 [H, W, 3].
"""

from __future__ import annotations

import cv2
import numpy as np

from .toolkit import (
    DIAGONAL,
    GRID,
    Drawing,
    Renderer,
    angle_stripes,
    blur,
    edges,
    hexcolour,
    luminance,
    over,
    posterised,
    quantise,
    saturate,
    to_uint8,
)


def dots(ink: np.ndarray, period: float, angle: float) -> np.ndarray:
    """Coverage 0..1 of a halftone screen: dots on a turned grid that grow with the ink map [H, W] in 0..1."""
    wave = angle_stripes(ink.shape, period, angle) + angle_stripes(ink.shape, period, angle + np.pi / 2)
    return np.clip((ink * 1.05 + wave / 2 - 1.02) * 3.5 + 0.5, 0, 1) * (ink > 0.03)


def dark(drawing: Drawing, least: float = 0.0, steps: int = 4) -> np.ndarray:
    """Ink a drawing needs, 0..1: its darkness in a few steps, at least `least` inside the outline, none outside."""
    tone = np.rint((1 - luminance(posterised(drawing))) * steps) / steps
    return np.maximum(tone, least) * drawing.alpha


def outline(drawing: Drawing, sigma: float, strength: float) -> np.ndarray:
    """Firm contour lines, 0..1."""
    return np.clip((edges(drawing, sigma) - 0.4) * strength, 0, 1)


def moved(picture: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """A map moved by pixels, as a badly registered plate."""
    shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(picture, shift, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def halftone(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Black dots at 45 degrees on white, larger where it is darker."""
    screen = dots(blur(dark(drawing, 0.3), 1) ** 1.5, DIAGONAL, np.pi / 4)
    screen = np.maximum(screen, outline(drawing, 1.3, 1.2))
    return to_uint8(over(hexcolour("#ffffff"), hexcolour("#202020"), screen))


def halftone_red(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Bold red dots on a straight grid over cream."""
    ink = np.clip(blur(dark(drawing, 0.36), 1) ** 1.4, 0, 0.9)
    screen = np.maximum(dots(ink, GRID, 0.0), outline(drawing, 1.3, 1.6))
    return to_uint8(over(hexcolour("#fff0d2"), hexcolour("#d81f2b"), screen))


def comic(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Comic book: flat loud colours, white dots in the darker ones, thick black outlines, dotted yellow ground."""
    spots = dots(np.full(drawing.shape, 0.3, np.float32), GRID, 0.0)
    ground = over(hexcolour("#fff04a"), hexcolour("#ffcc1c"), spots)
    vivid = saturate(posterised(drawing, 120), 1.5)
    shade = 0.4 * spots * (luminance(vivid) < 0.45)
    picture = over(ground, over(vivid, hexcolour("#ffffff"), shade), drawing.alpha)
    return to_uint8(over(picture, hexcolour("#141414"), outline(drawing, 1.6, 3.5)))


def newsprint(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A grey press photograph in a fine screen on yellowed paper amid columns of text."""
    rows, columns = np.indices(drawing.shape)
    words = (rows % 8 < 4) & ((columns + rows // 8 % 2 * GRID) % (2 * GRID) >= 4)
    near = np.clip(cv2.dilate(drawing.alpha, np.ones((9, 9), np.uint8)), 0, 1)
    sheet = over(hexcolour("#d6cdb4"), hexcolour("#3c3a38"), 0.22 * words * (near < 0.5))
    ink = dark(drawing, 0.2, 3) * 0.92
    screen = dots(ink, DIAGONAL / 2, np.pi / 4) * 0.5 + 0.5 * ink
    return to_uint8(over(sheet, hexcolour("#2b2a2c"), np.clip(screen + 0.5 * outline(drawing, 1.2, 2.0), 0, 0.9)))


def riso(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Two-drum duplicator: fluorescent pink and teal inks, out of register, on pale yellow."""
    rgb = posterised(drawing).astype(np.float32) / 255
    red, cold = 1 - rgb[..., 1], 1 - rgb[..., 0]
    page = np.broadcast_to(hexcolour("#fbf3c4"), drawing.rgb.shape)
    plates = (("#ff3f80", np.maximum(red, 0.3), -3, 2), ("#007f8c", np.maximum(cold, 0.06), 3, -2))
    for ink, plate, dx, dy in plates:
        cover = np.clip(moved(plate * drawing.alpha, dx, dy), 0, 0.95)
        page = page * (1 - cover[..., None] * (1 - hexcolour(ink) / 255))
    return to_uint8(page)


def crt(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """An old tube: bulging picture, scan lines and dark corners around a lit grey-blue screen."""
    height, width = drawing.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = rows / height * 2 - 1, columns / width * 2 - 1
    bulge = 1 + 0.12 * (x * x + y * y)
    lit = over(hexcolour("#5c7a86"), posterised(drawing), drawing.alpha)
    map_x, map_y = (x * bulge + 1) / 2 * width, (y * bulge + 1) / 2 * height
    lit = cv2.remap(lit, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    lit = saturate(blur(lit, 1.5), 1.3) * 1.2
    lines = 0.5 + 0.6 * angle_stripes((height, width), 8, 0.0)
    return to_uint8(lit * lines[..., None] * hexcolour("#d8ffe6") / 255)


def poster(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Campaign poster: three flat tones (navy, red, cream) on bright yellow with rays."""
    height, width = drawing.shape
    flat = luminance(cv2.bilateralFilter(cv2.medianBlur(drawing.rgb, 7), 7, 50, 5))
    tones = quantise(np.repeat((flat * 255)[..., None], 3, 2), ("#303030", "#888888", "#e0e0e0"))[..., 0]
    navy, red, cream = hexcolour("#12284b"), hexcolour("#d8322f"), hexcolour("#fbe9c6")
    colour = np.where(tones[..., None] < 100, navy, np.where(tones[..., None] < 200, red, cream))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    turn = np.arctan2(rows - height * 0.55, columns - width / 2) * 6
    ground = over(hexcolour("#f5b81f"), hexcolour("#f8cb4a"), np.clip(np.sin(turn) * 4, -0.5, 0.5) + 0.5)
    picture = over(ground, blur(colour.astype(np.float32), 1.0), drawing.alpha)
    rim = np.clip(cv2.dilate(drawing.alpha, np.ones((5, 5), np.uint8)) - drawing.alpha, 0, 1)
    return to_uint8(over(picture, navy, rim))


def stamp(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Rubber stamp: brick-red ink with hollow highlights inside a double frame, on manila card."""
    height, width = drawing.shape
    rows, columns = np.mgrid[0:height, 0:width]
    margin = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns))
    frame = ((margin >= 2) & (margin < 6)) | ((margin >= 8) & (margin < 10))
    solid = np.clip((0.62 - blur(luminance(drawing.rgb), 1.0)) * 8 + 0.5, 0, 1) * drawing.alpha
    rubber = np.maximum(solid * (1 - outline(drawing, 1.5, 1.5) * 0.85), outline(drawing, 1.4, 3.0) * (solid < 0.5))
    halo = np.clip(cv2.dilate(drawing.alpha, np.ones((7, 7), np.uint8)), 0, 1)
    rubber = np.maximum(rubber, frame * (1 - halo))
    rubber = np.maximum(rubber, np.clip(drawing.alpha - cv2.erode(drawing.alpha, np.ones((5, 5), np.uint8)), 0, 1))
    return to_uint8(over(hexcolour("#e9d9b6"), hexcolour("#b3261e"), rubber * 0.88))


def graph_paper(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Squared school paper: pale blue lines, red margin, blue pen outline and slanted coloured shading."""
    rows, columns = np.indices(drawing.shape)
    squares = (rows % GRID < 2) | (columns % GRID < 2)
    sheet = over(hexcolour("#fbfcf6"), hexcolour("#bfdef0"), squares)
    sheet[:, GRID : GRID + 2] = hexcolour("#f58a9b")
    shade = (rows + columns) % GRID < GRID // 2
    tint = over(hexcolour("#fbfcf6"), saturate(posterised(drawing, 120), 1.1), 0.45 + 0.2 * shade)
    sheet = over(sheet, tint, drawing.alpha)
    return to_uint8(over(sheet, hexcolour("#1c2f8f"), 0.9 * outline(drawing, 1.2, 4.0)))


RENDERERS: dict[str, Renderer] = {
    "halftone": halftone,
    "halftone_red": halftone_red,
    "comic": comic,
    "newsprint": newsprint,
    "riso": riso,
    "crt": crt,
    "poster": poster,
    "stamp": stamp,
    "graph_paper": graph_paper,
}
