"""What each node asks of the engine, with an engine that only remembers."""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bench import PACK_NAME

PICTURE = torch.rand(2, 6, 8, 3)
STYLE = SimpleNamespace(picture=torch.randint(0, 256, (6, 8, 3), dtype=torch.uint8))
SAMPLE = {
    "prompt": "a rocket",
    "width": 0,
    "height": 0,
    "seed": 7,
    "batch_size": 1,
    "cfg": 4.0,
    "top_k": 2000,
    "temperature": 1.0,
}


def loaded(comfy, model):
    return {name for name, patcher in model.patchers.items() if patcher in comfy.management.loaded_models()}


def test_style_token_encode_reads_the_first_picture_of_a_batch(comfy, nodes, model, engine):
    comfy.management.unload_all_models()
    assert nodes["StyleTokenEncode"].execute(model=model, image=PICTURE).result == ("style",)
    assert torch.equal(engine.calls[0].args[0], PICTURE[0])
    assert loaded(comfy, model) == {"image_encoder", "resampler"}


@pytest.mark.parametrize("painted", [False, True])
def test_the_style_is_taken_from_the_painted_region_or_from_all(nodes, model, engine, painted):
    mask = torch.zeros(1, 6, 8)
    mask[:, 2:4] = painted
    nodes["StyleTokenEncode"].execute(model=model, image=PICTURE, region=mask)
    region = engine.calls[0].region
    assert torch.equal(region, mask[0]) if painted else region is None


# -- SAMSubtract ---------------------------------------------------------------------------------------------


def subtract(nodes, model, style=STYLE, **inputs):
    style, mask = nodes["SAMSubtract"].execute(model=model, style=style, alpha=0.2, beta=0.8, **inputs).result
    assert style == "less style"
    return mask


def test_sam_finds_the_subject_of_the_reference_and_the_mask_is_shown(comfy, nodes, model, engine):
    comfy.management.unload_all_models()
    mask = subtract(nodes, model, points="1,2; 3,4,0", box="0, 1, 5, 6")
    asked, segment, taken = engine.calls
    assert asked.points == segment.points and asked.box == segment.box
    assert loaded(comfy, model) == {"segmenter", "image_encoder", "resampler"}
    assert segment.points == [(1, 2), (3, 4, 0)] and segment.box == (0, 1, 5, 6)
    assert taken.args == (STYLE,) and (taken.alpha, taken.beta) == (0.2, 0.8)
    assert taken.args[0] is STYLE and np.array_equal(taken.content, STYLE.picture)
    assert mask.shape == (1, 6, 8)


def test_blank_points_and_box_ask_for_the_salient_subject(nodes, model, engine):
    subtract(nodes, model, points=" ", box="", mask=torch.zeros(1, 64, 64))
    assert engine.calls[0].points is None and engine.calls[0].box is None


def test_a_painted_mask_is_used_instead_of_sam(comfy, nodes, model, engine):
    comfy.management.unload_all_models()
    painted = torch.zeros(1, 6, 8)
    painted[:, :3] = 1
    assert torch.equal(subtract(nodes, model, mask=painted), painted)
    assert [call.method for call in engine.calls] == ["content_mask", "subtract"]
    assert "segmenter" not in loaded(comfy, model)


def test_a_content_picture_is_subtracted_whole(comfy, nodes, model, engine):
    comfy.management.unload_all_models()
    content = torch.rand(1, 3, 4, 3)
    assert torch.equal(subtract(nodes, model, content=content), torch.ones(1, 3, 4))
    assert [call.method for call in engine.calls] == ["content_mask", "subtract"]
    assert np.array_equal(engine.calls[1].content, (content[0] * 255).round()) and engine.calls[1].mask is None
    assert "segmenter" not in loaded(comfy, model)


def test_the_nodes_say_in_which_order_they_work_and_how_several_things_go(nodes):
    for name in ("SAMSubtract", "NoiseInject"):
        text = nodes[name].define_schema().description
        assert "SAM Subtract first, then Noise Inject" in text
        assert "use one mask or several points" in text


@pytest.mark.parametrize(
    ("name", "text"), [("points", "a,b"), ("points", "1,2; 3,"), ("box", "left"), ("box", "1,2,,4")]
)
def test_points_and_boxes_that_are_no_numbers_are_refused_in_their_own_words(nodes, model, errors, name, text):
    with pytest.raises(errors.BadInput, match=f"{name}: .* is not in the form .* Write numbers of pixels"):
        subtract(nodes, model, **{name: text})


