"""Which pictures are kept: readable, of a fair size and shape, new, and of what their caption says."""

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from pydantic import Field

from stylear.errors import BadInput
from stylear.images import MAX_PIXELS, formats, to_pil

from ..config import Settings
from ..processes import processes
from .items import Unusable

STORED = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}  # kept byte for byte; others become PNG
MODEL_SIDE = 512  # what the agreement is measured on: the shorter side, at most

Score = Callable[[list[str], list[Image.Image]], np.ndarray]


class FilterSettings(Settings):
    """What a picture must be to be kept."""

    min_side: int = Field(256, ge=1, description="pixels of the shorter side")
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=MAX_PIXELS, description="width times height")
    max_aspect: float = Field(4.0, ge=1, description="longer side over shorter side")
    near_duplicates: int | None = Field(
        None, ge=0, le=7, description="bits of 64 that may differ in the hash of a near duplicate; null: not looked for"
    )
    min_agreement: float | None = Field(
        None, gt=-1, lt=1, description="cosine of text and picture in the CLIP below; null: not measured"
    )
    clip: str = Field("mini", description='CLIP for it: folder or file, or "mini" for the bundled one')


@dataclass(frozen=True)
class Examined:
    """A picture that can be read: file bytes and their ending, upright size, hashes, and a small copy if wanted.

    pixels: SHA-256 of the RGB pixels, bytes [32]. look: 64 bits that hardly change when a picture is scaled or saved
    again.
    """

    data: bytes
    ending: str
    width: int
    height: int
    pixels: bytes
    look: int
    small: Image.Image | None


def examine(data: bytes, filters: FilterSettings) -> Examined:
    """Decode a picture file and measure it; Unusable if it is broken, too small, too large or too long.

    The size is taken from the file's head: nothing too large is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as file:
            _check_size(*file.size, filters)
            ending = STORED.get(file.format)
            image = to_pil(file)
    except Unusable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unusable("too_large", str(error)) from error
    except Exception as error:  # a broken file can make a decoder raise nearly anything
        detail = "no picture format that is read" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise Unusable("broken", " ".join(detail.split())) from error
    if ending is None:
        file = io.BytesIO()
        image.save(file, format="PNG")
        data, ending = file.getvalue(), "png"
    rgb = image.convert("RGB")
    pixels = hashlib.sha256(f"{rgb.width} {rgb.height} ".encode() + rgb.tobytes()).digest()
    small = _shrunk(rgb) if filters.min_agreement is not None else None
    return Examined(data, ending, rgb.width, rgb.height, pixels, look_of(rgb), small)


def look_of(image: Image.Image) -> int:
    """The perceptual hash of a picture, 64 bits: which of the 8 x 8 lowest DCT coefficients exceed their median.

    Of the picture in grey at 32 x 32 pixels.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float32)
    low = cv2.dct(grey)[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


def clip_score(path: str) -> Score:
    """The agreement of captions and pictures, float [n], by the CLIP at `path`."""
    from ..metrics.clip import ClipScore

    clip = ClipScore.load(path, processes().device)

    def score(captions: list[str], images: list[Image.Image]) -> np.ndarray:
        return np.asarray((clip.texts(captions) * clip.images(images)).sum(-1))

    return score


def check_agreement(score: float, filters: FilterSettings) -> None:
    """Unusable if a caption agrees too little with its picture; BadInput if the model gave no number."""
    if not math.isfinite(score):
        raise BadInput(f"The CLIP {filters.clip} gave {score} as an agreement: its weights are damaged.")
    if score < filters.min_agreement:
        raise Unusable("low_agreement", f"{score:.3f}, below {filters.min_agreement:g}")


def _check_size(width: int, height: int, filters: FilterSettings) -> None:
    short, long = sorted((width, height))
    if width * height > filters.max_pixels:
        raise Unusable("too_large", f"{width} x {height}, above {filters.max_pixels} pixels")
    if short < filters.min_side:
        raise Unusable("too_small", f"{width} x {height}, the shorter side below {filters.min_side}")
    if long > filters.max_aspect * short:
        raise Unusable("aspect", f"{width} x {height}, above {filters.max_aspect:g} : 1")


def _shrunk(image: Image.Image) -> Image.Image:
    scale = MODEL_SIDE / min(image.size)
    return image if scale >= 1 else image.resize([round(scale * side) for side in image.size], Image.Resampling.BICUBIC)
