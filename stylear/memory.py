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
_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # Linux's control groups, of version 2
_SAYS = ("can't allocate memory", "not enough memory", "out of memory")  # the CPU's, and CUDA's and MPS's
_SPARE = 1.1  # beside the cache a pass needs room for its own tensors
_PROMPT = 256  # tokens of a usual prompt, with its style tokens and what stands around them
_WINDOW, _HALF_WINDOW = 64, 16  # the most codes of a picture that "auto" draws in a pass, in float32 and halves of it
_AT_ONCE = 512  # codes of all rows together then
_HIDDEN, _INNER = 12, 4  # copies that a pass has of its hidden states, and of those within the feed-forward
_LOGITS = 8  # copies of a pass's logits, noise and sums of both among them
_MAPS = 6  # maps of features as large as the picture that the VQGAN holds at once
_SCORES = 4  # tables of attention scores that SAM holds at once


def cache_bytes(model: Chameleon, rows: int, slots: int, device: torch.device | None = None) -> int:
    """Bytes of the keys and values of `rows` rows of `slots` tokens on a device, by default the weights'."""
    config, size = model.config, model.attends_in(device).itemsize
    return rows * slots * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size


def drawing_bytes(
    model: Chameleon,
    rows: int,
    slots: int,
    pictures: int = 0,
    codes: int = 0,
    width: int = 0,
    window: int = 1,
    device: torch.device | None = None,
) -> int:
    """Bytes that drawing takes beside the weights on a device, by default theirs.

    Keys and values of `rows` rows of `slots` tokens; and where `pictures` are drawn, of `codes` different codes and
    `width` of them in a row: what a pass that draws `window` codes has in hand, their logits, the noise for as many
    and as many guesses, and what is expected of these and of a row above.
    """
    config = model.config
    reach = 2 * window + 1
    logits = _LOGITS * rows * window + pictures * (reach + (reach + width if window > 1 else 0))
    in_hand = rows * window * (_HIDDEN * config.hidden_size + _INNER * config.intermediate_size)
    return int(_SPARE * cache_bytes(model, rows, slots, device)) + 4 * (logits * codes + in_hand)


def sampling_bytes(
    base: Chameleon,
    vqgan: VQGAN,
    size: tuple[int, int],
    batch_size: int = 1,
    readings: int = 2,
    condition: Tensor | None = None,
    device: torch.device | None = None,
    window: int | None = None,
) -> int:
    """Bytes that a batch of pictures of `size` (width, height) in pixels takes on a device, nearly: the more of two.

    To draw the codes: keys, values and logits for each of the `readings` of a picture that guidance weighs
    (`SamplingSettings.weights`), of the picture's tokens, those of `condition` int64 [h, w] and a usual prompt, and
    what passes there copy of the weights; `window` codes in a pass, None for the most that "auto" may choose. After
    that, to turn the codes of one picture into pixels.
    """
    across, down = (side // vqgan.downsampling for side in size)
    given = condition.numel() + len(condition) if isinstance(condition, Tensor) and condition.ndim == 2 else 0
    rows = batch_size * readings
    if window is None:
        most = _WINDOW if base.lm_head.weight.dtype == torch.float32 else _HALF_WINDOW
        window = min(most, max(1, _AT_ONCE // rows))
    pictures = (batch_size, vqgan.config.codes, across, min(max(1, window), across * down))
    drawing = drawing_bytes(base, rows, _PROMPT + given + down * (across + 1), *pictures, device)
    return max(drawing + copied_bytes(base, device), picture_bytes(vqgan, size))


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
    if device.type != "cpu" or not _LINUX.is_file():
        return None
    found = [count for count in (_linux("MemAvailable"), _group_bytes()) if count is not None]
    return min(found, default=None)


def _group_bytes() -> int | None:
    """Bytes that the control groups of this process, such as a container's, still let it take; None without a limit.

    What of it holds files can be given back, so it counts as free.
    """
    left = []
    try:
        own = next(line[3:] for line in _GROUP.read_text().splitlines() if line.startswith("0::"))
        for part in (Path(own.lstrip("/")), *Path(own.lstrip("/")).parents):
            folder = _GROUPS / part
            limit = (folder / "memory.max").read_text().strip() if (folder / "memory.max").is_file() else "max"
            if limit != "max":
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                taken = int((folder / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
                left.append(max(0, int(limit) - taken))
    except (OSError, ValueError, StopIteration):
        return None
    return min(left, default=None)


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
    if free is not None and device.type == "cpu" and free != _group_bytes():
        free += _linux("SwapFree") or 0
    if free is not None and needed > free:
        raise BadInput(
            f"{name} takes {gib(needed)} GiB in {str(dtype).removeprefix('torch.')} and {device} has {gib(free)} GiB "
            f"free. {advice}"
        )


def check_room(model: Chameleon, rows: int, slots: int, *drawn: int) -> None:
    """BadInput, with both numbers and what to do, if what `drawing_bytes` tells of a call does not fit the device."""
    device = model.lm_head.weight.device
    needed, free = drawing_bytes(model, rows, slots, *drawn), free_bytes(device)
    if free is not None and needed > free:
        raise BadInput(
            f"Drawing with {rows} rows of {slots} tokens takes {gib(needed)} GiB and {device} has {gib(free)} GiB "
            "free. Ask for fewer or smaller pictures, a smaller window, or for cfg 1, which needs half."
        )


def out_of_memory(error: Exception) -> bool:
    """Whether Python or PyTorch ended a call because memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAYS)


def gib(count: int) -> str:
    """Bytes as GiB with two digits behind the point."""
    return f"{count / 2**30:.2f}"
