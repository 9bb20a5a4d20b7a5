"""Counts the bytes of the tensors that are alive at once while something runs, on whatever device, meta too."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class Peak(TorchDispatchMode):
    """Use it in a `with` statement; `most` is the largest sum of bytes of tensors made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self._seen = 0, 0, WeakIdKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self._seen.update((_memory(tensor), True) for tensor in _tensors((args, kwargs)))  # views are not new
        found = function(*args, **(kwargs or {}))
        for tensor in _tensors(found):
            memory, count = _memory(tensor), _bytes(tensor)
            if memory not in self._seen:
                self._seen[memory] = True
                self.now += count
                self.most = max(self.most, self.now)
                weakref.finalize(memory, self._freed, count)
        return found

    def _freed(self, count: int) -> None:
        self.now -= count


def _tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor):
    """What views of it share; of one in oneDNN's order, which has no storage, itself."""
    return tensor if tensor.layout == torch._mkldnn else tensor.untyped_storage()


def _bytes(tensor: torch.Tensor) -> int:
    memory = _memory(tensor)
    return tensor.numel() * tensor.itemsize if memory is tensor else memory.nbytes()
