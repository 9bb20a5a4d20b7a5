"""A photo becomes a depth map, by a model that is read with care."""

import json

import numpy as np
import pytest
import torch
from both_transformers import pil_processor
from PIL import Image
from safetensors.torch import load_file, save
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from stylear.depth_model import _depth_size, depth_from_photo, load_depth_model
from stylear.errors import BadCheckpoint, MissingPart


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
    width, height = _depth_size(size[::-1], 56, 14)
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
