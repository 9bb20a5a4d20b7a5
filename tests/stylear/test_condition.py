"""A condition map is cut and scaled as released, and a photo becomes a depth map."""

import json
import random

import numpy as np
import PIL
import pytest
import torch
from both_transformers import pil_processor
from PIL import Image
from safetensors.torch import load_file, save
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from stylear import condition
from stylear.condition import (
    KINDS,
    choose_crop,
    condition_pixels,
    cover,
    crop_sizes,
    depth_from_photo,
    load_depth_model,
    to_pixels,
)
from stylear.errors import BadCheckpoint, BadInput, MissingPart
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
    with pytest.raises(BadInput, match="'edges'. Use one of depth, segmentation"):
        condition_pixels(Image.new("L", (64, 64)), 64, kind="edges")


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


@pytest.fixture(scope="module")
def depth_model():
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 4, 4, 4],
        fusion_hidden_size=4,
        head_hidden_size=4,
        initializer_range=0.2,
    )
    return DepthAnythingForDepthEstimation(config).eval()


PHOTO = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)


def test_a_photo_becomes_a_depth_map_of_its_size_from_black_to_white(depth_model):
    depth = depth_from_photo(PHOTO, depth_model)
    assert (depth.mode, depth.size) == ("L", (80, 50))
    assert np.asarray(depth).min() == 0 and np.asarray(depth).max() == 255


def test_a_model_that_measures_metres_gives_near_as_white_too(depth_model):
    near = np.asarray(depth_from_photo(PHOTO, depth_model)).astype(int)
    depth_model.config.depth_estimation_type = "metric"
    far = np.asarray(depth_from_photo(PHOTO, depth_model)).astype(int)
    depth_model.config.depth_estimation_type = "relative"
    assert np.abs(255 - near - far).max() <= 1


@pytest.mark.parametrize("size", [(50, 80), (80, 50), (56, 56), (300, 200), (20, 33)])
def test_the_depth_model_sees_what_transformers_shows_it(depth_model, size):
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
    settings = {"keep_aspect_ratio": True, "ensure_multiple_of": 14, "resample": 3}
    settings |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    processor = pil_processor("DPT")(size={"height": 56, "width": 56}, **settings)
    expected = torch.as_tensor(np.asarray(processor(photo)["pixel_values"][0]))
    seen = []
    handle = depth_model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0][0]))
    depth_from_photo(photo, depth_model)
    handle.remove()
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (60, 9000)])
def test_a_photo_of_any_proportion_stays_within_what_the_model_can_take(depth_model, size):
    width, height = condition._depth_size(size[::-1], 56, 14)
    assert width % 14 == height % 14 == 0 and width * height <= 8 * 56**2
    assert depth_from_photo(np.zeros((*size, 3), np.uint8), depth_model).size == size[::-1]


def test_a_depth_model_is_read_from_a_local_folder(depth_model, tmp_path):
    depth_model.save_pretrained(tmp_path)
    loaded = load_depth_model(tmp_path)
    assert np.array_equal(np.asarray(depth_from_photo(PHOTO, loaded)), depth_from_photo(PHOTO, depth_model))


def test_a_folder_without_a_depth_model_is_refused(tmp_path):
    with pytest.raises(MissingPart, match="no depth model in .*Depth-Anything-V2-Small-hf"):
        load_depth_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "depth_anything"}')
    with pytest.raises(MissingPart, match="holds no depth model"):
        load_depth_model(tmp_path)


@pytest.mark.parametrize("config", ['{"model_type": "dpt"}', "{}", "[]", "{", "\x00"])
def test_another_depth_model_is_refused_by_its_type(tmp_path, depth_model, config):
    depth_model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BadCheckpoint, match="Give a Depth Anything V2 folder"):
        load_depth_model(tmp_path)


@pytest.mark.parametrize("change", [{"fusion_hidden_size": "x"}, {"backbone_config": {"model_type": "x"}}])
def test_a_depth_model_with_a_damaged_config_is_refused(tmp_path, depth_model, change):
    depth_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(BadCheckpoint, match="Copy its whole folder"):
        load_depth_model(tmp_path)


def test_depth_weights_that_are_cut_off_empty_missing_misshapen_or_not_finite_are_refused(tmp_path, depth_model):
    depth_model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole, state = path.read_bytes(), load_file(path)
    key = next(key for key in state if key.endswith("weight") and state[key].ndim == 4)
    others = {name: value for name, value in state.items() if name != key}
    broken = [whole[:-8], whole[:100], b""]
    for changed in (others, {**state, key: state[key][:, :1]}, {**state, key: state[key] * torch.nan}):
        broken.append(save({name: value.contiguous() for name, value in changed.items()}, {"format": "pt"}))
    for data in broken:
        path.write_bytes(data)
        with pytest.raises(BadCheckpoint, match="Copy its whole folder"):
            load_depth_model(tmp_path)
