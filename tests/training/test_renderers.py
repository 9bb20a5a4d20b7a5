"""Checks that every drawing style is a deterministic picture that keeps its object visible."""

import cv2
import numpy as np
import pytest

from training.data.renderers import STYLES, light, paint, render, texture
from training.data.renderers.sheet import contact_sheet
from training.data.renderers.toolkit import Drawing, angle_stripes, edges, gradient_map, noise, quantise

pytestmark = pytest.mark.filterwarnings("error")

SIDE = 128


def ball(colour=(220, 60, 40), dot=(250, 240, 200), radius=44) -> Drawing:
    """A ball of one colour with a spot of another, over white."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(mask, (64, 64), radius, 255, -1, cv2.LINE_AA)
    body = np.full((SIDE, SIDE, 3), colour, np.uint8)
    cv2.circle(body, (54, 54), 14, dot, -1, cv2.LINE_AA)
    alpha = mask.astype(np.float32) / 255
    rgb = np.rint(255 + (body.astype(np.float32) - 255) * alpha[..., None]).astype(np.uint8)
    return Drawing(rgb, alpha)


def draw(name: str, drawing: Drawing, seed: int = 3) -> np.ndarray:
    """The style with a fresh generator."""
    return render(name, drawing, np.random.default_rng(seed))


@pytest.fixture(params=sorted(STYLES))
def style(request) -> str:
    """Each style in turn."""
    return request.param


def test_a_style_gives_an_rgb_picture_of_the_same_size(style):
    picture = draw(style, ball())
    assert picture.dtype == np.uint8
    assert picture.shape == (SIDE, SIDE, 3)


def test_the_same_seed_gives_the_same_picture(style):
    assert np.array_equal(draw(style, ball(), 5), draw(style, ball(), 5))


@pytest.mark.parametrize("name", [*paint.RENDERERS, *texture.RENDERERS, *light.RENDERERS])
def test_paint_materials_and_light_are_the_same_under_every_picture(name):
    assert np.array_equal(draw(name, ball(), 5), draw(name, ball(), 6))


@pytest.mark.parametrize("name", ["bricks", "cross_stitch", "embroidery", "gouache", "knit", "mosaic_white", "sand"])
def test_a_flat_ground_repeats_on_the_grid_of_codes(name):
    empty = Drawing(np.full((SIDE, SIDE, 3), 255, np.uint8), np.zeros((SIDE, SIDE), np.float32))
    picture = draw(name, empty)[16:-16, 16:-16]
    assert np.abs(picture[:-16].astype(int) - picture[16:]).max() <= 1
    assert np.abs(picture[:, :-16].astype(int) - picture[:, 16:]).max() <= 1


def test_a_style_leaves_the_drawing_untouched(style):
    drawing = ball()
    rgb, alpha = drawing.rgb.copy(), drawing.alpha.copy()
    picture = draw(style, drawing)
    picture[:] = 0
    assert np.array_equal(drawing.rgb, rgb)
    assert np.array_equal(drawing.alpha, alpha)


@pytest.mark.parametrize("opacity", [0, 1])
def test_a_style_accepts_an_empty_and_a_full_drawing(style, opacity):
    rgb = np.full((SIDE, SIDE, 3), 255 - 100 * opacity, np.uint8)
    picture = draw(style, Drawing(rgb, np.full((SIDE, SIDE), opacity, np.float32)))
    assert picture.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("colour", [(225, 70, 50), (30, 30, 34)])
def test_the_object_shows_in_every_style(style, colour):
    with_object = draw(style, ball(colour), 1).astype(np.float32)
    empty = Drawing(np.full((SIDE, SIDE, 3), 255, np.uint8), np.zeros((SIDE, SIDE), np.float32))
    without = draw(style, empty, 1).astype(np.float32)
    seen = np.abs(with_object - without).mean(axis=-1) * (ball().alpha > 0.5)
    assert (seen > 20).sum() > 0.05 * (ball().alpha > 0.5).sum()


def test_no_two_styles_look_alike_at_64_pixels():
    drawings = [ball(), ball((50, 120, 200), (20, 20, 40), 30)]

    def look(name):
        small = [cv2.resize(draw(name, d), (64, 64), interpolation=cv2.INTER_AREA) for d in drawings]
        return np.stack(small).astype(np.float32)

    looks = {name: look(name) for name in STYLES}
    names = sorted(looks)
    alike = [
        (one, other)
        for i, one in enumerate(names)
        for other in names[i + 1 :]
        if np.abs(looks[one] - looks[other]).mean() < 4
    ]
    assert alike == []


def test_an_edge_between_colours_of_equal_luminance_is_found():
    rgb = np.full((SIDE, SIDE, 3), (200, 60, 60), np.uint8)
    rgb[:, 64:] = (60, 131, 60)
    found = edges(Drawing(rgb, np.ones((SIDE, SIDE), np.float32)))
    assert found[64, 62:66].max() > 0.8
    assert found[64, 20] < 0.01


def test_the_outline_of_a_white_object_is_found():
    assert edges(ball((255, 255, 255), (255, 255, 255))).max() > 0.8


def test_noise_has_zero_mean_and_unit_variance():
    field = noise((SIDE, SIDE), 16, np.random.default_rng(0))
    assert abs(field.mean()) < 1e-3
    assert field.std() == pytest.approx(1, abs=1e-3)


def test_a_gradient_map_starts_at_the_first_stop_and_ends_at_the_last():
    ends = gradient_map(np.array([[0.0, 1.0]], np.float32), ("#102030", "#445566", "#ff8000"))
    assert ends[0].tolist() == [[16, 32, 48], [255, 128, 0]]


def test_quantised_pictures_hold_palette_colours_only():
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    pixels = quantise(picture, ("#000000", "#ff0000", "#ffffff")).reshape(-1, 3)
    assert {tuple(pixel) for pixel in pixels.tolist()} <= {(0, 0, 0), (255, 0, 0), (255, 255, 255)}


def test_stripes_repeat_after_one_period():
    wave = angle_stripes((SIDE, SIDE), 8, 0.0)
    assert np.allclose(wave[0], wave[8], atol=1e-4)
    assert wave.max() > 0.95 and wave.min() < 0.05


def test_the_contact_sheet_holds_every_style():
    sheet = contact_sheet([ball()], columns=4, side=16)
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
