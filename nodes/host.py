"""The one file that knows ComfyUI's memory manager: where the parts of a model rest, when they move, in which dtype."""

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher

from ..stylear.errors import BadInput


class _Managed(torch.nn.Module):
    """A plain module around one part: ComfyUI writes bookkeeping attributes on what it manages."""

    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part
        self.device = offload_device()


def _patcher(part: torch.nn.Module) -> ModelPatcher:
    """Put a part in ComfyUI's care; the plain patcher, as the dynamic one wants layers of its own ops."""
    return ModelPatcher(_Managed(part), load_device=compute_device(), offload_device=offload_device())


class HostedModel:
    """The value on a STYLEAR_MODEL wire: the engine's model, each of its parts in ComfyUI's care.

    ComfyUI keeps only weak references, so the patchers live here and go when the last wire goes.
    """

    def __init__(self, model) -> None:
        self.model = model
        self.patchers = {name: _patcher(part) for name, part in model.parts.items()}

    @classmethod
    def on(cls, wire) -> "HostedModel":
        """What a model input was given; BadInput for a value that a workflow wrote there itself."""
        if not isinstance(wire, cls):
            raise BadInput(f"model is a {type(wire).__name__}, not a StyleAR model. Connect Load StyleAR to it.")
        return wire

    @property
    def patcher(self) -> ModelPatcher:
        """The largest part's patcher, by which ComfyUI's cache recognises a value that holds a model."""
        return max(self.patchers.values(), key=ModelPatcher.model_size)

    def ready(self, *parts: str, memory: int = 0):
        """The engine's model, once `parts` are wholly on the compute device with `memory` bytes free beside.

        A part the model does not have is passed over: the engine says what is missing.
        """
        wanted = [self.patchers[name] for name in parts if name in self.patchers]
        management.load_models_gpu(wanted, memory_required=memory, force_full_load=True)
        return self.model


@contextmanager
def on_device(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """A module on the compute device, for as long as the block lasts."""
    patcher = _patcher(module)  # ComfyUI forgets the module when this reference goes
    management.load_models_gpu([patcher], force_full_load=True)
    yield patcher.model.part


def compute_device() -> torch.device:
    """Where parts are brought to be used."""
    return management.get_torch_device()


def offload_device() -> torch.device:
    """Where weights rest: the CPU, or the GPU under --highvram."""
    return management.unet_offload_device()


def weights_dtype(choice: str) -> torch.dtype:
    """The dtype named by a combo; "auto" is bfloat16 where the device is good at it, else float32."""
    if isinstance(choice, str) and choice == "auto":
        return torch.bfloat16 if management.should_use_bf16(compute_device()) else torch.float32
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if not isinstance(choice, str) or choice not in known:
        raise BadInput(f"dtype is not one of auto, {', '.join(known)}. Choose one of these.")
    return known[choice]


def to_output(pixels: torch.Tensor) -> torch.Tensor:
    """Move a result to the device and dtype that ComfyUI passes between nodes."""
    return pixels.to(management.intermediate_device(), management.intermediate_dtype())
