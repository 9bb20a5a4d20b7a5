"""A preview costs a few rows of codes each time and shows nearly what the picture will be."""

import pytest
import torch

from stylear.checkpoint import load_vqgan
from stylear.images import open_image, to_float
from stylear.pipeline import MINI
from stylear.preview import AGAIN, CONTEXT, Growing


class Decoder:
    """Draws each code as two rows of two pixels of its own value, and remembers how many rows it was given."""

    def __init__(self) -> None:
        self.rows = []

    def __call__(self, codes):
        self.rows.append(codes.shape[1])
        return codes.repeat_interleave(2, 1).repeat_interleave(2, 2)[..., None].expand(-1, -1, -1, 3).float()


def test_new_rows_are_decoded_with_a_few_above_them_and_never_the_whole_picture():
    decoder = Decoder()
    growing = Growing(decoder, 48)
    for rows in range(1, 48):
        growing.grow(torch.zeros(1, rows, 3, dtype=torch.int64))
    assert max(decoder.rows) == CONTEXT + 1


def test_all_rows_so_far_are_shown_and_grey_below():
    codes = torch.arange(10).view(1, 10, 1)
    growing = Growing(Decoder(), 10)
    for rows in (1, 2, 5, 9):
        picture = growing.grow(codes[:, :rows])
        assert picture.shape == (1, 20, 2, 3)
        assert picture[0, : 2 * rows : 2, 0, 0].tolist() == list(range(rows))
        assert (picture[:, 2 * rows :] == 0.5).all()


def test_rows_are_shown_anew_once_those_below_them_are_known():
    growing = Growing(Decoder(), 10)
    growing.grow(torch.zeros(1, 6, 1, dtype=torch.int64))
    shown = growing.grow(torch.ones(1, 7, 1, dtype=torch.int64))[0, ::2, 0, 0]
    assert shown[:7].tolist() == [0] * (6 - AGAIN) + [1] * (AGAIN + 1)


def test_an_earlier_preview_stays_as_it_was():
    growing = Growing(Decoder(), 4)
    first = growing.grow(torch.ones(1, 1, 1, dtype=torch.int64))
    growing.grow(torch.ones(1, 2, 1, dtype=torch.int64))
    assert (first[:, 2:] == 0.5).all()


def test_what_is_shown_of_a_growing_picture_is_nearly_the_picture():
    references = sorted((MINI / "references").glob("*.png"))
    if not references:
        pytest.skip("the bundled mini is not there")
    vqgan = load_vqgan(MINI / "vqgan")
    with torch.inference_mode():
        pixels = to_float(open_image(references[0]).convert("RGB").resize((64, 64))).permute(2, 0, 1)[None] * 2 - 1
        codes = vqgan.encode(pixels)
        growing = Growing(lambda band: vqgan.decode(band).permute(0, 2, 3, 1), 16)
        for rows in range(1, 16):
            shown = growing.grow(codes[:, :rows])
        whole = vqgan.decode(codes).permute(0, 2, 3, 1)
    assert (shown - whole)[:, : 4 * 14].abs().mean() < 0.15 * whole.std()
