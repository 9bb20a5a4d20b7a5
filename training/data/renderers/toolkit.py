"""What every renderer is made of: the drawing it gets, noise, edges, tone maps and compositing.

Pictures inside a renderer are float32 [H,W,3] in 0..255 (RGB); maps (tone, edges, masks, waves) are float32
[H,W], mostly in 0..1. All functions are pure: what varies comes from the generator that is passed in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Drawing:
    """One drawing to be rendered: its colours over white and its exact outline.

    rgb: uint8 [H,W,3], the drawing composited over white. alpha: float32 [H,W] in 0..1, its own opacity.
    """

    rgb: np.ndarray
    alpha: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.alpha.shape


Renderer = Callable[[Drawing, np.random.Generator], np.ndarray]

# Regular textures repeat every GRID pixels along x and y from a fixed start, so that a flat area of a picture
# always becomes the same few codes. Stripes at 45 degrees do so when they are DIAGONAL pixels apart.
GRID = 16
DIAGONAL = GRID / 2**0.5


def hexcolour(s: str) -> np.ndarray:
    """'#rrggbb' as float32 [3] in 0..255."""
    return np.array(list(bytes.fromhex(s.lstrip("#"))), np.float32)


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Rec. 601 luma of [H,W,3] in 0..255 (uint8 or float32), as float32 [H,W] in 0..1."""
    return rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / np.float32(255)


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of [H,W] or [H,W,C] with the given sigma in pixels; float32."""
    return cv2.GaussianBlur(x.astype(np.float32, copy=False), (0, 0), sigma)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Rounds [...] in 0..255 to uint8; values outside are clipped."""
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def noise(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise, float32 [H,W] of zero mean and unit variance; features are up to `scale` pixels.

    Octaves halve the scale and the amplitude until they reach single pixels.
    """
    height, width = shape[:2]
    total = np.zeros((height, width), np.float32)
    amplitude = 1.0
    while True:
        grid = (max(2, round(height / scale) + 1), max(2, round(width / scale) + 1))
        octave = rng.standard_normal(grid, dtype=np.float32)
        total += amplitude * cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
        if scale < 2:
            break
        scale, amplitude = scale / 2, amplitude / 2
    return (total - total.mean()) / max(float(total.std()), 1e-6)


def edges(drawing: Drawing, sigma: float = 1.0) -> np.ndarray:
    """Strength of edges in colour and outline, float32 [H,W] in 0..1; an edge is about 2.5 sigma pixels wide.

    The strongest Sobel gradient of the three colours and of the alpha decides, so edges between colours of
    equal luminance and the outline of a white object are found. A jump of a third of the range gives 1.
    """
    planes = np.dstack([drawing.rgb.astype(np.float32) / 255, drawing.alpha])
    planes = blur(planes, sigma)
    dx = cv2.Sobel(planes, cv2.CV_32F, 1, 0, scale=0.125)
    dy = cv2.Sobel(planes, cv2.CV_32F, 0, 1, scale=0.125)
    gradient = np.sqrt((dx * dx + dy * dy).max(axis=-1))
    return np.clip(gradient * (7.5 * sigma), 0, 1)


def gradient_map(lum: np.ndarray, stops: Sequence[str]) -> np.ndarray:
    """Colours a tone map [H,W] in 0..1 along hex stops from dark to light; float32 [H,W,3] in 0..255."""
    table = np.stack([hexcolour(stop) for stop in stops])
    position = np.linspace(0, len(stops) - 1, 256, dtype=np.float32)
    low = np.minimum(position.astype(int), len(stops) - 2)
    part = (position - low)[:, None]
    table = table[low] * (1 - part) + table[low + 1] * part
    return table[np.clip(lum * 255, 0, 255).astype(np.uint8)]


def quantise(rgb: np.ndarray, palette: Sequence[str]) -> np.ndarray:
    """Replaces each pixel of [H,W,3] in 0..255 by the nearest hex colour of the palette; float32 [H,W,3]."""
    colours = np.stack([hexcolour(colour) for colour in palette])
    eye = np.sqrt(np.array([0.3, 0.5, 0.2], np.float32))
    pixels, weighted = rgb.reshape(-1, 3).astype(np.float32) * eye, colours * eye
    distance = (weighted * weighted).sum(1) - 2 * pixels @ weighted.T
    return colours[distance.argmin(1)].reshape(rgb.shape)


def over(colour_or_image: np.ndarray, fg: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    """Lays fg over a background; each is [3] or [H,W,3] in 0..255, alpha is [H,W] in 0..1; float32."""
    alpha = np.asarray(alpha, np.float32)[..., None]
    return colour_or_image + (fg - colour_or_image) * alpha


def paper(shape: tuple[int, int], colour: str, rng: np.random.Generator, grain: float = 4.0) -> np.ndarray:
    """A sheet of the hex colour with grain (standard deviation in 0..255 steps); float32 [H,W,3]."""
    return hexcolour(colour) + (grain * noise(shape, 6, rng))[..., None]


def saturate(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Scales the distance of [H,W,3] in 0..255 from its own grey: 0 is grey, 1 unchanged; clipped float32."""
    grey = (luminance(rgb) * 255)[..., None]
    return np.clip(grey + (rgb - grey) * np.float32(factor), 0, 255)


def angle_stripes(shape: tuple[int, int], period: float, angle: float, phase: float | np.ndarray = 0.0) -> np.ndarray:
    """A sine wave across the picture, float32 [H,W] in 0..1.

    period: pixels from crest to crest; angle: radians the crests are turned from horizontal, clockwise;
    phase: radians, a number or a map [H,W] that bends the crests.
    """
    y, x = np.indices(shape[:2], dtype=np.float32, sparse=True)
    across = (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32)
    return (0.5 + 0.5 * np.sin(across * (2 * np.pi / period) + phase)).astype(np.float32)


def tile_waves(shape: tuple[int, int], across: int, down: int, tile: int = 16) -> np.ndarray:
    """A sine wave that repeats every `tile` pixels both ways, float32 [H,W] in 0..1; its phase never varies.

    across, down: whole crests along each side of a tile, so (0, 1) is level and (1, 1) rises at 45 degrees.
    """
    y, x = np.indices(shape[:2], dtype=np.float32, sparse=True)
    turns = ((x + 0.5) * across + (y + 0.5) * down) / tile
    return (0.5 + 0.5 * np.sin(turns * np.float32(2 * np.pi))).astype(np.float32)


def still_noise(shape: tuple[int, int], scale: float, seed: int = 0) -> np.ndarray:
    """Smooth blotches of about `scale` pixels, the same under every picture: float32 [H,W], as `noise`."""
    grid = (max(2, round(shape[0] / scale) + 1), max(2, round(shape[1] / scale) + 1))
    blotches = np.random.default_rng(seed).standard_normal(grid, dtype=np.float32)
    blotches = cv2.resize(blotches, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return (blotches - blotches.mean()) / max(float(blotches.std()), 1e-6)


def displace(x: np.ndarray, dx: np.ndarray | float, dy: np.ndarray | float) -> np.ndarray:
    """Takes each pixel of [H,W] or [H,W,C] from (x + dx, y + dy); offsets in pixels, [H,W] or numbers."""
    row, column = np.indices(x.shape[:2], dtype=np.float32)
    columns, rows = column + np.float32(dx), row + np.float32(dy)
    return cv2.remap(x, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def outline(drawing: Drawing) -> Drawing:
    """The drawing as one black shape, so that its edges are its outline only."""
    return Drawing(np.zeros_like(drawing.rgb), drawing.alpha)


def posterised(drawing: Drawing, strength: float = 45) -> np.ndarray:
    """The drawing with small shading smoothed away and edges kept; uint8 [H,W,3]."""
    return cv2.bilateralFilter(drawing.rgb, 7, strength, 5)


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
