"""Pictures as people hand them over, brought to one form: a loaded, upright, 8-bit PIL image."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .errors import BadInput, StyleARError
from .files import to_path

MAX_PIXELS = 8192 * 8192
MAX_SCANS = 100  # of a JPEG, each of which goes over the whole picture; the finest progressive one has some twenty
# Formats that are pixels only; PIL also knows EPS, which starts a program.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm")

Picture = Image.Image | np.ndarray | Tensor


def is_picture(path: Path) -> bool:
    """Whether a file's name is a picture's; hidden ones, such as macOS's ._NAME.png, are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def formats() -> list[str]:
    """Those of FORMATS that this Pillow reads; an older one has no AVIF."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def open_image(path: str | PathLike) -> Image.Image:
    """Read a picture file: upright by its EXIF tag, the first frame of an animation, mode L, LA, RGB or RGBA.

    Raises BadInput for a file that is absent, not one of FORMATS, truncated, or above MAX_PIXELS (the size is
    checked before any pixel is decoded).
    """
    path = to_path(path, "picture")
    if not path.is_file():
        raise BadInput(f"There is no picture at {path}. Give the path of an image file.")
    # As an open file: by its name Pillow maps a TIFF into memory, and turns it into noise where it is rotated.
    with _decoding(path.name), path.open("rb") as file, Image.open(file, formats=formats()) as image:
        return to_pil(image, name=path.name)


def decode_png(data: bytes, *, most: int, name: str = "picture") -> Image.Image:
    """The bytes of a PNG as an RGB picture; BadInput if they are none, or a side has more than `most` pixels."""
    with _decoding(name), Image.open(BytesIO(data), formats=["PNG"]) as image:
        if max(image.size) > most:
            raise BadInput(f"The {name} is {image.width} x {image.height}, and {most} pixels are allowed.")
        return to_rgb(image, name=name)


def to_pil(picture: Picture, *, name: str = "picture") -> Image.Image:
    """Any one picture as a new PIL image of mode L, LA, RGB or RGBA; the argument is never changed.

    Accepts a PIL image of any mode (16-bit and palette too; its EXIF rotation is applied), or an array or
    tensor [H, W], [H, W, 1|3|4] or the same with a leading 1, of uint8, uint16, bool, or floats in 0..1 (a
    small overshoot, as upscalers make, is clipped). Raises BadInput, calling the picture `name`, for anything
    else: NaN or infinite pixels, no pixels, more than MAX_PIXELS, several pictures at once, channels first.
    """
    if isinstance(picture, Image.Image):
        with _decoding(name):
            _check_size(*picture.size, name)
            _check_scans(picture, name)
            return _to_eight_bit(ImageOps.exif_transpose(picture), name)
    if isinstance(picture, Tensor):
        picture = _to_array(picture, name)
    if not isinstance(picture, np.ndarray):
        raise BadInput(f"The {name} is a {type(picture).__name__}; give a PIL image, an array or a tensor.")
    return _from_array(picture, name)


def to_rgb(picture: Picture, *, name: str = "picture") -> Image.Image:
    """As `to_pil`, then mode RGB. Alpha is dropped, as the released code does with style pictures."""
    return to_pil(picture, name=name).convert("RGB")


def to_float(picture: Picture) -> Tensor:
    """A picture as float32 [H, W, 3] in 0..1, ComfyUI's order."""
    return torch.from_numpy(np.asarray(to_rgb(picture), dtype=np.float32) / 255)


def to_mask(mask: Picture, size: tuple[int, int]) -> Tensor:
    """A mask as float32 [H, W] in 0..1, 1 where selected; otherwise as `mask_image`."""
    return torch.from_numpy(np.asarray(mask_image(mask, size), dtype=np.float32) / 255)


def mask_image(mask: Picture, size: tuple[int, int]) -> Image.Image:
    """A mask as mode L, white where selected, resized (bilinear) to `size` = (width, height).

    Accepts what `to_pil` does, and [1, H, W]; colours count by their brightness. Integers that are only 0 and
    1 count as a yes/no mask. Raises BadInput as `to_pil`.
    """
    if isinstance(mask, Tensor):
        mask = _to_array(mask, "mask")
    if isinstance(mask, np.ndarray):
        mask = mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
        if mask.dtype.kind in "iu" and mask.size and mask.min() >= 0 and mask.max() <= 1:
            mask = mask.astype(bool)
    image = to_pil(mask, name="mask").convert("L")
    return image if image.size == tuple(size) else image.resize(size, Image.Resampling.BILINEAR)


