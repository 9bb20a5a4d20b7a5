"""Styles made of cells or materials: pixels, bricks, tiles, thread, glass, wood, paper, clay and sand.

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
    gradient_map,
    hexcolour,
    luminance,
    noise,
    over,
    paper,
    quantise,
    saturate,
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


def shards(shape: tuple[int, int], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cells of a jittered grid: cell number int [H, W], and rough pixels to the border."""
    height, width = shape
    step_y, step_x = height / count, width / count
    grid = np.mgrid[-1 : count + 1, -1 : count + 1].astype(np.float32) + 0.5
    jitter = rng.uniform(-0.38, 0.38, grid.shape).astype(np.float32)
    points = (grid + jitter) * np.array([step_y, step_x], np.float32)[:, None, None]
    rows, columns = np.mgrid[0:height, 0:width]
    home_y, home_x = (rows / step_y).astype(int) + 1, (columns / step_x).astype(int) + 1
    first = np.full(shape, np.inf, np.float32)
    second, number = first.copy(), np.zeros(shape, int)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = home_y + dy, home_x + dx
            y, x = np.clip(y, 0, count + 1), np.clip(x, 0, count + 1)
            distance = np.hypot(rows - points[0][y, x], columns - points[1][y, x])
            closer = distance < first
            same = (number == y * (count + 2) + x) & ~closer
            second = np.where(closer, first, np.where(same, second, np.minimum(second, distance)))
            number = np.where(closer, y * (count + 2) + x, number)
            first = np.where(closer, distance, first)
    return number, np.minimum(second - first, 99)


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
    """Sixteen blocks a side in sixteen console colours on pale peach, each block faintly bevelled."""
    colour, alpha = cells(drawing, 16)
    sharp = np.where((alpha > 0.4)[..., None], quantise(saturate(colour, 1.2), CONSOLE), hexcolour("#ffe3c8"))
    return to_uint8(enlarge(sharp.astype(np.float32), drawing.shape) + rng.normal(0, 2))