def test_an_endless_text_in_place_of_numbers_is_told_in_a_few_words(nodes, model, errors):
    for name in ("points", "box"):
        with pytest.raises(errors.BadInput) as refused:
            subtract(nodes, model, **{name: "x" * 1_000_000})
        assert len(str(refused.value)) < 200


def test_signs_of_chinese_and_japanese_keyboards_are_read_like_the_plain_ones(nodes, model, engine):
    subtract(nodes, model, points="1，2；３,４,0", box="0，0，4，4")
    call = next(call for call in engine.calls if call.method == "content_mask")
    assert (call.points, call.box) == ([(1, 2), (3, 4, 0)], (0, 0, 4, 4))


# -- the others ----------------------------------------------------------------------------------------------


def test_noise_inject_hands_gamma_and_seed_to_the_tokens(pack, extension, nodes):
    tokens = import_module(f"{PACK_NAME}.stylear.style").StyleTokens(torch.ones(2, 3))
    (noisy,) = nodes["NoiseInject"].execute(style=tokens, gamma=0.3, seed=5).result
    assert torch.equal(noisy.tokens, tokens.with_noise(0.3, 5).tokens)


def test_noise_inject_refuses_what_is_no_style(nodes, errors):
    with pytest.raises(errors.BadInput, match="style is of type str, not a style"):
        nodes["NoiseInject"].execute(style="style", gamma=0.3, seed=5)


def test_style_blend_weighs_its_sockets_in_their_order(pack, extension, nodes):
    tokens = import_module(f"{PACK_NAME}.stylear.style").StyleTokens
    styles = {f"style{index}": tokens(torch.full((2, 3), 3.0 * index)) for index in range(2)}
    for weights, expected in (("", 1.5), ("2, 1", 1.0), ("0,1", 3.0)):
        (style,) = nodes["StyleBlend"].execute(styles=styles, weights=weights).result
        assert torch.equal(style.tokens, torch.full((2, 3), expected))


@pytest.mark.parametrize(
    ("styles", "weights", "reason"),
    [
        ({}, "", "Connect one style or several"),
        ({"style0": "x"}, "", "style 1 to blend is of type str, not a style.*connect Style Token Encode"),
        ("x", "", "styles is a str"),
        ({}, "1, much", "weights: .* is not in the form 2, 1"),
    ],
)
def test_style_blend_refuses_what_it_cannot_blend(nodes, errors, styles, weights, reason):
    with pytest.raises(errors.BadInput, match=reason):
        nodes["StyleBlend"].execute(styles=styles, weights=weights)


def test_style_blend_refuses_a_socket_beyond_those_it_has(nodes, errors):
    with pytest.raises(errors.BadInput, match="no socket 'styles.style99'. Connect up to 16 styles"):
        nodes["StyleBlend"].execute(styles={}, **{"styles.style99": "x"})


def test_depth_condition_takes_a_depth_map_as_it_is(comfy, nodes, model, engine):
    comfy.management.unload_all_models()
    assert nodes["DepthCondition"].execute(model=model, image=PICTURE).result == ("condition",)
    assert torch.equal(engine.calls[0].args[0], PICTURE[0]) and engine.calls[0].args[1] == "depth"
    assert loaded(comfy, model) == {"vqgan"}


def test_depth_condition_takes_a_segmentation_map_where_it_is_told_so(nodes, model, engine):
    told = "none: the image is a segmentation map"
    assert nodes["DepthCondition"].execute(model=model, image=PICTURE, depth_from=told).result == ("condition",)
    assert torch.equal(engine.calls[0].args[0], PICTURE[0]) and engine.calls[0].args[1] == "segmentation"


def test_depth_condition_makes_the_map_of_a_photo_with_the_chosen_model(nodes, model, engine, models, monkeypatch):
    depth_model = import_module(f"{PACK_NAME}.stylear.depth_model")
    monkeypatch.setattr(depth_model, "load_depth_model", lambda folder: torch.nn.Linear(1, 1))
    monkeypatch.setattr(depth_model, "depth_from_photo", lambda photo, loaded: photo.mean(-1))
    (models / "depth").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (models / "depth" / name).touch()
    nodes["DepthCondition"].execute(model=model, image=PICTURE, depth_from="depth")
    assert torch.equal(engine.calls[0].args[0], PICTURE[0].mean(-1)) and engine.calls[0].args[1] == "depth"


