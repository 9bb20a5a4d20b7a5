"""A decoder's pass on a CPU, in few and plain calls: in a small model calls cost as much as arithmetic."""

import math
import platform
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chameleon import QK_NORM_EPS, Cache, Chameleon, Step
from .chameleon_config import ChameleonConfig

_ROOM = 2**28  # bytes of matrices that may be held a second time; larger ones are bound by memory anyhow
_DESKS = 2048  # tokens, of all shapes together, whose room is kept for further passes of these
_FEW = 4  # tokens; products of so few in float32 are slower with packed matrices


class Plain:
    """Reads as a model does, but for rounding, with the weights that it has when this is made."""

    def __init__(self, model: Chameleon):
        self._config, self._desks = model.config, {}
        scale = math.sqrt(model.config.hidden_size)  # a norm is scale x weight / hypot(|x|, scale sqrt(eps))
        self._least = torch.tensor(scale * math.sqrt(model.config.rms_norm_eps))
        self._norm = model.model.norm.weight * scale
        self._products, self._packed = _Products(model), _Packed.of(model) if _Packed.suits(model) else None
        self._norms = [
            (
                layer.input_layernorm.weight * scale,
                layer.self_attn.qk_norm.weight.to(model.attends_in()),
                layer.self_attn.qk_norm.bias.to(model.attends_in()),
                layer.post_attention_layernorm.weight * scale,
            )
            for layer in model.model.layers
        ]

    @staticmethod
    def suits(model: Chameleon, device: torch.device | None = None) -> bool:
        """Whether a model can be read so, on a device, by default the weights'.

        That is a CPU, and a model neither quantised nor compiled, with norms before its layers.
        """
        weight, layer = model.lm_head.weight, model.model.layers[0]
        whole = isinstance(layer.mlp.down_proj, nn.Linear) and model.compiled is None
        served = (device or weight.device).type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
        return whole and served and not layer.swin_norm

    def read(
        self, embeddings: Tensor, cache: Cache, rows: range, positions: Tensor, total: int, masked: bool = True
    ) -> Tensor:
        """As `Chameleon.read`, whose names these are."""
        step = Step.at(positions, cache.first[: len(rows)] + positions, total, masked, cache)
        if positions.shape not in self._desks:
            if sum(shape.numel() for shape in self._desks) > _DESKS:
                self._desks.clear()
            self._desks[positions.shape] = _Desk(self._config, positions.shape, embeddings.dtype, cache.kept.dtype)
        desk, kept = self._desks[positions.shape], cache.kept[:, rows.start : rows.stop]
        kv_heads, width = self._config.num_key_value_heads, self._config.head_dim
        grouped = kv_heads != self._config.num_attention_heads
        products = self._packed if self._packed and self._packed.pays(positions.numel()) else self._products
        keys, values = (part.unbind() for part in kept[:, :, :total].transpose(2, 3).split(kv_heads, dim=2))
        below, above = step.sin.chunk(2, dim=-1)
        hidden = embeddings.flatten(0, 1).clone()
        layers = zip(self._norms, products.matrices, kept.flatten(1, 2).unbind(), keys, values, strict=True)
        for (before, scale, shift, between), (qkv, out, gate_up, down), own, key, value in layers:
            desk.joined.copy_(products.times(self._normed(hidden, before, desk.normed), qkv))
            torch.addcmul(shift, torch.layer_norm(desk.query_key, (width,), eps=QK_NORM_EPS), scale, out=desk.heads)
            torch.mul(desk.heads, step.cos, out=desk.query_key)
            desk.low.addcmul_(desk.heads_high, below)
            desk.high.addcmul_(desk.heads_low, above)
            own.index_copy_(0, step.slots, desk.key_value)
            attended = F.scaled_dot_product_attention(desk.query, key, value, attn_mask=step.mask, enable_gqa=grouped)
            hidden = products.plus(hidden, attended.transpose(1, 2).reshape(hidden.shape).to(hidden.dtype), out)
            gate, up = products.times(self._normed(hidden, between, desk.normed), gate_up).chunk(2, dim=-1)
            hidden = products.plus(hidden, F.silu(gate).mul_(up), down)
        return self._normed(hidden, self._norm, torch.empty_like(hidden)).view(embeddings.shape)

    def _normed(self, hidden: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """`out`, made the root mean square norm of `hidden`, both [n, hidden]; `weight` has a scale in it."""
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
        return torch.div(hidden, torch.hypot(length, self._least), out=out).mul_(weight)


def copied_bytes(model: Chameleon, device: torch.device | None = None) -> int:
    """Bytes of the matrices that passes on a device, by default the weights', keep a second time."""
    if not Plain.suits(model, device) or not _Packed.suits(model):
        return 0
    return sum(weight.nbytes for layer in _weights(model) for weight in layer)


class _Products:
    """The products of each layer, with its matrices as the model keeps them."""

    def __init__(self, model: Chameleon):
        self.matrices = [[weight.t() for weight in layer] for layer in _weights(model)]

    @staticmethod
    def times(tokens: Tensor, matrix: Tensor) -> Tensor:
        """`tokens` [n, in] times one of `matrices` [in, out]."""
        return torch.mm(tokens, matrix)

    @staticmethod
    def plus(hidden: Tensor, tokens: Tensor, matrix: Tensor) -> Tensor:
        """`hidden` [n, out] and `tokens` [n, in] times one of `matrices`; `hidden`, or another tensor."""
        return hidden.addmm_(tokens, matrix)


class _Packed:
    """The same with matrices in the order that oneDNN multiplies in, which spares it to reorder them in each product.

    They are a second copy, made once for a model and again when one of its weights was written to or exchanged.
    PyTorch does not tell when one that was made in inference mode is written to; `StyleAR.load` makes none there.
    """

    _known: WeakKeyDictionary[Chameleon, "_Packed"] = WeakKeyDictionary()

    def __init__(self, model: Chameleon):
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self.matrices = [[reorder(weight) for weight in layer] for layer in _weights(model)]
        self._state = _state(model)
        self._held = [weight.detach() for layer in _weights(model) for weight in layer]  # else others could lie there
        self._few = _FEW if model.lm_head.weight.dtype == torch.float32 else 0

    @staticmethod
    def suits(model: Chameleon) -> bool:
        """Whether this machine has these products in the model's dtype, and the weights are few enough to copy."""
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        if not x86 or not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            return False
        weights = [weight for layer in _weights(model) for weight in layer]
        ready = weights[0].dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return ready and sum(weight.nbytes for weight in weights) <= _ROOM

    @classmethod
    def of(cls, model: Chameleon) -> "_Packed":
        """Those of a model as it is now."""
        known = cls._known.get(model)
        if known is None or known._state != _state(model):
            known = cls._known[model] = cls(model)
        return known

    def pays(self, tokens: int) -> bool:
        """Whether products of so many tokens are faster than the usual ones."""
        return tokens > self._few

    @staticmethod
    def times(tokens: Tensor, matrix: Tensor) -> Tensor:
        """As `_Products.times`."""
        return torch.ops.mkldnn._linear_pointwise(tokens, matrix, None, "none", [], "")

    @staticmethod
    def plus(hidden: Tensor, tokens: Tensor, matrix: Tensor) -> Tensor:
        """As `_Products.plus`."""
        return torch.ops.mkldnn._linear_pointwise.binary(tokens, hidden, matrix, None, "add")


def _weights(model: Chameleon) -> list[Sequence[Tensor]]:
    """What each layer multiplies with, in the order it does."""
    return [
        (
            layer.self_attn.qkv_proj.weight,
            layer.self_attn.o_proj.weight,
            layer.mlp.gate_up_proj.weight,
            layer.mlp.down_proj.weight,
        )
        for layer in model.model.layers
    ]


def _state(model: Chameleon) -> list[tuple[int, int]]:
    """Where each of the matrices lies and how often it was written to."""
    weights = [weight for layer in _weights(model) for weight in layer]
    return [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]


class _Desk:
    """Where passes of one shape [rows, n] keep what they have in hand, and the views of it, made once.

    Queries, keys and values are of the cache's dtype, `kept`.
    """

    def __init__(self, config: ChameleonConfig, shape: torch.Size, dtype: torch.dtype, kept: torch.dtype):
        tokens, split = shape.numel(), (config.num_attention_heads, 2 * config.num_key_value_heads)
        turned, width = config.num_attention_heads + config.num_key_value_heads, config.head_dim
        self.normed = torch.empty(tokens, config.hidden_size, dtype=dtype)
        self.joined = torch.empty(tokens, sum(split) * width, dtype=kept)
        heads = self.joined.view(*shape, sum(split), width)
        self.query_key, self.query = heads[:, :, :turned], heads[:, :, : split[0]].transpose(1, 2)
        self.key_value = heads.flatten(0, 1)[:, split[0] :]
        self.low, self.high = self.query_key.chunk(2, dim=-1)
        self.heads = torch.empty(*shape, turned, width, dtype=kept)
        self.heads_low, self.heads_high = self.heads.chunk(2, dim=-1)
