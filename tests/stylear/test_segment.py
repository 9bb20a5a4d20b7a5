"""SAM of any size is read from its weights and gives the mask that was asked for."""

import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stylear import segment
from stylear.errors import BadCheckpoint, BadInput, MissingPart
from stylear.segment import Segmenter, content_picture

PICTURE = np.random.default_rng(0).integers(0, 256, (36, 48, 3), dtype=np.uint8)


def sam(size=64, patch=4, width=96, depth=2, heads=6, window=6, global_blocks=(1,), prompt=64, mlp=128):
    """A SAM of segment_anything's own classes with random weights."""
    modeling, grid = segment._modeling(), size // patch
    model = modeling.Sam(
        modeling.ImageEncoderViT(
            img_size=size,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            out_chans=prompt,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=global_blocks,
        ),
        modeling.PromptEncoder(prompt, (grid, grid), (size, size), 16),
        modeling.MaskDecoder(
            transformer_dim=prompt,
            transformer=modeling.TwoWayTransformer(2, prompt, 8, mlp),
            iou_head_hidden_dim=prompt,
        ),
    )
    return model.eval()


@pytest.fixture(scope="module")
def official():
    torch.manual_seed(3)
    model = sam()
    for name, weight in model.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(weight, std=0.2)
    return model


@pytest.fixture
def segmenter(official):
    return Segmenter.from_state_dict(official.state_dict())


def official_masks(model, image, multimask, **prompt):
    """segment_anything's own forward on a 48 x 36 picture: masks bool [K, 36, 48] and predicted IoU [K]."""
    scaled = np.array(image.resize((64, 48), Image.Resampling.BILINEAR))
    record = {"image": torch.from_numpy(scaled).permute(2, 0, 1).float(), "original_size": (36, 48)}
    output = model([record | prompt], multimask_output=multimask)[0]
    return output["masks"][0], output["iou_predictions"][0]


def test_a_weight_without_dimensions_is_no_sams(official):
    key = "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"
    with pytest.raises(BadCheckpoint, match="its shapes fit no SAM"):
        Segmenter.from_state_dict(official.state_dict() | {key: torch.tensor(0.0)})


def test_one_point_gives_the_best_of_sams_three_masks(official, segmenter):
    image = Image.fromarray(PICTURE)
    points = {"point_coords": torch.tensor([[[20.0, 12.0]]]) * 64 / 48, "point_labels": torch.ones(1, 1)}
    masks, iou = official_masks(official, image, True, **points)
    assert torch.equal(segmenter.mask(image, points=[(20, 12)]), masks[iou.argmax()].float())


@pytest.mark.parametrize("with_points,with_box", [(True, False), (False, True), (True, True)])
def test_several_points_or_a_box_give_sams_single_mask(official, segmenter, with_points, with_box):
    image, points, box, prompt = Image.fromarray(PICTURE), None, None, {}
    if with_points:
        points = [(20, 12), (30, 30, 0)]
        prompt["point_coords"] = torch.tensor([[[20.0, 12.0], [30.0, 30.0]]]) * 64 / 48
        prompt["point_labels"] = torch.tensor([[1.0, 0.0]])
    if with_box:
        box = (3, 6, 45, 33)
        prompt["boxes"] = torch.tensor([[3.0, 6.0, 45.0, 33.0]]) * 64 / 48
    masks, _ = official_masks(official, image, False, **prompt)
    assert 0 < masks[0].sum() < masks[0].numel()
    assert torch.equal(segmenter.mask(image, points=points, box=box), masks[0].float())


def test_without_a_prompt_some_object_is_found_and_always_the_same(segmenter):
    mask = segmenter.mask(PICTURE)
    assert mask.shape == (36, 48) and mask.dtype == torch.float32 and set(mask.unique().tolist()) <= {0, 1}
    assert torch.equal(mask, segmenter.mask(Image.fromarray(PICTURE), points=[]))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 2), (64, 64)])