def test_depth_condition_refuses_a_depth_model_that_is_not_listed(nodes, model, errors, models):
    with pytest.raises(errors.MissingPart, match="There is no model"):
        nodes["DepthCondition"].execute(model=model, image=PICTURE, depth_from="../depth")


def test_ar_sample_passes_every_knob_on_and_zero_is_the_models_own_size(nodes, model, engine):
    (images,) = nodes["ARSample"].execute(model=model, style="style", **SAMPLE | {"batch_size": 2, "height": 64}).result
    call = engine.calls[0]
    assert call.args == ("a rocket", "style")
    assert (call.width, call.height, call.seed, call.condition) == (0, 64, 7, None)
    assert (call.cfg, call.top_k, call.temperature, call.window) == (4.0, 2000, 1.0, "auto")
    assert images.shape == (2, 8, 8, 3)


def test_ar_sample_reads_the_empty_style_only_where_the_strength_asks_for_it(comfy, nodes, model, engine):
    for strength in (1.0, 1.5):
        comfy.management.unload_all_models()
        nodes["ARSample"].execute(model=model, style="style", **SAMPLE, style_strength=strength)
        assert engine.calls[-1].style_strength == strength
        assert ("image_encoder" in loaded(comfy, model)) == (strength != 1)


@pytest.mark.parametrize(("value", "passed"), [(-1.0, None), (-0.9, None), (0.0, 0.0), (2.5, 2.5)])
def test_a_style_cfg_below_0_is_none_of_its_own(comfy, nodes, model, engine, value, passed):
    comfy.management.unload_all_models()
    nodes["ARSample"].execute(model=model, style="style", **SAMPLE, style_cfg=value)
    assert engine.calls[0].style_cfg == passed
    assert ("image_encoder" in loaded(comfy, model)) == (passed is not None)


def test_a_preview_is_drawn_of_the_one_picture_that_is_shown(nodes, model, engine):
    nodes["ARSample"].execute(model=model, style="style", **SAMPLE | {"batch_size": 2})
    assert engine.calls[0].previews == 1


def test_a_prompt_of_no_word_that_the_model_was_taught_is_drawn_and_told_on_the_node(
    comfy, nodes, model, engine, monkeypatch
):
    shown = []
    listening = SimpleNamespace(send_progress_text=lambda text, node: shown.append((text, node)))
    monkeypatch.setattr(comfy.server, "instance", listening, raising=False)
    assert any(str(hidden).endswith("unique_id") for hidden in nodes["ARSample"].define_schema().hidden)
    node = type("Prepared", (nodes["ARSample"],), {"hidden": SimpleNamespace(unique_id="7")})  # as for a run
    for prompt in ("a rocket", "a zebra"):
        node.execute(model=model, style="style", **SAMPLE | {"prompt": prompt})
    assert shown == [("none of a zebra", "7")] and len(engine.calls) == 2


@pytest.fixture
def asked_for(host, monkeypatch):
    """The bytes beside the weights that nodes ask ComfyUI for, in order."""
    asked = []
    monkeypatch.setattr(host.HostedModel, "ready", lambda self, *_, memory=0: asked.append(memory) or self.model)
    return asked


def test_ar_sample_asks_for_the_memory_of_its_size_batch_guidance_and_condition(nodes, model, asked_for):
    changes = {"batch_size": 2}, {}, {"cfg": 1.0}, {"condition": torch.zeros(16, 16, dtype=torch.int64)}, {"width": 640}
    changes = *changes, {"style_cfg": 2.0}, {"negative": "style"}
    for change in changes:
        nodes["ARSample"].execute(model=model, style="style", **SAMPLE | change)
    batch, plain, unguided, conditional, wide, apart, negative = asked_for
    assert unguided < plain < apart < negative < batch and plain < conditional and plain < wide