def pixel32(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A game sprite of 32 blocks a side with a white outline on a starry midnight screen."""
    colour, alpha = cells(drawing, 32)
    mask = (alpha > 0.45).astype(np.uint8)
    outline = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > mask
    screen = np.tile(hexcolour("#1d1b3a"), (32, 32, 1))
    screen[rng.random((32, 32)) < 0.03] = hexcolour("#7d78c4")
    screen[outline] = 244
    sprite = np.where(mask[..., None] > 0, quantise(saturate(colour, 1.2), CONSOLE), screen)
    return to_uint8(enlarge(sprite.astype(np.float32), drawing.shape))


def bricks(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Toy bricks seen from above: one round stud a cell, toy colours on a grey-blue plate."""
    colour, alpha = cells(drawing, 16)
    toy = np.where((alpha > 0.4)[..., None], quantise(saturate(colour, 1.3), TOYS), hexcolour("#a9bccb"))
    toy = toy * (1 + rng.normal(0, 0.025, (16, 16, 1)))
    y, x = inside(drawing.shape, 16)
    y, x = y - 0.5, x - 0.5
    radius = np.hypot(y, x)
    lit = -(x + y) / 0.7
    shade = 0.5 * lit * np.exp(-(((radius - 0.3) / 0.09) ** 2)) + 0.1 * (radius < 0.28)
    shade -= 0.32 * (np.maximum(np.abs(x), np.abs(y)) > 0.43)
    return to_uint8((enlarge(toy.astype(np.float32), drawing.shape) + 12) * (1 + shade)[..., None])


def mosaic(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Roman mosaic: uneven stone chips in earthy colours with dark grout on sandy chips."""
    number, border = shards(drawing.shape, 18, rng)
    colour = over(hexcolour("#d9c49a"), saturate(drawing.rgb.astype(np.float32), 0.8) * 0.93, drawing.alpha)
    stone = cell_means(colour, number) * (1 + rng.normal(0, 0.08, 20 * 20))[number][..., None]
    return to_uint8(over(hexcolour("#4a3f35"), stone, np.clip((border - 0.5) / 1.2, 0, 1)))


def mosaic_white(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Bathroom tiles: even glossy squares with wide white joints, turquoise around the object."""
    count = 18
    colour, alpha = cells(drawing, count)
    glaze = saturate(over(hexcolour("#3ba7b0"), colour, np.clip(alpha * 1.3, 0, 1)), 1.15) * 0.94
    glaze = glaze * (1 + rng.normal(0, 0.05, (count, count, 1)))
    y, x = inside(drawing.shape, count)
    joint = np.clip((0.39 - np.maximum(np.abs(x - 0.5), np.abs(y - 0.5))) * 12 + 0.5, 0, 1)
    shine = 26 * np.clip(0.5 - x - y + 0.3, 0, 1)
    tiles = enlarge(glaze.astype(np.float32), drawing.shape) + shine[..., None]
    return to_uint8(over(hexcolour("#fbfdfd"), tiles, joint))


def cross_stitch(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Crosses of thread on unbleached cloth whose holes show between the stitches."""
    count = 21
    colour, alpha = cells(drawing, count)
    thread = saturate(colour, 1.1) * (1 + rng.normal(0, 0.04, (count, count, 1)))
    y, x = inside(drawing.shape, count)
    falling, rising = np.abs(y - x), np.abs(y + x - 1)
    cross = np.clip((0.26 - np.minimum(falling, rising)) * 8 + 0.5, 0, 1)
    upper = np.clip((0.2 - rising) * 8, 0, 1)
    hole = np.clip((0.2 - np.hypot(np.minimum(x, 1 - x), np.minimum(y, 1 - y))) * 8, 0, 1)
    cloth = over(paper(drawing.shape, "#e6d6b8", rng, 3), hexcolour("#8f7a58"), hole)
    stitched = enlarge((alpha > 0.4).astype(np.float32), drawing.shape)
    shade = enlarge(thread.astype(np.float32), drawing.shape) * (0.82 + 0.16 * upper)[..., None]
    backed = over(cloth, shade * 0.66, stitched * 0.55)
    return to_uint8(over(backed, shade, cross * stitched))


def knit(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Rows of V-shaped wool stitches, the object worked into a dusky blue jumper."""
    height, width = drawing.shape
    wide, tall = 10, 8
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    arm = np.abs(columns % wide - wide / 2 + 0.5)
    lifted = rows + arm * 1.3 + rng.uniform(0, tall)
    place = lifted % tall / tall
    colour = over(hexcolour("#41618c"), saturate(drawing.rgb.astype(np.float32), 0.95), drawing.alpha)
    wool = cv2.resize(colour, (width // (wide // 2), height // 4), interpolation=cv2.INTER_AREA)
    wool = cv2.resize(wool, (width, height), interpolation=cv2.INTER_NEAREST)
    shade = (0.56 + 0.56 * np.sin(place * np.pi)) * (1 - 0.3 * (arm > wide / 2 - 1.1))
    return to_uint8((wool + 10) * shade[..., None])


def stained_glass(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Panes of glowing coloured glass in black lead, with lead along the object's contour."""
    number, border = shards(drawing.shape, 10, rng)
    mask = drawing.alpha > 0.5
    sky = np.clip(0.5 + 0.35 * noise(drawing.shape, 40, rng), 0, 1)
    light = gradient_map(sky, ("#2458b8", "#6fb5ea", "#ffe08a"))
    colour = saturate(over(light, drawing.rgb.astype(np.float32), drawing.alpha), 1.5)
    pane = cell_means(colour, number * 2 + mask) * 0.45 + colour * 0.55
    glow = 0.86 + 0.1 * noise(drawing.shape, 8, rng) + 0.18 * np.clip(border / 8, 0, 1)
    outline = np.clip(cv2.morphologyEx(drawing.alpha, cv2.MORPH_GRADIENT, np.ones((4, 4), np.uint8)) * 1.6, 0, 1)
    lead = np.maximum(1 - np.clip((border + 0.5 * mask - 1.0) / 1.3, 0, 1), outline)
    return to_uint8(over(np.clip(pane * glow[..., None], 0, 255), hexcolour("#0d0c12"), lead))


def crystal(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Ice crystals: shaded facets with bright white edges, everything tinted cyan and violet."""
    number, border = shards(drawing.shape, 13, rng)
    tint = gradient_map(np.clip(0.5 + 0.3 * noise(drawing.shape, 40, rng), 0, 1), ("#8f86e0", "#a5dcf5", "#e3f7ff"))
    colour = over(tint, drawing.rgb.astype(np.float32) * 0.72 + tint * 0.2, drawing.alpha)
    facet = cell_means(colour, number * 2 + (drawing.alpha > 0.5))
    rows, columns = np.mgrid[0 : drawing.shape[0], 0 : drawing.shape[1]]
    turn = rng.uniform(0, 2 * np.pi, 15 * 15)[number]
    gleam = 26 * np.sin((rows * np.sin(turn) + columns * np.cos(turn)) * 0.35 + turn)
    facet = over(facet, hexcolour("#27307a"), np.clip(edges(drawing, 1.4) * 1.2 - 0.2, 0, 0.6))
    picture = facet + gleam[..., None] + rng.normal(0, 12, 15 * 15)[number][..., None]
    return to_uint8(over(picture, hexcolour("#ffffff"), 0.85 * (1 - np.clip((border - 0.3) / 1.3, 0, 1))))


def low_poly(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Flat triangles that follow the contours, on a lilac to salmon gradient of larger triangles."""
    height, width = drawing.shape
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    colour = over(gradient_map(ramp, ("#8c7ae0", "#f0a8b8")), drawing.rgb.astype(np.float32), drawing.alpha)
    weight = (edges(drawing, 1.2) ** 2 + 0.012).ravel()
    chosen = rng.choice(height * width, 210, replace=False, p=weight / weight.sum())
    corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]
    mesh = cv2.Subdiv2D((0, 0, width, height))
    for at in corners + [(int(i % width), int(i // width)) for i in chosen]:
        mesh.insert((float(at[0]), float(at[1])))
    triangles = mesh.getTriangleList().reshape(-1, 3, 2)
    kept = ((triangles >= 0) & (triangles < (width, height))).all((1, 2))
    triangles = triangles[kept]
    middle = triangles.mean(1, keepdims=True)
    probes = np.concatenate([triangles * 0.55 + middle * 0.45, middle], 1).astype(int)
    shades = np.median(colour[probes[..., 1], probes[..., 0]], axis=1) * rng.normal(1, 0.06, (len(triangles), 1))
    out = to_uint8(colour)
    for corner, shade in zip(triangles.astype(np.int32), np.clip(shades, 0, 255).tolist(), strict=True):
        cv2.fillConvexPoly(out, corner, shade)
    return out


def wood_burn(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Dark scorched lines and tones burnt into a plank with strong grain."""
    height, width = drawing.shape
    bend = 1.6 * noise((height, width), 48, rng)
    grain = angle_stripes((height, width), 9, 0.05, bend + rng.uniform(0, 6.28))
    fine = cv2.resize(noise((height, 8), 3, rng), (width, height), interpolation=cv2.INTER_LINEAR)
    plank = gradient_map(np.clip(0.15 + 0.6 * grain + 0.12 * fine, 0, 1), ("#8f5a2b", "#c58a4b", "#e2b377"))
    tone = np.clip((1 - luminance(drawing.rgb)) * 0.95 * drawing.alpha, 0, 0.85)
    line = edges(drawing, 1.2)
    scorched = over(plank, hexcolour("#6b3411"), np.clip(blur(line, 3.0) * 0.9, 0, 0.6))
    return to_uint8(over(scorched, hexcolour("#2a1206"), np.maximum(tone, np.clip(line * 1.4 - 0.2, 0, 0.95))))


def papercut(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Layers of coloured card, each casting a soft shadow on the one below, over nested peach sheets."""
    height, width = drawing.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = np.arctan2(rows - height / 2, columns - width / 2)
    reach = np.hypot(rows - height / 2, columns - width / 2) / height + 0.02 * np.sin(5 * angle + rng.uniform(0, 6.28))
    sheet = np.tile(hexcolour("#d9714e"), (height, width, 1))
    for limit, colour in ((0.66, "#e68f68"), (0.56, "#f0ad86"), (0.45, "#f8cfae")):
        hollow = (reach < limit).astype(np.float32)
        sheet = over(sheet, hexcolour(colour), hollow)
        sheet *= (1 - 0.4 * hollow * np.clip(1 - shadow(hollow, 4, 2.0), 0, 1))[..., None]
    flat = quantise(cv2.bilateralFilter(cv2.medianBlur(drawing.rgb, 5), 7, 40, 5), CARD)
    sheet *= (1 - 0.6 * shadow(drawing.alpha, 5, 2.5))[..., None]
    lum = luminance(flat)
    lifted = np.clip(shadow(lum, 3, 1.5) - lum, 0, 1) * drawing.alpha
    rim = np.clip(drawing.alpha - shadow(drawing.alpha, 2, 0.6), 0, 1)
    card = flat * (1 - 0.6 * lifted)[..., None] + (60 * rim)[..., None]
    return to_uint8(over(sheet, card, drawing.alpha) + (2.5 * noise((height, width), 2, rng))[..., None])


def sticker(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A glossy die-cut sticker: thick white rim and drop shadow on a turquoise lid with polka dots."""
    height, width = drawing.shape
    y, x = inside((height, width), 5)
    dots = np.clip((0.2 - np.hypot(x - 0.5, y - 0.5)) * 12, 0, 1)
    lid = over(hexcolour("#2bb5b0"), hexcolour("#4ccdc6"), dots)
    rim = blur(cv2.dilate(drawing.alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))), 0.7)
    lid = lid * (1 - 0.5 * shadow(rim, 4, 2.0))[..., None]
    vivid = saturate(drawing.rgb.astype(np.float32), 1.2)
    gloss = angle_stripes((height, width), 1.1 * width, -0.8, rng.uniform(-0.4, 0.4)) > 0.75
    vivid = over(vivid, hexcolour("#ffffff"), 0.22 * gloss)
    return to_uint8(over(over(lid, hexcolour("#ffffff"), rim), vivid, drawing.alpha))


def embroidery(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Satin stitches: shiny threads that slant by tone, dark corded outline, on green felt."""
    shape = drawing.shape
    flat = cv2.bilateralFilter(cv2.medianBlur(drawing.rgb, 3), 7, 50, 5).astype(np.float32)
    lum, phase = luminance(flat), rng.uniform(0, 6.28) + 0.5 * noise(shape, 16, rng)
    dark, light = angle_stripes(shape, 5.5, 0.75, phase), angle_stripes(shape, 5.5, -0.75, phase)
    thread = np.where(lum < 0.55, dark, light)
    felt = paper(shape, "#4f6f57", rng, 7)
    felt *= (1 - 0.5 * shadow(drawing.alpha, 3, 1.5))[..., None]
    sewn = saturate(flat, 1.15) * (0.62 + 0.42 * thread)[..., None] + (70 * thread**6)[..., None]
    cord = np.clip(edges(drawing, 1.3) * 1.7 - 0.5, 0, 1)
    twist = 0.35 + 0.35 * angle_stripes(shape, 5, 1.57, 0)
    return to_uint8(over(over(felt, sewn, drawing.alpha), flat * twist[..., None], cord * drawing.alpha))


def balloon(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A shiny inflated foil balloon with hard white highlights, floating over a pink gradient."""
    height, width = drawing.shape
    x, y, z = solid(drawing, 16)
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    room = gradient_map(ramp, ("#ffd3e4", "#f78fb8")) * (1 - 0.3 * shadow(drawing.alpha, 7, 5))[..., None]
    skin = blur(saturate(drawing.rgb.astype(np.float32), 1.45), 0.8) * 0.9 + 8
    light = np.clip(-0.5 * x - 0.6 * y + 0.62 * z, 0, 1)
    tilt = rng.normal(0, 0.03)
    shine = np.clip(-0.42 * x - (0.5 + tilt) * y + 0.76 * z, 0, 1) ** 26
    back = np.clip(0.6 * x + 0.6 * y - 0.15, 0, 1)
    puffed = skin * (0.45 + 0.75 * light)[..., None] + back[..., None] * hexcolour("#ff8fc0") * 0.35
    puffed = over(puffed, hexcolour("#ffffff"), np.clip(shine * 1.3, 0, 1))
    return to_uint8(over(room, puffed, drawing.alpha))


def clay(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Matte modelling clay with thumb dents, soft muted colours and a cast shadow on butter yellow."""
    shape = drawing.shape
    x, y, z = solid(drawing, 9)
    dents = 0.75 * noise(shape, 14, rng)
    bump_x = cv2.Sobel(dents, cv2.CV_32F, 1, 0, scale=0.25)
    bump_y = cv2.Sobel(dents, cv2.CV_32F, 0, 1, scale=0.25)
    light = -0.6 * (x - bump_x) - 0.65 * (y - bump_y) + 0.5 * z
    table = paper(shape, "#f3d98b", rng, 2) * (1 + 0.16 * (bump_x + bump_y))[..., None]
    table *= (1 - 0.55 * shadow(drawing.alpha, 6, 3))[..., None]
    mass = cv2.medianBlur(drawing.rgb, 5).astype(np.float32)
    mass = saturate(mass, 0.85) * 0.78 + 34
    lit = mass * np.clip(0.62 + 0.62 * light, 0.25, 1.35)[..., None]
    return to_uint8(over(table, lit, blur(drawing.alpha, 0.8)))


def sand(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Drawn in beach sand: damp tones, raked ripples around the object and deep finger grooves, all beige."""
    shape = drawing.shape
    bend = rng.uniform(0, 6.28) + 0.9 * noise(shape, 32, rng)
    ripple = angle_stripes(shape, 11, 0.35, bend) * (1 - drawing.alpha)
    groove = blur(edges(drawing, 1.8), 1.0)
    height = 1.8 * ripple - 3.2 * groove + 0.35 * noise(shape, 2, rng)
    slope = height - np.roll(height, (2, 2), (0, 1))
    damp = np.maximum(1 - luminance(drawing.rgb), 0.25) * drawing.alpha
    tone = 0.74 + 0.11 * np.clip(slope, -3, 3) - 0.68 * damp
    return to_uint8(gradient_map(np.clip(tone, 0, 1), ("#5e4526", "#b08d57", "#e6cf9f", "#fff6dc")))


RENDERERS: dict[str, Renderer] = {
    "pixel16": pixel16,
    "pixel32": pixel32,
    "bricks": bricks,
    "mosaic": mosaic,
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
