"""What a picture shows, cut out: a SAM mask, and the picture of the content made with it."""

import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.machinery import ModuleSpec
from itertools import islice
from pathlib import Path
from reprlib import repr as short
from types import ModuleType

import numpy as np
import torch
from PIL import Image, ImageStat
from torch import Tensor, nn

from .errors import BadCheckpoint, BadInput, MissingPart
from .images import Picture, mask_image, to_rgb

MAX_POINTS = 100  # SAM looks from each to each
DECODER_HEADS = 8  # of every segment_anything checkpoint; weights do not tell it
FILLS = ("white", "black", "mean")
SALIENT_GRID = (0.25, 0.5, 0.75)
_CORNERS = "left,top,right,bottom"


class Segmenter(nn.Module):
    """segment_anything's SAM with its own preprocessing (long side to the model's size, bilinear, padded)."""

    def __init__(self, sam: nn.Module):
        super().__init__()
        self.sam = sam
        self.side = sam.image_encoder.img_size

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "Segmenter":
        """Build from a SAM checkpoint; ViT-B, L, H or another size is read from its keys and shapes.

        Raises BadCheckpoint, naming the first key or the shapes that disagree; MissingPart without
        segment_anything.
        """
        sam = _empty_sam(state_dict)
        wanted = sam.state_dict()
        for key in sorted(wanted.keys() | state_dict.keys()):
            ours, theirs = (list(s[key].shape) if key in s else "absent" for s in (wanted, state_dict))
            if ours != theirs:
                raise BadCheckpoint(f"Not a SAM checkpoint: {key} is {theirs}, SAM has {ours}. Give a SAM ViT file.")
        sam.load_state_dict({key: value.float() for key, value in state_dict.items()}, assign=True)
        return cls(sam.requires_grad_(False).eval())

    @torch.no_grad()
    def mask(
        self,
        picture: Picture,
        points: Iterable[Sequence[float]] | None = None,
        box: Sequence[float] | None = None,
    ) -> Tensor:
        """The mask of one object, float32 [H, W], 1 on the object and 0 elsewhere, in the picture's own size.

        points: (x, y) or (x, y, label) in pixels of the picture; label 1 on it (default), 0 beside.
        box: (left, top, right, bottom) in pixels around the object. Both may be given.
        Neither: the salient object. Nine points of the middle are asked for three masks each. The best is
        the one with the largest product of predicted IoU, overlap with a blob in the picture's centre, and
        share of the picture's border that it leaves free: central and whole, not background or everything.
        Raises BadInput for prompts outside the picture, and where nothing is found.
        """
        image = to_rgb(picture)
        points = _check_points(points, image.size)
        box = _check_box(box, image.size)
        embedding, scaled = self._encode(image)
        if points is None and box is None:
            grid = [[[x * scaled[0], y * scaled[1], 1]] for y in SALIENT_GRID for x in SALIENT_GRID]
            low, iou = self._decode(embedding, torch.tensor(grid), None, many=True)
            rows, columns = (max(1, length * low.shape[-1] // self.side) for length in reversed(scaled))
            logits = low.flatten(0, 1)[_most_salient(low[..., :rows, :columns] > 0, iou)][None, None]
        else:
            scale = torch.tensor([scaled[0] / image.width, scaled[1] / image.height, 1])
            points = None if points is None else torch.tensor(points)[None] * scale
            box = None if box is None else torch.tensor(box).view(1, 2, 2) * scale[:2]
            ambiguous = box is None and points.shape[1] == 1
            low, iou = self._decode(embedding, points, box, many=ambiguous)
            logits = low[:, iou[0].argmax()][:, None]
        mask = self.sam.postprocess_masks(logits, scaled[::-1], image.size[::-1])[0, 0] > 0
        if not mask.any():
            raise BadInput("No object was found in the picture. Give a point or a box on it, or a mask of your own.")
        return mask.float().cpu()

    def _encode(self, image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        """SAM's embedding [1, C, h, w] of a picture and the (width, height) it fills of the square."""
        factor = self.side / max(image.size)
        scaled = tuple(max(1, int(length * factor + 0.5)) for length in image.size)
        pixels = np.asarray(image.resize(scaled, Image.Resampling.BILINEAR), dtype=np.float32)
        pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.sam.device)
        return self.sam.image_encoder(self.sam.preprocess(pixels)), scaled

    def _decode(
        self, embedding: Tensor, points: Tensor | None, box: Tensor | None, many: bool
    ) -> tuple[Tensor, Tensor]:
        """Mask logits [B, 3 or 1, h, w] and predicted IoU [B, 3 or 1] of B prompts.

        points: float [B, N, 3] (x, y, label); box: float [B, 2, 2]; both in the scaled picture's pixels.
        """
        if points is not None:
            points = points.to(embedding.device)
            points = points[..., :2], points[..., 2]
        box = None if box is None else box.flatten(1).to(embedding.device)
        sparse, dense = self.sam.prompt_encoder(points=points, boxes=box, masks=None)
        return self.sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=many,
        )


def content_picture(picture: Picture, mask: Picture, fill: str = "white") -> Image.Image:
    """The object alone, RGB of the picture's size: kept where the mask is 1, `fill` where it is 0.

    Its features are F_S, what the style must not bring along. The object stays where it is, because F and
    F_S are subtracted patch by patch. fill: "white" (default: how cut-outs are usually shown, so CLIP has
    seen it most), "black", or "mean", the picture's mean colour, which takes the palette along. The paper
    does not say what it used. Between 0 and 1 the mask blends; a mask of another size is stretched.
    Raises BadInput for another fill or an empty mask.
    """
    if fill not in FILLS:
        raise BadInput(f"Unknown fill {fill!r}. Use one of {', '.join(FILLS)}.")
    image = to_rgb(picture)
    weight = mask_image(mask, image.size)
    if weight.getextrema()[1] < 128:
        raise BadInput("The mask selects nothing. Paint the object white, or give points or a box instead.")
    colour = tuple(round(mean) for mean in ImageStat.Stat(image).mean) if fill == "mean" else fill
    return Image.composite(image, Image.new("RGB", image.size, colour), weight)


def region_picture(picture: Picture, mask: Picture) -> Image.Image:
    """The part of a picture under a mask, RGB: the mask's bounding box, and within it the region's mean colour around.

    No pixel outside the region (where the mask is below a half) counts, and a mask that is a rectangle is a plain crop.
    A mask of another size is stretched. Raises BadInput for an empty one.
    """
    image = to_rgb(picture)
    chosen = mask_image(mask, image.size).point(lambda value: 255 * (value >= 128))
    box = chosen.getbbox()
    if box is None:
        raise BadInput("The region selects nothing. Paint white what the style is to be taken from.")
    colour = tuple(round(mean) for mean in ImageStat.Stat(image, chosen).mean)
    return Image.composite(image, Image.new("RGB", image.size, colour), chosen).crop(box)


def _most_salient(masks: Tensor, iou: Tensor) -> int:
    """Index in B * K of the best of masks bool [B, K, H, W] with predicted IoU [B, K]."""
    masks, iou = masks.flatten(0, 1).float(), iou.flatten()
    height, width = masks.shape[-2:]
    y, x = (torch.linspace(-1, 1, length, device=masks.device) for length in (height, width))
    blob = torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.5**2))
    overlap = 2 * (masks * blob).sum((1, 2)) / (masks.sum((1, 2)) + blob.sum())
    edges = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], dim=1)
    score = iou.clamp(min=1e-3) * overlap * (1 - edges.mean(1)).clamp(min=1e-3)
    return int(score.argmax())


