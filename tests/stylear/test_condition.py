"""A condition map is cut and scaled as released."""

import json
import random

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from stylear.condition import (
    KINDS,
    choose_crop,
    condition_pixels,
    cover,
    crop_sizes,
    to_pixels,
)
from stylear.errors import BadInput
from stylear.images import open_image
from stylear.vqgan import VQGAN, VQGANConfig


@pytest.fixture(scope="module")
def vqgan(golden):
    path = golden / "tiny/ckpts/chameleon/tokenizer/vqgan.ckpt"
    weights = torch.load(path, weights_only=True)["state_dict"]
    model = VQGAN(VQGANConfig.from_state_dict(weights)).eval()
    model.load_state_dict(weights, strict=False)
    return model


def codes_of(vqgan, pixels):
    with torch.no_grad():
        return vqgan.encode(pixels)[0]


def recorded_codes(case):
    """Codes [h, w] of a recorded token list: start, sizes, rows that end with a new line, end."""
    rows, columns = (2 * (token - 8804) for token in case["input_ids"][1:3])
    codes = torch.tensor(case["input_ids"][3:-1]).view(rows, columns + 1)
    return codes[:, :-1] - 4


@pytest.mark.parametrize("target", [128, 512, 768])
def test_golden_crop_sizes_are_the_released_ones(golden_components, target):
    assert crop_sizes(target) == [tuple(size) for size in golden_components["crop_size_lists"][str(target)]]


def test_golden_crop_rules_are_the_released_ones(golden_components):
    for rule in golden_components["crop_rules"]:
        crop = choose_crop(rule["size"], crop_sizes(rule["target_size"]))
        assert crop == tuple(rule["crop"]), rule
        assert cover(Image.new("L", rule["size"]), crop).size == tuple(rule["resized"]), rule


def test_golden_condition_codes_are_the_released_ones_where_nothing_is_cropped(golden, golden_components, vqgan):
    case = next(case for case in golden_components["process_image"] if case["file"] == "depth.png")
    pixels = condition_pixels(open_image(golden / "inputs/depth.png"), 128)
    assert torch.equal(codes_of(vqgan, pixels), recorded_codes(case))


def test_golden_condition_codes_are_the_released_ones_at_the_recorded_random_crop(golden, golden_components, vqgan):
    for case in golden_components["process_image"]:
        width, height = case["crop"]
        image = cover(open_image(golden / "inputs" / case["file"]), (width, height))
        draw = random.Random(case["random_seed"])  # noqa: S311
        draw.choice([(width, height)])  # the released code draws its crop size too, from a list of one
        left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
        pixels = to_pixels(image.crop((left, top, left + width, top + height)))
        different = (codes_of(vqgan, pixels) != recorded_codes(case)).sum()
        assert different <= (PIL.__version__ < "13"), case["file"]  # 13, which it was recorded with, resizes anew


def test_golden_condition_of_case_c_stands_in_its_prompt(golden, vqgan):
    prompt = json.loads((golden / "case_c_style_depth.json").read_text())["prompt_ids"]
    start, end = prompt.index(8197), prompt.index(8196)
    codes = codes_of(vqgan, condition_pixels(open_image(golden / "inputs/depth.png"), 128))
    assert torch.equal(codes, recorded_codes({"input_ids": prompt[start : end + 1]}))


def test_the_grid_of_a_small_model_is_a_parameter():
    assert condition_pixels(np.zeros((50, 50, 3), np.uint8), 64, 8).shape == (1, 3, 64, 64)
    assert condition_pixels(np.zeros((50, 25, 3), np.uint8), 64, 8).shape == (1, 3, 80, 40)
    assert all(w % 8 == h % 8 == 0 and w * h <= 64 * 64 for w, h in crop_sizes(64, 8))


@pytest.mark.parametrize("target,step", [(31, 32), (0, 8), (64, 0)])
def test_a_target_below_one_grid_step_is_refused(target, step):
    with pytest.raises(BadInput, match="grid"):
        crop_sizes(target, step)


def test_a_map_is_cropped_in_the_middle_and_always_alike():
    columns = np.arange(400, dtype=np.uint16)[None].repeat(100, 0)
    ramp = (columns * 160).astype(np.uint16)
    pixels = condition_pixels(ramp, 128)
    assert torch.equal(pixels, condition_pixels(ramp, 128))
    assert abs(pixels[0, 0, 0, 0] + pixels[0, 0, 0, -1] - (2 * 399 * 160 / 65535 - 2)) < 0.05


def test_a_segmentation_map_keeps_its_colours_and_a_depth_map_blends_between_them():
    areas = np.zeros((500, 300, 3), np.uint8)
    areas[:, 130:] = 200, 40, 0
    colours = {
        kind: {tuple(colour) for colour in condition_pixels(areas, 64, 8, kind)[0].flatten(1).T.tolist()}
        for kind in KINDS
    }
    assert len(colours["segmentation"]) == 2 < len(colours["depth"])


def test_a_map_of_a_kind_that_is_none_is_refused():
    for take in (lambda image: condition_pixels(image, 64, kind="edges"), lambda image: cover(image, (9, 9), "edges")):
        with pytest.raises(BadInput, match="'edges'. Use one of depth, segmentation"):
            take(Image.new("L", (64, 64)))


def test_of_crops_that_lose_alike_the_widest_is_taken():
    assert choose_crop((90, 90), [(32, 64), (64, 32), (16, 32)]) == (64, 32)


def test_white_is_one_and_black_minus_one_and_transparency_is_white():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    assert condition_pixels(image, 64).unique().tolist() == [-1]
    assert condition_pixels(Image.new("L", (64, 64), 255), 64).unique().tolist() == [1]
    assert condition_pixels(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), 64).unique().tolist() == [1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_a_map_of_any_mode_becomes_three_channels(mode):
    pixels = condition_pixels(Image.new(mode, (70, 60)), 64)
    assert pixels.shape == (1, 3, 64, 64) and pixels.dtype == torch.float32


@pytest.mark.parametrize("size", [(1, 1), (1, 60000), (60000, 1)])
def test_a_map_of_any_proportion_is_taken(size):
    pixels = condition_pixels(np.zeros((*size, 3), np.uint8), 64)
    assert pixels.isfinite().all() and pixels[0, 0].numel() <= 64 * 64


def test_what_is_not_a_map_is_refused():
    with pytest.raises(BadInput, match="The condition has NaN"):
        condition_pixels(np.full((8, 8), np.nan))
