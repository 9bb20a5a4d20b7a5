"""All drawing styles by name: each turns a drawing into a picture in that style."""

from hashlib import sha256

import cv2
import numpy as np

from . import ink, light, paint, palettes, print, texture
from .toolkit import Drawing, Renderer

STYLES: dict[str, Renderer] = {
    **palettes.RENDERERS,
    **ink.RENDERERS,
    **paint.RENDERERS,
    **texture.RENDERERS,
    **print.RENDERERS,
    **light.RENDERERS,
}


def render(name: str, drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """The drawing in the named style, uint8 [H,W,3]; an equal rng gives an equal picture."""
    return STYLES[name](drawing, rng)


def fingerprint() -> str:
    """The SHA-256 of one drawing in every style: another one where any style draws otherwise."""
    cv2.setNumThreads(1)  # none of its threads may run when worker processes are forked later
    y, x = np.mgrid[:128, :128]
    disc = np.clip((48 - np.hypot(x - 64, y - 64)) / 8, 0, 1).astype(np.float32)
    drawing = Drawing(np.stack([2 * x, 2 * y, 254 - x - y], axis=2).astype(np.uint8), disc)
    digest = sha256()
    for name in STYLES:
        digest.update(name.encode() + render(name, drawing, np.random.default_rng(0)).tobytes())
    return digest.hexdigest()
