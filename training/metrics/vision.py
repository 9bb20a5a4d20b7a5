"""What the metric models share: a picture as a model's pixels, batches, unit vectors, weights from a file."""

import argparse
import codecs
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy import dtypes
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stylear.errors import BadCheckpoint, MissingPart
from stylear.images import centre_crop, limit_aspect, to_rgb

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 16

T = TypeVar("T")


def to_pixels(
    picture: Image.Image, side: int, mean: Sequence[float], std: Sequence[float], short: int | None = None
) -> Tensor:
    """A picture as float32 [3, side, side]: bicubic to a short side of `short` (by default `side`), middle, normed."""
    image, short = limit_aspect(to_rgb(picture)), short or side
    scale = short / min(image.size)
    size = [max(short, round(length * scale)) for length in image.size]
    image = centre_crop(image.resize(size, Image.Resampling.BICUBIC), side, side)
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    return ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)


def unit_vectors(encode: Callable[[Sequence[T]], Tensor], items: Sequence[T]) -> Tensor:
    """`encode` over items, a batch at a time: float32 [n, d] on the CPU, rows of length 1; [0, 0] of no items."""
    with torch.inference_mode():
        parts = [encode(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]
        return torch.cat([F.normalize(part.float(), dim=-1).cpu() for part in parts]) if parts else torch.zeros(0, 0)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a PyTorch checkpoint, out of a trainer's wrapping and `module.` prefix.

    A checkpoint is read with weights_only; beside tensors only numpy's scalars and argparse's Namespace are let in,
    which the public CSD file carries. MissingPart or BadCheckpoint.
    """
    if not path.is_file():
        raise MissingPart(f"There is no file {path}. Check the path, or download the weights.")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except pickle.UnpicklingError as error:
        raise BadCheckpoint(
            f"{path} holds more than weights, or is damaged, and is not opened: such a file can run code. Use a "
            "safetensors version of it."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise BadCheckpoint(f"{path} is damaged or incomplete. Download it again. ({error})") from error
    for wrapping in ("model_state_dict", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping):
        raise BadCheckpoint(f"{path} has no named weights in it. Give a checkpoint's state dict.")
    return {key.removeprefix("module."): value.float() for key, value in content.items() if isinstance(value, Tensor)}


def _unpickle(path: Path) -> object:
    scalar = np.float64(0).__reduce__()[0]
    data = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype]
    data += [dtypes.Float64DType, dtypes.Float32DType, dtypes.Int64DType, argparse.Namespace]
    with torch.serialization.safe_globals([*data, codecs.encode]):
        return torch.load(path, "cpu", weights_only=True)


def fill(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The model with these weights, frozen; BadCheckpoint naming the first that is absent, too many or misshapen."""
    wanted = model.state_dict()
    for key in [*wanted, *weights]:
        ours, theirs = (list(state[key].shape) if key in state else None for state in (wanted, weights))
        if ours != theirs:
            raise BadCheckpoint(
                f"{path}: {key} is {theirs} there and has to be {ours}. Give the weights of this model."
            )
    model.load_state_dict(weights)
    return model.requires_grad_(False).eval()
