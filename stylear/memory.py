"""How much memory a call takes beside the weights, and whether the device has it, before any is taken."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from .chameleon import Chameleon
from .errors import BadInput
from .plain import copied_bytes
from .segment import Segmenter
from .vqgan import VQGAN

CPU = torch.device("cpu")
MORE = "Close what else takes memory, or use a machine with more."
HALVE = "bfloat16 takes half of what float32 does; else close what else takes memory, or use a machine with more."
_LINUX = Path("/proc/meminfo")
_SAYS = ("can't allocate memory", "not enough memory", "out of memory")  # the CPU's, and CUDA's and MPS's
_SPARE = 1.1  # beside the cache a pass needs room for its own tensors
_PROMPT = 256  # tokens of a usual prompt, with its style tokens and what stands around them
_WINDOW = 16  # codes that a pass draws, in half precision
_LOGITS = 8  # copies of a pass's logits, noise and sums of both among them
_MAPS = 6  # maps of features as large as the picture that the VQGAN holds at once
_SCORES = 4  # tables of attention scores that SAM holds at once


def cache_bytes(model: Chameleon, rows: int, slots: int, device: torch.device | None = None) -> int:
    """Bytes of the keys and values of `rows` rows of `slots` tokens on a device, by default the weights'."""
    config, size = model.config, model.attends_in(device).itemsize
    return rows * slots * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size


def sampling_bytes(
    base: Chameleon,
    vqgan: VQGAN,
    size: tuple[int, int],
    batch_size: int = 1,
    readings: int = 2,
    condition: Tensor | None = None,
    device: torch.device | None = None,
) -> int:
    """Bytes that a batch of pictures of `size` (width, height) in pixels takes on a device, nearly: the more of two.

    To draw the codes: keys, values and logits for each of the `readings` of a picture that guidance weighs
    (`SamplingSettings.weights`), of the picture's tokens, those of `condition` int64 [h, w] and a usual prompt, and
    what passes there copy of the weights. After that, to turn the codes of one picture into pixels.
    """
    across, down = (side // vqgan.downsampling for side in size)
    given = condition.numel() + len(condition) if isinstance(condition, Tensor) and condition.ndim == 2 else 0
    rows = batch_size * readings
    cache = cache_bytes(base, rows, _PROMPT + given + down * (across + 1), device)
    logits = 4 * rows * _WINDOW * vqgan.config.codes * _LOGITS
    return max(int(_SPARE * cache) + logits + copied_bytes(base, device), picture_bytes(vqgan, size))


def picture_bytes(vqgan: VQGAN, size: tuple[int, int]) -> int:
    """Bytes that one picture of `size` (width, height) in pixels takes in the VQGAN, to codes or back; float32."""
    width, height = size
    return 4 * _MAPS * vqgan.config.channels * max(vqgan.config.multipliers[:2]) * width * height


def segmenting_bytes(segmenter: Segmenter) -> int:
    """Bytes that a picture takes in SAM's image encoder, whose scores are of each patch for each; float32."""
    encoder = segmenter.sam.image_encoder
    patches = encoder.patch_embed.proj.kernel_size[0]
    return 4 * _SCORES * encoder.blocks[0].attn.num_heads * (encoder.img_size // patches) ** 4


def free_bytes(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where nothing tells."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return _linux("MemAvailable") if device.type == "cpu" and _LINUX.is_file() else None


def _linux(name: str) -> int | None:
    said = dict(line.split(":") for line in _LINUX.read_text().splitlines())
    return 1024 * int(said[name].split()[0]) if name in said else None


def check_weights(
    name: str, weights: Iterable[Tensor], dtype: torch.dtype, device: torch.device = CPU, advice: str = MORE
) -> None:
    """BadInput, with both numbers and what to do, if a device does not hold copies of weights in a dtype.

    The weights may be of device meta. On a CPU swap counts as memory: where both end, Linux kills this process, or
    another, and nobody is told why.
    """
    needed, free = dtype.itemsize * sum(weight.numel() for weight in weights), free_bytes(device)
    if free is not None and device.type == "cpu":
        free += _linux("SwapFree") or 0
    if free is not None and needed > free:
        raise BadInput(
            f"{name} takes {gib(needed)} GiB in {str(dtype).removeprefix('torch.')} and {device} has {gib(free)} GiB "
            f"free. {advice}"
        )


def check_room(model: Chameleon, rows: int, slots: int) -> None:
    """BadInput, with both numbers and what to do, if the keys and values of a call do not fit the device."""
    device = model.lm_head.weight.device
    needed, free = int(_SPARE * cache_bytes(model, rows, slots)), free_bytes(device)
    if free is not None and needed > free:
        raise BadInput(
            f"The keys and values of {rows} rows of {slots} tokens take {gib(needed)} GiB and {device} has {gib(free)} "
            "GiB free. Ask for fewer or smaller pictures, or for cfg 1, which needs half."
        )


def out_of_memory(error: Exception) -> bool:
    """Whether Python or PyTorch ended a call because memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAYS)


def gib(count: int) -> str:
    """Bytes as GiB with two digits behind the point."""
    return f"{count / 2**30:.2f}"
