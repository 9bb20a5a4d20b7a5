"""How much memory a call's keys and values take, and whether the device has it, before any is taken."""

from pathlib import Path

import torch

from .chameleon import Chameleon
from .errors import BadInput

_LINUX = Path("/proc/meminfo")
_CPU_SAYS = ("can't allocate memory", "not enough memory")
_SPARE = 1.1  # beside the cache a pass needs room for its own tensors


def cache_bytes(model: Chameleon, rows: int, slots: int) -> int:
    """Bytes of the keys and values of `rows` rows of `slots` tokens."""
    config, weight = model.config, model.lm_head.weight
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * weight.element_size()
    return rows * slots * token


def free_bytes(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where nothing tells."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type == "cpu" and _LINUX.is_file():
        said = dict(line.split(":") for line in _LINUX.read_text().splitlines())
        return 1024 * int(said["MemAvailable"].split()[0])
    return None


def check_room(model: Chameleon, rows: int, slots: int) -> None:
    """BadInput, with both numbers and what to do, if the keys and values of a call do not fit the device."""
    device = model.lm_head.weight.device
    needed, free = int(_SPARE * cache_bytes(model, rows, slots)), free_bytes(device)
    if free is not None and needed > free:
        raise BadInput(
            f"The keys and values of {rows} rows of {slots} tokens take {gib(needed)} GiB and {device} has {gib(free)} "
            "GiB free. Ask for fewer or smaller pictures, or for cfg 1, which needs half."
        )


def out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch ended a call because memory ran out, on whatever device."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(said in str(error) for said in _CPU_SAYS)


def gib(count: int) -> str:
    """Bytes as GiB with two digits behind the point."""
    return f"{count / 2**30:.2f}"
