"""The geometry of a condition: a depth or segmentation map cut and scaled to the VQGAN's pixels."""

from reprlib import repr as short

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import BadInput
from .images import Picture, centre_crop, limit_aspect, to_pil

KINDS = ("depth", "segmentation")
MAX_RATIO = 4


def crop_sizes(target_size: int, step: int = 32) -> list[tuple[int, int]]:
    """All (width, height) a condition may have, widest first, multiples of `step` px.

    They are the frontier of width * height <= target_size^2 on that grid, up to 4 : 1 (released
    data/item_processor.py; 73 sizes for 768 px and 32 px steps). target_size is rounded down to the step;
    below one step is a BadInput.
    """
    if step < 1 or target_size < step:
        raise BadInput(f"A condition of {target_size} px has no grid of {step} px. Make it at least {step}.")
    area = (target_size // step) ** 2
    return [
        (width * step, height * step)
        for width in range(area, 0, -1)
        for height in range(max(1, area // (width + 1)), area // width + 1)
        if max(width, height) <= MAX_RATIO * min(width, height)
    ]


def choose_crop(size: tuple[int, int], sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) that loses least of a picture of `size` covering it; of equals the widest."""

    def kept(crop: tuple[int, int]) -> float:
        width, height = crop[0] / size[0], crop[1] / size[1]
        return min(width, height) / max(width, height)

    return max(sizes, key=lambda crop: (kept(crop), crop))


def cover(image: Image.Image, crop: tuple[int, int], kind: str = "depth") -> Image.Image:
    """A picture scaled until it just covers `crop`: halved (box) while twice as large, then bicubic.

    A segmentation map takes the nearest pixel, so that no colour appears between two areas. Raises BadInput for a kind
    that is not one of KINDS.
    """
    if kind not in KINDS:
        raise BadInput(f"The kind of the condition is {short(kind)}. Use one of {', '.join(KINDS)}.")
    while kind != "segmentation" and image.width >= 2 * crop[0] and image.height >= 2 * crop[1]:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(crop[0] / image.width, crop[1] / image.height)
    filters = Image.Resampling.NEAREST if kind == "segmentation" else Image.Resampling.BICUBIC
    return image.resize((round(image.width * scale), round(image.height * scale)), filters)


def condition_pixels(picture: Picture, target_size: int = 768, step: int = 32, kind: str = "depth") -> Tensor:
    """A map, taken as it is, for VQGAN.encode: float32 [1, 3, H, W] in -1..1, a size of `crop_sizes`.

    kind: depth or segmentation, see `cover`. Depth is as released (data/item_processor.py), with two departures: the
    crop is the middle, where the released code draws its place from an unseeded generator, and a palette or 16-bit map
    is made 8-bit before it is resized, not after. Nothing is released for segmentation but a picture of areas in flat
    colours (assets/seg.png). Transparency becomes white after the resize. Raises BadInput as `to_pil`, and for another
    kind.
    """
    image = limit_aspect(to_pil(picture, name="condition"))
    crop = choose_crop(image.size, crop_sizes(target_size, step))
    return to_pixels(centre_crop(cover(image, crop, kind), *crop))


def to_pixels(image: Image.Image) -> Tensor:
    """A picture over white, as float32 [1, 3, H, W] in -1..1."""
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float64)
    alpha = pixels[..., 3:] / 255
    pixels = np.floor((1 - alpha) * 255 + alpha * pixels[..., :3])
    return torch.from_numpy(pixels / 255 * 2 - 1).float().permute(2, 0, 1)[None].contiguous()
