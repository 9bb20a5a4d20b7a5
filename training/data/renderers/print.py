"""Styles of the press and the screen: dots, inks, plates, stamps, squared paper and faulty monitors.

Every renderer takes a `Drawing` (128 x 128 by habit) and a numpy generator and returns uint8 [H, W, 3].
"""

from __future__ import annotations

import cv2
import numpy as np

from .toolkit import (
    Drawing,
    Renderer,
    angle_stripes,
    blur,
    edges,
    hexcolour,
    luminance,
    noise,
    over,
    paper,
    quantise,
    saturate,
    to_uint8,
)


def dots(ink: np.ndarray, period: float, angle: float, phase: float = 0.0) -> np.ndarray:
    """Coverage 0..1 of a halftone screen: dots on a turned grid that grow with the ink map [H, W] in 0..1."""
    wave = angle_stripes(ink.shape, period, angle, phase) + angle_stripes(ink.shape, period, angle + np.pi / 2, phase)
    return np.clip((ink * 1.05 + wave / 2 - 1.02) * 5 + 0.5, 0, 1) * (ink > 0.03)


def dark(drawing: Drawing, least: float = 0.0) -> np.ndarray:
    """Ink a drawing needs, 0..1: its darkness, at least `least` inside the outline, none outside."""
    return np.maximum(1 - luminance(drawing.rgb), least) * drawing.alpha


def outline(drawing: Drawing, sigma: float, strength: float) -> np.ndarray:
    """Firm contour lines, 0..1."""
    return np.clip((edges(drawing, sigma) - 0.4) * strength, 0, 1)


