"""Styles that imitate wet and dry paint: brush strokes, washes, dabs, wax, chalk, spray and plaster.

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

WOODBLOCK = ("#23395b", "#b23a2e", "#e2b56b", "#6f8f72", "#8a8470", "#2a2522", "#efe2c4", "#d98c5f")
GOUACHE = (
    "#2f4858", "#33a08c", "#edc56b", "#f08a5d", "#c8553d", "#fbf0d9", "#6b5876", "#b5677d", "#9dbf7d",
    "#86bbd8",
)  # fmt: skip


def flow(lum: np.ndarray, sigma: float = 4.0) -> np.ndarray:
    """Angle in radians, float32 [H, W], along the shapes of `lum`: the smoothed structure tensor's."""
    soft = blur(lum, 1.5)
    dx, dy = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    across = 0.5 * np.arctan2(blur(2 * dx * dy, sigma), blur(dx * dx - dy * dy, sigma))
    return (across + np.pi / 2).astype(np.float32)


def smear(texture: np.ndarray, angle: np.ndarray, length: int) -> np.ndarray:
    """`texture` averaged along the lines of `angle`, `length` pixels either way (line integrals)."""
    height, width = angle.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    total = texture.astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    for sign in (-1, 1):
        x, y = columns.copy(), rows.copy()
        for _ in range(length):
            i = np.clip(y, 0, height - 1).astype(np.intp)
            j = np.clip(x, 0, width - 1).astype(np.intp)
            x += sign * cos[i, j]
            y += sign * sin[i, j]
            total = total + cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return total / (2 * length + 1)


def flatten(rgb: np.ndarray, radius: int) -> np.ndarray:
    """Kuwahara filter: every pixel takes the mean of the calmest of four squares beside it, float32."""
    rgb = np.ascontiguousarray(rgb, dtype=np.float32)
    lum = luminance(rgb)
    size, shift = (radius + 1, radius + 1), (radius + 1) // 2
    mean, spread = cv2.blur(rgb, size), cv2.blur(lum * lum, size) - cv2.blur(lum, size) ** 2
    best, calm = mean, np.full(lum.shape, np.inf, np.float32)
    for dy in (-shift, shift):
        for dx in (-shift, shift):
            here = np.roll(spread, (dy, dx), (0, 1))
            better = here < calm
            best = np.where(better[..., None], np.roll(mean, (dy, dx), (0, 1)), best)
            calm = np.where(better, here, calm)
    return best


def brush(
    colour: np.ndarray,
    angle: np.ndarray,
    rng: np.random.Generator,
    count: int,
    length: float,
    width: int,
    jitter: float = 12.0,
) -> np.ndarray:
    """`count` straight strokes of the colour under their middle, laid on a blurred copy; uint8 [H, W, 3]."""
    canvas = to_uint8(blur(colour.astype(np.float32), 2.0))
    soft = blur(colour.astype(np.float32), 1.0)
    height, columns = angle.shape
    x, y = rng.integers(0, columns, count), rng.integers(0, height, count)
    turn = angle[y, x] + rng.normal(0, 0.25, count)
    dx, dy = np.cos(turn) * length / 2, np.sin(turn) * length / 2
    ends = np.stack([x - dx, y - dy, x + dx, y + dy], 1).round().astype(int).tolist()
    shades = np.clip(soft[y, x] + rng.normal(0, jitter, (count, 1)) + rng.normal(0, jitter / 3, (count, 3)), 0, 255)
    for (x0, y0, x1, y1), shade in zip(ends, shades.tolist(), strict=True):
        cv2.line(canvas, (x0, y0), (x1, y1), shade, width, cv2.LINE_AA)
    return canvas


def dabs(colour: np.ndarray, rng: np.random.Generator, count: int, radius: int, jitter: float) -> np.ndarray:
    """Round dots of the colour under their middle on a cream ground; uint8 [H, W, 3]."""
    height, width = colour.shape[:2]
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = (244, 236, 214)
    x, y = rng.integers(0, width, count), rng.integers(0, height, count)
    shades = np.clip(colour[y, x] + rng.normal(0, jitter, (count, 3)), 0, 255).tolist()
    for at, shade in zip(np.stack([x, y], 1).tolist(), shades, strict=True):
        cv2.circle(canvas, at, radius, shade, -1, cv2.LINE_AA)
    return canvas


