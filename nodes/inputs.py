"""What comes into a node, read: a text, numbers, a picture, a mask; BadInput in the words of the input."""

import unicodedata
from reprlib import repr as short

import torch
from comfy_api.latest import io

from ..stylear.errors import BadInput
from ..stylear.images import is_plain


def text(name: str, value: object) -> str:
    """A widget's text, its full-width signs and digits made plain; BadInput with its name for what is no text."""
    if not isinstance(value, str):
        raise BadInput(f"{name} is a {type(value).__name__}. Give text, which may be empty.")
    return unicodedata.normalize("NFKC", value)


def numbers(name: str, text: str, form: str, of: str = "numbers") -> tuple[float, ...]:
    """What is between the commas of a widget's text; BadInput with its name and form if that is not numbers."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise BadInput(f"{name}: {short(text.strip())} is not in the form {form}. Write {of} like that.") from error


def settings(node: type[io.ComfyNode], **values: object) -> list[float]:
    """The values of number widgets, in their order, held to the ranges that the widgets show.

    ComfyUI lets NaN through, and all that a wire brings. Raises BadInput.
    """
    from ..stylear.checks import number, whole

    widgets = {item.id: item for item in node.define_schema().inputs}
    check = {"INT": whole, "FLOAT": number}
    return [
        check[(widget := widgets[name]).io_type](name, value, widget.min, widget.max) for name, value in values.items()
    ]


def first_picture(image: torch.Tensor, name: str) -> torch.Tensor:
    """The first picture of an IMAGE [B, H, W, C], which may be float16: float32 [H, W, C] on the CPU."""
    if not isinstance(image, torch.Tensor) or not is_plain(image):
        raise BadInput(f"{name} is a {type(image).__name__}, not a picture. Connect an IMAGE to it.")
    if image.ndim != 4 or image.numel() == 0:
        raise BadInput(f"{name} holds no picture: its shape is {tuple(image.shape)}, not [batch, height, width, 3].")
    return image[0].detach().to("cpu", torch.float32)


def first_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """The first of a MASK [B, H, W] or [H, W]: float32 [H, W] on the CPU; None when nothing is marked.

    LoadImage gives 64 x 64 zeros for a picture without alpha: that is no mask, not an empty region.
    """
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor) or not is_plain(mask) or mask.ndim < 2:
        raise BadInput("mask is not a mask. Connect a MASK to it.")
    if mask.numel() == 0:
        return None
    mask = mask.reshape(-1, *mask.shape[-2:])[0].detach().to("cpu", torch.float32)
    return mask if mask.any() else None
