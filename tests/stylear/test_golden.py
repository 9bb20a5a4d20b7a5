"""From files to pictures, the whole chain gives what the released code gave on the same input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stylear import StyleAR
from stylear.images import open_image

CASES = ("case_a_style", "case_b_style_subtract", "case_c_style_depth", "case_d_forced_128x128")
FIRST_CODE, CODES = 4, 8192
RECORDED_SIZE = 128


@pytest.fixture(scope="module")
def models(golden):
    """The recorded models by the name of their adapter, loaded as the released code has them on disk."""
    tiny = golden / "tiny"
    models = {}
    for adapter in ("stylear_models", "stylear_models/Depth_condition"):
        models[adapter] = StyleAR.load(
            tiny / "Alpha-VLLM/Lumina-mGPT-7B-768",
            adapter=tiny / adapter,
            vqgan=tiny / "ckpts/chameleon/tokenizer/vqgan.ckpt",
            image_encoder=tiny / "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        )
        models[adapter].size = RECORDED_SIZE
    return models


@pytest.fixture(params=CASES)
def case(request, golden, models):
    """A recorded case: its JSON, its tensors, its model, and its style and condition made by this code."""
    recorded = json.loads((golden / f"{request.param}.json").read_text())
    model = models[recorded["lora"]]
    pictures = [open_image(golden / "inputs" / name) for name in recorded["clip_images"]]
    style = model.encode_style(pictures[0])
    if len(pictures) == 2:
        style = model.subtract(style, pictures[1])
    conditions = [model.encode_condition(open_image(golden / "inputs" / name)) for name in recorded["cond_images"]]
    condition = conditions[0] if conditions else None
    return recorded, load_file(golden / f"{request.param}.safetensors"), model, style, condition


def drawn_codes(model, monkeypatch):
    """A list that fills with the codes the model turns into pictures."""
    seen, decode = [], model.vqgan.decode
    monkeypatch.setattr(model.vqgan, "decode", lambda codes: seen.append(codes[0]) or decode(codes))
    return seen


def test_golden_prompt_ids_are_the_released_ones(case):
    recorded, _, model, _, condition = case
    prompt = model.vocabulary.prompt(recorded["prompt"], condition)
    assert list(prompt.ids) == recorded["prompt_ids"]
    assert list(prompt.style_slots) == recorded["style_index"]


def test_golden_style_tokens_are_within_1e_5(case):
    _, tensors, _, style, _ = case
    torch.testing.assert_close(style.tokens, tensors["style_tokens"][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(style.features, tensors["clip_hidden_penultimate"][0], atol=1e-5, rtol=0)


def test_golden_greedy_pictures_have_the_released_codes_and_are_within_one_grey_level(case, monkeypatch):
    recorded, tensors, model, style, condition = case
    codes = drawn_codes(model, monkeypatch)
    width, height = recorded["image_size"]
    picture = model.generate(
        recorded["prompt"], style, condition, width=width, height=height, cfg=recorded["cfg"], top_k=1
    )
    released = [i - FIRST_CODE for i in recorded["generated_ids"] if FIRST_CODE <= i < FIRST_CODE + CODES]
    assert codes[-1].flatten().tolist() == released
    difference = (picture[0] * 255).byte().int() - tensors["image_uint8_hwc"].int()
    assert difference.abs().max() <= 1


def test_golden_picture_files_are_the_recorded_tensors(case, golden):
    recorded, tensors, *_ = case
    name = next(name for name in CASES if json.loads((golden / f"{name}.json").read_text()) == recorded)
    assert np.array_equal(np.asarray(Image.open(golden / f"{name}.png")), tensors["image_uint8_hwc"].numpy())


def test_golden_vqgan_encodes_and_decodes_as_released(golden, models):
    vqgan, tensors = models["stylear_models"].vqgan, load_file(golden / "components.safetensors")
    pixels = torch.from_numpy(np.asarray(Image.open(golden / "inputs/depth.png").convert("RGB")).copy())
    pixels = pixels.permute(2, 0, 1)[None] / 255 * 2 - 1
    with torch.no_grad():
        latents, codes = vqgan.latents(pixels)[0], vqgan.encode(pixels)[0]
        drawn = vqgan.decode(tensors["decode.codes_4x6"].view(1, 4, 6))[0]
    torch.testing.assert_close(latents, tensors["encode.depth_prequant"], atol=1e-4, rtol=0)
    assert torch.equal(codes, tensors["encode.depth_codes"])
    torch.testing.assert_close(drawn, tensors["decode.pixels_chw"], atol=1e-4, rtol=0)
