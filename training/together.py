"""One training shared by processes of this machine that have a core each, where threads would wait for each other."""

import ctypes
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from stylear.errors import BadInput

from .processes import LONG, left_alone, pool

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's mallopt


def together(work: Callable[[], None], count: int) -> None:
    """Run `work`, which can be pickled, in `count` processes of one thread that know of each other (gloo).

    Raises what the first that failed raised, and BadInput if one was killed; who interrupts it ends them all. With a
    count of 1 it runs here, with all threads.
    """
    if count == 1:
        work()
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        pool(count) as own,
    ):
        meeting = (Path(folder) / "meeting").as_uri()
        running = [own.submit(_join, work, meeting, rank, count) for rank in range(count)]
        try:
            for done in as_completed(running):
                done.result()
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        except RuntimeError as error:
            if not isinstance(error, BrokenProcessPool) and not left_alone(error):
                raise
            raise BadInput(
                "A process that shares the training was ended, perhaps for want of memory: run the same command "
                "again. What was saved stays."
            ) from error


def _join(work: Callable[[], None], meeting: str, rank: int, count: int) -> None:
    torch.set_num_threads(1)
    keep_memory()
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in told.items()})  # what accelerate asks
    distributed.init_process_group("gloo", meeting, LONG, world_size=count, rank=rank)
    try:
        work()
    finally:
        distributed.destroy_process_group()


def keep_memory() -> None:
    """Have glibc keep what is freed: else each step faults its large tensors in again, an eighth of the time."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def place() -> tuple[int, int]:
    """This process's number among those that share the training, and how many they are."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def shared(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """Replace the gradients by their mean over the processes; returns that of the loss, which is the same on all."""
    loss = loss.detach()
    if place()[1] == 1:
        return loss
    flat = torch.cat([loss.view(1), *(p.grad.flatten() for p in parameters)])
    distributed.all_reduce(flat)
    flat /= place()[1]
    for p, mean in zip(parameters, flat[1:].split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(mean.view_as(p))
    return flat[0]