def _check_points(points: Iterable[Sequence[float]] | None, size: tuple[int, int]) -> list[list[float]] | None:
    """Points as [x, y, label] each, or None for none; of so few that SAM's attention between them stays small."""
    try:
        given = islice(() if points is None else points, MAX_POINTS + 1)
        rows = [[float(value) for value in point] for point in given]
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"points is {short(points)}. Give a list of (x, y) or (x, y, label) in pixels.") from error
    if len(rows) > MAX_POINTS:
        raise BadInput(f"There are more than {MAX_POINTS} points. Give a few, or a mask in place of them.")
    for row in rows:
        if len(row) not in (2, 3) or (len(row) == 3 and row[2] not in (0, 1)):
            raise BadInput(
                f"The point {row} is not x,y or x,y,label. Give a label of 1 (on the object), 0 (beside) or none."
            )
        if not (0 <= row[0] < size[0] and 0 <= row[1] < size[1]):
            raise BadInput(f"The point {row[:2]} is outside the picture of {size[0]} x {size[1]}. Give pixels in it.")
    return [[*row, 1.0][:3] for row in rows] or None


def _check_box(box: Sequence[float] | None, size: tuple[int, int]) -> list[float] | None:
    if box is None:
        return None
    try:
        left, top, right, bottom = corners = [float(value) for value in box]
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"The box {short(box)} is not {_CORNERS}. Give these four in pixels.") from error
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise BadInput(
            f"The box {corners} is not {_CORNERS} in the picture of {size[0]} x {size[1]}. Give pixels in it, left and "
            "top first."
        )
    return corners


