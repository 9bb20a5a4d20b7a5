"""Contact sheets: pictures in rows and columns, with labels where they help."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from .loop import write_atomically


def to_image(picture: Tensor | np.ndarray) -> Image.Image:
    """Float tensor [3, H, W] in -1..1, or uint8 array [H, W, 3], as a PIL image."""
    if isinstance(picture, Tensor):
        picture = ((picture.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(picture)


def save_grid(
    columns: Sequence[Sequence[Tensor | np.ndarray]],
    path: Path,
    *,
    labels: Sequence[str] = (),
    side: int = 64,
    row_labels: Sequence[str] = (),
) -> None:
    """Write a PNG of columns of pictures (all columns equally long), `labels` above them, `row_labels` at the left."""
    top, left, step = (14 if labels else 0), (90 if row_labels else 0), side + 2
    sheet = Image.new("RGB", (left + step * len(columns), top + step * len(columns[0])), "white")
    pen = ImageDraw.Draw(sheet)
    for x, column in enumerate(columns):
        if labels:
            pen.text((left + x * step, 1), labels[x][: side // 6], fill="black")
        for y, picture in enumerate(column):
            image = to_image(picture)
            sheet.paste(
                image if image.size == (side, side) else image.resize((side, side)),
                (left + x * step, top + y * step),
            )
    for y, label in enumerate(row_labels):
        pen.text((2, top + y * step + side // 2 - 6), label[:15], fill="black")
    write_atomically(path, lambda scratch: sheet.save(scratch, format="PNG"))