def test_ar_sample_asks_for_the_memory_of_the_device_it_draws_on_wherever_the_weights_rest(
    nodes, model, asked_for, comfy, monkeypatch
):
    model.model.base.bfloat16()  # on a CPU keys and values are kept in float32
    for device in ("cpu", "meta"):
        monkeypatch.setattr(comfy.management, "get_torch_device", lambda device=device: torch.device(device))
        nodes["ARSample"].execute(model=model, style="style", **SAMPLE | {"width": 2048, "height": 2048})
    assert asked_for[0] > 1.5 * asked_for[1]


def test_the_other_nodes_ask_for_the_memory_that_looking_at_a_picture_takes(nodes, model, asked_for):
    nodes["DepthCondition"].execute(model=model, image=PICTURE)
    nodes["SAMSubtract"].execute(model=model, style=STYLE, alpha=0.2, beta=0.8)
    assert asked_for[0] > 64 * 64 * 4 and asked_for[1] > 4 * 16**2


def test_ar_sample_stops_within_a_step_of_the_stop_button(comfy, nodes, model, engine):
    comfy.management.interrupt_current_processing()
    with pytest.raises(comfy.management.InterruptProcessingException):
        nodes["ARSample"].execute(model=model, style="style", **SAMPLE)
    nodes["ARSample"].execute(model=model, style="style", **SAMPLE)


# -- LoadStyleAR ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(pack, extension, engine, monkeypatch):
    """How LoadStyleAR asked the engine for a model."""
    pipeline = import_module(f"{PACK_NAME}.stylear.pipeline")
    asked = {}
    monkeypatch.setattr(pipeline.StyleAR, "load", lambda base, **options: asked.update(base=base, **options) or engine)
    return asked


@pytest.mark.parametrize("name", ["dtype", "quantize"])
def test_the_ways_to_hold_weights_say_what_a_7b_model_takes(nodes, name):
    tooltip = next(item for item in nodes["LoadStyleAR"].define_schema().inputs if item.id == name).tooltip
    assert "7B" in tooltip and "GB" in tooltip and "about 14" in tooltip


def test_the_bundled_mini_is_what_load_stylear_begins_with(nodes, folders, models):
    model = next(item for item in nodes["LoadStyleAR"].define_schema().inputs if item.id == "model")
    assert model.default == folders.MINI == model.options[0]


def test_load_stylear_opens_the_bundled_mini_by_its_name(nodes, folders, host, asked, engine):
    (model,) = nodes["LoadStyleAR"].execute(model=folders.MINI).result
    assert model.model is engine
    assert asked == {"base": "mini", "dtype": torch.float32, "device": host.offload_device(), "quantize": None}


def test_load_stylear_gives_the_engine_the_folder_in_which_to_find_the_parts(nodes, folders, host, asked, models):
    (models / "own" / "base").mkdir(parents=True)
    (models / "own" / "base" / "config.json").touch()
    nodes["LoadStyleAR"].execute(model="own", dtype="float16", vqgan=folders.WITH_MODEL)
    assert asked == {
        "base": str(models / "own"),
        "dtype": torch.float16,
        "device": host.offload_device(),
        "quantize": None,
    }


def test_a_part_chosen_by_hand_is_looked_for_where_it_was_chosen(nodes, folders, asked, models):
    (models / "other.safetensors").touch()
    nodes["LoadStyleAR"].execute(model=folders.MINI, vqgan="stylear/other.safetensors", segmenter=folders.WITH_MODEL)
    assert asked["vqgan"] == str(models / "other.safetensors")
    assert "segmenter" not in asked


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_load_stylear_hands_the_bits_of_the_matrices_on(nodes, folders, asked, kind):
    nodes["LoadStyleAR"].execute(model=folders.MINI, quantize=kind)
    assert asked["quantize"] == kind


@pytest.mark.parametrize("name,last", [("LoadStyleAR", "quantize"), ("ARSample", "window")])
def test_inputs_that_older_workflows_do_not_have_come_behind_theirs_and_are_optional(nodes, name, last):
    newest = nodes[name].define_schema().inputs
    newest = newest[[item.id for item in newest].index(last) :]
    assert all(item.optional for item in newest)
    assert newest[0].default == newest[0].options[0]


def test_load_stylear_refuses_a_model_that_is_not_listed(nodes, errors, models):
    with pytest.raises(errors.MissingPart, match="There is no model"):
        nodes["LoadStyleAR"].execute(model="../../etc")
