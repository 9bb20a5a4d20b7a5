"""Picture files and picture values: every mode, format and size, damaged, doctored and of no kind at all."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from stylear.errors import BadInput
from stylear.images import MAX_PIXELS, open_image, to_mask, to_pil, to_rgb
from training.curation.filters import FilterSettings, examine
from training.curation.items import Unusable
from training.tokens import decode

from .harness import failed, hostile, outcome
from .strategies import damaged, odd_values

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F")
Image.init()
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO", "TGA", "PDF", "MPO")
FORMATS = tuple(name for name in FORMATS if name in Image.SAVE)  # an older Pillow has no AVIF
KEPT = ("L", "LA", "RGB", "RGBA")
ORIENTATION = 0x0112
sides = st.integers(1, 24)
anything = FilterSettings(min_side=1, max_aspect=1000)


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    mode, size, seed = draw(st.sampled_from(MODES)), (draw(sides), draw(sides)), draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(rng.random(size[::-1], dtype=np.float32) * draw(st.sampled_from([1, 1, 2, np.nan])))
    if mode.startswith("I"):
        values = rng.integers(0, 2**16, size[::-1]) * draw(
            st.sampled_from([1, 1, -1, 70000]) if mode == "I" else st.just(1)
        )
        values = np.clip(values, -(2**31), 2**31 - 1)
        dtype = {"I": np.int32, "I;16": "<u2", "I;16B": ">u2"}[mode]
        return Image.frombytes(mode, size, values.astype(dtype).tobytes())
    coloured = Image.fromarray(rng.integers(0, 256, (*size[::-1], 4), dtype=np.uint8))
    return (
        coloured.convert("RGB").convert(mode)
        if mode in ("YCbCr", "LAB", "HSV", "CMYK", "P", "1", "RGBX")
        else coloured.convert(mode)
    )


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A picture file of any mode and format, rotated, animated or neither; RGB where the format has no such mode."""
    picture, kind = draw(pictures()), draw(st.sampled_from(FORMATS))
    orientation, frames = draw(st.integers(0, 9)), draw(st.integers(1, 3))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    more = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    if kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF") and frames > 1:
        more |= {"save_all": True, "append_images": [picture] * (frames - 1)}
    try:
        return _saved(picture, kind, **more)
    except (OSError, ValueError, KeyError, TypeError):
        return _saved(picture.convert("RGB"), kind)


def _saved(picture: Image.Image, kind: str, **more) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8, colour: int = 2) -> bytes:
    """A PNG that says to be of a size, with other chunks before its (few) pixels."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = (header, *chunks, (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in body
    )


def same(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures have the same pixels; what they tell of themselves may hold the time."""
    return (one.mode, one.size, one.tobytes()) == (other.mode, other.size, other.tobytes())


def check_picture(found: object) -> None:
    """What every reader of pictures gives: an upright 8-bit picture of one of four modes and a bounded size."""
    assert found.mode in KEPT and 1 <= found.width * found.height <= MAX_PIXELS
    assert found.getexif().get(ORIENTATION) not in range(2, 9), "the rotation would be applied twice"
    np.asarray(found)


