"""DINO's view of pictures: the class token of its ViT as a unit vector, from the public layouts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import ViTModel

from stylear.checkpoint.files import read_json
from stylear.errors import BadCheckpoint, MissingPart

from .vision import IMAGENET_MEAN, IMAGENET_STD, fill, read_weights, to_pixels, unit_vectors

LAYOUTS = (
    "the folder of facebook/dino-vits16 or dino-vitb8 (config.json, weights), or the .pth of the DINO page "
    "(dino_deitsmall16_pretrain.pth, dino_vitbase8_pretrain.pth)"
)
HEAD_WIDTH = 64  # of every released DINO


@dataclass(frozen=True)
class DinoScore:
    """A DINO ViT. `name` says which, for tables."""

    name: str
    encode_images: Callable[[Sequence[Image.Image]], Tensor]

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures as float32 [n, d], rows of length 1, on the CPU."""
        return unit_vectors(self.encode_images, list(images))

    @classmethod
    def load(cls, path: str, device: str | torch.device = "cpu") -> "DinoScore":
        """Load from local files of LAYOUTS. Raises MissingPart or BadCheckpoint.

        Pictures are seen as in DINO's own evaluation: short side 256 of 224, bicubic, the middle, ImageNet's norm.
        """
        place = Path(path)
        if place.is_dir():
            encode, width, patch, size = _load_hugging_face(place, device)
        else:
            encode, width, patch, size = _load_released(place, device)

        def encode_images(images: Sequence[Image.Image]) -> Tensor:
            seen = [to_pixels(image, size, IMAGENET_MEAN, IMAGENET_STD, short=size * 8 // 7) for image in images]
            return encode(torch.stack(seen).to(device))

        return cls(f"{place.name}: DINO ViT, width {width}, patch {patch}, {size} px", encode_images)


def _load_hugging_face(folder: Path, device: str | torch.device) -> tuple:
    config = folder / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    if kind != "vit":
        found = f"a {kind} model" if kind else "no model"
        raise (BadCheckpoint if kind else MissingPart)(f"{folder} holds {found}. Give {LAYOUTS}.")
    try:
        model, report = ViTModel.from_pretrained(
            folder, add_pooling_layer=False, local_files_only=True, output_loading_info=True
        )
    except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{folder} is no whole DINO. Download it again. ({error})") from error
    if report["missing_keys"]:
        raise BadCheckpoint(f"{folder} lacks {min(report['missing_keys'])}. Download it again.")
    model.to(device).requires_grad_(False).eval()
    shape = model.config
    return lambda x: model(x).last_hidden_state[:, 0], shape.hidden_size, shape.patch_size, shape.image_size


def _load_released(path: Path, device: str | torch.device) -> tuple:
    weights = {key: value for key, value in read_weights(path).items() if not key.startswith("head.")}
    if not {"cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight"} <= weights.keys():
        raise BadCheckpoint(f"{path} is no DINO ViT. Give {LAYOUTS}.")
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    size = patch * round((weights["pos_embed"].shape[1] - 1) ** 0.5)
    depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})
    heads = max(1, width // HEAD_WIDTH)
    model = VisionTransformer(size, patch, num_classes=0, embed_dim=width, depth=depth, num_heads=heads)
    return fill(model, weights, path).to(device), width, patch, size
