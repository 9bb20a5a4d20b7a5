"""The nodes one after the other on a tiny random model, as ComfyUI would run them."""

from importlib import import_module

import pytest
import tiny
import torch
from bench import PACK_NAME, ROOT

SAMPLE = {
    "prompt": "a rocket",
    "width": 0,
    "height": 0,
    "seed": 3,
    "batch_size": 1,
    "cfg": 4.0,
    "top_k": 2000,
    "temperature": 1.0,
}


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, 40, 48, 3, generator=torch.Generator().manual_seed(0)).half()


@pytest.fixture
def model(nodes, models):
    tiny.write_bundle(models / "tiny")
    assert "tiny" in next(i for i in nodes["LoadStyleAR"].define_schema().inputs if i.id == "model").options
    return nodes["LoadStyleAR"].execute(model="tiny").result[0]


@pytest.fixture
def style(nodes, model, picture):
    return nodes["StyleTokenEncode"].execute(model=model, image=picture).result[0]


def sample(nodes, model, style, **changes):
    return nodes["ARSample"].execute(model=model, style=style, **SAMPLE | changes).result[0]


def subtract(nodes, model, style, **inputs):
    return nodes["SAMSubtract"].execute(model=model, style=style, **{"alpha": 0.2, "beta": 0.8} | inputs).result


def test_the_whole_chain_ends_in_a_picture_that_comfyui_can_save(nodes, model, style, picture):
    cleaned, mask = subtract(nodes, model, style)
    noisy = nodes["NoiseInject"].execute(style=cleaned, gamma=0.1, seed=1).result[0]
    condition = nodes["DepthCondition"].execute(model=model, image=picture).result[0]
    images = sample(nodes, model, noisy, condition=condition)
    assert mask.shape == (1, 40, 48)
    assert images.shape == (1, 16, 16, 3) and images.dtype == torch.float32
    assert 0 <= images.min() and images.max() <= 1 and images.std() > 0


