"""Weight-only quantisation of the decoder's matrices: 8 bits with a scale for each row, or 4 in groups."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chameleon import Chameleon
from .errors import BadInput

KINDS = ("int8", "int4")
_GROUP = 64  # channels that share a scale and a least value in 4 bits; fewer where rows do not divide by it
_FEW = 8  # tokens up to which PyTorch's own 8-bit product is faster on a CPU than making the weights bfloat16 again


def quantize(model: Chameleon, kind: str) -> Chameleon:
    """Replace the matrices of the layers, one at a time; embeddings, norms and head stay. Returns the model.

    `kind`: "int8" or "int4"; BadInput for another. What weights and logits lose is told by `python -m stylear bench
    --quantize`.
    """
    if kind not in KINDS:
        raise BadInput(f"quantize is {kind!r}. Use {' or '.join(KINDS)}, or leave it out.")
    for owner in list(model.model.layers.modules()):
        for name, linear in owner.named_children():
            if isinstance(linear, nn.Linear):
                setattr(owner, name, _Int8(linear.weight) if kind == "int8" else _Int4(linear.weight))
    return model


class _Int8(nn.Module):
    """A linear layer whose weight [out, in] is int8, with a scale for each output."""

    def __init__(self, weight: Tensor):
        super().__init__()
        scale = weight.float().abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("weight", (weight.float() / scale[:, None]).round().to(torch.int8).contiguous())
        self.register_buffer("scale", scale.to(weight.dtype))

    def forward(self, hidden: Tensor) -> Tensor:
        tokens = hidden.flatten(0, -2)
        if hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16 and len(tokens) <= _FEW:
            return torch._weight_int8pack_mm(tokens, self.weight, self.scale).view(*hidden.shape[:-1], -1)
        return F.linear(hidden, self.weight.to(hidden.dtype)) * self.scale


class _Int4(nn.Module):
    """A linear layer whose weight [out, in] is in 4 bits, two in a byte, with scale and least value for each group."""

    def __init__(self, weight: Tensor):
        super().__init__()
        group = next(size for size in range(_GROUP, 0, -1) if weight.shape[1] % size == 0)
        groups = weight.float().unflatten(1, (-1, group))
        least, most = groups.aminmax(dim=-1, keepdim=True)
        scale = (most - least).clamp_min(torch.finfo(torch.float32).tiny) / 15
        levels = ((groups - least) / scale).round().to(torch.uint8).flatten(1)
        levels = F.pad(levels, (0, levels.shape[1] % 2))
        self.width = weight.shape[1]
        self.register_buffer("weight", levels[:, ::2] | levels[:, 1::2] << 4)
        self.register_buffer("scale", scale.to(weight.dtype))
        self.register_buffer("least", least.to(weight.dtype))

    def forward(self, hidden: Tensor) -> Tensor:
        levels = torch.stack((self.weight & 15, self.weight >> 4), dim=-1).flatten(1)[:, : self.width]
        groups = levels.unflatten(1, (self.scale.shape[1], -1)).to(hidden.dtype)
        return F.linear(hidden, torch.addcmul(self.least, groups, self.scale).flatten(1))
