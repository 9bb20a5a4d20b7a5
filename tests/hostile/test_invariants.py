"""What holds for every value in its bounds: sizes as asked, pixels in range, nothing changed, the same twice."""

import pytest
import tiny
import torch
from hypothesis import strategies as st
from PIL import Image

from stylear import StyleAR, StyleTokens
from stylear.errors import BadInput

from .harness import failed, hostile, outcome
from .strategies import odd_values

PROMPTS = ["a cat", "", "*", "S*" * 20, "<s>", "IMGIMGAZ", "日本語", "\0", "\ud800", "x " * 400]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return StyleAR.load(tiny.write_bundle(tmp_path_factory.mktemp("bundle")), device="cpu")


@pytest.fixture(scope="module")
def style(model):
    return model.encode_style(Image.new("RGB", (20, 24), "teal"))


def check_style(style: StyleTokens) -> None:
    """Style tokens are finite, of the model's width, on the CPU."""
    assert style.tokens.shape == (16, tiny.HIDDEN) and style.tokens.dtype == torch.float32
    assert style.tokens.isfinite().all()


def check_drawn(model, style, options: dict) -> None:
    """Pictures are as large and as many as asked, in 0..1, the same twice; the style is what it was."""
    before = style.tokens.clone()
    found = outcome(model.generate, style=style, **options)
    assert torch.equal(style.tokens, before), "the style was changed"
    if failed(found):
        assert isinstance(found, BadInput)
        return
    height, width = (max(1, int(options[name] / 8 + 0.5)) * 8 if options[name] else 16 for name in ("height", "width"))
    assert found.shape == (options["batch_size"], height, width, 3) and found.dtype == torch.float32
    assert found.isfinite().all() and 0 <= found.min() and found.max() <= 1
    assert torch.equal(found, model.generate(style=style, **options)), "the same words drew another picture"


sides = st.sampled_from([None, 1, 4, 8, 12, 16, 24, 48, 49])
drawn = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(PROMPTS),
        "width": sides,
        "height": sides,
        "seed": st.sampled_from([0, 1, 2**63, 2**64 - 1]),
        "batch_size": st.integers(1, 3),
        "cfg": st.sampled_from([0, 1, 1.5, 4, 1000]),
        "top_k": st.sampled_from([1, 2, 24, 2000, 2**31 - 1]),
        "temperature": st.sampled_from([0.001, 0.5, 1, 1000]),
        "window": st.sampled_from([1, 2, 16, 17, "auto"]),
    }
)


@hostile(60, options=drawn)
def test_a_picture_is_as_it_was_asked_for(model, style, options):
    check_drawn(model, style, options)


@hostile(
    120,
    name=st.sampled_from(
        [
            "prompt",
            "style",
            "condition",
            "width",
            "height",
            "seed",
            "batch_size",
            "cfg",
            "top_k",
            "temperature",
            "window",
        ]
    ),
    value=odd_values,
)
def test_a_value_of_any_kind_is_taken_or_refused(model, style, name, value):
    options = {"prompt": "a cat", "style": style, "width": 8, "height": 8, "window": 1} | {name: value}
    if not (name == "batch_size" and isinstance(value, int) and 8 < value <= 256):
        found = outcome(model.generate, **options)
        assert failed(found) or (found.isfinite().all() and found.shape[1] <= 48)


@hostile(60, gamma=st.floats(0, 1000), seed=st.integers(0, 2**64 - 1))
def test_noise_is_finite_and_its_seed_s_own(style, gamma, seed):
    before = style.tokens.clone()
    noisy = style.with_noise(gamma, seed)
    check_style(noisy)
    assert torch.equal(noisy.tokens, style.with_noise(gamma, seed).tokens) and torch.equal(style.tokens, before)


@hostile(120, gamma=odd_values, seed=odd_values)
def test_noise_of_any_strength_and_seed_is_added_or_refused(style, gamma, seed):
    noisy = outcome(style.with_noise, gamma, seed)
    assert failed(noisy) or check_style(noisy) is None


@hostile(60, alpha=st.floats(-1000, 1000), beta=st.floats(-1000, 1000))
def test_a_subtracted_style_is_finite(model, style, alpha, beta):
    check_style(model.subtract(style, content=Image.new("RGB", (8, 8), "red"), alpha=alpha, beta=beta))


@hostile(
    100,
    points=odd_values | st.lists(st.lists(st.floats(), max_size=4), max_size=200),
    box=odd_values | st.lists(st.floats(), max_size=5),
)
def test_points_and_boxes_of_any_kind_are_taken_or_refused(model, points, box):
    found = outcome(model.segment, Image.new("RGB", (12, 10), "red"), points, box)
    assert failed(found) or found.shape == (10, 12)


def odd_codes() -> dict[str, torch.Tensor]:
    plain = torch.zeros(2, 4, dtype=torch.int64)
    return {
        "without memory": plain.to("meta"),
        "sparse": plain.to_sparse(),
        "empty": plain[:0],
        "odd": plain[:1],
        "too large": plain + 24,
        "below none": plain - 1,
        "huge": torch.zeros(2, 2, dtype=torch.int64).expand(2, 2) + 2**62,
        "expanded": torch.zeros(1, 1, dtype=torch.int64).expand(1 << 20, 2),
        "floats": plain.float(),
    }


@pytest.mark.parametrize("kind", odd_codes())
def test_a_condition_that_is_none_is_refused(model, style, kind):
    assert failed(outcome(model.generate, "a cat", style, condition=odd_codes()[kind], window=1))


@hostile(60, width=st.integers(1, 60), height=st.integers(1, 60), seed=st.integers(0, 9))
def test_the_codes_of_a_condition_are_codes_the_same_twice(model, width, height, seed):
    pixels = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))
    before = pixels.clone()
    codes = model.encode_condition(pixels)
    assert codes.dtype == torch.int64 and 0 <= codes.min() and codes.max() < tiny.CODES
    assert all(side % 2 == 0 for side in codes.shape) and codes.numel() <= 16
    assert torch.equal(codes, model.encode_condition(pixels)) and torch.equal(pixels, before)
