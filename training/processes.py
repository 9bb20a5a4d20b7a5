"""This process among those that `accelerate launch` or torchrun started, and processes of its own."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing.connection import wait
from threading import Thread
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # an extra's package: who lacks it is told so when a command needs it
    from accelerate import PartialState

LONG = timedelta(hours=6)  # the others wait while one draws or reads


def left_alone(error: RuntimeError) -> bool:
    """Whether an error is that of a process whose fellows have ended (gloo's or NCCL's)."""
    said = ("Connection closed by peer", "Connection reset by peer", "gloo/transport", "NCCL")
    return any(one in str(error) for one in said)


def processes(cpu: bool = False) -> "PartialState":
    """The state that all of a command's processes share; `cpu`: leave accelerators alone.

    Without the flag accelerate takes processes on a CPU for single ones.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    cpu = cpu or not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    return PartialState(cpu=cpu, timeout=LONG)


def pool(count: int) -> ProcessPoolExecutor:
    """So many processes for work of this one's; they end with it, however it ends, and not only once they are done."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _end_with_parent)


def _end_with_parent() -> None:
    sentinel = multiprocessing.parent_process().sentinel
    Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()
