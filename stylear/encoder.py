"""The image encoder: a picture to CLIP features F, from Hugging Face or open_clip weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .errors import BadCheckpoint
from .images import Picture, centre_crop, limit_aspect, to_rgb
from .shapes import check_numbers, count, sizes

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
# What weights do not tell, by width, where no config is at hand: OpenAI's B and L, laion's H, g and bigG.
KNOWN = {
    768: (12, "quick_gelu"),
    1024: (16, "quick_gelu"),
    1280: (16, "gelu"),
    1408: (16, "gelu"),
    1664: (16, "gelu"),
}
HF_NAMES = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.": "conv1.",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.": "ln_pre.",  # transformers' own spelling
    "encoder.layers.": "blocks.",
    "self_attn.": "attn.",
    "layer_norm": "ln_",
    "fc1": "c_fc",
    "fc2": "c_proj",
}
OPEN_CLIP_NAMES = {"transformer.resblocks.": "blocks.", "in_proj_": "in_proj."}
_LEAST = 1e-6  # of a pixel's mean and deviation; what is smaller ends in no number
_LAYER = r"blocks\.(\d+)\."


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a CLIP vision transformer, the unused last layer counted; the defaults are ViT-H/14's."""

    width: int = 1280
    layers: int = 32
    heads: int = 16
    mlp: int = 5120
    patch: int = 14
    image_size: int = 224
    activation: str = "gelu"
    eps: float = 1e-5
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __post_init__(self):
        if self.activation not in ("gelu", "quick_gelu"):
            raise BadCheckpoint(f"Unknown image encoder activation {self.activation!r}. Use a CLIP encoder.")
        check_numbers(self)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(isinstance(v, int | float) and _LEAST < v < 1 / _LEAST for v in values):
                raise BadCheckpoint(
                    f"{name} is {short(values)}: it has to be three numbers near 0.5. Use CLIP's config."
                )
        if self.layers < 2 or self.width % self.heads:
            raise BadCheckpoint(f"No image encoder has {self.layers} layers, width {self.width}, {self.heads} heads.")

    @property
    def tokens(self) -> int:
        """Number of features of a picture: the patches and the class token."""
        return (self.image_size // self.patch) ** 2 + 1

    @classmethod
    def from_hf_config(cls, config: Mapping, preprocessor: Mapping | None = None) -> "EncoderConfig":
        """Read a parsed config.json (of CLIPModel or CLIPVisionModel) and preprocessor_config.json."""
        vision, preprocessor = config.get("vision_config", config), preprocessor or {}
        return cls(
            width=vision.get("hidden_size", 768),  # the defaults of transformers' CLIPVisionConfig
            layers=vision.get("num_hidden_layers", 12),
            heads=vision.get("num_attention_heads", 12),
            mlp=vision.get("intermediate_size", 3072),
            patch=vision.get("patch_size", 32),
            image_size=vision.get("image_size", 224),
            activation=vision.get("hidden_act", "quick_gelu"),
            eps=vision.get("layer_norm_eps", 1e-5),
            mean=tuple(preprocessor.get("image_mean", MEAN)),
            std=tuple(preprocessor.get("image_std", STD)),
        )

    @classmethod
    def from_open_clip_config(cls, config: Mapping) -> "EncoderConfig":
        """Read a parsed open_clip_config.json, or its `model_cfg` alone."""
        model, preprocess = config.get("model_cfg", config), config.get("preprocess_cfg", {})
        vision = model["vision_cfg"]
        width, size = vision["width"], vision.get("image_size", 224)
        return cls(
            width=width,
            layers=vision["layers"],
            heads=width // vision.get("head_width", 64),
            mlp=int(width * vision.get("mlp_ratio", 4.0)),
            patch=vision["patch_size"],
            image_size=size[0] if isinstance(size, list | tuple) else size,
            activation="quick_gelu" if model.get("quick_gelu", False) else "gelu",
            mean=tuple(preprocess.get("mean", MEAN)),
            std=tuple(preprocess.get("std", STD)),
        )

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "EncoderConfig":
        """Infer everything from weights alone. Heads and activation come from the width (KNOWN).

        Raises BadCheckpoint for other keys, and for a width whose heads are not known.
        """
        return _config_of(to_own_keys(state_dict))


class Block(nn.Module):
    """One pre-norm transformer layer, under open_clip's key names."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.ln_1 = nn.LayerNorm(config.width, config.eps)
        self.attn = nn.ModuleDict(
            {
                "in_proj": nn.Linear(config.width, 3 * config.width),
                "out_proj": nn.Linear(config.width, config.width),
            }
        )
        self.ln_2 = nn.LayerNorm(config.width, config.eps)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(config.width, config.mlp), "c_proj": nn.Linear(config.mlp, config.width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.attn["in_proj"](self.ln_1(x)).unflatten(-1, (3, self.config.heads, -1))
        qkv = qkv.permute(2, 0, 3, 1, 4)
        x = x + self.attn["out_proj"](F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))
        hidden = self.mlp["c_fc"](self.ln_2(x))
        quick = self.config.activation == "quick_gelu"
        hidden = hidden * (1.702 * hidden).sigmoid() if quick else F.gelu(hidden)
        return x + self.mlp["c_proj"](hidden)


class ImageEncoder(nn.Module):
    """CLIP's vision transformer up to the layer before the last (`hidden_states[-2]` in the released code).

    All tokens, the class token first, without the norm that follows the last layer and without the
    projection.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.positional_embedding = nn.Parameter(torch.zeros(config.tokens, config.width))
        self.ln_pre = nn.LayerNorm(config.width, config.eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers - 1))

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], config: EncoderConfig | None = None) -> "ImageEncoder":
        """Build from Hugging Face or open_clip weights, in float32.

        The text tower, the last layer and what follows it may be there and are not read. Without a config it
        is inferred (`EncoderConfig.from_state_dict`). Raises BadCheckpoint, naming both shapes, if the two
        disagree.
        """
        weights = to_own_keys(state_dict)
        config = config or _config_of(weights)
        if count(_LAYER, weights) != config.layers:
            raise BadCheckpoint(
                f"The image encoder has {count(_LAYER, weights)} layers but its config says "
                f"{config.layers}. Give the config that belongs to these weights."
            )
        with torch.device("meta"):
            encoder = cls(config)
        wanted = encoder.state_dict()
        for key, expected in wanted.items():
            if key not in weights:
                raise BadCheckpoint(f"The image encoder lacks {key}. Give a whole CLIP vision checkpoint.")
            if weights[key].shape != expected.shape:
                raise BadCheckpoint(
                    f"The image encoder's {key} is {list(weights[key].shape)} but its config says "
                    f"{list(expected.shape)}. Give the config that belongs to these weights."
                )
        encoder.load_state_dict({key: weights[key].float() for key in wanted}, assign=True)
        return encoder.requires_grad_(False).eval()

    def preprocess(self, picture: Picture) -> Tensor:
        """A picture as normalised pixels, float32 [3, S, S]: bicubic to a short side of S, then centre crop.

        The same numbers as transformers' CLIPImageProcessorPil; the torchvision one differs by up to 0.03.
        """
        image, size = limit_aspect(to_rgb(picture)), self.config.image_size
        short = min(image.size)
        image = image.resize([size * side // short for side in image.size], Image.Resampling.BICUBIC)
        pixels = np.asarray(centre_crop(image, size, size), dtype=np.float64) * (1 / 255)
        pixels = (pixels.astype(np.float32) - np.float32(self.config.mean)) / np.float32(self.config.std)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels, float [B, 3, S, S], to features, float [B, tokens, width]."""
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        return x

    @torch.no_grad()
    def encode(self, picture: Picture) -> Tensor:
        """Features F of one picture, float32 [tokens, width] on the CPU. Raises BadInput as `to_rgb`."""
        weight = self.conv1.weight
        return self(self.preprocess(picture)[None].to(weight.device, weight.dtype))[0].float().cpu()


def to_own_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename either layout, with or without a prefix, to ImageEncoder's keys; text weights are left out."""
    found = [key for key in state_dict if key.split(".")[-1] == "class_embedding"]
    if len(found) != 1:
        raise BadCheckpoint("Not a CLIP vision encoder: no class_embedding. Give Hugging Face or open_clip weights.")
    names = HF_NAMES if found[0].endswith("embeddings.class_embedding") else OPEN_CLIP_NAMES
    prefix = found[0].removesuffix("class_embedding").removesuffix("embeddings.")
    own = {}
    for key, value in state_dict.items():
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            for theirs, ours in names.items():
                key = key.replace(theirs, ours)
            own[key] = value
    for query in [key for key in own if ".attn.q_proj." in key]:  # Hugging Face keeps the three apart
        parts = [own.get(query.replace("q_proj", name)) for name in ("q_proj", "k_proj", "v_proj")]
        shapes = {None if part is None else part.shape for part in parts}
        if len(shapes) == 1 and parts[0].ndim:
            own[query.replace("q_proj", "in_proj")] = torch.cat(parts)
    return own


def _config_of(weights: dict[str, Tensor]) -> EncoderConfig:
    name = "image encoder"
    width, _, patch, _ = sizes(weights, "conv1.weight", 4, name)
    grid = round((sizes(weights, "positional_embedding", 2, name)[0] - 1) ** 0.5)
    mlp = sizes(weights, "blocks.0.mlp.c_fc.weight", 2, name)[0]
    if width not in KNOWN:
        raise BadCheckpoint(f"The heads of a {width}-wide image encoder are unknown. Put its config.json beside it.")
    heads, activation = KNOWN[width]
    return EncoderConfig(width, count(_LAYER, weights), heads, mlp, patch, grid * patch, activation)
