"""Stands in for comfy.model_patcher: a module with the device it computes on and the one it rests on."""

import torch


class ModelPatcher:
    def __init__(self, model: torch.nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        if getattr(model, "device", None) is None:
            model.device = offload_device

    def model_size(self) -> int:
        return sum(weight.numel() * weight.element_size() for weight in self.model.parameters())
