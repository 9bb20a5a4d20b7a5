"""Draws a contact sheet of every style: python -m training.data.renderers.sheet OUT.png ICONS.npy."""

import sys
from collections.abc import Sequence

import cv2
import numpy as np

from . import STYLES, render
from .toolkit import Drawing


def drawing_from_rgba(rgba: np.ndarray) -> Drawing:
    """uint8 [H,W,4] with straight alpha -> Drawing over white."""
    alpha = rgba[..., 3].astype(np.float32) / 255
    rgb = 255 + (rgba[..., :3].astype(np.float32) - 255) * alpha[..., None]
    return Drawing(np.rint(rgb).astype(np.uint8), alpha)


def contact_sheet(drawings: Sequence[Drawing], seed: int = 0, columns: int = 4, side: int = 64) -> np.ndarray:
    """Each style beside its name, every drawing at side x side pixels shown twice as large; uint8 [H,W,3]."""
    cells = []
    for name in STYLES:
        rng = np.random.default_rng(seed)
        pictures = [render(name, drawing, rng) for drawing in drawings]
        small = [cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in pictures]
        row = cv2.resize(np.hstack(small), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        label = np.full((18, row.shape[1], 3), 255, np.uint8)
        cv2.putText(label, name, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        cell = np.vstack([label, row])
        cells.append(cv2.copyMakeBorder(cell, 2, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255,) * 3))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])


if __name__ == "__main__":
    out, icons = sys.argv[1:3]
    pictures = np.load(icons, mmap_mode="r")
    chosen = [drawing_from_rgba(pictures[i]) for i in np.linspace(0, len(pictures) - 1, 6)[1:5].astype(int)]
    cv2.imwrite(out, contact_sheet(chosen)[..., ::-1])
