"""The perceiver resampler that turns image features into style tokens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .shapes import count, sizes

HEAD_DIM = 64  # the released resampler's; weights do not tell it


@dataclass(frozen=True)
class ResamplerConfig:
    """Shape of a resampler; the defaults are the released one's for a 7B base."""

    features: int = 1280
    width: int = 4096
    depth: int = 4
    heads: int = 12
    tokens: int = 16
    output: int = 4096
    expansion: int = 4

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "ResamplerConfig":
        """Read the shape from the weights (head size is always 64).

        Raises BadCheckpoint naming a key that is absent, or a shape that cannot be.
        """
        name = "style resampler"
        _, tokens, width = sizes(state, "latents", 3, name)
        return cls(
            features=sizes(state, "proj_in.weight", 2, name)[1],
            width=width,
            depth=count(r"layers\.(\d+)\.", state),
            heads=sizes(state, "layers.0.0.to_q.weight", 2, name)[0] // HEAD_DIM,
            tokens=tokens,
            output=sizes(state, "proj_out.weight", 2, name)[0],
            expansion=sizes(state, "layers.0.1.1.weight", 2, name)[0] // width,
        )


class PerceiverAttention(nn.Module):
    """Latents look at the features and at each other."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * HEAD_DIM, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(heads * HEAD_DIM, width, bias=False)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        features, latents = self.norm1(features), self.norm2(latents)
        key, value = self.to_kv(torch.cat([features, latents], dim=1)).chunk(2, dim=-1)
        query, key, value = (
            x.unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2) for x in (self.to_q(latents), key, value)
        )
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def _feed_forward(width: int, expansion: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, expansion * width, bias=False),
        nn.GELU(),
        nn.Linear(expansion * width, width, bias=False),
    )


class Resampler(nn.Module):
    """Image features to style tokens, under the released key names (`image_proj.pth`; paper section 3.2)."""

    def __init__(self, config: ResamplerConfig):
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.randn(1, config.tokens, config.width) / config.width**0.5)
        self.proj_in = nn.Linear(config.features, config.width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(config.width, config.heads),
                    _feed_forward(config.width, config.expansion),
                ]
            )
            for _ in range(config.depth)
        )
        self.proj_out = nn.Linear(config.width, config.output)
        self.norm_out = nn.LayerNorm(config.output)

    def forward(self, features: Tensor) -> Tensor:
        """Style tokens of features: float [B, N, features] to float [B, tokens, output]."""
        latents = self.latents.expand(len(features), -1, -1)
        features = self.proj_in(features)
        for attention, feed_forward in self.layers:
            latents = attention(features, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))
