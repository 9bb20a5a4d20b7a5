"""What is expected of places that were read before, read now, and not read yet."""

import torch

from stylear.outlook import Outlook

CODES, WIDTH = 3, 4


def laws(*values: float) -> torch.Tensor:
    """Guided logits [1, n, codes] of n places, each the same for all codes."""
    return torch.tensor(values)[None, :, None].expand(1, -1, CODES)


def told(places: int, *values: float) -> Outlook:
    """After passes of one code each at the places from 0 on, so often that the means are what was said."""
    outlook = Outlook(2, CODES, WIDTH, 20, torch.device("cpu"))
    for place, value in enumerate(values[:places]):
        for _ in range(30):
            outlook.expect([0], [place], laws(value), 0)
    return outlook


def test_a_place_is_expected_between_what_earlier_passes_said_and_what_the_newest_one_says():
    outlook = told(1, 2.0)
    expected = outlook.expect([0], [0], laws(1.0), 0)
    assert expected.shape == (1, 1, CODES)
    assert ((1.0 < expected) & (expected < 1.5)).all()  # the newest counts more


def test_a_place_not_read_yet_is_expected_as_the_last_one_and_the_one_above():
    outlook = told(5, 10.0, 20.0, 30.0, 40.0, 50.0)
    expected = outlook.expect([0], [4], laws(50.0), 5)[0, :, 0]
    torch.testing.assert_close(expected, torch.tensor([50.0, 35.0, 40.0, 45.0, 50.0, 35.0]))


def test_in_the_first_row_nothing_is_above():
    expected = told(1, 2.0).expect([0], [0], laws(2.0), 3)
    torch.testing.assert_close(expected, laws(2.0, 2.0, 2.0, 2.0))


def test_pictures_do_not_see_each_other():
    outlook = told(2, 1.0, 2.0)
    torch.testing.assert_close(outlook.expect([1], [1], laws(8.0), 0), laws(8.0) * 0.8)


def test_places_as_far_back_as_a_row_are_remembered_in_a_ring():
    outlook = told(40, *map(float, range(40)))
    expected = outlook.expect([0], [39], laws(39.0), 1)[0, 1, 0]
    torch.testing.assert_close(expected, torch.tensor((39.0 + 36.0) / 2))
