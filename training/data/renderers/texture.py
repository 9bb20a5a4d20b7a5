"""Styles made of cells or materials: pixels, bricks, tiles, thread, glass, wood, paper, clay and sand.

Every renderer takes a `Drawing` (128 x 128 by habit) and a numpy generator and returns uint8 [H, W, 3].
"""

from __future__ import annotations

import cv2
import numpy as np

from .toolkit import (
    Drawing,
    Renderer,
    blur,
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

CONSOLE = (
    "#1a1c2c", "#5d275d", "#b13e53", "#ef7d57", "#ffcd75", "#a7f070", "#38b764", "#257179",
    "#29366f", "#3b5dc9", "#41a6f6", "#73eff7", "#f4f4f4", "#94b0c2", "#566c86", "#8a5a3c",
)  # fmt: skip
TOYS = (
    "#c91a09", "#f2cd37", "#0055bf", "#237841", "#ffffff", "#1b2a34", "#fe8a18", "#8a4b27",
    "#fc97ac", "#6fb7e9", "#a5ca18", "#d9a874", "#81579d", "#6d7278",
)  # fmt: skip
CARD = (
    "#e4572e",
    "#f3c14b",
    "#2e6f95",
    "#76b041",
    "#fff7e6",
    "#33313b",
    "#f49cae",
    "#8d6346",
    "#7fc8d8",
    "#8a6fae",
)
GLASS = (
    "#e8202c", "#ff8a1f", "#ffd021", "#fff3c2", "#2fb04a", "#1f9fd8", "#2b3fc0", "#8a3bc0", "#ff6fa8",
    "#3a2c3e", "#8f5a30", "#b9c6d6",
)  # fmt: skip
WOOL = (
    "#f2ead8", "#2b2a33", "#c8473f", "#e39a3b", "#ecd05c", "#6f9c57", "#8fc3d8", "#7a5a9a",
    "#e59bb0", "#8a5f42", "#8d9199",
)  # fmt: skip


def cells(drawing: Drawing, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour float32 [count, count, 3] and mean alpha [count, count] of the drawing on a square grid."""
    size = (count, count)
    return (
        cv2.resize(drawing.rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32),
        cv2.resize(drawing.alpha, size, interpolation=cv2.INTER_AREA),
    )


def enlarge(grid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Cells as flat blocks of the given [H, W]."""
    return cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)


def inside(shape: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each pixel within its cell, both in 0..1 with cell middles at 0.5."""
    rows = ((np.arange(shape[0]) + 0.5) * count / shape[0]) % 1
    columns = ((np.arange(shape[1]) + 0.5) * count / shape[1]) % 1
    return np.meshgrid(rows.astype(np.float32), columns.astype(np.float32), indexing="ij")


def panes(shape: tuple[int, int], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Diamonds `side` pixels wide and tall: the number int [H, W] of each pixel's, and pixels to its border."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) + 0.5
    falling, rising = (columns + rows) / side, (columns - rows + shape[0]) / side
    number = np.floor(falling).astype(int) * 64 + np.floor(rising).astype(int)
    to_line = np.minimum(np.abs(falling - np.round(falling)), np.abs(rising - np.round(rising)))
    return number, (to_line * side / np.sqrt(2)).astype(np.float32)


def triangles(drawing: Drawing, side: int) -> np.ndarray:
    """The number int [H, W] of each pixel's triangle; every `side` pixels square is cut into four, 4 k to 4 k + 3."""
    rows, columns = np.indices(drawing.shape)
    x, y = columns % side, rows % side
    return 4 * (rows // side * 64 + columns // side) + 2 * (x > y) + (x + y >= side)


def cell_means(picture: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Each pixel replaced by the mean of its numbered cell, float32 [H, W, 3]."""
    flat = number.ravel()
    size = np.maximum(np.bincount(flat), 1)
    means = [np.bincount(flat, picture[..., k].ravel()) / size for k in range(3)]
    return np.stack(means, -1).astype(np.float32)[number]


def solid(drawing: Drawing, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A puffed-up object: unit normal x, y, z, float32 [H, W]; the rim is `radius` pixels deep."""
    depth = cv2.distanceTransform((drawing.alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    rise = np.clip(depth / radius, 0, 1)
    height = blur(np.sqrt(1 - (1 - rise) ** 2) * radius, 2.0)
    height += blur(1 - edges(drawing, 1.5), 1.5) * radius * 0.35
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    z = 1 / np.sqrt(dx * dx + dy * dy + 1)
    return -dx * z, -dy * z, z


def shadow(alpha: np.ndarray, offset: int, softness: float) -> np.ndarray:
    """The outline moved down and to the right by `offset` pixels and blurred, float32 [H, W]."""
    move = np.array([[1, 0, offset], [0, 1, offset]], np.float32)
    return blur(cv2.warpAffine(alpha, move, alpha.shape[::-1]), softness)


def pixel16(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Sixteen blocks a side in sixteen console colours on pale peach."""
    colour, alpha = cells(drawing, 16)
    sharp = np.where((alpha > 0.4)[..., None], quantise(saturate(colour, 1.2), CONSOLE), hexcolour("#ffe3c8"))
    return to_uint8(enlarge(sharp.astype(np.float32), drawing.shape))


def bricks(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Toy bricks seen from above: one bright stud a cell, toy colours on a grey-blue plate."""
    colour, alpha = cells(drawing, 16)
    toy = np.where((alpha > 0.4)[..., None], quantise(saturate(colour, 1.3), TOYS), hexcolour("#a9bccb"))
    y, x = inside(drawing.shape, 16)
    stud = np.maximum(np.abs(x - 0.375), np.abs(y - 0.375)) < 0.25
    shade = 1 + 0.2 * stud - 0.25 * (np.maximum(x, y) > 0.75)
    return to_uint8((enlarge(toy.astype(np.float32), drawing.shape) * 0.9 + 18) * shade[..., None])


def mosaic_white(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Bathroom tiles: even squares in few glazes with white joints, turquoise around the object."""
    colour, alpha = cells(drawing, 16)
    glaze = np.where((alpha > 0.4)[..., None], quantise(saturate(colour, 1.15), CARD), hexcolour("#3ba7b0"))
    y, x = inside(drawing.shape, 16)
    tile = np.maximum(x, y) < 0.75
    return to_uint8(over(hexcolour("#fbfdfd"), enlarge(glaze.astype(np.float32), drawing.shape), tile))


def cross_stitch(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Crosses of thread on unbleached cloth whose holes show between the stitches."""
    colour, alpha = cells(drawing, 16)
    thread = enlarge(quantise(saturate(colour, 1.1), TOYS), drawing.shape)
    y, x = inside(drawing.shape, 16)
    falling, rising = np.abs(y - x), np.abs(y + x - 1)
    cross = np.clip((0.3 - np.minimum(falling, rising)) * 8 + 0.5, 0, 1)
    hole = np.clip((0.24 - np.hypot(np.minimum(x, 1 - x), np.minimum(y, 1 - y))) * 8, 0, 1)
    cloth = over(hexcolour("#e6d6b8"), hexcolour("#a08f6c"), hole)
    stitched = enlarge((alpha > 0.4).astype(np.float32), drawing.shape)
    return to_uint8(over(cloth, thread, (0.35 + 0.65 * cross) * stitched))


def knit(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Rows of V-shaped wool stitches, the object worked into a dusky blue jumper."""
    rows, columns = np.mgrid[0 : drawing.shape[0], 0 : drawing.shape[1]]
    lifted = rows + np.abs(columns % 16 - 7.5) - 4
    colour, alpha = cells(drawing, 16)
    wool = np.where((alpha > 0.4)[..., None], quantise(saturate(colour, 1.1), WOOL), hexcolour("#41618c"))
    shade = np.where(lifted % 16 < 8, 1.08, 0.8) * np.where(columns % 16 < 2, 0.7, 1)
    return to_uint8(enlarge(wool.astype(np.float32), drawing.shape) * shade[..., None])


def stained_glass(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Glowing glass with black lead along its contours, in the same window of blue and gold diamonds."""
    number, border = panes(drawing.shape, 32)
    sky = np.stack([hexcolour(c) for c in ("#2f6fd0", "#6fb5ea", "#2458b8", "#ffd36a")])[number % 4]
    glass = quantise(saturate(flatten(drawing.rgb, 6), 1.4), GLASS)
    lattice = np.clip(2.5 - border, 0, 1) * (drawing.alpha < 0.5)
    lead = np.maximum(lattice, np.clip(edges(Drawing(to_uint8(glass), drawing.alpha), 1.8) * 2.2 - 0.5, 0, 1))
    return to_uint8(over(over(sky, glass, drawing.alpha), hexcolour("#0d0c12"), lead))


def crystal(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """An ice crystal: facets around the middle with white edges, everything tinted cyan and violet."""
    height, width = drawing.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    y, x = rows - height / 2, columns - width / 2
    eighth = np.floor(np.arctan2(y, x) / np.float32(np.pi / 4)).astype(int)
    reach = np.maximum(np.maximum(np.abs(x), np.abs(y)), (np.abs(x) + np.abs(y)) * 0.7071) / width
    ice = np.stack([hexcolour(c) for c in ("#9d95e6", "#a5dcf5", "#7fb2ee", "#d6f2fc")])
    ice = ice[(eighth + 2 * (reach > 0.36)) % 4]
    spokes = np.min([np.abs(x), np.abs(y), np.abs(x + y) * 0.7071, np.abs(x - y) * 0.7071], axis=0)
    border = np.minimum(spokes, np.abs(reach - 0.36) * width)
    picture = over(ice, flatten(drawing.rgb, 6) * 0.55 + ice * 0.42, drawing.alpha)
    picture = over(picture, hexcolour("#27307a"), np.clip(edges(drawing, 1.6) * 1.2 - 0.2, 0, 0.6))
    white = np.clip(2.5 - border, 0, 1) * (0.9 - 0.65 * drawing.alpha)
    return to_uint8(over(picture, hexcolour("#ffffff"), white))


def low_poly(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Flat triangles in an even mesh, cut at the object's contour, on lilac to salmon triangles."""
    back = np.stack([hexcolour(c) for c in ("#8c7ae0", "#ad8ad6", "#ce99c7", "#f0a8b8")])
    rows, _ = np.indices(drawing.shape)
    lit = np.take((0.94, 1.06, 1, 1.1), triangles(drawing, 32) % 4)[..., None]
    sky = back[np.minimum(rows * 4 // drawing.shape[0], 3)] * lit
    inner = drawing.alpha > 0.5
    number = triangles(drawing, 16)
    body = cell_means(drawing.rgb.astype(np.float32), number * 2 + inner)
    return to_uint8(np.where(inner[..., None], body * np.take((0.92, 1.04, 0.97, 1.1), number % 4)[..., None], sky))


def wood_burn(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Dark scorched lines and tones burnt into the same plank with strong grain."""
    grain = tile_waves(drawing.shape, 0, 1)
    plank = gradient_map(0.3 + 0.55 * grain, ("#8f5a2b", "#c58a4b", "#e2b377"))
    tone = np.clip((1 - luminance(flatten(drawing.rgb, 5))) * 0.95 * drawing.alpha, 0, 0.85)
    line = edges(drawing, 1.5)
    scorched = over(plank, hexcolour("#6b3411"), np.clip(blur(line, 3.0) * 0.9, 0, 0.6))
    return to_uint8(over(scorched, hexcolour("#2a1206"), np.maximum(tone, np.clip(line * 1.4 - 0.2, 0, 0.95))))


def papercut(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Layers of coloured card, each casting a soft shadow on the one below, over nested peach sheets."""
    height, width = drawing.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    reach = np.hypot(rows - height / 2, columns - width / 2) / height
    sheet = np.tile(hexcolour("#d9714e"), (height, width, 1))
    for limit, colour in ((0.62, "#e68f68"), (0.5, "#f8cfae")):
        hollow = (reach < limit).astype(np.float32)
        sheet = over(sheet, hexcolour(colour), hollow)
        sheet *= (1 - 0.4 * hollow * np.clip(1 - shadow(hollow, 4, 2.0), 0, 1))[..., None]
    flat = quantise(flatten(drawing.rgb, 7), CARD)
    sheet *= (1 - 0.6 * shadow(drawing.alpha, 5, 2.5))[..., None]
    lum = luminance(flat)
    lifted = np.clip(shadow(lum, 3, 1.5) - lum, 0, 1) * drawing.alpha
    rim = np.clip(drawing.alpha - shadow(drawing.alpha, 2, 0.6), 0, 1)
    card = flat * (1 - 0.6 * lifted)[..., None] + (60 * rim)[..., None]
    return to_uint8(over(sheet, card, drawing.alpha))


def sticker(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A glossy die-cut sticker: thick white rim and drop shadow on a turquoise lid with polka dots."""
    height, width = drawing.shape
    y, x = inside((height, width), 4)
    dots = np.clip((0.2 - np.hypot(x - 0.5, y - 0.5)) * 12, 0, 1)
    lid = over(hexcolour("#2bb5b0"), hexcolour("#4ccdc6"), dots)
    rim = blur(cv2.dilate(drawing.alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))), 0.7)
    lid = lid * (1 - 0.5 * shadow(rim, 4, 2.0))[..., None]
    vivid = saturate(flatten(drawing.rgb, 4), 1.2)
    gloss = tile_waves((height, width), 1, 1, 128) > 0.75
    vivid = over(vivid, hexcolour("#ffffff"), 0.22 * gloss)
    return to_uint8(over(over(lid, hexcolour("#ffffff"), rim), vivid, drawing.alpha))


def embroidery(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Satin stitches: shiny threads that slant by tone, dark corded outline, on green felt."""
    flat = flatten(drawing.rgb, 6)
    falling, rising = tile_waves(drawing.shape, -1, 2), tile_waves(drawing.shape, 1, 2)
    thread = np.where(luminance(flat) < 0.55, falling, rising)
    felt = hexcolour("#4f6f57") * (1 - 0.5 * shadow(drawing.alpha, 3, 1.5))[..., None]
    sewn = saturate(flat, 1.15) * (0.66 + 0.4 * thread)[..., None]
    cord = np.clip(edges(drawing, 1.6) * 1.7 - 0.5, 0, 1)
    return to_uint8(over(over(felt, sewn, drawing.alpha), flat * 0.4, cord * drawing.alpha))


def balloon(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A shiny inflated foil balloon with hard white highlights, floating over a pink gradient."""
    height, width = drawing.shape
    x, y, z = solid(drawing, 16)
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    room = gradient_map(ramp, ("#ffd3e4", "#f78fb8")) * (1 - 0.3 * shadow(drawing.alpha, 7, 5))[..., None]
    skin = blur(saturate(flatten(drawing.rgb, 4), 1.45), 0.8) * 0.9 + 8
    light = np.clip(-0.5 * x - 0.6 * y + 0.62 * z, 0, 1)
    shine = np.clip(-0.42 * x - 0.5 * y + 0.76 * z, 0, 1) ** 26
    back = np.clip(0.6 * x + 0.6 * y - 0.15, 0, 1)
    puffed = skin * (0.45 + 0.75 * light)[..., None] + back[..., None] * hexcolour("#ff8fc0") * 0.35
    puffed = over(puffed, hexcolour("#ffffff"), np.clip(shine * 1.3, 0, 1))
    return to_uint8(over(room, puffed, drawing.alpha))


def clay(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Matte modelling clay with a few broad dents, soft muted colours and a cast shadow on butter yellow."""
    x, y, z = solid(drawing, 9)
    dents = still_noise(drawing.shape, 24, 1)
    light = -0.6 * x - 0.65 * y + 0.5 * z + 0.08 * dents
    table = hexcolour("#f3d98b") * (1 - 0.55 * shadow(drawing.alpha, 6, 3))[..., None]
    mass = saturate(flatten(drawing.rgb, 6), 0.85) * 0.78 + 34
    lit = mass * np.clip(0.62 + 0.62 * light, 0.25, 1.35)[..., None]
    return to_uint8(over(table, lit, blur(drawing.alpha, 0.8)))


def sand(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Drawn in beach sand: damp tones, raked ripples around the object and deep finger grooves, all beige."""
    shape = drawing.shape
    smooth = flatten(drawing.rgb, 6)
    ripple = tile_waves(shape, 0, 1) * (1 - drawing.alpha)
    groove = blur(edges(Drawing(to_uint8(smooth), drawing.alpha), 2.0), 1.0)
    slope = -3.2 * groove + np.roll(3.2 * groove, (2, 2), (0, 1)) + 1.2 * (ripple - 0.5)
    damp = np.maximum(1 - luminance(smooth), 0.25) * drawing.alpha
    tone = 0.74 + 0.11 * np.clip(slope, -3, 3) - 0.68 * damp
    return to_uint8(gradient_map(np.clip(tone, 0, 1), ("#5e4526", "#b08d57", "#e6cf9f", "#fff6dc")))


RENDERERS: dict[str, Renderer] = {
    "pixel16": pixel16,
    "bricks": bricks,
    "mosaic_white": mosaic_white,
    "cross_stitch": cross_stitch,
    "knit": knit,
    "stained_glass": stained_glass,
    "crystal": crystal,
    "low_poly": low_poly,
    "wood_burn": wood_burn,
    "papercut": papercut,
    "sticker": sticker,
    "embroidery": embroidery,
    "balloon": balloon,
    "clay": clay,
    "sand": sand,
}