def centre_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    """The middle `width` x `height` pixels of a picture at least that large."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def limit_aspect(image: Image.Image, ratio: int = 16) -> Image.Image:
    """The middle of a picture whose long side is more than `ratio` times the short one, others unchanged.

    For callers that scale the short side up and keep the middle only: a 1 x 60000 picture would become
    gigapixels.
    """
    limit = ratio * min(image.size)
    return centre_crop(image, min(image.width, limit), min(image.height, limit))


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Every failure of a decoder as one BadInput; a broken file can make a decoder raise nearly anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except StyleARError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(f"The {name} is above {MAX_PIXELS} pixels. Make it smaller. ({error})") from error
    except Exception as error:
        raise BadInput(f"The {name} cannot be read as an image. Save it again as PNG or JPEG. ({error})") from error


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise BadInput(f"The {name} is empty: {width} x {height} pixels. Give a picture with pixels.")
    if width * height > MAX_PIXELS:
        raise BadInput(f"The {name} is {width} x {height}, above {MAX_PIXELS} pixels. Make it smaller.")


def _check_scans(picture: Image.Image, name: str) -> None:
    """BadInput for a JPEG file of more than MAX_SCANS scans, before any is decoded."""
    file = getattr(picture, "fp", None)
    if picture.format not in ("JPEG", "MPO") or file is None:
        return
    place, scans, last = file.tell(), 0, b""
    file.seek(0)
    while part := file.read(1 << 20):
        scans += (last + part).count(b"\xff\xda")  # two bytes that the coded pixels do not have together
        last = part[-1:]
    file.seek(place)
    if scans > MAX_SCANS:
        raise BadInput(f"The {name} has {scans} scans, above {MAX_SCANS}. Save it again as a plain JPEG or PNG.")


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is real numbers in memory: not sparse, nested, quantised, complex, nor of the meta device."""
    special = tensor.is_meta or tensor.is_nested or tensor.is_quantized or tensor.is_complex()
    return tensor.layout is torch.strided and not special


def _to_array(picture: Tensor, name: str) -> np.ndarray:
    if not is_plain(picture):
        kind = f"{picture.layout}, {picture.dtype}, on {picture.device}"
        raise BadInput(f"The {name} is a tensor of another kind ({kind}). Give a dense one.")
    picture = picture.detach().cpu().resolve_neg()
    return (picture.float() if picture.is_floating_point() else picture).numpy()


def _to_eight_bit(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("LA", "RGBA") or (image.mode in ("L", "RGB") and not image.has_transparency_data):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "F":
        return _from_array(np.asarray(image), name)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadInput(f"The {name} has values {values.min()}..{values.max()}; 16 bits hold 0..65535. Rescale it.")
        return _from_array(values.astype(np.uint16), name)
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _from_array(values: np.ndarray, name: str) -> Image.Image:
    shape = values.shape
    if values.ndim == 4 and shape[0] > 1:
        raise BadInput(f"The {name} is a batch of {shape[0]}. Give one picture at a time.")
    if values.ndim == 4 or (values.ndim == 3 and shape[0] == 1 and shape[2] not in (1, 3, 4)):
        values = values[0] if shape[0] else values
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))):
        raise BadInput(f"The {name} has shape {list(shape)}; give [H, W] or [H, W, 3 or 4].")
    _check_size(values.shape[1], values.shape[0], name)
    if values.dtype == bool:
        values = values * np.uint8(255)
    elif values.dtype == np.uint16:
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif values.dtype.kind == "f":
        low, high = values.min(), values.max()
        if not np.isfinite([low, high]).all():
            raise BadInput(f"The {name} has NaN or infinite pixels. Correct the step that made it.")
        if low < -0.5 or high > 1.5:
            raise BadInput(f"The {name} has floats in {low:g}..{high:g}; floats must be in 0..1. Rescale it.")
        values = values.clip(0, 1)
        values *= 255  # in place: large pictures are hundreds of megabytes
        values = values.round(out=values).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise BadInput(f"The {name} is of type {values.dtype}; give uint8, uint16 or floats in 0..1.")
    return Image.fromarray(np.ascontiguousarray(values))