def check_file(folder, data: bytes) -> None:
    """A file's readers end well, see the same picture, and see it again."""
    path = folder / "x.png"
    path.write_bytes(data)
    found, again, inside = (
        outcome(open_image, path),
        outcome(open_image, path),
        outcome(decode, data, "picture in a row"),
    )
    assert failed(found) == failed(again) == failed(inside), (found, again, inside)
    if not failed(found):
        check_picture(found)
        assert same(found, again) and same(found, inside) and to_rgb(found).mode == "RGB"
    kept = outcome(examine, data, anything, errors=(Unusable,))
    assert failed(kept) == failed(found) or min(found.size) * 1000 < max(found.size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@hostile(180, file=files())
def test_a_picture_file_of_any_mode_and_format_is_read_upright_or_refused(folder, file):
    check_file(folder, file)


@hostile(200, data=files().flatmap(damaged))
def test_a_damaged_picture_file_is_read_or_refused(folder, data):
    check_file(folder, data)


@hostile(
    80,
    width=st.sampled_from([0, 1, 8, 2**13, 2**16, 2**31 - 1, 2**32 - 1]),
    height=st.sampled_from([0, 1, 8, 2**13 + 1, 2**16, 2**31 - 1]),
    bits=st.sampled_from([1, 2, 8, 16, 3]),
    colour=st.sampled_from([0, 2, 3, 4, 6, 1]),
    text=st.sampled_from([b"", bytes(1 << 26)]),
)
def test_a_bomb_is_refused_before_it_is_unpacked(folder, width, height, bits, colour, text):
    chunk = (b"zTXt", b"x\0\0" + zlib.compress(text, 1))
    check_file(folder, png(width, height, chunk, bits=bits, colour=colour))


@hostile(60, orientation=st.integers(1, 8), width=sides, height=sides)
def test_a_rotated_photo_is_as_wide_as_it_looks(folder, orientation, width, height):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", (width, height)).save(folder / "x.jpg", exif=exif)
    assert open_image(folder / "x.jpg").size == ((height, width) if orientation > 4 else (width, height))


dtypes = st.sampled_from(
    [
        "?",
        "u1",
        "<u2",
        ">u2",
        "i1",
        "i4",
        "i8",
        "u8",
        "f2",
        "f4",
        ">f4",
        "f8",
        "g",
        "c8",
        "O",
        "S3",
        "U2",
        "M8[s]",
        "V4",
    ]
)
shapes = st.sampled_from(
    [
        (),
        (0,),
        (3,),
        (4, 5),
        (0, 5),
        (4, 0),
        (4, 5, 0),
        (4, 5, 1),
        (4, 5, 3),
        (4, 5, 4),
        (3, 4, 5),
        (1, 4, 5, 3),
        (2, 4, 5, 3),
        (0, 4, 5, 3),
        (1, 4, 5),
        (1, 1, 3),
        (1, 2, 3, 4, 5),
    ]
)
fills = st.sampled_from([0, 1, 0.5, -1, 300, 1.2, 1e30, float("nan"), float("-inf")])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype, shape, fill = draw(dtypes), draw(shapes), draw(fills)
    try:
        with np.errstate(all="ignore"):
            values = np.full(shape, fill).astype(dtype)
    except (TypeError, ValueError):
        values = np.zeros(shape, dtype)
    return values[::-1] if draw(st.booleans()) and values.ndim else values


def check_value(value: object) -> None:
    """A value is read as a picture, twice the same, or refused, and is not changed."""
    before = value.copy() if isinstance(value, np.ndarray | Image.Image) else value
    found, again = outcome(to_pil, value), outcome(to_pil, value)
    assert failed(found) == failed(again) and (not failed(found) or isinstance(found, BadInput))
    if not failed(found):
        check_picture(found)
        assert same(found, again)
    outcome(to_mask, value, (3, 4))
    if isinstance(value, np.ndarray):
        assert value.tobytes() == before.tobytes() and value.dtype == before.dtype
    if isinstance(value, Image.Image):
        assert same(value, before)


def check_refused(value: object) -> None:
    """A value is no picture."""
    assert failed(outcome(to_pil, value)), "it was taken for a picture"


@hostile(120, value=arrays() | pictures() | odd_values)
def test_an_array_a_picture_or_any_other_value_is_read_or_refused_and_not_changed(value):
    check_value(value)


def odd_tensor(kind: str) -> torch.Tensor:
    plain = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0))
    return {
        "a conjugate's imaginary part": lambda: torch.view_as_complex(plain[..., :2].contiguous()).conj().imag,
        "with a gradient": lambda: plain.requires_grad_(),
        "half": lambda: plain.half(),
        "8-bit float": lambda: plain.to(torch.float8_e4m3fn),
        "complex": lambda: plain.to(torch.complex64),
        "sparse": lambda: plain.to_sparse(),
        "without memory": lambda: plain.to("meta"),
        "quantised": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.quint8),
        "nested": lambda: torch.nested.nested_tensor([plain, plain]),
        "expanded": lambda: plain[:1, :1].expand(4, 5, 3),
        "64-bit unsigned": lambda: plain.to(torch.uint64),
        "transposed": lambda: plain.permute(1, 0, 2),
        "made in inference mode": lambda: _inferred(plain),
    }[kind]()


def _inferred(plain: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return plain * 1


KINDS = [
    "a conjugate's imaginary part",
    "with a gradient",
    "half",
    "8-bit float",
    "complex",
    "sparse",
    "without memory",
]
KINDS += ["quantised", "nested", "expanded", "64-bit unsigned", "transposed", "made in inference mode"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_of_any_kind_is_read_or_refused(kind):
    check_value(odd_tensor(kind))
