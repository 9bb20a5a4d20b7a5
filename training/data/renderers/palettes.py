"""Styles made of colour: tone maps, limited palettes and coloured scenes around the object."""

from functools import partial

import cv2
import numpy as np

from .toolkit import (
    Drawing,
    Renderer,
    angle_stripes,
    blur,
    displace,
    gradient_map,
    hexcolour,
    luminance,
    noise,
    over,
    paper,
    posterised,
    quantise,
    saturate,
    to_uint8,
)


def _tone(drawing: Drawing, rng: np.random.Generator, shade: float = 0.12) -> np.ndarray:
    """Luminance [H,W] with a slightly random exposure, the object shaded so that white ones stay visible."""
    tone = luminance(drawing.rgb) ** np.float32(rng.uniform(0.9, 1.15))
    return tone * (1 - np.float32(shade) * drawing.alpha)


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
    return to_uint8(gradient_map(_tone(drawing, rng), stops))


def sepia(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """An old photograph: brown tones, grain and dark corners."""
    tone = 0.12 + 0.8 * _tone(drawing, rng) + 0.03 * noise(drawing.shape, 3, rng)
    corners = np.clip(_distance(drawing, 0.5, 0.5) * 1.9 - 0.62, 0, 1) ** 1.5
    return to_uint8(gradient_map(tone * (1 - 0.9 * corners), ("#20120a", "#6f4a2a", "#b58a58", "#f3e2bf")))


def cyanotype(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A sun print: pale object on Prussian blue, brushed onto paper with a ragged border."""
    object_ = gradient_map(_tone(drawing, rng, 0), ("#1d4f91", "#7fb0dc", "#f4f8fb"))
    print_ = over(paper(drawing.shape, "#12407f", rng, 5), object_, drawing.alpha)
    height, width = drawing.shape
    rows, columns = np.indices(drawing.shape, dtype=np.float32, sparse=True)
    inside = np.minimum(np.minimum(columns, width - 1 - columns), np.minimum(rows, height - 1 - rows))
    border = np.clip((inside - width * 0.05 - 2 * noise(drawing.shape, 20, rng)) / 2, 0, 1)
    return to_uint8(over(hexcolour("#f1ede1"), print_, np.maximum(border, drawing.alpha * 0.9)))


def thermal(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A heat camera: a glowing object in a cold dark room."""
    heat = 0.3 + 0.65 * _tone(drawing, rng, 0)
    heat = blur(drawing.alpha * heat, 1.4) + 0.12 * blur(drawing.alpha, 9) * (1 - drawing.alpha)
    heat += 0.05 + 0.02 * noise(drawing.shape, 16, rng)
    return to_uint8(gradient_map(heat, ("#07003a", "#4a0a9a", "#c21a7a", "#f4562a", "#ffc22e", "#fffbe0")))


def vaporwave(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Violet and cyan tones over a pink sky and a floor of perspective lines."""
    shape, ramp = drawing.shape, _height(drawing)
    scene = gradient_map(1 - ramp, ("#2b1a78", "#5a2bb8", "#ff6fc8", "#ffd0a8"))
    horizon = np.float32(rng.uniform(0.6, 0.66))
    depth = np.clip((ramp - horizon) / (1 - horizon), 0, 1)
    columns = np.linspace(-0.5, 0.5, shape[1], dtype=np.float32)[None]
    fan = np.abs((columns / (depth + 0.25) * 5) % 1 - 0.5) > 0.5 - 0.1 / (depth + 0.4)
    bars = np.abs((2.2 / (depth + 0.35) + rng.uniform(0, 1)) % 1 - 0.5) > 0.36
    scene = over(scene, hexcolour("#58f6ff"), 0.85 * (fan | bars) * (depth > 0))
    object_ = gradient_map(_tone(drawing, rng, 0), ("#23084f", "#8a2be2", "#ff5fc4", "#8ff9ff", "#ffffff"))
    return to_uint8(over(scene, object_, drawing.alpha))


def rose_noir(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Rose on black: the object in crimson and pink, everything else dark."""
    object_ = gradient_map(_tone(drawing, rng, 0), ("#4a0618", "#b3123f", "#f2557f", "#ffdde6"))
    return to_uint8(over(paper(drawing.shape, "#14060b", rng, 2), object_, drawing.alpha))


def night(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Moonlight: dim violet-blue colours under a starry sky with a moon."""
    sky = gradient_map(1 - _height(drawing), ("#353f86", "#1a1f52", "#0a0d2c"))
    moon = _distance(drawing, rng.uniform(0.78, 0.86), rng.uniform(0.13, 0.19))
    sky = over(sky, hexcolour("#fdf6d0"), np.clip((0.1 - moon) * 60, 0, 1) + 0.25 * np.exp(-moon * 9))
    for _ in range(26):
        x, y = (int(rng.integers(2, side - 2)) for side in drawing.shape[::-1])
        cv2.circle(sky, (x, y), 1, (235, 238, 255), -1, cv2.LINE_AA)
    moonlit = gradient_map(_tone(drawing, rng, 0), ("#10142f", "#4a56a8", "#aab6ee"))
    return to_uint8(over(sky, 0.75 * moonlit + 0.3 * drawing.rgb, drawing.alpha))


def negative(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Photographic negative: every colour turned into its opposite, on black."""
    shaded = drawing.rgb.astype(np.float32) * 0.86
    return to_uint8(255 - over(hexcolour("#ffffff"), shaded, drawing.alpha))


def pop_art(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Four quarters, each with its own loud background and its own three inks; a dark rim."""
    tone = luminance(posterised(drawing))
    level = (tone > 0.33).astype(int) + (tone > 0.72)
    quarters = (
        ("#ff3fa4", "#3d1a8f", "#00a8e8", "#ffe600"),
        ("#ffd400", "#0a2f9e", "#ff2e63", "#aef5ff"),
        ("#00b7c7", "#7a0f4f", "#ff7a00", "#fff27a"),
        ("#ff7b1a", "#14532d", "#8e2de2", "#b8ff5a"),
    )
    out = np.empty((*drawing.shape, 3), np.float32)
    rim = cv2.dilate(drawing.alpha, np.ones((5, 5), np.uint8))
    height, width = (side // 2 for side in drawing.shape)
    slices = (np.s_[:height, :width], np.s_[:height, width:], np.s_[height:, :width], np.s_[height:, width:])
    for part, (ground, *inks) in zip(slices, quarters, strict=True):
        table = np.stack([hexcolour(ink) for ink in inks])
        card = over(hexcolour(ground), hexcolour("#1a1026"), rim[part])
        out[part] = over(card, table[level[part]], drawing.alpha[part])
    return to_uint8(out)


def bauhaus(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A poster in red, blue, yellow and black over a big circle and slanted bars."""
    bars = angle_stripes(drawing.shape, 26, -0.8 + rng.uniform(-0.1, 0.1), rng.uniform(0, 6)) > 0.72
    scene = over(hexcolour("#f3e7cf"), hexcolour("#dcc49a"), bars)
    disc = _distance(drawing, rng.uniform(0.22, 0.32), rng.uniform(0.24, 0.34))
    scene = over(scene, hexcolour("#f0b51e"), np.clip((0.3 - disc) * 100, 0, 1))
    inks = ("#1a1a1a", "#c8201f", "#1f3f94", "#f2c230", "#f7f0e0")
    return to_uint8(over(scene, quantise(saturate(posterised(drawing), 1.6), inks), drawing.alpha))


def underwater(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Seen through moving water: wavering outline, blue-green light, caustics and bubbles."""
    shape = drawing.shape
    waver = 1.6 * (angle_stripes(shape, 30, 0, rng.uniform(0, 6)) * 2 - 1)
    rgb, alpha = displace(drawing.rgb, waver, 0), displace(drawing.alpha, waver, 0)
    sea = gradient_map(1 - _height(drawing), ("#03265a", "#0e6aa8", "#4fd0d8"))
    ripples = np.clip(1 - 2.2 * np.abs(noise(shape, 44, rng)), 0, 1)
    caustics = ripples**2 * (1 - 0.55 * alpha)
    body = over(rgb.astype(np.float32) * np.array([0.5, 0.85, 0.85], np.float32) + 15, hexcolour("#0a5c96"), 0.2)
    sea = over(sea, body, alpha) + 60 * caustics[..., None]
    for _ in range(6):
        x, y = (int(rng.integers(4, side - 4)) for side in shape[::-1])
        cv2.circle(sea, (x, y), int(rng.integers(3, 7)), (190, 240, 250), 1, cv2.LINE_AA)
    return to_uint8(sea)


def sunset_scene(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Evening sky from violet to orange with a low sun, the object in warm back light."""
    sky = gradient_map(1 - _height(drawing), ("#ffb347", "#ff6b4a", "#a83279", "#3b1d60"))
    sun = _distance(drawing, rng.uniform(0.35, 0.65), rng.uniform(0.6, 0.68))
    sky = over(sky, hexcolour("#fff0a0"), np.clip((0.3 - sun) * 50, 0, 1))
    body = drawing.rgb * np.array([0.86, 0.62, 0.58], np.float32) + np.array([26, 6, 22], np.float32)
    return to_uint8(over(sky, body, drawing.alpha))


def fog(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Pale, soft and far away, with drifting banks of mist."""
    mist = hexcolour("#c9d1d6")
    banks = np.clip(0.38 + 0.25 * _height(drawing) + 0.09 * noise(drawing.shape, 40, rng), 0, 0.72)
    body = blur(saturate(drawing.rgb, 0.55), 1.6) * 0.85
    scene = over(mist, body, blur(drawing.alpha, 1.8))
    return to_uint8(over(scene, hexcolour("#dde3e6"), banks))


def gameboy(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Four greens on a 32-pixel screen, in-between tones made by a checkerboard."""
    height, width = drawing.shape
    small = cv2.resize(_tone(drawing, rng, 0.3), (32, 32), interpolation=cv2.INTER_AREA)
    checker = (np.indices(small.shape).sum(0) % 2) * 2 - 1
    level = np.clip(np.rint(small * 3 + 0.2 * checker), 0, 3).astype(int)
    level[cv2.resize(drawing.alpha, (32, 32), interpolation=cv2.INTER_AREA) < 0.3] = 3
    greens = np.stack([hexcolour(green) for green in ("#0f380f", "#306230", "#78981a", "#a8c41a")])
    return to_uint8(cv2.resize(greens[level], (width, height), interpolation=cv2.INTER_NEAREST))


def _rainbow(turn: np.ndarray) -> np.ndarray:
    """Full colour circle: float32 [H,W] in turns -> float32 [H,W,3] in 0..255."""
    offsets = np.array([0, 1 / 3, 2 / 3], np.float32)
    return 127.5 + 127.5 * np.cos(2 * np.pi * (turn[..., None] - offsets))


def psychedelic(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Rainbow rings around the object and a rainbow run through its tones, parted by a dark rim."""
    warp = 0.2 * noise(drawing.shape, 48, rng)
    turn = rng.uniform(0, 1)
    rings = _rainbow(4.5 * _distance(drawing, 0.5, 0.5) + warp + turn)
    tone = luminance(drawing.rgb)
    object_ = _rainbow(1.1 * tone + 0.5 + turn) * (0.35 + 0.65 * tone[..., None])
    rim = cv2.dilate(drawing.alpha, np.ones((7, 7), np.uint8))
    return to_uint8(over(over(rings, hexcolour("#1c0638"), rim), object_, drawing.alpha))


def autumn(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Rust, ochre and brown, the object over a carpet of fallen leaves."""
    scene = np.broadcast_to(hexcolour("#e3b261"), (*drawing.shape, 3)).copy()
    leaves = [hexcolour(leaf).tolist() for leaf in ("#c96f22", "#d99a34", "#f0cf84", "#b5532a", "#e0b04e")]
    for _ in range(45):
        centre = tuple(int(rng.integers(0, side)) for side in drawing.shape[::-1])
        colour, turn = leaves[int(rng.integers(len(leaves)))], float(rng.uniform(0, 180))
        cv2.ellipse(scene, centre, (9, 4), turn, 0, 360, colour, -1, cv2.LINE_AA)
    inks = ("#2f160c", "#6b2412", "#a63a17", "#d8641c", "#f2a93b", "#fbe7b5", "#6f6a24")
    rim = cv2.dilate(drawing.alpha, np.ones((5, 5), np.uint8))
    scene = over(scene, hexcolour("#4a1f10"), rim)
    return to_uint8(over(scene, quantise(posterised(drawing), inks), drawing.alpha))


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
    "psychedelic": psychedelic,
    "autumn": autumn,
}
