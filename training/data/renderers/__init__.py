"""All drawing styles by name: each turns a drawing into a picture in that style."""

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