def moved(picture: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """A map moved by pixels, as a badly registered plate."""
    shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(picture, shift, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def halftone(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Black dots at 45 degrees on white, larger where it is darker."""
    screen = dots(blur(dark(drawing, 0.3), 0.8), 6.5, np.pi / 4, rng.uniform(0, 6.28))
    screen = np.maximum(screen, outline(drawing, 1.0, 1.2))
    return to_uint8(over(hexcolour("#ffffff"), hexcolour("#101010"), screen))


def halftone_red(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Bold red dots on a straight grid over cream."""
    ink = np.clip(blur(dark(drawing, 0.32), 0.8) * 1.1, 0, 0.97)
    screen = dots(ink, 7.5, 0.0, rng.uniform(0, 6.28))
    return to_uint8(over(hexcolour("#fff0d2"), hexcolour("#d81f2b"), np.maximum(screen, outline(drawing, 1.0, 0.9))))


def comic(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Four-colour comic: cyan, magenta and yellow dots, thick black outlines, dotted yellow ground."""
    spots = dots(np.full(drawing.shape, 0.32, np.float32), 9, 0.6)
    ground = over(hexcolour("#fff04a"), hexcolour("#ffb400"), spots)
    vivid = saturate(drawing.rgb.astype(np.float32), 1.4) / 255
    inks = blur(1 - vivid, 0.8)
    page = np.full((*drawing.shape, 3), 255, np.float32)
    for k, (ink, angle) in enumerate((("#00a5e8", 0.26), ("#ea1c8d", 1.31), ("#fff000", 0.0))):
        page *= 1 - dots(inks[..., k], 6.5, angle, rng.uniform(0, 6.28))[..., None] * (1 - hexcolour(ink) / 255)
    picture = over(ground, page, drawing.alpha)
    return to_uint8(over(picture, hexcolour("#0a0a0a"), outline(drawing, 1.5, 3.0)))


def newsprint(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A coarse grey press photograph on yellowed paper amid columns of text."""
    height, width = drawing.shape
    sheet = paper((height, width), "#d6cdb4", rng, 6)
    words = (noise((height // 7 + 1, width // 4), 2, rng) > -0.7).astype(np.float32)
    words = cv2.resize(words, (width, words.shape[0] * 7), interpolation=cv2.INTER_NEAREST)[:height]
    rows, columns = np.mgrid[0:height, 0:width]
    words *= (rows % 7 < 3) & (columns % 43 > 3)
    near = np.clip(cv2.dilate(drawing.alpha, np.ones((9, 9), np.uint8)), 0, 1)
    sheet = over(sheet, hexcolour("#3c3a38"), 0.6 * words * (1 - near))
    ink = blur(dark(drawing, 0.18), 0.6) * 0.92
    screen = dots(ink, 4.2, np.pi / 4) * 0.75 + 0.25 * ink
    return to_uint8(over(sheet, hexcolour("#2b2a2c"), np.clip(screen + 0.4 * outline(drawing, 1.0, 2.0), 0, 0.9)))


def riso(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Two-drum duplicator: grainy fluorescent pink and teal inks, out of register, on pale yellow."""
    shape = drawing.shape
    rgb = drawing.rgb.astype(np.float32) / 255
    red, cold = 1 - rgb[..., 1], 1 - rgb[..., 0]
    page = paper(shape, "#fbf3c4", rng, 2)
    plates = (("#ff3f80", np.maximum(red, 0.3), -2.5, 1.5), ("#007f8c", np.maximum(cold, 0.06), 2.0, -1.5))
    for ink, plate, dx, dy in plates:
        wobble = rng.normal(0, 0.4, 2)
        cover = moved(plate * drawing.alpha, dx + wobble[0], dy + wobble[1])
        grain = noise(shape, 3, rng) * 0.13
        cover = np.clip(cover * 0.95 + grain * (cover > 0.05), 0, 1)
        page = page * (1 - cover[..., None] * (1 - hexcolour(ink) / 255))
    return to_uint8(page)


def glitch(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Torn video: red and cyan ghosts, displaced bands and coloured blocks on near black."""
    height, width = drawing.shape
    ghosts = over(hexcolour("#57506f"), saturate(drawing.rgb.astype(np.float32), 1.2), drawing.alpha)
    shift = int(rng.integers(5, 8))
    torn = np.stack([np.roll(ghosts[..., 0], shift, 1), ghosts[..., 1], np.roll(ghosts[..., 2], -shift, 1)], -1)
    for top in rng.integers(0, height - 10, 5).tolist():
        deep = int(rng.integers(5, 11))
        torn[top : top + deep] = np.roll(torn[top : top + deep], int(rng.integers(8, 20)) * int(rng.choice((-1, 1))), 1)
    for colour in ("#ff0055", "#00ffe1", "#f9f871", "#00ffe1"):
        y, x = int(rng.integers(0, height - 6)), int(rng.integers(-10, width - 10))
        torn[y : y + 4, max(x, 0) : x + int(rng.integers(18, 40))] = hexcolour(colour)
    return to_uint8(torn)


def crt(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """An old tube: bulging picture, scan lines, phosphor bloom and dark corners on a lit grey-blue screen."""
    height, width = drawing.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = rows / height * 2 - 1, columns / width * 2 - 1
    bulge = 1 + 0.12 * (x * x + y * y)
    lit = over(hexcolour("#5c7a86"), drawing.rgb.astype(np.float32), drawing.alpha)
    map_x, map_y = (x * bulge + 1) / 2 * width, (y * bulge + 1) / 2 * height
    lit = cv2.remap(lit, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    lit = saturate(blur(lit, 1.0), 1.3) * 0.95 + blur(lit, 6.0) * 0.3
    lines = 0.32 + 0.85 * angle_stripes((height, width), 5, 0.0, rng.uniform(0, 6.28))
    corner = np.clip(1.25 - 0.5 * (x * x + y * y) ** 1.2, 0, 1)
    return to_uint8(lit * (lines * corner)[..., None] * hexcolour("#d8ffe6") / 255)


def poster(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Campaign poster: three flat tones (navy, red, cream) on bright yellow with rays."""
    height, width = drawing.shape
    flat = luminance(cv2.bilateralFilter(cv2.medianBlur(drawing.rgb, 5), 7, 50, 5))
    tones = quantise(np.repeat((flat * 255)[..., None], 3, 2), ("#303030", "#888888", "#e0e0e0"))[..., 0]
    navy, red, cream = hexcolour("#12284b"), hexcolour("#d8322f"), hexcolour("#fbe9c6")
    colour = np.where(tones[..., None] < 100, navy, np.where(tones[..., None] < 200, red, cream))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    turn = np.arctan2(rows - height * 0.55, columns - width / 2) * 8 + rng.uniform(0, 6.28)
    ground = over(hexcolour("#f5b81f"), hexcolour("#f7cf5c"), np.clip(np.sin(turn) * 6, -0.5, 0.5) + 0.5)
    picture = over(ground, blur(colour.astype(np.float32), 0.6), drawing.alpha)
    rim = np.clip(cv2.dilate(drawing.alpha, np.ones((5, 5), np.uint8)) - drawing.alpha, 0, 1)
    return to_uint8(over(picture, navy, rim))


def stamp(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Rubber stamp: patchy brick-red ink with hollow highlights inside a double frame, on manila card."""
    height, width = drawing.shape
    rows, columns = np.mgrid[0:height, 0:width]
    margin = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns))
    frame = ((margin >= 3) & (margin < 7)) | ((margin >= 9) & (margin < 11))
    solid = np.clip((0.62 - blur(luminance(drawing.rgb), 1.0)) * 8 + 0.5, 0, 1) * drawing.alpha
    rubber = np.maximum(solid * (1 - outline(drawing, 1.5, 1.5) * 0.85), outline(drawing, 1.4, 3.0) * (solid < 0.5))
    halo = np.clip(cv2.dilate(drawing.alpha, np.ones((7, 7), np.uint8)), 0, 1)
    rubber = np.maximum(rubber, frame * (1 - halo))
    rubber = np.maximum(rubber, np.clip(drawing.alpha - cv2.erode(drawing.alpha, np.ones((5, 5), np.uint8)), 0, 1))
    patchy = np.clip(0.9 + 0.8 * (noise((height, width), 6, rng) + 1.0), 0.15, 0.95)
    return to_uint8(over(paper((height, width), "#e9d9b6", rng, 4), hexcolour("#b3261e"), rubber * patchy))


def graph_paper(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Squared school paper: pale blue lines, red margin, blue pen outline and slanted coloured shading."""
    height, width = drawing.shape
    rows, columns = np.mgrid[0:height, 0:width] + rng.integers(0, 12, 2)[:, None, None]
    squares = (rows % 12 < 2) | (columns % 12 < 2)
    sheet = over(paper((height, width), "#fbfcf6", rng, 1.5), hexcolour("#8cc3e6"), 0.9 * squares)
    sheet[:, 13:16] = sheet[:, 13:16] * 0.3 + hexcolour("#f0526a") * 0.7
    slant = angle_stripes((height, width), 7, -0.8, 0.8 * noise((height, width), 16, rng))
    shade = np.clip((slant - 0.35) * 3, 0, 1)
    tint = saturate(drawing.rgb.astype(np.float32), 1.1)
    sheet = over(sheet, tint, drawing.alpha * (0.12 + 0.45 * shade))
    return to_uint8(over(sheet, hexcolour("#1c2f8f"), np.clip(edges(drawing, 1.0) * 1.8 - 0.4, 0, 0.95)))


RENDERERS: dict[str, Renderer] = {
    "halftone": halftone,
    "halftone_red": halftone_red,
    "comic": comic,
    "newsprint": newsprint,
    "riso": riso,
    "glitch": glitch,
    "crt": crt,
    "poster": poster,
    "stamp": stamp,
    "graph_paper": graph_paper,
}
