"""A photo's depth map, by Depth Anything V2 from a local folder."""

import json
from math import sqrt
from os import PathLike
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from .errors import BadCheckpoint, MissingPart
from .files import read_text, to_path
from .images import Picture, to_rgb

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
        found = json.loads(read_text(config))
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
