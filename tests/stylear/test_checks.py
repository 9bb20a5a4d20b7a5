"""One rule for every number a caller may get wrong."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from stylear.checks import number, whole
from stylear.errors import BadInput


@pytest.mark.parametrize(
    "value", [2, 2.0, Fraction(2), np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0), torch.tensor(2)]
)
def test_a_number_may_be_pythons_numpys_or_a_tensor_without_dimensions(value):
    assert number("cfg", value, 0, 10) == 2 and type(number("cfg", value, 0, 10)) is float


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2), np.array(2), torch.tensor(2)])
def test_so_may_a_whole_number(value):
    assert whole("top_k", value, 1, 3) == 2 and type(whole("top_k", value, 1, 3)) is int


NEITHER = [
    *(True, np.True_, torch.tensor(True), "2", b"2", None, [2], 2j, object()),
    *(float("nan"), float("inf"), -float("inf"), 10**400, -(10**400), 10**9000, 11, -1),
    *(np.array([2.0]), torch.tensor([2.0]), torch.tensor(2.0, device="meta"), np.datetime64("2020-01-01")),
]


@pytest.mark.parametrize("value", NEITHER, ids=lambda value: type(value).__name__)
def test_what_is_no_number_in_the_range_is_refused_in_one_line_with_the_range(value):
    for check in (number, whole):
        with pytest.raises(BadInput, match="^strength is .* from 0 to 10") as refused:
            check("strength", value, 0, 10)
        assert len(str(refused.value)) < 200 and "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [2.0, 2.5, np.float64(2), torch.tensor(2.0), Fraction(5, 2)])
def test_a_float_is_no_whole_number(value):
    with pytest.raises(BadInput, match="whole number"):
        whole("top_k", value, 1, 3)
