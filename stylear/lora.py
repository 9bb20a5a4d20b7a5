"""LoRA of the released layout: fold it into weights, and carry it to and from PEFT's layout."""

import re

import torch
from torch import Tensor

from .errors import BadCheckpoint

_OFFICIAL = re.compile(r"(?P<module>.+)_lora\.(?P<half>[AB])")
_PEFT = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")
_HEAD = "lm_head"
_OFFICIAL_HEAD = "lm_head.lm_head"  # the released code keeps the head's LoRA inside the head


def fold(state_dict: dict[str, Tensor], lora: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Add a LoRA to the weights it belongs to: W + (A B)^T, computed in float32 and kept in `dtype`, by default W's.

    `lora`: the released layout, `<module>_lora.A` [in, r] and `<module>_lora.B` [r, out], not scaled
    (LoraModel.py). Returns a new dict that shares the untouched weights. BadCheckpoint for a LoRA of another
    model.
    """
    folded = dict(state_dict)
    for module, (a, b) in pairs(lora).items():
        name = f"{module}.weight"
        if name not in state_dict:
            raise BadCheckpoint(f"The LoRA changes {name}, which the base model lacks: use the base it was made for.")
        weight = state_dict[name]
        if list(weight.shape) != [b.shape[1], a.shape[0]]:
            raise BadCheckpoint(
                f"The LoRA of {name} is for {[b.shape[1], a.shape[0]]} and the base has "
                f"{list(weight.shape)}: use the base it was made for."
            )
        folded[name] = (weight.float() + (a.float() @ b.float()).T.to(weight.device)).to(dtype or weight.dtype)
    return folded


def lora_targets(lora: dict[str, Tensor]) -> tuple[str, ...]:
    """Names of the modules a released LoRA changes, such as `model.layers.0.self_attn.q_proj`, sorted."""
    return tuple(sorted(pairs(lora)))


def lora_rank(lora: dict[str, Tensor]) -> int:
    """The rank r of a released LoRA; BadCheckpoint if its modules differ in it."""
    ranks = sorted({a.shape[1] for a, _ in pairs(lora).values()})
    if len(ranks) != 1:
        raise BadCheckpoint(f"A StyleAR LoRA has one rank and this has {ranks}: use the released model.safetensors.")
    return ranks[0]


def to_peft(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released layout as PEFT saves it: lora_A [r, in], lora_B [out, r], for an alpha of r."""
    halves = {}
    for module, (a, b) in pairs(lora).items():
        halves[f"base_model.model.{module}.lora_A.weight"] = a.T.contiguous()
        halves[f"base_model.model.{module}.lora_B.weight"] = b.T.contiguous()
    return halves


def from_peft(state_dict: dict[str, Tensor], scaling: float = 1.0) -> dict[str, Tensor]:
    """PEFT's layout as released; `scaling`, PEFT's alpha / r, goes into B. BadCheckpoint for other keys."""
    halves = {}
    for name, weight in state_dict.items():
        match = _PEFT.fullmatch(name)
        if match is None:
            raise BadCheckpoint(f"{name} is not a key of a PEFT LoRA: save the adapter with save_pretrained.")
        if weight.dim() != 2:
            raise BadCheckpoint(f"{name} is {list(weight.shape)} and has to be a matrix: save the adapter again.")
        half = weight.T if match["half"] == "A" else weight.T * scaling
        halves[_official_name(match["module"], match["half"])] = half.contiguous()
    pairs(halves)
    return halves


def _official_name(module: str, half: str) -> str:
    return f"{_OFFICIAL_HEAD if module == _HEAD else module}_lora.{half}"


def pairs(lora: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name to (A [in, r], B [r, out]); BadCheckpoint for what is not a whole LoRA."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, weight in lora.items():
        match = _OFFICIAL.fullmatch(name)
        if match is None:
            raise BadCheckpoint(f"{name} is not a key of a StyleAR LoRA: use the released model.safetensors.")
        module = _HEAD if match["module"] == _OFFICIAL_HEAD else match["module"]
        halves.setdefault(module, {})[match["half"]] = weight
    if not halves:
        raise BadCheckpoint("The LoRA is empty: use the released model.safetensors.")
    pairs = {}
    for module, pair in halves.items():
        if set(pair) != {"A", "B"}:
            raise BadCheckpoint(f"The LoRA of {module} has only {next(iter(pair))}: the file is incomplete.")
        a, b = pair["A"], pair["B"]
        if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
            raise BadCheckpoint(
                f"The LoRA of {module} has A {list(a.shape)} and B {list(b.shape)}, which do not multiply: "
                "A has to be [in, rank] and B [rank, out]."
            )
        pairs[module] = (a, b)
    return pairs
