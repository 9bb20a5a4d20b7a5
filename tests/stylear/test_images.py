"""Any picture a person may hand over is brought to one form, or refused with a reason."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from stylear.errors import BadInput
from stylear.images import (
    MAX_PIXELS,
    centre_crop,
    limit_aspect,
    open_image,
    to_float,
    to_mask,
    to_pil,
    to_rgb,
)

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def png_of_size(width, height):
    """A PNG whose header claims a size, with hardly any data: a bomb."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def test_a_saved_picture_comes_back_pixel_for_pixel(tmp_path):
    image = open_image(saved(tmp_path, Image.fromarray(COLOURS)))
    assert image.mode == "RGB" and np.array_equal(np.asarray(image), COLOURS)


@pytest.mark.parametrize(
    "picture",
    [
        torch.zeros(4, 4).to_sparse(),
        torch.zeros(4, 4, device="meta"),
        torch.quantize_per_tensor(torch.zeros(4, 4), 0.1, 0, torch.quint8),
        torch.zeros(4, 4, dtype=torch.complex64),
    ],
    ids=["sparse", "meta", "quantised", "complex"],
)
def test_a_tensor_without_plain_pixels_is_refused_as_picture_and_as_mask(picture):
    with pytest.raises(BadInput, match="The photo is"):
        to_pil(picture, name="photo")
    with pytest.raises(BadInput, match="The mask is"):
        to_mask(picture, (4, 4))


def test_a_path_without_a_file_is_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match="no picture at .*absent.png"):
        open_image(tmp_path / "absent.png")


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
    ids=["empty", "text", "eps"],
)
def test_a_file_that_is_not_a_picture_is_refused(tmp_path, data):
    (tmp_path / "picture.png").write_bytes(data)
    with pytest.raises(BadInput, match="picture.png cannot be read as an image"):
        open_image(tmp_path / "picture.png")


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.webp", "picture.gif"])
def test_a_truncated_file_is_refused(tmp_path, name):
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = saved(tmp_path, noise, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match="cannot be read"):
        open_image(path)


@pytest.mark.parametrize("side", [8193, 10000, 20000, 2**31 - 1])
def test_a_bomb_is_refused_before_its_pixels_are_decoded(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_of_size(side, side))
    with pytest.raises(BadInput, match=f"above {MAX_PIXELS} pixels"):
        open_image(tmp_path / "bomb.png")


def test_a_jpeg_of_many_scans_is_refused_before_any_is_decoded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, progressive=True, quality=95)
    assert open_image(path).size == (64, 64)
    data = path.read_bytes()
    last = data[data.rindex(b"\xff\xda") : -2]
    path.write_bytes(data[:-2] + last * 100 + data[-2:])
    with pytest.raises(BadInput, match="1[01]. scans, above 100"):
        open_image(path)
    with pytest.raises(BadInput, match="scans"):
        to_pil(Image.open(path))


def test_a_picture_in_memory_may_not_be_too_large_either():
    huge = np.broadcast_to(np.zeros(3, dtype=np.uint8), (20000, 20000, 3))
    with pytest.raises(BadInput, match="20000 x 20000"):
        to_pil(huge)


def test_a_picture_turned_by_its_exif_tag_comes_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(saved(tmp_path, Image.new("RGB", (4, 2)), exif=exif))
    assert image.size == (2, 4)
    assert to_rgb(image).size == (2, 4)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "picture.gif", save_all=True, append_images=frames[1:])
    assert to_rgb(open_image(path)).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16"])
def test_every_common_mode_becomes_rgb_of_the_same_size(mode):
    image = Image.new(mode, (5, 3))
    assert to_pil(image).mode in ("L", "LA", "RGB", "RGBA")
    assert (to_rgb(image).mode, to_rgb(image).size) == ("RGB", (5, 3))


def test_sixteen_bits_are_scaled_to_eight_and_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    expected = [[0, 1, 128, 255]]
    assert np.asarray(to_pil(values)).tolist() == expected
    assert np.asarray(to_pil(Image.fromarray(values.astype(np.int32)))).tolist() == expected
    assert np.asarray(open_image(saved(tmp_path, Image.fromarray(values)))).tolist() == expected


def test_numbers_beyond_sixteen_bits_are_refused():
    with pytest.raises(BadInput, match="0..70000"):
        to_pil(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))


def test_a_palette_keeps_its_colours_and_its_transparency(tmp_path):
    image = Image.fromarray(COLOURS).quantize(64)
    assert np.array_equal(np.asarray(to_pil(image)), np.asarray(image.convert("RGB")))
    transparent = to_pil(Image.open(saved(tmp_path, image, transparency=0)))
    assert transparent.mode == "RGBA" and np.asarray(transparent)[..., 3].min() == 0


