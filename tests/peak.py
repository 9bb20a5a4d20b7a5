"""Counts the bytes of the tensors that are alive at once while something runs, on whatever device, meta too."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Use it in a `with` statement; `most` is the largest sum of bytes of tensors made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self._seen = 0, 0, weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = tree_leaves((args, kwargs))
        self._seen.update(one.untyped_storage() for one in given if isinstance(one, torch.Tensor))  # views are not new
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage not in self._seen:
                self._seen.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return found

    def _freed(self, count: int) -> None:
        self.now -= count
