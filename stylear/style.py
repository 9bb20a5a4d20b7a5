"""Style tokens: what a reference picture lends, and the paper's formula that keeps its content out."""

import json
import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .checks import MAX_SETTING, SEEDS, number, whole
from .errors import BadCheckpoint, BadInput, MissingPart
from .files import new_file, to_path
from .images import Picture, is_plain, to_rgb

MAX_SAVED = 64 * 2**20  # bytes; the released model's tokens and features take a fortieth of it
MAX_VALUE = 1e4  # of a token; the strongest noise stays below
KIND = {"kind": "style tokens", "version": 1}


@dataclass(frozen=True, eq=False)
class StyleTokens:
    """A style, immutable: every change is a new object that shares what stays, and what is given is copied.

    tokens: float32 [M, C], M = 16 and C = the base's hidden size; they stand for the template's placeholders.
    features: float32 [N, C_in] or None; F of the reference, kept so that content can be subtracted later.
    Both finite and on the CPU, or BadInput. picture: the reference, any `Picture` or None, from which content can be
    cut out; kept as uint8 [H, W, 3], and not saved.
    """

    tokens: Tensor
    features: Tensor | None = None
    picture: Picture | None = None

    def __post_init__(self):
        object.__setattr__(self, "tokens", _own("tokens", self.tokens))
        if self.features is not None:
            object.__setattr__(self, "features", _own("features", self.features))
        if self.picture is not None:
            pixels = np.array(to_rgb(self.picture, name="style picture"))
            object.__setattr__(self, "picture", torch.from_numpy(pixels))

    def __repr__(self) -> str:
        return f"StyleTokens(tokens={_describe(self.tokens)}, features={_describe(self.features)})"

    def with_tokens(self, tokens: Tensor) -> "StyleTokens":
        """The same reference read as other tokens, float [M, C]; its features and picture are shared, not copied."""
        other = copy(self)
        object.__setattr__(other, "tokens", _own("tokens", tokens))
        return other

    def with_noise(self, gamma: float, seed: int) -> "StyleTokens":
        """Tokens + gamma * n, n ~ N(0, I) a CPU generator's of this seed (paper 3.3).

        gamma: 0 to 1000; released values 0.1 to 0.3. seed: 0..2**64 - 1. Comes last: a later subtraction
        starts from the features and so from tokens without noise. Raises BadInput.
        """
        gamma = number("gamma", gamma, 0, MAX_SETTING)
        generator = torch.Generator().manual_seed(whole("seed", seed, 0, SEEDS - 1))
        return self.with_tokens(self.tokens + gamma * torch.randn(self.tokens.shape, generator=generator))

    def save(self, path: str | PathLike, overwrite: bool = False) -> None:
        """Write a small safetensors file, which appears whole or not at all.

        Raises BadInput where there is no such folder, or a file and `overwrite` is false.
        """
        tensors = {"tokens": self.tokens} | ({} if self.features is None else {"features": self.features})
        data = save(tensors, metadata={"stylear": json.dumps(KIND)})
        with new_file(path, overwrite) as draft:
            draft.write_bytes(data)

    @classmethod
    def load(cls, path: str | PathLike) -> "StyleTokens":
        """Read a file that `save` wrote; nothing in it is executed.

        Raises MissingPart if it is absent, BadCheckpoint if it is another kind of file, of another version, of more
        than MAX_SAVED bytes or of tokens beyond MAX_VALUE.
        """
        path = to_path(path)
        if not path.is_file():
            raise MissingPart(
                f"There is no style file at {path}. Give one that --save-style or Save Style Preset wrote."
            )
        if path.stat().st_size > MAX_SAVED:
            raise BadCheckpoint(f"{path} has {path.stat().st_size} bytes; a saved style has at most {MAX_SAVED}.")
        try:
            with safe_open(path, framework="pt") as file:
                keys, kind = set(file.keys()), json.loads((file.metadata() or {}).get("stylear", "null"))
                if kind != KIND or not {"tokens"} <= keys <= {"tokens", "features"}:
                    raise BadInput(f"It holds {kind or 'no kind'} with {sorted(keys)[:4]}, not {KIND}")
                kinds = {file.get_slice(key).get_dtype() for key in keys}
                if kinds != {"F32"}:
                    raise BadInput(f"Its numbers are {sorted(kinds)}, not F32")
                style = cls(**{key: file.get_tensor(key) for key in keys})
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise BadCheckpoint(
                f"{path} is not a saved style of this version. Give one that --save-style or Save Style Preset wrote. "
                f"({error})"
            ) from error
        if style.tokens.abs().max() > MAX_VALUE:
            raise BadCheckpoint(
                f"{path.name} holds tokens beyond {MAX_VALUE:g}, which no reference gives. Ask for another."
            )
        return style


