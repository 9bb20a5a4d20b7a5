"""`example`: writes small data and models, so that every other command can be tried without a download."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from .config import Settings
from .data.captions import caption
from .data.renderers import render
from .data.renderers.toolkit import Drawing
from .loop import write_atomically
from .output import output_folder
from .tiny_sdxl import write_tiny_sdxl

CANVAS = 128  # pixels that are drawn on, before the picture is made smaller
RENDERED = ("plain", "gouache", "toon", "pastel", "papercut", "crayon")  # what the pictures look like
STYLES = ("watercolour", "pixel16", "neon", "stained_glass", "blueprint", "oil", "linocut", "underwater")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (240, 130, 30),
    "yellow": (240, 200, 40),
    "green": (50, 150, 70),
    "blue": (40, 90, 200),
    "purple": (130, 60, 170),
    "pink": (240, 120, 170),
    "brown": (130, 80, 40),
    "grey": (130, 130, 130),
    "black": (30, 30, 30),
}
PROMPTS = (
    *("a cat", "a dog", "a fox", "a rabbit", "an owl", "a fish", "a butterfly", "a tree", "a mushroom", "a red apple"),
    *(
        "a house",
        "a castle",
        "a sailboat",
        "a rocket",
        "a blue star",
        "a heart",
        "a moon",
        "a crown",
        "a bell",
        "a robot",
    ),
)

Points = list[tuple[float, float]]


class ExampleSettings(Settings):
    """How much is written, and where."""

    out: Path = Field(Path("work/example"), description="folder to write")
    pictures: int = Field(200, ge=1, le=100_000, description="captioned pictures")
    size: int = Field(64, ge=16, le=1024, description="side of each picture in pixels")
    seed: int = Field(0, ge=0, lt=2**32, description="of the pictures and of the models' random weights")


def run(settings: ExampleSettings) -> str:
    """Write pictures/, styles/, prompts.txt, sdxl/ and ip_adapter/, always the same bytes; returns a summary."""
    with output_folder(settings.out, settings) as out:
        for number in tqdm(range(settings.pictures), desc="pictures", unit="pic"):
            rng = np.random.default_rng([settings.seed, number])
            shape, colour = list(SHAPES)[number % len(SHAPES)], list(COLOURS)[number // len(SHAPES) % len(COLOURS)]
            picture = _render(RENDERED[number % len(RENDERED)], shape, colour, settings.size, rng)
            _write(out / "pictures" / f"{number:05d}.png", picture, caption(f"{colour} {shape}", rng))
        for number, style in enumerate(STYLES):
            rng = np.random.default_rng([settings.seed, settings.pictures + number])
            shape, colour = list(SHAPES)[number % len(SHAPES)], list(COLOURS)[number % len(COLOURS)]
            picture = _render(style, shape, colour, settings.size, rng)
            _write(out / "styles" / f"{style}.png", picture, f"a {colour} {shape}")
        write_atomically(out / "prompts.txt", lambda path: path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8"))
        write_tiny_sdxl(out, settings.seed)
    return (
        f"{out} now holds {settings.pictures} captioned pictures of {settings.size} x {settings.size} pixels, "
        f"{len(STYLES)} style pictures, {len(PROMPTS)} prompts, and a random SDXL with IP-Adapter.\n"
        f"Written: {out / 'pictures'}, {out / 'styles'}, {out / 'prompts.txt'}, {out / 'sdxl'}, {out / 'ip_adapter'}"
    )


def draw_shape(name: str, colour: tuple[int, int, int], rng: np.random.Generator) -> Drawing:
    """A shape of SHAPES in a colour, uint8 RGB, a little turned, moved and scaled, on CANVAS x CANVAS pixels."""
    fine = 4  # drawn larger and averaged, for smooth edges
    middle = CANVAS / 2 + rng.uniform(-10, 10, 2)
    radius, turn = rng.uniform(36, 50), rng.uniform(-0.25, 0.25)
    move = radius * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    mask = np.zeros((CANVAS * fine, CANVAS * fine), np.uint8)
    for outline in SHAPES[name]():
        corners = (np.array(outline) @ move.T + middle) * fine
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 255)
    alpha = cv2.resize(mask, (CANVAS, CANVAS), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    light = 1 + 0.15 * np.linspace(1, -1, CANVAS, dtype=np.float32)[:, None, None]  # from above
    ink = np.clip(np.array(colour, np.float32) * light, 0, 255)
    over = 255 + (ink - 255) * alpha[..., None]
    return Drawing(np.rint(over).astype(np.uint8), alpha)


def _render(style: str, shape: str, colour: str, size: int, rng: np.random.Generator) -> np.ndarray:
    picture = render(style, draw_shape(shape, COLOURS[colour], rng), rng)
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def _write(path: Path, picture: np.ndarray, words: str) -> None:
    write_atomically(path.with_suffix(".txt"), lambda draft: draft.write_text(words + "\n", encoding="utf-8"))
    write_atomically(path, lambda draft: Image.fromarray(picture).save(draft, format="PNG"))


def _ring(corners: int, radius: Callable[[int], float] = lambda _: 1.0, x: float = 0.0, y: float = 0.0) -> Points:
    """Points around (x, y), the first one on top, each `radius(number)` away."""
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return [(x + radius(i) * math.sin(a), y - radius(i) * math.cos(a)) for i, a in enumerate(angles)]


def _disc(x: float, y: float, radius: float) -> Points:
    return _ring(64, lambda _: radius, x, y)


def _heart() -> list[Points]:
    angles = np.linspace(0, 2 * math.pi, 100)
    x = np.sin(angles) ** 3
    y = -(13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)) / 16
    return [list(zip(x, y, strict=True))]


def _moon() -> list[Points]:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.3 * math.pi, 1.7 * math.pi, 60)]
    inner = [(0.35 + 0.83 * math.cos(a), 0.83 * math.sin(a)) for a in np.linspace(1.6 * math.pi, 0.4 * math.pi, 60)]
    return [[(x + 0.3, y) for x, y in outer + inner]]


# Outlines in a circle of radius 1 with y downwards; several are drawn one over the other.
SHAPES: dict[str, Callable[[], list[Points]]] = {
    "star": lambda: [_ring(10, lambda i: 0.45 if i % 2 else 1.0)],
    "heart": _heart,
    "moon": _moon,
    "sun": lambda: [_ring(24, lambda i: 0.7 if i % 2 else 1.0)],
    "circle": lambda: [_disc(0, 0, 0.9)],
    "arrow": lambda: [[(-1, -0.25), (0.1, -0.25), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.25), (-1, 0.25)]],
    "house": lambda: [
        [(0, -1), (1, -0.1), (-1, -0.1)],
        [(-0.75, -0.1), (0.75, -0.1), (0.75, 0.9), (0.2, 0.9), (0.2, 0.3), (-0.2, 0.3), (-0.2, 0.9), (-0.75, 0.9)],
    ],
    "tree": lambda: [
        [(0, -1), (0.6, -0.2), (-0.6, -0.2)],
        [(0, -0.6), (0.8, 0.5), (-0.8, 0.5)],
        [(-0.15, 0.5), (0.15, 0.5), (0.15, 1), (-0.15, 1)],
    ],
    "cloud": lambda: [_disc(-0.5, 0.2, 0.45), _disc(0.5, 0.25, 0.4), _disc(0, -0.1, 0.55), _disc(0.1, 0.3, 0.4)],
    "fish": lambda: [
        _ring(64, lambda i: 0.75 - 0.3 * abs(math.cos(2 * math.pi * i / 64)), -0.2),
        [(0.35, 0), (1, -0.5), (1, 0.5)],
    ],
}
