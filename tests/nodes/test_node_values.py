"""What comes into a node is read, or refused in the words of its input."""

import sys

import pytest
import torch
from bench import PACK_NAME


@pytest.fixture
def inputs(pack, extension):
    """nodes/inputs.py of the loaded pack."""
    return sys.modules[f"{PACK_NAME}.nodes.inputs"]


def ranged(nodes):
    """Every number widget that has a range of its own: (node, input)."""
    alone = ("seed", "width", "height")  # the engine's, which knows the model
    return [
        (node, item)
        for node in nodes.values()
        for item in node.define_schema().inputs
        if getattr(item, "max", None) is not None and item.id not in alone
    ]


def test_a_number_outside_its_widget_is_refused_with_the_range_that_the_widget_shows(nodes, inputs, errors):
    assert {item.id for _, item in ranged(nodes)} >= {"cfg", "top_k", "alpha", "gamma", "style_cfg", "batch_size"}
    for node, item in ranged(nodes):
        for value in (item.max + 1, item.min - 1, float("nan"), float("inf"), "much", None, True):
            with pytest.raises(errors.BadInput, match=f"^{item.id} is .* from {item.min:g} to {item.max:g}"):
                inputs.settings(node, **{item.id: value})


def test_numbers_within_their_widgets_come_back_in_their_order(nodes, inputs):
    assert inputs.settings(nodes["SAMSubtract"], beta=2, alpha=0.5) == [2.0, 0.5]
    top_k, cfg = inputs.settings(nodes["ARSample"], top_k=7, cfg=1)
    assert (top_k, cfg) == (7, 1.0) and isinstance(top_k, int)


def test_a_half_precision_batch_gives_its_first_picture_in_float32(inputs):
    batch = torch.rand(3, 4, 5, 3).half()
    picture = inputs.first_picture(batch, "image")
    assert picture.dtype == torch.float32
    assert torch.equal(picture, batch[0].float())


@pytest.mark.parametrize("value", ["a string", 3, None])
def test_a_value_written_where_a_picture_or_a_mask_belongs_is_refused_by_the_inputs_name(inputs, errors, value):
    with pytest.raises(errors.BadInput, match="image is a .* Connect an IMAGE"):
        inputs.first_picture(value, "image")
    if value is not None:
        with pytest.raises(errors.BadInput, match="Connect a MASK"):
            inputs.first_mask(value)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 0, 4, 3), (4, 4, 3)])
def test_an_image_without_a_picture_is_refused_with_its_shape(inputs, errors, shape):
    with pytest.raises(errors.BadInput, match=str(list(shape))[1:-1]):
        inputs.first_picture(torch.zeros(shape), "image")


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 64, 64), torch.zeros(0, 8, 8)], ids=["none", "64x64", "empty"])
def test_a_mask_that_marks_nothing_counts_as_none(inputs, mask):
    assert inputs.first_mask(mask) is None


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (2, 4, 5), (1, 1, 4, 5)])
def test_masks_of_every_usual_shape_are_read(inputs, shape):
    mask = inputs.first_mask(torch.ones(shape, dtype=torch.float16))
    assert mask.shape == (4, 5) and mask.dtype == torch.float32