def check_style(style: StyleTokens, name: str = "style") -> None:
    """BadInput, calling it `name`, unless this is a style."""
    if not isinstance(style, StyleTokens):
        raise BadInput(
            f"{name} is of type {type(style).__name__}, not a style. Give one encoded from a "
            "picture (in ComfyUI: connect Style Token Encode)."
        )


def blend(styles: Sequence[StyleTokens], weights: Sequence[float] | None = None) -> StyleTokens:
    """The weighted mean of the tokens of styles of one model; without weights all count the same.

    weights: one for each style, 0 to 1000 and not all 0; only their ratio counts. The order of the pairs changes
    nothing, not a bit: the summands are sorted. The blend has neither features nor a picture to subtract from, so
    subtract from each before; if only one style has a weight it is that style. Raises BadInput.
    """
    if not styles:
        raise BadInput("There is no style to blend. Connect one style or several.")
    for place, style in enumerate(styles, 1):
        check_style(style, f"style {place} to blend")
    weights = [1.0] * len(styles) if weights is None else weights
    if len(weights) != len(styles):
        raise BadInput(f"Give a weight for each style: there are {len(styles)} of these and {len(weights)} in weights.")
    weights = [number("A weight", weight, 0, MAX_SETTING) for weight in weights]
    kept = [(weight, style) for weight, style in zip(weights, styles, strict=True) if weight]
    if not kept:
        raise BadInput("All weights are 0. Give at least one style a weight.")
    shapes = {_describe(style.tokens) for _, style in kept}
    if len(shapes) > 1:
        raise BadInput(f"The styles are {' and '.join(sorted(shapes))}. Blend styles of one model.")
    if len(kept) == 1:
        return kept[0][1]
    total = math.fsum(weight for weight, _ in kept)
    summands = torch.stack([style.tokens.double() * (weight / total) for weight, style in kept])
    return StyleTokens(summands.sort(dim=0).values.sum(dim=0))


@torch.no_grad()
def resample(resampler: nn.Module, *features: Tensor) -> Tensor:
    """R of several features: each float [N, C_in], to float32 [count, M, C] on the CPU.

    Runs where the resampler's weights are, in their dtype. Raises BadInput naming both widths if they
    disagree.
    """
    weight, wanted = next(resampler.parameters()), resampler.config.features
    for feature in features:
        if feature.ndim != 2 or feature.shape[1] != wanted:
            raise BadInput(f"Features are {_describe(feature)}, the resampler reads [N, {wanted}]. Use its encoder.")
    return resampler(torch.stack(features).to(weight.device, weight.dtype)).float().cpu()


def enhance(resampler: nn.Module, features: Tensor, content: Tensor, alpha: float = 0.2, beta: float = 0.8) -> Tensor:
    """The content-subtracted style: alpha * R(F) + (1 - alpha) * R(F - beta * F_S), float32 [M, C].

    features: F, float [N, C_in] of the reference; content: F_S, the same shape, of what must not come along.
    alpha, beta: -1000 to 1000. Paper 3.3; the factor beta is in the released code only (inference_solver.py:
    0.2, 0.8). Raises BadInput for other shapes and numbers.
    """
    alpha, beta = (number(*named, -MAX_SETTING, MAX_SETTING) for named in (("alpha", alpha), ("beta", beta)))
    if features.shape != content.shape:
        raise BadInput(f"Style is {_describe(features)}, content {_describe(content)}. Use one encoder for both.")
    whole, cleaned = resample(resampler, features, features - beta * content)
    return alpha * whole + (1 - alpha) * cleaned


def _own(name: str, value: Tensor) -> Tensor:
    """A private copy, float32 on the CPU, of finite numbers in two dimensions."""
    if not isinstance(value, Tensor) or not is_plain(value) or value.ndim != 2 or not value.numel():
        raise BadInput(f"Style {name} must be a tensor of two dimensions, not {_describe(value)}.")
    value = value.detach().to("cpu", torch.float32, copy=True)
    if not value.isfinite().all():
        raise BadInput(f"Style {name} hold NaN or infinite numbers. Encode the style picture again.")
    return value


def _describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{list(value.shape)}" if is_plain(value) else f"a tensor of {value.layout}, {value.dtype}, {value.device}"
