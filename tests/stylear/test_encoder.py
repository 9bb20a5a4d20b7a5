"""The image encoder gives CLIP's own features, whichever layout its weights have."""

import json

import numpy as np
import open_clip
import pytest
import torch
from both_transformers import pil_processor
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from stylear.encoder import EncoderConfig, ImageEncoder
from stylear.errors import BadCheckpoint, BadInput
from stylear.images import open_image

HF = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 16,
}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 12, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def hf():
    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**HF)).eval()


@pytest.fixture
def encoder(hf):
    return ImageEncoder.from_state_dict(hf.state_dict(), EncoderConfig.from_hf_config(hf.config.to_dict()))


@pytest.fixture
def released(golden):
    folder = golden / "tiny/laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    config = [json.loads((folder / name).read_text()) for name in ("config.json", "preprocessor_config.json")]
    return ImageEncoder.from_state_dict(load_file(folder / "model.safetensors"), EncoderConfig.from_hf_config(*config))


def test_golden_pixels_are_those_of_the_released_preprocessing(golden, released):
    recorded = load_file(golden / "clip_style.safetensors")["pixel_values"][0]
    assert torch.equal(released.preprocess(open_image(golden / "inputs/style.png")), recorded)


@pytest.mark.parametrize("index,name", [(0, "style.png"), (1, "subtract.png")])
def test_golden_features_are_the_released_ones(golden, released, index, name):
    recorded = load_file(golden / "case_b_style_subtract.safetensors")["clip_hidden_penultimate"][index]
    features = released.encode(open_image(golden / "inputs" / name))
    assert features.shape == (257, 32)
    torch.testing.assert_close(features, recorded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_features_equal_those_of_transformers(activation):
    torch.manual_seed(1)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**HF, hidden_act=activation)).eval()
    config = EncoderConfig.from_hf_config(model.config.to_dict())
    ours = ImageEncoder.from_state_dict(model.state_dict(), config)(PIXELS)
    theirs = model(PIXELS, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_features_equal_those_of_open_clip(quick_gelu):
    torch.manual_seed(2)
    model = open_clip.CLIP(**OPEN_CLIP, quick_gelu=quick_gelu).eval()
    config = EncoderConfig.from_open_clip_config({"model_cfg": OPEN_CLIP | {"quick_gelu": quick_gelu}})
    theirs = []
    model.visual.transformer.resblocks[-2].register_forward_hook(lambda *call: theirs.append(call[2]))
    model.encode_image(PIXELS)
    for weights in (model.state_dict(), model.visual.state_dict()):
        ours = ImageEncoder.from_state_dict(weights, config)(PIXELS)
        torch.testing.assert_close(ours, theirs[0], atol=1e-5, rtol=0)


def test_the_two_layouts_of_one_model_give_the_same_features(hf, encoder):
    own = {"visual." + key: value for key, value in encoder.state_dict().items()}
    renamed = {
        key.replace("blocks.", "transformer.resblocks.").replace("in_proj.", "in_proj_"): value
        for key, value in own.items()
    }
    renamed["visual.transformer.resblocks.2.ln_1.weight"] = torch.ones(32)
    bare = {key.removeprefix("vision_model."): value for key, value in hf.state_dict().items()}
    for weights in (renamed, bare):
        again = ImageEncoder.from_state_dict(weights, encoder.config)
        assert torch.equal(again(PIXELS), encoder(PIXELS))


@pytest.mark.parametrize("size", [(40, 40), (131, 57), (57, 131), (33, 32), (7, 5)])
def test_preprocessing_equals_that_of_transformers_on_pil(encoder, size):
    image = Image.fromarray(picture(*size))
    processor = pil_processor("CLIP")(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=3)
    theirs = torch.as_tensor(np.asarray(processor(image)["pixel_values"][0]))
    assert torch.equal(encoder.preprocess(image), theirs)


@pytest.mark.parametrize("size", [(1, 1), (1, 60000), (3000, 2)])
def test_a_picture_of_any_proportion_has_finite_features(encoder, size):
    features = encoder.encode(picture(*size))
    assert features.shape == (17, 32)
    assert features.dtype == torch.float32 and features.isfinite().all()


def test_what_is_not_a_picture_is_refused(encoder):
    with pytest.raises(BadInput, match="NaN"):
        encoder.encode(np.full((4, 4, 3), np.nan))


def test_half_precision_weights_are_read_and_used_in_single_precision(hf, encoder):
    half = ImageEncoder.from_state_dict({key: value.half() for key, value in hf.state_dict().items()}, encoder.config)
    assert half.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(half(PIXELS), encoder(PIXELS), atol=2e-2, rtol=0)


def test_the_encoder_is_frozen(encoder):
    assert not any(weight.requires_grad for weight in encoder.parameters())


def test_mean_and_deviation_come_from_the_preprocessor_config():
    hf = EncoderConfig.from_hf_config(HF, {"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    clip = EncoderConfig.from_open_clip_config(
        {"model_cfg": OPEN_CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    )
    assert hf.mean == clip.mean == (0.5,) * 3 and hf.std == clip.std == (0.25,) * 3


def test_the_vision_part_of_a_whole_clip_config_is_read():
    assert EncoderConfig.from_hf_config({"vision_config": HF}) == EncoderConfig.from_hf_config(HF)


@pytest.mark.parametrize("width,heads,activation", [(768, 12, "quick_gelu"), (1280, 16, "gelu")])
def test_weights_alone_tell_the_shape_of_a_known_model(width, heads, activation):
    with torch.device("meta"):
        model = CLIPVisionModelWithProjection(
            CLIPVisionConfig(**HF | {"hidden_size": width, "num_attention_heads": heads})
        )
    config = EncoderConfig.from_state_dict(model.state_dict())
    expected = EncoderConfig(width, 3, heads, 80, 8, 32, activation)
    assert config == expected
    assert ImageEncoder.from_state_dict(model.state_dict()).config == expected


def test_an_unknown_width_without_config_asks_for_the_config(hf):
    with pytest.raises(BadCheckpoint, match="32-wide .* config.json"):
        ImageEncoder.from_state_dict(hf.state_dict())


def test_other_weights_are_not_taken_for_an_encoder():
    with pytest.raises(BadCheckpoint, match="no class_embedding"):
        ImageEncoder.from_state_dict({"latents": torch.zeros(1)})
    with pytest.raises(BadCheckpoint, match="lacks conv1.weight"):
        EncoderConfig.from_state_dict({"class_embedding": torch.zeros(1)})


@pytest.mark.parametrize("part", ["embeddings.patch_embedding.weight", "encoder.layers.1.self_attn.k_proj.bias"])
def test_an_incomplete_encoder_is_refused_by_the_missing_key(hf, encoder, part):
    weights = {key: value for key, value in hf.state_dict().items() if not key.endswith(part)}
    with pytest.raises(BadCheckpoint, match="lacks (conv1.weight|blocks.1.attn.in_proj.bias)"):
        ImageEncoder.from_state_dict(weights, encoder.config)


def test_a_config_of_another_model_is_refused_with_both_shapes(hf):
    with pytest.raises(BadCheckpoint, match=r"\[80, 32\] .* \[64, 32\]"):
        ImageEncoder.from_state_dict(hf.state_dict(), EncoderConfig.from_hf_config(HF | {"intermediate_size": 64}))
    with pytest.raises(BadCheckpoint, match="3 layers but its config says 2"):
        ImageEncoder.from_state_dict(hf.state_dict(), EncoderConfig.from_hf_config(HF | {"num_hidden_layers": 2}))


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"num_attention_heads": 5}, {"num_hidden_layers": 1}])
def test_an_impossible_config_is_refused(change):
    with pytest.raises(BadCheckpoint):
        EncoderConfig.from_hf_config(HF | change)
