"""Styles of light: glowing tubes, screens, rays and raised metal or stone."""

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
    outline,
    over,
    quantise,
    saturate,
    still_noise,
    tile_waves,
    to_uint8,
)

TUBES = ("#ff2d55", "#ff8a1e", "#ffe14d", "#3dff6e", "#2fe6ff", "#4f6bff", "#d94dff")


def _tubes(drawing: Drawing) -> np.ndarray:
    """Edges of the smoothed drawing as glass tubes, [H,W] in 0..1."""
    smooth = Drawing(to_uint8(flatten(drawing.rgb, 8)), drawing.alpha)
    return np.clip((edges(smooth, 1.8) - 0.4) / 0.3, 0, 1)


def _glowing(tubes: np.ndarray, colour: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """Tubes [H,W] lit in a colour ([3] or [H,W,3]) before a wall (the same), with their halo; uint8."""
    light = colour * tubes[..., None]
    halo = np.maximum(2.4 * blur(light, 8) - 24, 0)
    core = np.clip(blur(tubes, 0.8) * 2 - 1.2, 0, 1)[..., None]
    return to_uint8(wall + halo + 0.6 * light + 110 * core)


def neon(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A sign of tubes in the nearest of seven neon hues on black."""
    body = flatten(cv2.erode(drawing.rgb, np.ones((5, 5), np.uint8)), 6)
    return _glowing(_tubes(drawing), blur(quantise(saturate(body, 1.6), TUBES), 2), hexcolour("#06060f"))


def neon_pink(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A one-colour hot pink sign on a dark brick wall."""
    rows, columns = np.indices(drawing.shape, sparse=True)
    columns = columns + 16 * (rows // 16 % 2)
    joints = ((rows % 16 < 2) | (columns % 32 < 2)).astype(np.float32)
    wall = over(hexcolour("#2c1034"), hexcolour("#12051a"), joints)
    return _glowing(_tubes(drawing), hexcolour("#ff2fa0"), wall)


def glow_green(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A toxic green halo around a body of dark green tones."""
    near, far = blur(drawing.alpha, 4), blur(drawing.alpha, 11)
    halo = gradient_map(0.55 * near + 0.75 * far, ("#020a04", "#0b5a1a", "#35d435", "#d8ff7a"))
    tone = 0.62 * luminance(flatten(drawing.rgb, 3)) + 0.3 * edges(outline(drawing), 1.2)
    body = gradient_map(tone, ("#031008", "#0c3a1c", "#2c8a3a", "#a4ff6a"))
    return to_uint8(over(halo, body, drawing.alpha))


def _relief(drawing: Drawing) -> tuple[np.ndarray, np.ndarray]:
    """Slope towards the light at the upper left (about -1..1) and cast shadow (0..1) of the relief, [H,W]."""
    body = cv2.distanceTransform((drawing.alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    detail = blur(luminance(flatten(drawing.rgb, 5)), 1.0) * drawing.alpha
    height = 5 * np.sqrt(blur(np.minimum(body, 9), 1.2) / 9) + 3.5 * detail
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    slope = (dx + dy) * np.float32(0.7)
    raised = blur(drawing.alpha, 2)
    shadow = displace(raised, -3, -3) * (1 - drawing.alpha)
    return slope, shadow


def gold_relief(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A struck gold medal: polished, with bright rims and deep brown shadows."""
    slope, shadow = _relief(drawing)
    tone = 0.42 + 0.75 * slope - 0.35 * shadow + 0.2 * drawing.alpha
    stops = ("#2e1600", "#7a4a06", "#c98f1c", "#f2cb4e", "#fff6c4")
    return to_uint8(gradient_map(tone, stops))


def stone_relief(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """Carved in grey stone whose pits and cracks are the same in every picture."""
    slope, shadow = _relief(drawing)
    pits = still_noise(drawing.shape, 12, 1) > 1.4
    crack = np.abs(still_noise(drawing.shape, 64, 2)) < 0.06
    tone = 0.52 + 0.5 * slope - 0.35 * shadow + 0.17 * drawing.alpha - 0.12 * pits - 0.2 * crack
    return to_uint8(gradient_map(tone, ("#1c1d1f", "#5c5e60", "#94958f", "#dcdad2")))


def hologram(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A projection: cyan scan lines, a red-blue fringe, light rising from below."""
    shape = drawing.shape
    tone = luminance(flatten(drawing.rgb, 6)) ** 1.6 * 0.75 + 0.12
    tone = np.maximum(tone, edges(drawing, 1.4)) * drawing.alpha
    fringe = np.dstack([displace(tone, 3, 0), tone, displace(tone, -3, 0)])
    lines = 0.45 + 0.55 * tile_waves(shape, 0, 2)
    rise = np.linspace(0.1, 0.9, shape[0], dtype=np.float32)[:, None].round(1) ** 2
    light = fringe * np.array([90, 240, 255], np.float32) + blur(drawing.alpha, 4)[..., None] * hexcolour("#082b3c")
    return to_uint8(hexcolour("#04101f") + rise[..., None] * hexcolour("#0a4a6a") + light * lines[..., None])


def xray(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A film on a light box: pale bones of the outline in a translucent grey body, on black."""
    core = blur(cv2.erode(drawing.alpha, np.ones((9, 9), np.uint8)), 4)
    shell = blur(drawing.alpha, 1.5) * (1 - 0.75 * core)
    smooth = flatten(drawing.rgb, 5)
    marrow = blur((1 - luminance(smooth)) * drawing.alpha, 2.2)
    bones = blur(edges(Drawing(to_uint8(smooth), drawing.alpha), 1.3) * drawing.alpha, 0.8)
    density = 0.06 + 0.55 * shell + 0.4 * bones + 0.42 * marrow
    return to_uint8(gradient_map(density, ("#05070a", "#3c4a58", "#93a9b8", "#eef6fa")))


def spotlight(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """On a dark stage in a cone of warm light from above, with the pool it throws on the floor."""
    height, width = drawing.shape
    rows, columns = np.indices(drawing.shape, dtype=np.float32, sparse=True)
    y, x = rows / height, columns / width - 0.5
    cone = np.clip((0.07 + 0.42 * y - np.abs(x)) * 14, 0, 1) * np.float32(0.55)
    pool = np.clip(1.25 - np.hypot(x / 0.5, (y - 0.9) / 0.13), 0, 1)
    glow = np.clip(cone * (0.75 - 0.35 * y) + 0.85 * pool, 0, 1)
    stage = over(hexcolour("#120e14"), hexcolour("#d9b978"), glow)
    lit = np.clip(1.25 - 1.5 * np.hypot(x, y - 0.38), 0.22, 1)
    body = drawing.rgb * np.array([1.05, 0.93, 0.72], np.float32) * lit[..., None]
    return to_uint8(over(stage, body, drawing.alpha))


RENDERERS: dict[str, Renderer] = {
    style.__name__: style
    for style in (neon, neon_pink, gold_relief, stone_relief, hologram, xray, spotlight, glow_green)
}