def test_alpha_is_dropped_and_not_blended():
    assert to_rgb(Image.new("RGBA", (1, 1), (10, 20, 30, 0))).getpixel((0, 0)) == (10, 20, 30)


def test_the_given_picture_is_not_changed():
    image = Image.new("RGB", (2, 2), "red")
    to_pil(image).putpixel((0, 0), (0, 0, 0))
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "picture",
    [
        COLOURS,
        COLOURS[None],
        torch.from_numpy(COLOURS),
        (COLOURS / 255).astype(np.float32),
        COLOURS.astype(np.uint16) * 257,
        torch.from_numpy(COLOURS)[None] / 255,
        (torch.from_numpy(COLOURS) / 255).double().requires_grad_(),
    ],
    ids=["uint8", "batch", "tensor", "float", "uint16", "comfyui", "double"],
)
def test_arrays_and_tensors_of_one_picture_give_the_same_pixels(picture):
    assert np.array_equal(np.asarray(to_pil(picture)), COLOURS)


@pytest.mark.parametrize(
    "shape,mode", [((5, 7), "L"), ((1, 5, 7), "L"), ((5, 7, 1), "L"), ((1, 5, 7, 4), "RGBA"), ((1, 1), "L")]
)
def test_the_layout_of_an_array_decides_the_mode(shape, mode):
    assert to_pil(np.zeros(shape, dtype=np.uint8)).mode == mode


def test_half_precision_and_yes_no_arrays_are_pictures_too():
    assert to_pil(torch.ones(2, 2, dtype=torch.bfloat16)).getpixel((0, 0)) == 255
    assert to_pil(np.array([[True, False]])).getpixel((1, 0)) == 0


def test_a_small_overshoot_is_clipped():
    assert np.asarray(to_pil(np.array([[-0.1, 1.2]]))).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    "picture,reason",
    [
        (np.full((2, 2), np.nan), "NaN"),
        (torch.full((2, 2, 3), torch.inf), "infinite"),
        (np.full((2, 2), 255.0), "255..255; floats must be in 0..1"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((0, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), "batch of 2"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \[3, 8, 8\]"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((2, 2), complex), "complex"),
        (Image.new("RGB", (0, 3)), "empty"),
        (Image.fromarray(np.full((2, 2), np.nan, np.float32)), "NaN"),
        ("picture.png", "is a str"),
        (None, "is a NoneType"),
    ],
)
def test_what_is_not_a_picture_is_refused_with_the_reason(picture, reason):
    with pytest.raises(BadInput, match=reason):
        to_rgb(picture)


def test_the_refusal_names_the_picture_as_the_caller_calls_it():
    with pytest.raises(BadInput, match="The depth map is a str"):
        to_pil("x", name="depth map")


def test_floats_are_rgb_in_comfyui_order():
    pixels = to_float(Image.fromarray(COLOURS))
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, torch.from_numpy(COLOURS).float() / 255)


@pytest.mark.parametrize(
    "mask",
    [
        np.array([[0, 1], [1, 0]]),
        np.array([[0, 1], [1, 0]], dtype=np.uint8),
        np.array([[False, True], [True, False]]),
        torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]),
        torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8),
        Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)),
    ],
    ids=["int", "uint8 of ones", "bool", "comfyui", "bytes", "PIL"],
)
def test_every_kind_of_mask_means_the_same(mask):
    assert to_mask(mask, (2, 2)).tolist() == [[0, 1], [1, 0]]


def test_a_mask_is_stretched_to_the_picture():
    mask = to_mask(np.array([[0.0, 1.0]]), (8, 3))
    assert mask.shape == (3, 8) and mask[0, 0] == 0 and mask[2, 7] == 1


def test_a_mask_of_nan_is_refused_as_a_mask():
    with pytest.raises(BadInput, match="The mask has NaN"):
        to_mask(np.full((2, 2), np.nan), (2, 2))


def test_the_middle_of_a_picture_is_cut_out():
    image = Image.fromarray(np.arange(5, dtype=np.uint8)[None].repeat(5, 0))
    assert np.asarray(centre_crop(image, 2, 5))[0].tolist() == [1, 2]


def test_only_a_very_long_picture_loses_its_ends():
    assert limit_aspect(Image.new("L", (60000, 1))).size == (16, 1)
    assert limit_aspect(Image.new("L", (2, 99))).size == (2, 32)
    assert limit_aspect(Image.new("L", (160, 10))).size == (160, 10)
