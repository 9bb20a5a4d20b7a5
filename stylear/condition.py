"""The condition: a depth or segmentation map as the VQGAN's pixels, and a depth map from a photo."""

import json
from math import sqrt
from os import PathLike
from pathlib import Path
from reprlib import repr as short

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .errors import BadCheckpoint, BadInput, MissingPart
from .files import to_path
from .images import Picture, centre_crop, limit_aspect, to_pil, to_rgb

KINDS = ("depth", "segmentation")
MAX_RATIO = 4
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def crop_sizes(target_size: int, step: int = 32) -> list[tuple[int, int]]:
    """All (width, height) a condition may have, widest first, multiples of `step` px.

    They are the frontier of width * height <= target_size^2 on that grid, up to 4 : 1 (released
    data/item_processor.py; 73 sizes for 768 px and 32 px steps). target_size is rounded down to the step;
    below one step is a BadInput.
    """
    if step < 1 or target_size < step:
        raise BadInput(f"A condition of {target_size} px has no grid of {step} px. Make it at least {step}.")
    area = (target_size // step) ** 2
    return [
        (width * step, height * step)
        for width in range(area, 0, -1)
        for height in range(max(1, area // (width + 1)), area // width + 1)
        if max(width, height) <= MAX_RATIO * min(width, height)
    ]


def choose_crop(size: tuple[int, int], sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) that loses least of a picture of `size` covering it; of equals the largest."""

    def kept(crop: tuple[int, int]) -> float:
        width, height = crop[0] / size[0], crop[1] / size[1]
        return min(width, height) / max(width, height)

    return max(sizes, key=lambda crop: (kept(crop), crop))


def cover(image: Image.Image, crop: tuple[int, int], kind: str = "depth") -> Image.Image:
    """A picture scaled until it just covers `crop`: halved (box) while twice as large, then bicubic.

    A segmentation map takes the nearest pixel, so that no colour appears between two areas.
    """
    while kind != "segmentation" and image.width >= 2 * crop[0] and image.height >= 2 * crop[1]:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(crop[0] / image.width, crop[1] / image.height)
    filters = Image.Resampling.NEAREST if kind == "segmentation" else Image.Resampling.BICUBIC
    return image.resize((round(image.width * scale), round(image.height * scale)), filters)


def condition_pixels(picture: Picture, target_size: int = 768, step: int = 32, kind: str = "depth") -> Tensor:
    """A map, taken as it is, for VQGAN.encode: float32 [1, 3, H, W] in -1..1, a size of `crop_sizes`.

    kind: depth or segmentation, see `cover`. Depth is as released (data/item_processor.py), with two departures: the
    crop is the middle, where the released code draws its place from an unseeded generator, and a palette or 16-bit map
    is made 8-bit before it is resized, not after. Nothing is released for segmentation but a picture of areas in flat
    colours (assets/seg.png). Transparency becomes white after the resize. Raises BadInput as `to_pil`, and for another
    kind.
    """
    if kind not in KINDS:
        raise BadInput(f"The kind of the condition is {short(kind)}. Use one of {', '.join(KINDS)}.")
    image = limit_aspect(to_pil(picture, name="condition"))
    crop = choose_crop(image.size, crop_sizes(target_size, step))
    return to_pixels(centre_crop(cover(image, crop, kind), *crop))


def to_pixels(image: Image.Image) -> Tensor:
    """A picture over white, as float32 [1, 3, H, W] in -1..1."""
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float64)
    alpha = pixels[..., 3:] / 255
    pixels = np.floor((1 - alpha) * 255 + alpha * pixels[..., :3])
    return torch.from_numpy(pixels / 255 * 2 - 1).float().permute(2, 0, 1)[None].contiguous()


def load_depth_model(folder: str | PathLike) -> nn.Module:
    """Depth Anything V2 through transformers, from a local folder with config.json and safetensors.

    Nothing is downloaded and no code of the folder is run. Raises MissingPart where a file is absent,
    BadCheckpoint for another kind of model and for weights that are damaged, missing or not finite.
    """
    config = to_path(folder, "folder") / "config.json"
    if not config.is_file():
        raise MissingPart(
            f"There is no depth model in {folder}. Put config.json and model.safetensors of "
            "depth-anything/Depth-Anything-V2-Small-hf there, or give a depth map made elsewhere."
        )
    from transformers import AutoModelForDepthEstimation

    if not _is_depth_anything(config):
        raise BadCheckpoint(f"{folder} holds another kind of model. Give a Depth Anything V2 folder.")
    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        model, found = AutoModelForDepthEstimation.from_pretrained(folder, output_loading_info=True, **options)
    except OSError as error:
        raise MissingPart(f"{folder} holds no depth model. Copy its whole folder. ({error})") from error
    except Exception as error:  # transformers builds what the file says, and can raise nearly anything
        raise BadCheckpoint(f"{folder} holds a damaged depth model. Copy its whole folder. ({error})") from error
    weights = model.state_dict()
    broken = sorted(found["missing_keys"]) or [key for key in weights if not weights[key].isfinite().all()]
    if broken:
        raise BadCheckpoint(f"{folder} lacks the weights of {broken[0]}, or they are NaN. Copy its whole folder.")
    return model.requires_grad_(False).eval()


def _is_depth_anything(config: Path) -> bool:
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("model_type") == "depth_anything"


@torch.no_grad()
def depth_from_photo(picture: Picture, model: nn.Module) -> Image.Image:
    """The depth map of a photo, mode L of the photo's size, near = white; `model` is from `load_depth_model`.

    Preprocessed as by transformers' DPTImageProcessorPil with Depth Anything's settings (sides multiples of
    the patch, the scale nearest to 1 that brings one side to the trained size, bicubic, ImageNet mean and
    std), without needing torchvision. A very long picture is scaled to at most four times the trained area.
    A flat depth is black.
    """
    image = to_rgb(picture)
    size = _depth_size(image.size, model.config.backbone_config.image_size, model.config.patch_size)
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255
    pixels = (pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    weight = next(model.parameters())
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(weight.device, weight.dtype)
    depth = model(pixels).predicted_depth[:, None].float()
    depth = F.interpolate(depth, image.size[::-1], mode="bicubic", align_corners=False)[0, 0].cpu()
    if model.config.depth_estimation_type == "metric":  # metres: far is large
        depth = -depth
    depth = (depth - depth.min()) / (depth.max() - depth.min()).clamp(min=1e-12)
    return Image.fromarray((depth * 255).numpy().astype(np.uint8))


def _depth_size(size: tuple[int, int], trained: int, patch: int) -> tuple[int, int]:
    """The (width, height) at which the depth model looks at a picture of `size`."""
    scale = min((trained / side for side in reversed(size)), key=lambda scale: abs(1 - scale))
    scale = min(scale, sqrt(4 * trained**2 / (size[0] * size[1])))
    return tuple(max(1, round(scale * side / patch)) * patch for side in size)