def test_the_mask_has_the_pictures_own_size(segmenter, monkeypatch, size):
    everything = torch.ones(1, 1, 64, 64), torch.ones(1, 1)
    monkeypatch.setattr(segmenter, "_decode", lambda *prompt, many: everything)
    assert torch.equal(segmenter.mask(np.zeros((*size, 3), np.uint8), points=[(0, 0)]), torch.ones(size))
    assert torch.equal(segmenter.mask(np.zeros((*size, 3), np.uint8)), torch.ones(size))


def test_the_salient_mask_is_central_and_neither_background_nor_everything():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 48), indexing="ij")
    disc = x**2 + y**2 < 0.3
    corner = (x + 0.9) ** 2 + (y + 0.9) ** 2 < 0.3
    speck = x**2 + y**2 < 0.005
    candidates = torch.stack([~disc, torch.ones_like(disc), corner, speck, disc, disc & False])
    iou = torch.tensor([0.95, 0.99, 0.9, 0.9, 0.8, 1.0])
    assert segment._most_salient(candidates.view(2, 3, 32, 48), iou.view(2, 3)) == 4


def test_of_equal_masks_the_surer_one_is_taken():
    mask = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    mask[..., 2:6, 2:6] = True
    assert segment._most_salient(mask, torch.tensor([[0.2, 0.9, 0.5]])) == 1


def test_where_nothing_is_found_the_person_is_told_what_to_do(official):
    weights = official.state_dict()
    for key in weights:
        if "output_hypernetworks_mlps" in key and ".layers.2." in key:
            weights[key] = torch.zeros_like(weights[key])
    with pytest.raises(BadInput, match="No object was found .* Give a point"):
        Segmenter.from_state_dict(weights).mask(PICTURE)


@pytest.mark.parametrize(
    "points",
    [
        [(48, 0)],
        [(0, 36)],
        [(-1, 0)],
        [(float("nan"), 0)],
        [(1,)],
        [(1, 1, 2)],
        [(1, 1, 1, 1)],
        (1, 1),
        ["ab"],
    ],
)
def test_points_that_are_not_in_the_picture_are_refused(segmenter, points):
    with pytest.raises(BadInput, match="point.*(Give|Use) "):
        segmenter.mask(PICTURE, points=points)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 49, 9),
        (0, 0, 9, 37),
        (-1, 0, 9, 9),
        (9, 0, 9, 9),
        (0, 9, 9, 3),
        (0, 0, 9),
        7,
        "abcd",
        (0, 0, 9, np.nan),
    ],
)
def test_a_box_that_is_not_in_the_picture_is_refused(segmenter, box):
    with pytest.raises(BadInput, match="box.* Give "):
        segmenter.mask(PICTURE, box=box)


def test_more_points_than_memory_would_hold_are_refused_before_any_is_looked_at(segmenter):
    many = ((1.0, 1.0) for _ in range(10**12))
    with pytest.raises(BadInput, match="more than 100 points. Give a few, or a mask"):
        segmenter.mask(PICTURE, points=many)
    assert segmenter.mask(PICTURE, points=[(20, 12)] * 100).shape == PICTURE.shape[:2]


def test_points_may_be_an_array(segmenter):
    assert torch.equal(segmenter.mask(PICTURE, points=np.array([[20, 12]])), segmenter.mask(PICTURE, points=[(20, 12)]))


@pytest.mark.parametrize(
    "width,depth,heads,global_blocks",
    [(768, 12, 12, (2, 5, 8, 11)), (1024, 24, 16, (5, 11, 17, 23)), (1280, 32, 16, (7, 15, 23, 31))],
    ids=["ViT-B", "ViT-L", "ViT-H"],
)
def test_the_released_sizes_are_recognised_by_their_shapes(width, depth, heads, global_blocks):
    with torch.device("meta"):
        released = sam(1024, 16, width, depth, heads, 14, global_blocks, 256, 2048)
    encoder = Segmenter.from_state_dict(released.state_dict()).sam.image_encoder
    assert (encoder.img_size, len(encoder.blocks), encoder.blocks[0].attn.num_heads) == (1024, depth, heads)
    assert tuple(i for i, block in enumerate(encoder.blocks) if block.window_size == 0) == global_blocks
    assert encoder.blocks[0].window_size == 14


