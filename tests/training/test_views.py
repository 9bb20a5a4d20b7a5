"""A view of a picture hides what is asked of its layout, and nothing where nothing is asked."""

import numpy as np
import pytest
from PIL import Image

from training.views import Views, view


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8))


def pixels(image) -> np.ndarray:
    return np.asarray(image)


def test_the_default_leaves_the_picture_as_it_is(picture):
    assert not Views().change
    assert (pixels(view(picture, Views(), np.random.default_rng(0))) == pixels(picture)).all()


def test_shuffled_patches_are_the_same_patches_in_other_places(picture):
    found = pixels(view(picture, Views(shuffle=3), np.random.default_rng(0)))

    def patches(image):
        return image.reshape(3, 8, 3, 12, 3).swapaxes(1, 2).reshape(9, -1)

    ours, given = patches(found), patches(pixels(picture))
    assert not (ours == given).all()
    assert sorted(map(bytes, ours)) == sorted(map(bytes, given))


def test_a_picture_that_does_not_divide_loses_its_edge_alone(picture):
    assert view(picture, Views(shuffle=5), np.random.default_rng(0)).size == (35, 20)


def test_a_picture_smaller_than_its_patches_is_still_a_picture():
    assert view(Image.new("RGB", (3, 2)), Views(shuffle=32), np.random.default_rng(0)).size == (2, 2)


def test_a_crop_keeps_the_shape_and_at_least_the_asked_share(picture):
    sizes = [view(picture, Views(crop=0.5), np.random.default_rng(seed)).size for seed in range(50)]
    assert len(set(sizes)) > 5
    assert all(w * h >= 0.45 * 24 * 36 and abs(w / h - 1.5) < 0.12 for w, h in sizes)


def test_a_flip_mirrors_as_often_as_asked(picture):
    mirrored = [
        bool((pixels(view(picture, Views(flip=0.25), np.random.default_rng(seed))) == pixels(picture)[:, ::-1]).all())
        for seed in range(200)
    ]
    assert np.mean(mirrored) == pytest.approx(0.25, abs=0.1)


def test_the_same_generator_gives_the_same_view(picture):
    views = Views(shuffle=4, crop=0.5, flip=0.5)
    one, other = (pixels(view(picture, views, np.random.default_rng(7))) for _ in range(2))
    assert views.change and (one == other).all()
