"""A decoder's pass on a CPU, in few and plain calls: in a small model calls cost as much as arithmetic."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chameleon import QK_NORM_EPS, Cache, Chameleon, Step


class Plain:
    """Reads as a model does, but for rounding, with the weights that it has when this is made."""

    def __init__(self, model: Chameleon):
        self._config, self._desks = model.config, {}
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
        whole = isinstance(layer.mlp.down_proj, nn.Linear) and model.compiled is None
        served = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
        return whole and served and not layer.swin_norm

    def read(
        self, embeddings: Tensor, cache: Cache, rows: range, positions: Tensor, total: int, masked: bool = True
    ) -> Tensor:
        """As `Chameleon.read`, whose names these are."""
        step = Step.at(positions, cache.first[: len(rows)] + positions, total, masked, cache)
        if positions.shape not in self._desks:
            self._desks[positions.shape] = _Desk(self._config, positions.shape, embeddings.dtype)
        desk, kept = self._desks[positions.shape], cache.kept[:, rows.start : rows.stop]
        kv_heads, width = self._config.num_key_value_heads, self._config.head_dim
        grouped, hidden = kv_heads != self._config.num_attention_heads, desk.hidden
        keys, values = (part.unbind() for part in kept[:, :, :total].transpose(2, 3).split(kv_heads, dim=2))
        below, above = step.sin.chunk(2, dim=-1)
        hidden.copy_(embeddings.flatten(0, 1))
        layers = zip(self._layers, kept.flatten(1, 2).unbind(), keys, values, strict=True)
        for (before, qkv, scale, shift, out, between, gate_up, down), own, key, value in layers:
            torch.mm(self._normed(hidden, before, desk.normed), qkv, out=desk.joined)
            torch.addcmul(shift, torch.layer_norm(desk.query_key, (width,), eps=QK_NORM_EPS), scale, out=desk.heads)
            torch.mul(desk.heads, step.cos, out=desk.query_key)
            desk.low.addcmul_(desk.heads_high, below)
            desk.high.addcmul_(desk.heads_low, above)
            own.index_copy_(0, step.slots, desk.key_value.to(own.dtype))
            query = desk.query.to(key.dtype)
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=step.mask, enable_gqa=grouped)
            hidden.addmm_(attended.transpose(1, 2).reshape(hidden.shape).to(hidden.dtype), out)
            torch.mm(self._normed(hidden, between, desk.normed), gate_up, out=desk.inner)
            hidden.addmm_(F.silu(desk.gate).mul_(desk.up), down)
        return self._normed(hidden, self._norm, torch.empty_like(hidden)).view(embeddings.shape)

    def _normed(self, hidden: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
        return torch.div(hidden, torch.hypot(length, self._least), out=out).mul_(weight)


class _Desk:
    """Where passes of one shape [rows, n] keep what they have in hand, and the views of it, made once."""

    def __init__(self, config, shape: torch.Size, dtype: torch.dtype):
        tokens, split = shape.numel(), (config.num_attention_heads, 2 * config.num_key_value_heads)
        turned, width = config.num_attention_heads + config.num_key_value_heads, config.head_dim
        self.hidden, self.normed = torch.empty(2, tokens, config.hidden_size, dtype=dtype)
        self.joined = torch.empty(tokens, sum(split) * width, dtype=dtype)
        heads = self.joined.view(*shape, sum(split), width)
        self.query_key, self.query = heads[:, :, :turned], heads[:, :, : split[0]].transpose(1, 2)
        self.key_value = heads.flatten(0, 1)[:, split[0] :]
        self.low, self.high = self.query_key.chunk(2, dim=-1)
        self.heads = torch.empty(*shape, turned, width, dtype=dtype)
        self.heads_low, self.heads_high = self.heads.chunk(2, dim=-1)
        self.inner = torch.empty(tokens, 2 * config.intermediate_size, dtype=dtype)
        self.gate, self.up = self.inner.chunk(2, dim=-1)
