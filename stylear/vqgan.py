"""The picture tokenizer: pixels to codebook indices and back (the VQGAN that Chameleon and Lumina-mGPT use)."""

from dataclasses import dataclass
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from .errors import BadCheckpoint
from .shapes import count, sizes

NORM_GROUPS = 32


@dataclass(frozen=True)
class VQGANConfig:
    """Shape of a VQGAN; every field can be read off the weights."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    latent_channels: int = 256
    code_channels: int = 256
    codes: int = 8192

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a code: 16 for Chameleon's tokenizer."""
        return 2 ** (len(self.multipliers) - 1)

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "VQGANConfig":
        """Read the shape from the weights' keys and shapes.

        Raises BadCheckpoint naming a key that is absent, or a shape that cannot be.
        """
        name = "VQGAN"
        channels = sizes(state, "encoder.conv_in.weight", 4, name)[0]
        blocks = count(r"encoder\.down\.0\.block\.(\d+)\.", state)
        widths = [
            sizes(state, f"encoder.down.{level}.block.0.conv2.weight", 4, name)[0]
            for level in range(max(1, count(r"encoder\.down\.(\d+)\.", state)))
        ]
        codes, code_channels = sizes(state, "quantize.embedding.weight", 2, name)
        latent_channels = sizes(state, "encoder.conv_out.weight", 4, name)[0]
        if channels % NORM_GROUPS or any(width % channels for width in widths):
            raise BadCheckpoint(
                f"The VQGAN has {channels} channels, then {widths}: they have to be multiples of {NORM_GROUPS} and of "
                "each other. Give Chameleon's vqgan.ckpt or its safetensors."
            )
        return cls(channels, tuple(w // channels for w in widths), blocks, latent_channels, code_channels, codes)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.norm1 = _norm(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2 = _norm(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        query, key, value = (layer(y).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return x + self.proj_out(y.transpose(1, 2).reshape(x.shape))


class Middle(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Level(nn.Module):
    """The residual blocks of one resolution; `downsample` or `upsample` is added where the resolution changes."""

    def __init__(self, inner: int, outer: int, blocks: int):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(inner if i == 0 else outer, outer) for i in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class Encoder(nn.Module):
    def __init__(self, config: VQGANConfig):
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for i, (inner, outer) in enumerate(zip([config.channels, *widths], widths, strict=False)):
            self.down.append(Level(inner, outer, config.blocks))
            if i + 1 < len(widths):
                self.down[i].downsample = Downsample(outer)
        self.mid = Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, config: VQGANConfig):
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()  # numbered from the finest level, run from the coarsest
        for i, outer in enumerate(widths):
            self.up.append(Level(widths[min(i + 1, len(widths) - 1)], outer, config.blocks + 1))
            if i > 0:
                self.up[i].upsample = Upsample(outer)
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Codebook(nn.Module):
    def __init__(self, codes: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the nearest code: float [..., C] to int64 [...]."""
        flat, codes = vectors.reshape(prod(vectors.shape[:-1]), -1), self.embedding.weight
        distance = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.T
        return distance.argmin(1).view(vectors.shape[:-1])


class VQGAN(nn.Module):
    """Encoder, codebook and decoder under the released key names (Chameleon's `vqgan.ckpt`)."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.code_channels, 1)
        self.quantize = Codebook(config.codes, config.code_channels)
        self.post_quant_conv = nn.Conv2d(config.code_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    @property
    def downsampling(self) -> int:
        return self.config.downsampling

    def latents(self, pixels: Tensor) -> Tensor:
        """Continuous latents before quantisation: float [B, 3, H, W] in -1..1 to float [B, C, H/f, W/f]."""
        return self.quant_conv(self.encoder(pixels))

    def encode(self, pixels: Tensor) -> Tensor:
        """Code indices of pictures: float [B, 3, H, W] in -1..1, sides multiples of f, to int64 [B, H/f, W/f]."""
        return self.quantize.nearest(self.latents(pixels).permute(0, 2, 3, 1).float())

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pictures of quantised latents: float [B, C, h, w] to float [B, 3, h*f, w*f], about -1..1, not clamped."""
        return self.decoder(self.post_quant_conv(latents))

    def decode(self, codes: Tensor) -> Tensor:
        """Pictures of code indices: int64 [B, h, w] to float [B, 3, h*f, w*f], about -1..1, not clamped."""
        return self.decode_latents(self.quantize.embedding(codes).permute(0, 3, 1, 2))
