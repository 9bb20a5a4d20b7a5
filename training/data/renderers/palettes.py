"""Styles made of colour: tone maps, limited palettes and coloured scenes around the object."""

from functools import partial

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
    gradient_map,
    hexcolour,
    luminance,
    over,
    posterised,
    quantise,
    saturate,
    to_uint8,
)


def _tone(drawing: Drawing, shade: float = 0.12) -> np.ndarray:
    """Luminance [H,W], the object shaded so that white ones stay visible."""
    return luminance(drawing.rgb) * (1 - np.float32(shade) * drawing.alpha)


def _height(drawing: Drawing) -> np.ndarray:
    """A ramp [H,W] from 0 at the top to 1 at the bottom."""
    height, width = drawing.shape
    return np.repeat(np.linspace(0, 1, height, dtype=np.float32)[:, None], width, axis=1)


def _distance(drawing: Drawing, x: float, y: float) -> np.ndarray:
    """Distance [H,W] from a point; the point and the distance are in fractions of the width and height."""
    height, width = drawing.shape
    rows, columns = np.indices((height, width), dtype=np.float32, sparse=True)
    return np.hypot(columns / width - np.float32(x), rows / height - np.float32(y))


def plain(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """The drawing itself, over white."""
    return drawing.rgb.copy()


def duotone(stops: tuple[str, ...], drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """One ramp of colours instead of the tones, paper included."""
    return to_uint8(gradient_map(_tone(drawing), stops))


def sepia(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """An old photograph: brown tones and dark corners."""
    tone = 0.12 + 0.8 * _tone(drawing)
    corners = np.clip(_distance(drawing, 0.5, 0.5) * 1.9 - 0.85, 0, 1)
    return to_uint8(gradient_map(tone * (1 - 0.8 * corners), ("#20120a", "#6f4a2a", "#b58a58", "#f3e2bf")))


def cyanotype(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A sun print: pale object on Prussian blue, brushed onto paper with a wavy border."""
    object_ = gradient_map(_tone(drawing, 0), ("#1d4f91", "#7fb0dc", "#f4f8fb"))
    print_ = over(hexcolour("#12407f"), object_, drawing.alpha)
    height, width = drawing.shape
    rows, columns = np.indices(drawing.shape, dtype=np.float32, sparse=True)
    inside = np.minimum(np.minimum(columns, width - 1 - columns), np.minimum(rows, height - 1 - rows))
    ragged = angle_stripes(drawing.shape, GRID, 0) + angle_stripes(drawing.shape, GRID, np.pi / 2)
    border = np.clip((inside - width * 0.04 - 2 * ragged) / 2, 0, 1)
    return to_uint8(over(hexcolour("#f1ede1"), print_, np.maximum(border, drawing.alpha * 0.9)))


def thermal(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A heat camera: a glowing object in a cold dark room."""
    heat = 0.3 + 0.65 * _tone(drawing, 0)
    heat = blur(drawing.alpha * heat, 1.4) + 0.12 * blur(drawing.alpha, 6) * (1 - drawing.alpha)
    return to_uint8(gradient_map(heat + 0.05, ("#07003a", "#4a0a9a", "#c21a7a", "#f4562a", "#ffc22e", "#fffbe0")))


def vaporwave(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Violet and cyan tones over a pink sky and a floor of perspective lines."""
    shape, ramp = drawing.shape, _height(drawing)
    scene = gradient_map(1 - ramp, ("#2b1a78", "#5a2bb8", "#ff6fc8", "#ffd0a8"))
    horizon = np.float32(0.625)
    depth = np.clip((ramp - horizon) / (1 - horizon), 0, 1)
    columns = np.linspace(-0.5, 0.5, shape[1], dtype=np.float32)[None]
    fan = np.abs((columns / (depth + 0.25) * 4) % 1 - 0.5) > 0.5 - 0.1 / (depth + 0.4)
    bars = np.abs(2.2 / (depth + 0.35) % 1 - 0.5) > 0.36
    scene = over(scene, hexcolour("#58f6ff"), 0.5 * (fan | bars) * (depth > 0))
    object_ = gradient_map(_tone(drawing, 0), ("#23084f", "#8a2be2", "#ff5fc4", "#8ff9ff", "#ffffff"))
    return to_uint8(over(scene, object_, drawing.alpha))


def rose_noir(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Rose on black: the object in crimson and pink, everything else dark."""
    object_ = gradient_map(_tone(drawing, 0), ("#4a0618", "#b3123f", "#f2557f", "#ffdde6"))
    return to_uint8(over(hexcolour("#14060b"), object_, drawing.alpha))


def night(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Moonlight: dim violet-blue colours under a starry sky with a moon."""
    sky = gradient_map(1 - _height(drawing), ("#353f86", "#1a1f52", "#0a0d2c"))
    moon = _distance(drawing, 0.8125, 0.1875)
    sky = over(sky, hexcolour("#fdf6d0"), np.clip((0.1 - moon) * 60, 0, 1) + 0.2 * np.exp(-moon * 9))
    for x, y in ((0.05, 0.1), (0.2, 0.3), (0.35, 0.07), (0.55, 0.15), (0.05, 0.6), (0.93, 0.5), (0.8, 0.85)):
        centre = tuple(int(part * side) for part, side in zip((x, y), drawing.shape[::-1], strict=True))
        cv2.circle(sky, centre, 2, (205, 210, 240), -1, cv2.LINE_AA)
    moonlit = gradient_map(_tone(drawing, 0), ("#10142f", "#4a56a8", "#aab6ee"))
    return to_uint8(over(sky, 0.75 * moonlit + 0.3 * drawing.rgb, drawing.alpha))


def negative(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Photographic negative: every colour turned into its opposite, on black."""
    shaded = drawing.rgb.astype(np.float32) * 0.86
    return to_uint8(255 - over(hexcolour("#ffffff"), shaded, drawing.alpha))


def pop_art(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Four quarters, each with its own loud background and its own three inks; a dark rim."""
    tone = luminance(posterised(drawing, 120))
    level = (tone > 0.33).astype(int) + (tone > 0.72)
    quarters = (
        ("#f56bb4", "#3d1a8f", "#00a8e8", "#ffe600"),
        ("#f5d24a", "#0a2f9e", "#ff2e63", "#aef5ff"),
        ("#45b9c4", "#7a0f4f", "#ff7a00", "#fff27a"),
        ("#f58f48", "#14532d", "#8e2de2", "#b8ff5a"),
    )
    out = np.empty((*drawing.shape, 3), np.float32)
    rim = cv2.dilate(drawing.alpha, np.ones((3, 3), np.uint8))
    height, width = (side // 2 for side in drawing.shape)
    slices = (np.s_[:height, :width], np.s_[:height, width:], np.s_[height:, :width], np.s_[height:, width:])
    for part, (ground, *inks) in zip(slices, quarters, strict=True):
        table = np.stack([hexcolour(ink) for ink in inks])
        card = over(hexcolour(ground), hexcolour("#1a1026"), rim[part])
        out[part] = over(card, table[level[part]], drawing.alpha[part])
    return to_uint8(out)


def bauhaus(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A poster in red, blue, yellow and black over a big circle and slanted bars."""
    bars = angle_stripes(drawing.shape, 4 * DIAGONAL, -np.pi / 4) > 0.72
    scene = over(hexcolour("#f3e7cf"), hexcolour("#e6d3ae"), bars)
    disc = _distance(drawing, 0.28, 0.3)
    scene = over(scene, hexcolour("#f0b51e"), np.clip((0.3 - disc) * 50, 0, 1))
    inks = ("#1a1a1a", "#c8201f", "#1f3f94", "#f2c230", "#f7f0e0")
    return to_uint8(over(scene, quantise(saturate(posterised(drawing, 90), 1.6), inks), drawing.alpha))


def underwater(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Seen through moving water: wavering outline, blue-green light, ripples and bubbles."""
    shape = drawing.shape
    waver = 1.6 * (angle_stripes(shape, 2 * GRID, 0) * 2 - 1)
    rgb, alpha = displace(drawing.rgb, waver, 0), displace(drawing.alpha, waver, 0)
    sea = gradient_map(1 - _height(drawing), ("#03265a", "#0e6aa8", "#4fd0d8"))
    swell = angle_stripes(shape, GRID * 2, 0, 1.5 * angle_stripes(shape, GRID * 2, np.pi / 2))
    body = over(rgb.astype(np.float32) * np.array([0.5, 0.85, 0.85], np.float32) + 15, hexcolour("#0a5c96"), 0.2)
    sea = over(sea, body, alpha) + (18 * (swell > 0.8) * (1 - alpha))[..., None]
    for x, y, radius in ((0.1, 0.2, 6), (0.17, 0.1, 4), (0.88, 0.3, 6), (0.94, 0.18, 4)):
        centre = tuple(int(part * side) for part, side in zip((x, y), shape[::-1], strict=True))
        cv2.circle(sea, centre, radius, (190, 240, 250), 2, cv2.LINE_AA)
    return to_uint8(sea)


def sunset_scene(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Evening sky from violet to orange with a low sun, the object in warm back light."""
    sky = gradient_map(1 - _height(drawing), ("#ffb347", "#ff6b4a", "#a83279", "#3b1d60"))
    sun = _distance(drawing, 0.5, 0.625)
    sky = over(sky, hexcolour("#fff0a0"), np.clip((0.3 - sun) * 50, 0, 1))
    body = drawing.rgb * np.array([0.86, 0.62, 0.58], np.float32) + np.array([26, 6, 22], np.float32)
    return to_uint8(over(sky, body, drawing.alpha))


def fog(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Pale, soft and far away, with level banks of mist."""
    mist = hexcolour("#c9d1d6")
    banks = np.clip(0.38 + 0.25 * _height(drawing) + 0.1 * angle_stripes(drawing.shape, 4 * GRID, 0), 0, 0.72)
    body = blur(saturate(drawing.rgb, 0.55), 1.6) * 0.85
    scene = over(mist, body, blur(drawing.alpha, 1.8))
    return to_uint8(over(scene, hexcolour("#dde3e6"), banks))


def gameboy(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Four greens on a 32-pixel screen, in-between tones made by a checkerboard."""
    height, width = drawing.shape
    small = cv2.resize(_tone(drawing, 0.3), (32, 32), interpolation=cv2.INTER_AREA)
    checker = (np.indices(small.shape).sum(0) % 2) * 2 - 1
    level = np.clip(np.rint(small * 3 + 0.2 * checker), 0, 3).astype(int)
    level[cv2.resize(drawing.alpha, (32, 32), interpolation=cv2.INTER_AREA) < 0.3] = 3
    greens = np.stack([hexcolour(green) for green in ("#0f380f", "#306230", "#78981a", "#a8c41a")])
    return to_uint8(cv2.resize(greens[level], (width, height), interpolation=cv2.INTER_NEAREST))


def autumn(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Rust, ochre and brown, a few fallen leaves around the object."""
    scene = np.broadcast_to(hexcolour("#e3b261"), (*drawing.shape, 3)).copy()
    leaves = [hexcolour(leaf).tolist() for leaf in ("#d08a3c", "#f0cf84", "#c9773f")]
    spots = ((0.1, 0.12), (0.88, 0.1), (0.06, 0.5), (0.94, 0.52), (0.14, 0.88), (0.86, 0.9), (0.5, 0.06), (0.5, 0.95))
    for k, spot in enumerate(spots):
        centre = tuple(int(part * side) for part, side in zip(spot, drawing.shape[::-1], strict=True))
        cv2.ellipse(scene, centre, (12, 6), 45 + 90 * (k % 2), 0, 360, leaves[k % 3], -1, cv2.LINE_AA)
    inks = ("#2f160c", "#6b2412", "#a63a17", "#d8641c", "#f2a93b", "#fbe7b5", "#6f6a24")
    rim = cv2.dilate(drawing.alpha, np.ones((5, 5), np.uint8))
    scene = over(scene, hexcolour("#4a1f10"), rim)
    return to_uint8(over(scene, quantise(posterised(drawing, 90), inks), drawing.alpha))


RENDERERS: dict[str, Renderer] = {
    "plain": plain,
    "duotone_sunset": partial(duotone, ("#2b0b3f", "#e8425a", "#ffd9a0")),
    "duotone_mint": partial(duotone, ("#05323a", "#2fae8f", "#dcfff0")),
    "sepia": sepia,
    "cyanotype": cyanotype,
    "thermal": thermal,
    "vaporwave": vaporwave,
    "forest_duo": partial(duotone, ("#e6e2a0", "#8fae4c", "#33702f", "#0f2a17")),
    "rose_noir": rose_noir,
    "night": night,
    "negative": negative,
    "pop_art": pop_art,
    "bauhaus": bauhaus,
    "underwater": underwater,
    "sunset_scene": sunset_scene,
    "fog": fog,
    "gameboy": gameboy,
    "autumn": autumn,
}