def relief(height: np.ndarray, strength: float) -> np.ndarray:
    """Brightness factor [H, W, 1] of a rough surface lit from the upper left."""
    slope = height - np.roll(height, (1, 1), (0, 1))
    return (1 + strength * np.clip(slope, -1, 1))[..., None]


def backdrop(drawing: Drawing, colour: np.ndarray | str) -> np.ndarray:
    """The drawing over a colour or a picture, float32 [H, W, 3]."""
    colour = hexcolour(colour) if isinstance(colour, str) else colour
    return over(colour, drawing.rgb.astype(np.float32), drawing.alpha)


def oil(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Brush strokes along the shapes over a warm umber ground, merged while wet."""
    ground = gradient_map(np.clip(0.5 + 0.2 * noise(drawing.alpha.shape, 24, rng), 0, 1), ("#7a5a3a", "#d8bd8c"))
    colour = backdrop(drawing, ground)
    angle = flow(luminance(colour))
    painted = flatten(brush(colour, angle, rng, 1300, 9, 3, 11), 3)
    painted = over(painted, colour * 0.8, 0.55 * edges(drawing, 1.2))
    return to_uint8(painted * relief(smear(noise(drawing.alpha.shape, 2, rng), angle, 3), 0.16))


def impasto(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Thick knife marks in ridges of paint that catch the light, on ivory."""
    shape = drawing.alpha.shape
    colour = saturate(backdrop(drawing, "#dccba6"), 1.15)
    angle = np.where(drawing.alpha > 0.5, flow(luminance(colour), 5), 0.7).astype(np.float32)
    painted = brush(colour, angle, rng, 480, 14, 5, 16).astype(np.float32)
    ridges = blur(luminance(painted), 0.7) * 5 + 1.6 * smear(noise(shape, 3, rng), angle, 6)
    return to_uint8(painted * relief(ridges, 0.42))


def starry(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A night sky of blue and yellow swirls, the object made of the same curling strokes."""
    height, width = drawing.alpha.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = np.zeros((height, width), np.float32)
    stars = np.zeros((height, width), np.float32)
    nearest = np.full((height, width), np.inf, np.float32)
    for fy, fx in ((0.14, 0.16), (0.2, 0.86), (0.86, 0.12), (0.84, 0.88), (0.5, 0.5)):
        cy, cx = (np.array([fy, fx]) + rng.normal(0, 0.03, 2)) * (height, width)
        distance = np.hypot(rows - cy, columns - cx)
        here = distance < nearest
        angle = np.where(here, np.arctan2(rows - cy, columns - cx) + np.pi / 2 - 0.3, angle)
        nearest = np.where(here, distance, nearest)
        stars = np.maximum(stars, np.exp(-((distance / (0.1 * width)) ** 2)) * ((fy, fx) != (0.5, 0.5)))
    bands = (
        0.28
        + 0.16 * np.sin(nearest * 0.55)
        + 0.08 * noise((height, width), 16, rng)
        + 0.75 * stars
        + 0.35 * blur(drawing.alpha, 5.0)
    )
    sky = gradient_map(np.clip(bands, 0, 1), ("#10204f", "#2a5aa8", "#7fb2d6", "#f4d35a"))
    colour = backdrop(drawing, sky)
    angle = np.where(drawing.alpha > 0.5, flow(luminance(colour), 3), angle).astype(np.float32)
    painted = brush(colour, angle, rng, 900, 11, 3, 24).astype(np.float32)
    painted = over(painted, colour, 0.55 * edges(drawing, 1.2))
    groove = np.clip(smear(noise((height, width), 3, rng), angle, 5), -1, 1)
    return to_uint8(painted * (1 + 0.3 * groove)[..., None])


def watercolour(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Pale bleeding washes with dark drying rims and a wet halo on white paper."""
    shape = drawing.alpha.shape
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    x, y = columns + 1.8 * noise(shape, 10, rng), rows + 1.8 * noise(shape, 10, rng)
    flat = cv2.remap(flatten(drawing.rgb, 4), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.remap(drawing.alpha, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    pool = np.clip(0.62 + 0.22 * noise(shape, 16, rng), 0.25, 1.0)
    rim = np.clip(alpha - blur(alpha, 2.5), 0, 1) + 0.6 * edges(drawing, 1.2)
    pigment = (255 - flat) * (pool + 0.35 * rim)[..., None] + (18 * rim * alpha)[..., None]
    halo = blur(255 - drawing.rgb.astype(np.float32), 7) * (0.22 * (1 - alpha))[..., None]
    return to_uint8(paper(shape, "#fdfbf5", rng, 3) - pigment * alpha[..., None] - halo)


def pointillism(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Dots of pure colour, the background too, in the manner of broken light."""
    light = gradient_map(np.clip(0.5 + 0.3 * noise(drawing.alpha.shape, 20, rng), 0, 1), ("#8fb9e2", "#f4d887"))
    colour = saturate(backdrop(drawing, light), 1.3)
    return dabs(colour, rng, 1700, 2, 24)


def gouache(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Opaque flat shapes in a muted palette, dry brush streaks, on dusty teal."""
    shape = drawing.alpha.shape
    flat = quantise(flatten(drawing.rgb, 4), GOUACHE)
    streaks = smear(noise(shape, 3, rng), np.full(shape, 0.15, np.float32), 6)
    ground = hexcolour("#7aa59d") * (1 + 0.1 * streaks)[..., None]
    alpha = np.clip((blur(drawing.alpha, 1.0) - 0.5 + 0.1 * noise(shape, 4, rng)) * 4 + 0.5, 0, 1)
    return to_uint8(over(ground, flat * (1 + 0.06 * streaks)[..., None], alpha))


def pastel(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Soft chalky diagonal smears with the mauve paper showing through."""
    shape = drawing.alpha.shape
    sheet = paper(shape, "#b3a2b8", rng, 6)
    grain = smear(noise(shape, 2, rng), np.full(shape, -0.75, np.float32), 7)
    soft = blur(drawing.rgb.astype(np.float32), 1.2) * 0.72 + 78
    cover = blur(drawing.alpha, 1.6) * np.clip(0.86 + 0.55 * grain, 0.25, 1)
    return to_uint8(over(sheet, soft, cover))


def crayon(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Wax scribbles at one slant, bare white paper between them, heavy coloured outlines."""
    shape = drawing.alpha.shape
    wobble = rng.uniform(0, 6.28) + 1.1 * noise(shape, 12, rng)
    scribble = angle_stripes(shape, 6.5, 0.9 + rng.normal(0, 0.06), wobble)
    tooth = 0.25 * noise(shape, 2, rng)
    wax = np.clip((scribble + tooth - 0.22) * 4, 0.12, 1) * drawing.alpha
    line = np.clip(edges(drawing, 1.3) * 1.8 - 0.35 + tooth, 0, 1)
    colour = saturate(drawing.rgb.astype(np.float32), 1.35)
    page = over(paper(shape, "#fffdf8", rng, 2), np.minimum(colour, 235), wax)
    return to_uint8(over(page, blur(colour, 1.5) * 0.45, line))


def fauvism(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Wild shifted hues in loose strokes with dark teal contours on burning orange and pink."""
    flat = to_uint8(flatten(drawing.rgb, 4))
    hsv = cv2.cvtColor(flat, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + 105 + 35 * (hsv[..., 2] < 140)) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.3 + 70, 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2] * 0.8 + 60, 0, 255)
    wild = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    patches = np.clip(0.5 + 0.35 * noise(drawing.alpha.shape, 24, rng), 0, 1)
    fire = gradient_map(patches, ("#ff7a1a", "#ffb52e", "#ff4f8b"))
    colour = over(fire, wild, drawing.alpha)
    painted = brush(colour, flow(luminance(colour)), rng, 650, 11, 5, 18)
    contour = np.clip(edges(drawing, 1.4) * 1.6 - 0.4, 0, 0.9)
    return to_uint8(over(painted.astype(np.float32), hexcolour("#123a52"), contour))


def spray_paint(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Soft sprayed colour with overspray, speckles and drips on a grey brick wall."""
    height, width = drawing.alpha.shape
    rows, columns = np.mgrid[0:height, 0:width]
    shifted = columns + 16 * (rows // 16 % 2)
    joints = (rows % 16 < 2) | (shifted % 32 < 2)
    wall = paper((height, width), "#8d8a88", rng, 7) * np.where(joints, 0.72, 1.0)[..., None]
    soft = saturate(blur(drawing.rgb.astype(np.float32), 1.3), 1.4)
    mist = np.clip(blur(drawing.alpha, 6.0) * 1.2, 0, 1)
    speckle = (rng.random((height // 2, width // 2)) < 0.45).astype(np.float32)
    speckle = cv2.resize(speckle, (width, height), interpolation=cv2.INTER_LINEAR)
    drips = np.zeros((height, width), np.float32)
    solid = drawing.alpha > 0.6
    for x in rng.integers(width // 8, width - width // 8, 7).tolist():
        column = np.flatnonzero(solid[:, x])
        if column.size:
            bottom = int(column[-1])
            cv2.line(drips, (x, bottom - 4), (x, bottom + int(rng.integers(8, 26))), 1.0, 2, cv2.LINE_AA)
    spill = blur(drawing.rgb * drawing.alpha[..., None], 8.0) / (blur(drawing.alpha, 8.0) + 1e-3)[..., None]
    spill = saturate(np.clip(spill, 0, 255), 1.4)
    sprayed = over(over(wall, spill, np.maximum(0.75 * mist * speckle, drips)), soft, blur(drawing.alpha, 1.6))
    contour = np.clip(blur(edges(drawing, 1.5), 1.0) * 1.5 - 0.3, 0, 0.8)
    return to_uint8(over(sprayed, hexcolour("#15131a"), contour))


def ukiyoe(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Woodblock print: eight pigments, ink contours, a blue graded sky and wave lines on tan paper."""
    height, width = drawing.alpha.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    sheet = paper((height, width), "#e9d7ae", rng, 6)
    sky = np.clip(1 - rows / (0.42 * height), 0, 1) ** 1.2
    sheet = over(sheet, hexcolour("#2c4f7c"), 0.9 * sky)
    phase = columns / width * 4 * np.pi + np.floor(rows / 9) * 1.9 + rng.uniform(0, 6.28)
    crest = np.abs((rows + 2.5 * np.sin(phase)) % 9 - 4.5) < 1.1
    sheet = over(sheet, hexcolour("#3b6a8c"), crest * np.clip((rows / height - 0.66) * 8, 0, 0.75))
    grain = cv2.blur(noise((height, width), 3, rng), (11, 1))
    printed = quantise(flatten(drawing.rgb, 3), WOODBLOCK) * (1 + 0.05 * grain)[..., None]
    picture = over(sheet, printed, drawing.alpha)
    return to_uint8(over(picture, hexcolour("#1d1a1c"), np.clip(edges(drawing, 1.0) * 2.2 - 0.5, 0, 0.92)))


def fresco(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Faded earth pigments on plaster, with flaked patches and a web of cracks."""
    shape = drawing.alpha.shape
    plaster = paper(shape, "#dcc7a8", rng, 6) * (1 + 0.05 * noise(shape, 20, rng))[..., None]
    earth = saturate(flatten(drawing.rgb, 3), 0.55) * hexcolour("#e8b98c") / 235
    worn = np.clip(0.9 + 1.2 * (noise(shape, 20, rng) + 0.7), 0.12, 0.85)
    picture = over(plaster, earth * 0.85 + 16, drawing.alpha * worn)
    picture = over(picture, hexcolour("#6b3d28"), np.clip(edges(drawing, 1.2) - 0.2, 0, 0.6))
    web = np.minimum(np.abs(noise(shape, 40, rng)), np.abs(noise(shape, 40, rng)))
    cracks = blur((web < 0.06).astype(np.float32), 0.7)
    return to_uint8(over(picture, hexcolour("#4d3a2c"), np.clip(cracks * 0.95, 0, 1)))


RENDERERS: dict[str, Renderer] = {
    "oil": oil,
    "impasto": impasto,
    "starry": starry,
    "watercolour": watercolour,
    "pointillism": pointillism,
    "gouache": gouache,
    "pastel": pastel,
    "crayon": crayon,
    "fauvism": fauvism,
    "spray_paint": spray_paint,
    "ukiyoe": ukiyoe,
    "fresco": fresco,
}