def package() -> ModuleSpec:
    """Where Python's segment_anything is; MissingPart if it is not installed."""
    found = importlib.util.find_spec("segment_anything")
    if found is None:
        raise MissingPart(
            "Python's segment_anything is not installed. Run: "
            f'"{sys.executable}" -m pip install segment-anything, and load the model again (in ComfyUI: restart '
            "ComfyUI), or give a mask in place of it."
        )
    return found


def can_segment() -> bool:
    """Whether segment_anything is installed; a model without it does all but segment."""
    return importlib.util.find_spec("segment_anything") is not None


def _modeling() -> ModuleType:
    """segment_anything.modeling, loaded past its package, whose import needs torchvision (to resize)."""
    name = "segment_anything_modeling"
    if name not in sys.modules:
        folder = Path(package().submodule_search_locations[0]) / "modeling"
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _empty_sam(state: Mapping[str, Tensor]) -> nn.Module:
    """A SAM without weights, of the shape these weights have."""
    modeling = _modeling()
    try:
        patches = state["image_encoder.patch_embed.proj.weight"].shape
        width, patch, grid = patches[0], patches[-1], state["image_encoder.pos_embed"].shape[1]
        depth = _count(r"image_encoder\.blocks\.(\d+)\.", state)
        head_dim = state["image_encoder.blocks.0.attn.rel_pos_h"].shape[1]
        spans = [(len(state[f"image_encoder.blocks.{i}.attn.rel_pos_h"]) + 1) // 2 for i in range(depth)]
        prompt = state["prompt_encoder.not_a_point_embed.weight"].shape[1]
        inner = len(state["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"])
        with torch.device("meta"):
            sam = modeling.Sam(
                modeling.ImageEncoderViT(
                    img_size=grid * patch,
                    patch_size=patch,
                    embed_dim=width,
                    depth=depth,
                    num_heads=width // head_dim,
                    mlp_ratio=len(state["image_encoder.blocks.0.mlp.lin1.weight"]) / width,
                    out_chans=len(state["image_encoder.neck.0.weight"]),
                    qkv_bias="image_encoder.blocks.0.attn.qkv.bias" in state,
                    norm_layer=partial(nn.LayerNorm, eps=1e-6),
                    use_rel_pos=True,
                    window_size=min(spans),
                    global_attn_indexes=tuple(i for i in range(depth) if spans[i] == grid),
                ),
                modeling.PromptEncoder(
                    embed_dim=prompt,
                    image_embedding_size=(grid, grid),
                    input_image_size=(grid * patch, grid * patch),
                    mask_in_chans=len(state["prompt_encoder.mask_downscaling.3.weight"]),
                ),
                modeling.MaskDecoder(
                    transformer_dim=prompt,
                    transformer=modeling.TwoWayTransformer(
                        depth=_count(r"mask_decoder\.transformer\.layers\.(\d+)\.", state),
                        embedding_dim=prompt,
                        num_heads=DECODER_HEADS,
                        mlp_dim=len(state["mask_decoder.transformer.layers.0.mlp.lin1.weight"]),
                        attention_downsample_rate=prompt // inner,
                    ),
                    num_multimask_outputs=len(state["mask_decoder.mask_tokens.weight"]) - 1,
                    iou_head_depth=_count(r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.", state),
                    iou_head_hidden_dim=len(state["mask_decoder.iou_prediction_head.layers.0.weight"]),
                ),
            )
    except KeyError as missing:
        raise BadCheckpoint(f"Not a SAM checkpoint: {missing} is absent. Give a SAM ViT file.") from missing
    except (AssertionError, IndexError, TypeError, ZeroDivisionError) as error:
        raise BadCheckpoint("Not a SAM checkpoint: its shapes fit no SAM. Give a SAM ViT file.") from error
    sam.pixel_mean = torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1)
    sam.pixel_std = torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1)
    return sam


def _count(pattern: str, keys: Iterable[str]) -> int:
    """How many different numbers the pattern's group takes in the keys."""
    return len({found[1] for found in (re.match(pattern, key) for key in keys) if found})
