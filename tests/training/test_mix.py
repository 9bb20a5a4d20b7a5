"""The order of samples: exact, shuffled, endless, and a function of the seed and the number alone."""

import tracemalloc

import numpy as np
import pytest

from stylear.errors import BadInput
from training.mix import Mix

STYLISED, RAW = 7, 23
KINDS = np.random.default_rng(0).permutation(np.array([0] * STYLISED + [1] * RAW, np.uint8))


@pytest.mark.parametrize("ratio", [(1, 3), (2, 3), (5, 1), (1, 1)])
def test_every_block_of_samples_has_exactly_the_ratio(ratio):
    drawn = KINDS[Mix(KINDS, ratio).indices(0, 400 * sum(ratio))].reshape(-1, sum(ratio))
    assert ((drawn == 0).sum(1) == ratio[0]).all()


def test_the_stylised_one_of_a_block_stands_at_every_place_equally_often():
    drawn = KINDS[Mix(KINDS).indices(0, 4 * 4000)].reshape(-1, 4)
    assert np.abs((drawn == 0).sum(0) - 1000).max() < 150  # five standard deviations


@pytest.mark.parametrize("kind", [0, 1])
def test_each_pass_takes_every_picture_of_a_kind_once(kind):
    size = (KINDS == kind).sum()
    drawn = Mix(KINDS).indices(0, 4 * 40 * size)
    passes = drawn[KINDS[drawn] == kind][: 40 * size].reshape(40, size)
    assert (np.sort(passes, axis=1) == np.flatnonzero(KINDS == kind)).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_a_pass_is_a_permutation_for_any_number_of_pictures(size):
    drawn = Mix(np.ones(size, np.uint8), (0, 1), seed=5).indices(3 * size, size)
    assert (np.sort(drawn) == np.arange(size)).all()


def test_a_picture_comes_at_every_place_of_a_pass_equally_often():
    size, passes = 6, 6000
    drawn = Mix(np.ones(size, np.uint8), (0, 1)).indices(0, size * passes).reshape(passes, size)
    counts = np.array([np.bincount(column, minlength=size) for column in drawn.T])
    expected = passes / size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 60  # 25 degrees of freedom: one in ten thousand is above 60


def test_the_order_has_nothing_of_the_order_of_the_pictures_nor_of_the_pass_before():
    size = 20_000
    first, second = Mix(np.ones(size, np.uint8), (0, 1)).indices(0, 2 * size).reshape(2, size)
    for one, other in [(first, np.arange(size)), (first, second), (first[1:], first[:-1])]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(size)
    assert (np.abs(np.diff(first)) == 1).mean() < 10 / size  # neighbours stay together twice in a whole pass by chance


def test_a_sample_depends_on_seed_and_number_alone_however_the_run_is_cut():
    mix = Mix(KINDS, (2, 3), seed=11)
    whole = mix.indices(0, 300)
    for start, count in [(0, 1), (1, 1), (3, 7), (99, 0), (123, 177), (299, 1)]:
        assert (mix.indices(start, count) == whole[start : start + count]).all()
    assert (Mix(KINDS, (2, 3), seed=11).indices(0, 300) == whole).all()
    assert (Mix(KINDS, (2, 3), seed=12).indices(0, 300) != whole).any()


def test_asking_late_takes_no_more_memory_than_asking_early():
    mix = Mix(np.arange(100_000) % 4 > 0)

    def peak(start: int) -> int:
        tracemalloc.start()
        mix.indices(start, 64)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(0)
    assert peak(10**12) < 1.2 * peak(0) < 200_000


def test_the_order_of_a_seed_is_the_same_in_every_release():
    assert Mix(KINDS, seed=1).indices(0, 8).tolist() == [10, 16, 26, 0, 27, 29, 22, 5]


def test_an_epoch_ends_when_the_longer_kind_was_seen_once():
    mix = Mix(KINDS)
    assert mix.epoch == 8 * 4  # 23 raw, three a block
    assert len(set(mix.indices(0, mix.epoch))) == STYLISED + RAW
    assert len(set(mix.indices(0, mix.epoch - 4))) < STYLISED + RAW


def test_a_kind_that_is_absent_is_refused_by_name_unless_the_ratio_has_none_of_it():
    with pytest.raises(BadInput, match="no stylised pictures"):
        Mix(np.ones(5, np.uint8))
    assert (Mix(np.ones(5, np.uint8), (0, 2)).indices(0, 5) < 5).all()


@pytest.mark.parametrize("ratio", [(0, 0), (-1, 3), (1,), (1, 2, 3), (0.5, 1), (True, 3)])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(BadInput, match="ratio"):
        Mix(KINDS, ratio)
