"""Stands in for comfy.model_management: devices, what is loaded (weakly held), and the stop button."""

import weakref

import torch

_LOADED: list[weakref.ref] = []
_INTERRUPT = [False]


class InterruptProcessingException(BaseException):
    """What ComfyUI's stop button raises; a BaseException since 0.20."""


def get_torch_device() -> torch.device:
    return torch.device("cpu")


def unet_offload_device() -> torch.device:
    return torch.device("cpu")


def intermediate_device() -> torch.device:
    return torch.device("cpu")


def intermediate_dtype() -> torch.dtype:
    return torch.float32


def should_use_bf16(device=None) -> bool:
    return device is not None and device.type != "cpu"


def load_models_gpu(models: list, memory_required: int = 0, force_full_load: bool = False) -> None:
    for patcher in models:
        patcher.model.to(patcher.load_device)
        patcher.model.device = patcher.load_device
        if patcher not in loaded_models():
            _LOADED.insert(0, weakref.ref(patcher))


def loaded_models(only_currently_used: bool = False) -> list:
    _LOADED[:] = [reference for reference in _LOADED if reference() is not None]
    return [reference() for reference in _LOADED]


def unload_all_models() -> None:
    for patcher in loaded_models():
        patcher.model.to(patcher.offload_device)
    _LOADED.clear()


def interrupt_current_processing(value: bool = True) -> None:
    _INTERRUPT[0] = value


def throw_exception_if_processing_interrupted() -> None:
    if _INTERRUPT[0]:
        _INTERRUPT[0] = False
        raise InterruptProcessingException