def test_half_precision_weights_are_used_in_single_precision(official):
    half = {key: value.half() for key, value in official.state_dict().items()}
    segmenter = Segmenter.from_state_dict(half)
    assert all(weight.dtype == torch.float32 and not weight.requires_grad for weight in segmenter.parameters())


def test_other_weights_are_refused_by_the_missing_key():
    with pytest.raises(BadCheckpoint, match="image_encoder.patch_embed.proj.weight' is absent"):
        Segmenter.from_state_dict({"latents": torch.zeros(1)})


def test_wrong_shapes_are_refused_with_both(official):
    weights = official.state_dict() | {"mask_decoder.iou_token.weight": torch.zeros(2, 64)}
    with pytest.raises(BadCheckpoint, match=r"iou_token.weight is \[2, 64\], SAM has \[1, 64\]"):
        Segmenter.from_state_dict(weights)
    with pytest.raises(BadCheckpoint, match=r"extra is \[1\], SAM has absent"):
        Segmenter.from_state_dict(official.state_dict() | {"extra": torch.zeros(1)})
    weights = official.state_dict() | {"prompt_encoder.not_a_point_embed.weight": torch.zeros(1, 60)}
    with pytest.raises(BadCheckpoint, match="Not a SAM checkpoint"):
        Segmenter.from_state_dict(weights)


def test_without_segment_anything_the_one_command_is_named(monkeypatch):
    monkeypatch.delitem(segment.sys.modules, "segment_anything_modeling", raising=False)
    monkeypatch.setattr(segment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPart, match="pip install segment-anything"):
        Segmenter.from_state_dict({})


def test_a_torchvision_that_does_not_import_is_no_obstacle(monkeypatch):
    for name in [name for name in segment.sys.modules if name.startswith("segment_anything")]:
        monkeypatch.delitem(segment.sys.modules, name)
    monkeypatch.setitem(segment.sys.modules, "torchvision", None)
    assert segment._modeling().Sam.image_format == "RGB"


HALF = np.array([[1.0, 0.0]])


@pytest.mark.parametrize("fill,colour", [("white", 255), ("black", 0), ("mean", 100)])
def test_the_content_picture_keeps_the_object_in_place_and_fills_the_rest(fill, colour):
    picture = np.zeros((2, 4, 3), np.uint8)
    picture[:, :2], picture[:, 2:] = 150, 50
    mask = np.zeros((2, 4))
    mask[:, :2] = 1
    content = np.asarray(content_picture(picture, mask, fill))
    assert (content[:, :2] == 150).all() and (content[:, 2:] == colour).all()


def test_a_soft_edge_is_blended():
    content = content_picture(np.zeros((1, 2, 3), np.uint8), np.array([[1.0, 0.6]]), "white")
    assert content.getpixel((1, 0)) == (102, 102, 102)


def test_white_is_the_default_and_the_mask_is_stretched_to_the_picture():
    content = np.asarray(content_picture(np.zeros((4, 8, 3), np.uint8), HALF))
    assert (content[:, 0] == 0).all() and (content[:, 7] == 255).all() and content.shape == (4, 8, 3)


def test_a_large_picture_is_cut_out_in_eight_bits():
    """A float copy of an 8192 x 8192 picture takes 805 MB, and the formula would make five."""
    tracemalloc.start()
    content_picture(np.zeros((1000, 1000, 3), np.uint8), np.ones((1000, 1000), bool))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000


def test_an_empty_mask_or_an_unknown_fill_is_refused():
    with pytest.raises(BadInput, match="selects nothing"):
        content_picture(PICTURE, np.zeros((64, 64)))
    with pytest.raises(BadInput, match="'red'. Use one of white, black, mean"):
        content_picture(PICTURE, HALF, "red")