def test_the_parts_are_moved_by_comfyui_and_the_engine_follows(nodes, model, style):
    before = sample(nodes, model, style)
    for patcher in model.patchers.values():
        patcher.model.to(patcher.offload_device)
    assert torch.equal(sample(nodes, model, style), before)


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(nodes, model, style):
    first, again, other = (sample(nodes, model, style, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_picture_of_a_batch_is_the_one_its_own_seed_gives(nodes, model, style):
    together = sample(nodes, model, style, seed=5, batch_size=2)
    assert torch.allclose(together[1], sample(nodes, model, style, seed=6)[0], atol=1e-4)


def test_the_largest_seed_of_the_widget_works_in_a_batch(nodes, model, style):
    assert sample(nodes, model, style, seed=0xFFFFFFFFFFFFFFFF, batch_size=2).shape[0] == 2


@pytest.mark.parametrize(("width", "height", "named"), [(-64, 0, "width"), (4096, 0, "width"), (16, 176, "height")])
def test_a_side_is_refused_with_the_range_that_the_node_takes(nodes, model, style, errors, width, height, named):
    with pytest.raises(errors.BadInput, match=f"^{named} is .* from 0 to 48, as every side with this model"):
        sample(nodes, model, style, width=width, height=height)


def test_a_value_is_refused_before_memory_is_made_for_it(nodes, model, style, errors, host, monkeypatch):
    asked = []
    monkeypatch.setattr(host.HostedModel, "ready", lambda self, *_, **__: asked.append(1) or self.model)
    for name, value in {"width": 10**9, "batch_size": 257, "cfg": float("nan"), "top_k": 0, "temperature": -1}.items():
        with pytest.raises(errors.BadInput, match=f"^{name} is"):
            sample(nodes, model, style, **{name: value})
    assert asked == []


def test_a_style_guided_apart_changes_the_picture_and_one_as_cfg_does_not(nodes, model, style):
    far = style.with_noise(3.0, 0)
    released = sample(nodes, model, far)
    assert torch.equal(sample(nodes, model, far, style_cfg=-1.0), released)
    assert not torch.equal(sample(nodes, model, far, style_cfg=9.0), released)


def test_a_negative_style_changes_the_picture_and_what_is_no_style_is_refused(nodes, model, style, errors):
    away = style.with_noise(5.0, 1)
    assert not torch.equal(sample(nodes, model, style, negative=away), sample(nodes, model, style))
    with pytest.raises(errors.BadInput, match="negative is of type str, not a style"):
        sample(nodes, model, style, negative="away")


def test_a_window_changes_no_picture_and_one_larger_than_the_picture_is_refused(nodes, model, style, errors):
    assert torch.equal(sample(nodes, model, style, window="16"), sample(nodes, model, style, window="1"))
    with pytest.raises(errors.BadInput, match="window is 64; .* from 1 to 16"):
        sample(nodes, model, style, window="64")


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantised_model_goes_through_comfyuis_memory_and_draws(nodes, model, picture, kind):
    reduced = nodes["LoadStyleAR"].execute(model="tiny", quantize=kind).result[0]
    assert reduced.patchers["base"].model_size() < model.patchers["base"].model_size()
    style = nodes["StyleTokenEncode"].execute(model=reduced, image=picture).result[0]
    assert sample(nodes, reduced, style).shape == (1, 16, 16, 3)


def test_width_and_height_are_taken_to_the_models_grid(nodes, model, style):
    assert sample(nodes, model, style, width=33, height=16).shape == (1, 16, 32, 3)


def test_encoding_and_subtracting_leave_their_inputs_as_they_were(nodes, model, style, picture):
    tokens, pixels = style.tokens.clone(), picture.clone()
    subtract(nodes, model, style)
    nodes["NoiseInject"].execute(style=style, gamma=1.0, seed=1)
    assert torch.equal(style.tokens, tokens) and torch.equal(picture, pixels)


def test_alpha_one_switches_the_subtraction_off(nodes, model, style, picture):
    kept, _ = subtract(nodes, model, style, alpha=1.0)
    assert torch.allclose(kept.tokens, style.tokens, atol=1e-5)


def test_a_mask_of_another_size_than_the_picture_is_stretched_over_it(nodes, model, style, picture):
    half = torch.zeros(1, 10, 12)
    half[:, :5] = 1
    large = half.repeat_interleave(4, 1).repeat_interleave(4, 2)
    stretched, _ = subtract(nodes, model, style, mask=half)
    exact, _ = subtract(nodes, model, style, mask=large)
    whole, _ = subtract(nodes, model, style, content=picture)
    difference = (stretched.tokens - exact.tokens).norm()
    assert difference < 0.5 * (stretched.tokens - whole.tokens).norm()


def test_the_mask_that_is_shown_is_the_one_that_is_subtracted(nodes, model, style, picture):
    half = torch.zeros(1, 10, 12)
    half[:, :5] = 1
    for inputs in ({"points": "12,10; 8,6"}, {"box": "4,4,40,30"}, {"mask": half}, {}):
        cleaned, shown = subtract(nodes, model, style, **inputs)
        assert shown.shape == (1, 40, 48)
        assert torch.equal(subtract(nodes, model, style, mask=shown)[0].tokens, cleaned.tokens)
    assert torch.equal(subtract(nodes, model, style, content=picture)[1], torch.ones(1, 40, 48))


def test_a_style_without_its_picture_asks_for_one(nodes, model, style, errors):
    bare = type(style)(style.tokens, style.features)
    with pytest.raises(errors.BadInput, match="no picture to cut from.*content"):
        subtract(nodes, model, bare)


def test_the_tokens_cross_the_wire_on_the_cpu(style):
    assert style.tokens.device.type == "cpu" and style.features.device.type == "cpu"


@pytest.mark.parametrize(
    "wrong",
    [
        {"cfg": float("nan")},
        {"style_cfg": float("nan")},
        {"style_strength": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 0.0},
        {"top_k": 0},
        {"batch_size": 0},
        {"width": 10**6},
        {"prompt": "word " * 10_000},
    ],
    ids=str,
)
def test_values_that_validation_lets_through_are_refused_with_a_reason(nodes, model, style, errors, wrong):
    with pytest.raises(errors.BadInput):
        sample(nodes, model, style, **wrong)
    assert sample(nodes, model, style).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("gamma", [float("nan"), float("inf")])
def test_noise_that_is_no_number_is_refused(nodes, style, errors, gamma):
    with pytest.raises(errors.BadInput, match="gamma"):
        nodes["NoiseInject"].execute(style=style, gamma=gamma, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": float("nan")},
        {"beta": float("inf")},
        {"points": "900,1"},
        {"points": "12;40"},
        {"box": "5,5,1,1"},
        {"mask": torch.ones(1, 40, 48), "points": "12,10"},
        {"mask": torch.ones(1, 40, 48), "box": "1,1,9,9"},
    ],
)
def test_a_subtraction_that_makes_no_sense_is_refused(nodes, model, style, picture, errors, wrong):
    with pytest.raises(errors.BadInput):
        subtract(nodes, model, style, **wrong)


@pytest.mark.parametrize("pixels", [float("nan"), float("inf")])
def test_a_picture_with_pixels_that_are_no_numbers_is_refused(nodes, model, errors, pixels):
    with pytest.raises(errors.BadInput):
        nodes["StyleTokenEncode"].execute(model=model, image=torch.full((1, 8, 8, 3), pixels))


def test_an_empty_prompt_is_a_prompt(nodes, model, style):
    assert sample(nodes, model, style, prompt="").shape == (1, 16, 16, 3)


def test_a_model_without_a_segmenter_says_so_and_takes_a_mask(nodes, host, models, picture, errors):
    tiny.write_bundle(models / "tiny", segmenter=False)
    model = nodes["LoadStyleAR"].execute(model="tiny").result[0]
    style = nodes["StyleTokenEncode"].execute(model=model, image=picture).result[0]
    with pytest.raises(errors.MissingPart, match="segmenter"):
        subtract(nodes, model, style)
    subtract(nodes, model, style, mask=torch.ones(1, 40, 48))


def test_a_folder_that_lacks_a_part_is_refused_by_the_parts_name(nodes, models, errors):
    tiny.write_base(models / "bare")
    with pytest.raises(errors.MissingPart, match="adapter"):
        nodes["LoadStyleAR"].execute(model="bare")


def test_the_official_layout_is_loaded_part_by_part(nodes, models, picture):
    tiny.write_official(models)
    parts = {"adapter": "stylear_models", "vqgan": "tokenizer", "image_encoder": "CLIP-ViT-H-14"}
    chosen = {part: f"stylear/{folder}" for part, folder in parts.items()}
    model = nodes["LoadStyleAR"].execute(model="Lumina-mGPT-7B-768", dtype="bfloat16", **chosen).result[0]
    style = nodes["StyleTokenEncode"].execute(model=model, image=picture).result[0]
    assert sample(nodes, model, style, width=8, height=8).shape == (1, 8, 8, 3)


def test_the_bundled_mini_lies_where_the_loader_looks(pack, extension):
    pipeline = import_module(f"{PACK_NAME}.stylear.pipeline")
    assert pipeline.MINI == ROOT / "stylear" / "mini"
