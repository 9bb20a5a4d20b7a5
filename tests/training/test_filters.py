"""Checks which pictures are kept, and that each of the others is left out for the right reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from stylear.errors import BadInput
from training.curation.duplicates import Seen
from training.curation.filters import FilterSettings, check_agreement, examine, look_of
from training.curation.items import Unusable

FILTERS = FilterSettings(min_side=16, max_pixels=10_000, max_aspect=3)


def picture(width=40, height=30, seed=0) -> Image.Image:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def file_of(image: Image.Image, kind="PNG", **options) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def reason(data: bytes, filters=FILTERS) -> str:
    """What a file is left out for."""
    with pytest.raises(Unusable) as fault:
        examine(data, filters)
    return fault.value.reason


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose head claims a size and whose data is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"x")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "ending"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
def test_the_usual_files_are_kept_byte_for_byte(kind, ending):
    data = file_of(picture(), kind)
    found = examine(data, FILTERS)
    assert (found.data, found.ending, found.width, found.height) == (data, ending, 40, 30)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF"])
def test_other_files_become_png_with_the_same_pixels(kind):
    data = file_of(picture(), kind)
    found = examine(data, FILTERS)
    with Image.open(io.BytesIO(found.data)) as kept, Image.open(io.BytesIO(data)) as given:
        assert kept.format == "PNG"
        assert np.array_equal(np.asarray(kept.convert("RGB")), np.asarray(given.convert("RGB")))


def test_the_size_is_that_of_the_upright_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    found = examine(file_of(picture(), "JPEG", exif=exif), FILTERS)
    assert (found.width, found.height) == (30, 40)


@pytest.mark.parametrize("data", [b"", b"no picture", file_of(picture())[:200], file_of(picture(), "JPEG")[:300]])
def test_a_file_that_cannot_be_decoded_is_broken(data):
    assert reason(data) == "broken"


def test_a_postscript_file_is_not_run():
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n") == "broken"


@pytest.mark.parametrize("side", [150, 9_000, 60_000])
def test_an_image_bomb_is_refused_by_its_head(side):
    assert reason(png_claiming(side, side)) == "too_large"


@pytest.mark.parametrize(("size", "found"), [((40, 15), "too_small"), ((60, 19), "aspect"), ((200, 60), "too_large")])
def test_a_picture_of_another_size_or_shape_is_left_out(size, found):
    assert reason(file_of(picture(*size))) == found


def test_the_limits_themselves_are_allowed():
    assert examine(file_of(picture(48, 16)), FILTERS).width == 48


def test_the_same_pixels_in_another_format_have_the_same_hash():
    png, webp = file_of(picture()), file_of(picture(), "WEBP", lossless=True)
    assert examine(png, FILTERS).pixels == examine(webp, FILTERS).pixels
    assert examine(png, FILTERS).pixels != examine(file_of(picture(seed=1)), FILTERS).pixels


def test_pictures_of_the_same_bytes_but_another_width_have_other_hashes():
    flat = [file_of(Image.new("RGB", size, "red")) for size in ((40, 20), (20, 40))]
    assert len({examine(data, FILTERS).pixels for data in flat}) == 2


def test_a_look_hardly_changes_when_a_picture_is_scaled_and_saved_again():
    first = look_of(picture(80, 80))
    again = Image.open(io.BytesIO(file_of(picture(80, 80).resize((56, 56)), "JPEG", quality=70)))
    assert (first ^ look_of(again)).bit_count() <= 4
    assert (first ^ look_of(picture(80, 80, seed=1))).bit_count() > 12


def test_the_second_of_two_equal_pictures_is_a_duplicate(tmp_path):
    seen = Seen(tmp_path / "seen", None)
    seen.add(b"a" * 32, 5, "first.png")
    seen.add(b"b" * 32, 5, "second.png")
    with pytest.raises(Unusable, match="first.png"):
        seen.add(b"a" * 32, 9, "third.png")


@pytest.mark.parametrize("near", [0, 1, 3, 7])
def test_near_duplicates_are_found_exactly_up_to_the_distance(tmp_path, near):
    rng = np.random.default_rng(near)
    for trial in range(40):
        seen = Seen(tmp_path / "seen", near)
        look = int.from_bytes(rng.bytes(8), "big")
        places = rng.permutation(64)
        close = look ^ sum(1 << int(place) for place in places[:near])
        far = look ^ sum(1 << int(place) for place in places[: near + 1])
        seen.add(b"a" * 32, look, f"picture {trial}")
        seen.add(b"b" * 32, far, "another") if near else None
        with pytest.raises(Unusable) as fault:
            seen.add(b"c" * 32, close, "again")
        assert fault.value.reason == "near_duplicate"
        seen.close()


def test_agreement_is_left_out_below_the_least_and_kept_at_it():
    filters = FilterSettings(min_agreement=0.25)
    check_agreement(0.25, filters)
    with pytest.raises(Unusable, match="low_agreement"):
        check_agreement(0.2499, filters)


def test_an_agreement_that_is_no_number_blames_the_model():
    with pytest.raises(BadInput, match="CLIP mini gave nan"):
        check_agreement(float("nan"), FilterSettings(min_agreement=0.25))


def test_the_copy_for_the_model_is_small_and_made_only_if_wanted():
    data = file_of(picture(1600, 1200))
    assert examine(data, FilterSettings()).small is None
    assert examine(data, FilterSettings(min_agreement=0.2)).small.size == (683, 512)
