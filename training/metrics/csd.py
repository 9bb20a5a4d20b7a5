"""CSD's view of style: CLIP's vision tower trained on artists, its style head as a unit vector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from PIL import Image
from torch import Tensor

from stylear.errors import BadCheckpoint

from .vision import CLIP_MEAN, CLIP_STD, fill, read_weights, to_pixels, unit_vectors

HEAD_WIDTH = 64  # of every CLIP ViT by OpenAI
STYLE_HEAD, BACKBONE = "last_layer_style", "backbone."


@dataclass(frozen=True)
class CsdScore:
    """A CSD model (arXiv 2404.01292). `name` says which, for tables."""

    name: str
    encode_images: Callable[[Sequence[Image.Image]], Tensor]

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures as float32 [n, d], rows of length 1, on the CPU."""
        return unit_vectors(self.encode_images, list(images))

    @classmethod
    def load(cls, path: str, device: str | torch.device = "cpu") -> "CsdScore":
        """Load the public checkpoint (tomg-group-umd/CSD-ViT-L, pytorch_model.bin), or its weights as safetensors.

        Layout: `backbone.` is OpenAI's CLIP vision tower without its projection, `last_layer_style` [width, d].
        Its authors say that these weights do not give their paper's numbers. Raises MissingPart or BadCheckpoint.
        """
        file = Path(path)
        if file.is_dir():
            there = [file / name for name in ("model.safetensors", "pytorch_model.bin")]
            file = next((one for one in there if one.is_file()), there[-1])
        weights = read_weights(file)
        tower = {key.removeprefix(BACKBONE): value for key, value in weights.items() if key.startswith(BACKBONE)}
        if STYLE_HEAD not in weights or not {"conv1.weight", "positional_embedding"} <= tower.keys():
            raise BadCheckpoint(f"{file} is no CSD: it has no {STYLE_HEAD} and {BACKBONE}. Give CSD-ViT-L.")
        width, _, patch, _ = tower["conv1.weight"].shape
        size = patch * round((len(tower["positional_embedding"]) - 1) ** 0.5)
        layers = len({key.split(".")[2] for key in tower if key.startswith("transformer.resblocks.")})
        model = VisionTransformer(size, patch, width, layers, max(1, width // HEAD_WIDTH), 4.0, act_layer=QuickGELU)
        model.proj = None
        fill(model, tower, file).to(device)
        head = weights[STYLE_HEAD].to(device)

        def encode_images(images: Sequence[Image.Image]) -> Tensor:
            pixels = torch.stack([to_pixels(image, size, CLIP_MEAN, CLIP_STD) for image in images])
            return model(pixels.to(device)) @ head

        return cls(f"{file.name}: CSD ViT, width {width}, patch {patch}, {size} px", encode_images)
