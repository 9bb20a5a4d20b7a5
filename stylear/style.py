"""Style tokens: what a reference picture lends, and the paper's formula that keeps its content out."""

import json
import math
from dataclasses import dataclass, replace
from operator import index
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .errors import BadCheckpoint, BadInput, MissingPart
from .files import new_file

KIND = {"kind": "style tokens", "version": 1}


@dataclass(frozen=True, eq=False)
class StyleTokens:
    """A style, immutable: every change is a new object, and the tensors are copies of what was given.

    tokens: float32 [M, C], M = 16 and C = the base's hidden size; they stand for the template's placeholders.
    features: float32 [N, C_in] or None; F of the reference, kept so that content can be subtracted later.
    Both finite and on the CPU, or BadInput. picture: the reference, uint8 [H, W, 3] or None, from which content can
    be cut out; it is not saved.
    """

    tokens: Tensor
    features: Tensor | None = None
    picture: Tensor | None = None

    def __post_init__(self):
        if self.picture is not None:
            object.__setattr__(self, "picture", self.picture.detach().to("cpu", torch.uint8, copy=True))
        for name in ("tokens", "features"):
            value = getattr(self, name)
            if value is None and name == "features":
                continue
            if not isinstance(value, Tensor) or value.ndim != 2 or not value.numel():
                raise BadInput(f"Style {name} must be a tensor of two dimensions, not {_describe(value)}.")
            value = value.detach().to("cpu", torch.float32, copy=True)
            if not value.isfinite().all():
                raise BadInput(f"Style {name} hold NaN or infinite numbers. Encode the style picture again.")
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"StyleTokens(tokens={_describe(self.tokens)}, features={_describe(self.features)})"

    def with_noise(self, gamma: float, seed: int) -> "StyleTokens":
        """Tokens + gamma * n, n ~ N(0, I) a CPU generator's of this seed (paper 3.3).

        gamma: finite, >= 0; released values 0.1 to 0.3. seed: 0..2**64 - 1. Comes last: a later subtraction
        starts from the features and so from tokens without noise. Raises BadInput.
        """
        gamma = _number("gamma", gamma)
        if gamma < 0:
            raise BadInput(f"gamma is {gamma}; the strength of the noise must be 0 or more.")
        if not hasattr(seed, "__index__") or not 0 <= index(seed) < 2**64:
            raise BadInput(f"seed is {seed!r}; it must be a whole number from 0 to 2**64 - 1.")
        noise = torch.randn(self.tokens.shape, generator=torch.Generator().manual_seed(index(seed)))
        return replace(self, tokens=self.tokens + gamma * noise)

    def save(self, path: str | PathLike) -> None:
        """Write a small safetensors file. The file appears whole or not at all, and replaces an older one.

        Raises BadInput where there is no such folder.
        """
        tensors = {"tokens": self.tokens} | ({} if self.features is None else {"features": self.features})
        data = save(tensors, metadata={"stylear": json.dumps(KIND)})
        with new_file(path, overwrite=True) as draft:
            draft.write_bytes(data)

    @classmethod
    def load(cls, path: str | PathLike) -> "StyleTokens":
        """Read a file that `save` wrote; nothing in it is executed.

        Raises MissingPart if it is absent, BadCheckpoint if it is another kind of file.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingPart(f"There is no style file at {path}. Save one with StyleTokens.save.")
        try:
            with safe_open(path, framework="pt") as file:
                keys = set(file.keys())
                if not {"tokens"} <= keys <= {"tokens", "features"}:
                    raise BadCheckpoint(
                        f"{path} holds {sorted(keys)[:4]}, not style tokens. Give a saved style."
                    )
                return cls(**{key: file.get_tensor(key) for key in keys})
        except (SafetensorError, BadInput) as error:
            raise BadCheckpoint(
                f"{path} is not a saved style. Give a file from StyleTokens.save. ({error})"
            ) from error


@torch.no_grad()
def resample(resampler: nn.Module, *features: Tensor) -> Tensor:
    """R of several features: each float [N, C_in], to float32 [count, M, C] on the CPU.

    Runs where the resampler's weights are, in their dtype. Raises BadInput naming both widths if they
    disagree.
    """
    weight, wanted = next(resampler.parameters()), resampler.config.features
    for feature in features:
        if feature.ndim != 2 or feature.shape[1] != wanted:
            raise BadInput(
                f"Features are {_describe(feature)}, the resampler reads [N, {wanted}]. Use its encoder."
            )
    return resampler(torch.stack(features).to(weight.device, weight.dtype)).float().cpu()


def enhance(
    resampler: nn.Module, features: Tensor, content: Tensor, alpha: float = 0.2, beta: float = 0.8
) -> Tensor:
    """The content-subtracted style: alpha * R(F) + (1 - alpha) * R(F - beta * F_S), float32 [M, C].

    features: F, float [N, C_in] of the reference; content: F_S, the same shape, of what must not come along.
    alpha, beta: finite. Paper 3.3; the factor beta is in the released code only (inference_solver.py: 0.2,
    0.8).
    Raises BadInput for other shapes and for NaN or infinite numbers.
    """
    alpha, beta = _number("alpha", alpha), _number("beta", beta)
    if features.shape != content.shape:
        raise BadInput(
            f"Style is {_describe(features)}, content {_describe(content)}. Use one encoder for both."
        )
    whole, cleaned = resample(resampler, features, features - beta * content)
    return alpha * whole + (1 - alpha) * cleaned


def _number(name: str, value: float) -> float:
    try:
        value = float(value)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} is {value!r}; it must be a number.") from error
    if not math.isfinite(value):
        raise BadInput(f"{name} is {value}; it must be a finite number.")
    return value


def _describe(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
