"""A decoder's pass on a CPU, in few and plain calls: in a small model calls cost as much as arithmetic."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chameleon import QK_NORM_EPS, Cache, Chameleon


class Plain:
    """Reads as a model does, but for rounding, with the weights that it has when this is made."""

    def __init__(self, model: Chameleon):
        self._model, self._heads = model, model.model.layers[0].self_attn.heads
        scale = math.sqrt(model.config.hidden_size)  # a norm is scale x weight / hypot(|x|, scale sqrt(eps))
        self._least = torch.tensor(scale * math.sqrt(model.config.rms_norm_eps))
        self._norm = model.model.norm.weight * scale
        self._layers = [
            (
                layer.input_layernorm.weight * scale,
                layer.self_attn.qkv_proj.weight.t(),
                layer.self_attn.qk_norm.weight,
                layer.self_attn.qk_norm.bias,
                layer.self_attn.o_proj.weight.t(),
                layer.post_attention_layernorm.weight * scale,
                layer.mlp.gate_up_proj.weight.t(),
                layer.mlp.down_proj.weight.t(),
            )
            for layer in model.model.layers
        ]

    @staticmethod
    def suits(model: Chameleon) -> bool:
        """Whether a model can be read so: on a CPU, neither quantised nor compiled, with norms before its layers."""
        weight, layer = model.lm_head.weight, model.model.layers[0]
        whole = isinstance(layer.mlp.down_proj, nn.Linear) and layer._compiled_call_impl is None
        served = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
        return whole and served and not layer.swin_norm

    def read(
        self, embeddings: Tensor, cache: Cache, rows: range, positions: Tensor, total: int, masked: bool = True
    ) -> Tensor:
        """As `Chameleon.read`, whose names these are."""
        step = self._model.step(cache, rows, positions, total, masked)
        (heads, kv_heads, _), hidden = self._heads, embeddings.flatten(0, 1).clone()
        split, half = (heads, 2 * kv_heads), self._model.config.head_dim // 2
        layers = zip(self._layers, cache.kept[:, rows.start : rows.stop].unbind(), strict=True)
        for (before, qkv, scale, shift, out, between, gate_up, down), kept in layers:
            joined = torch.mm(self._normed(hidden, before), qkv).view(*positions.shape, sum(self._heads), 2 * half)
            query_key = joined[:, :, : heads + kv_heads]
            normed = torch.addcmul(shift, torch.layer_norm(query_key, (2 * half,), eps=QK_NORM_EPS), scale)
            torch.addcmul(normed * step.cos, normed.roll(half, dims=-1), step.sin, out=query_key)
            query, key_value = joined.split(split, dim=2)
            kept.flatten(0, 1).index_copy_(0, step.slots, key_value.flatten(0, 1))
            key, value = kept[:, :total].transpose(1, 2).chunk(2, dim=1)
            attended = F.scaled_dot_product_attention(
                query.transpose(1, 2), key, value, attn_mask=step.mask, enable_gqa=heads != kv_heads
            )
            hidden.addmm_(attended.transpose(1, 2).reshape(hidden.shape), out)
            gate, up = torch.mm(self._normed(hidden, between), gate_up).chunk(2, dim=-1)
            hidden.addmm_(F.silu(gate).mul_(up), down)
        return self._normed(hidden, self._norm).view(embeddings.shape)

    def _normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
        return (hidden / torch.hypot(length, self._least)).to(hidden.dtype).mul_(weight)
