"""Content-destroying views: the target picture changed so that its style tokens cannot give its layout away."""

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field

from stylear.images import centre_crop

from .config import Settings


class Views(Settings):
    """How the picture is changed before the image encoder sees it; by default not at all, as in the paper."""

    shuffle: int = Field(0, ge=0, le=32, description="cut it into n x n patches and shuffle them; 0 or 1: not")
    crop: float = Field(1.0, gt=0, le=1, description="least share of its area that a random crop keeps; 1: all of it")
    flip: float = Field(0.0, ge=0, le=1, description="chance that it is mirrored")

    @property
    def change(self) -> bool:
        """Whether a picture can come out different."""
        return self.shuffle > 1 or self.crop < 1 or self.flip > 0


def view(picture: Image.Image, views: Views, rng: np.random.Generator) -> Image.Image:
    """A picture cropped (same aspect ratio), mirrored and shuffled as `views` says; a new image of the same mode."""
    if views.crop < 1:
        picture = _crop(picture, rng.uniform(views.crop, 1), rng)
    if rng.random() < views.flip:
        picture = ImageOps.mirror(picture)
    if views.shuffle > 1:
        picture = _shuffle(picture, min(views.shuffle, *picture.size), rng)
    return picture


def _crop(picture: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    width, height = (max(1, round(side * share**0.5)) for side in picture.size)
    left, top = (int(rng.integers(whole - kept + 1)) for whole, kept in zip(picture.size, (width, height), strict=True))
    return picture.crop((left, top, left + width, top + height))


def _shuffle(picture: Image.Image, patches: int, rng: np.random.Generator) -> Image.Image:
    """The middle that divides into `patches` x `patches` equal parts, their places exchanged at random."""
    width, height = (side // patches for side in picture.size)
    picture = centre_crop(picture, width * patches, height * patches)
    corners = [(x * width, y * height) for y in range(patches) for x in range(patches)]
    shuffled = Image.new(picture.mode, picture.size)
    for place, source in zip(corners, rng.permutation(len(corners)), strict=True):
        x, y = corners[source]
        shuffled.paste(picture.crop((x, y, x + width, y + height)), place)
    return shuffled
