"""A tiny token folder, and training runs in processes of their own, for the tests of training."""

import io
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiny
import torch
import yaml
from PIL import Image

from stylear.vqgan import VQGAN
from training.config import CONFIGS
from training.inputs import tensors_sha256
from training.recipe import TrainSettings
from training.tokens import Example, write_index, write_shard


def example(number: int, size: tuple[int, int] = (4, 6), features: bool = False) -> Example:
    """Number decides everything: every fourth is stylised, every fifth has a depth map."""
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(file, "PNG")
    depth = number % 5 == 0
    return Example(
        key=f"{number:04d}",
        kind="raw" if number % 4 else "stylised",
        caption="a in " + "S" * (number % 7),
        codes=rng.integers(0, tiny.CODES, size),
        encoded=file.getvalue(),
        features=rng.standard_normal((5, 24)).astype(np.float16) if features else None,
        condition="depth" if depth else "",
        condition_codes=rng.integers(0, tiny.CODES, (2, 4)) if depth else None,
    )


def write_tokens(
    folder: Path, count: int = 16, sizes=((4, 6), (4, 4)), features: bool = False, vqgan: str | None = None
) -> Path:
    """A token folder of pictures of several sizes, by the bundle's VQGAN or the one of a hash; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = [example(number, sizes[number % len(sizes)], features) for number in range(count)]
    record = write_shard(folder / "tokens-00000.arrow", [examples])
    made_of = {"codes": tiny.CODES, "vqgan": vqgan or bundled_vqgan(), "features": [5, 24] if features else None}
    write_index(folder, [record], **made_of)
    return folder


def bundled_vqgan() -> str:
    """The hash of the VQGAN of `tiny.write_bundle`, whose file has half precision."""
    vqgan = VQGAN(tiny.VQGAN_CONFIG)
    vqgan.load_state_dict({key: value.half().float() for key, value in tiny.randomised(vqgan, 4).items()})
    return tensors_sha256(vqgan)


def settings(root: Path, out: str = "out", **changes) -> TrainSettings:
    """Settings for the data root/tokens and the bundle root/model, with changes; rates high enough to see."""
    given = {
        "model": {"base": str(root / "model")},
        "data": root / "tokens",
        "out": root / out,
        "resampler": {"width": 16, "depth": 1, "heads": 1},
        "steps": 4,
        "batch": 4,
        "micro_batch": 4,
        "lora_rate": 1e-3,
        "resampler_rate": 1e-3,
        "context_drop": 0.3,
        "held_out": 3,
    }
    return TrainSettings.model_validate(given | changes)


def in_processes(function: Callable, *arguments, processes: int = 1) -> list[int]:
    """Call a function of this module in fresh processes, as a launcher would start them; their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_tokens", "training.train"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        context.Process(target=_launched, args=(rank, processes, port, function, arguments))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    return [process.exitcode for process in started]


def train(chosen: TrainSettings) -> None:
    """Train to the end."""
    from training.train import run

    run(chosen)


def train_and_die(chosen: TrainSettings, step: int) -> None:
    """Train, and be killed by SIGKILL when a step has been taken and not yet saved."""
    from training.trainer import Trainer

    take = Trainer.step

    def step_and_die(self, number, loader):
        figures = take(self, number, loader)
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return figures

    Trainer.step = step_and_die
    train(chosen)


def train_by_words(words: list[str], dies: int) -> None:
    """Train by the command line, in a process of several of which number `dies` is killed by SIGKILL after a step."""
    from training.__main__ import main
    from training.trainer import Trainer

    take = Trainer.step

    def step_and_die(self, number, loader):
        figures = take(self, number, loader)
        if self.accelerator.process_index == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return figures

    Trainer.step = step_and_die
    sys.exit(main(words))


def train_and_die_writing(chosen: TrainSettings, name: str) -> None:
    """Train, and be killed by SIGKILL when half of one file of the second state is on the disk."""
    from training import checkpoints

    def half(path: Path, whole: bytes) -> None:
        if list(Path(chosen.out).glob("state-*")):
            Path(path).write_bytes(whole[: len(whole) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    save_file, save, write_json = checkpoints.save_file, torch.save, checkpoints.write_json
    if name == "weights.safetensors":
        checkpoints.save_file = lambda weights, path: (half(path, b"x" * 100), save_file(weights, path))
    elif name == "optimizer.pt":
        torch.save = lambda states, path: (half(path, b"x" * 100), save(states, path))
    else:
        checkpoints.write_json = lambda path, value: (half(path, b"x" * 100), write_json(path, value))
    train(chosen)


def train_sharded(chosen: TrainSettings, die_at: int | None = None) -> None:
    """Train under FSDP with the classes of configs/fsdp.yaml wrapped; accelerate itself refuses it without a GPU."""
    import accelerate
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from torch.distributed.tensor import DTensor

    from training import train as module
    from training.trainer import Trainer

    config = yaml.safe_load((CONFIGS / "fsdp.yaml").read_text())["fsdp_config"]

    def sharded(**given) -> accelerate.Accelerator:
        accelerator = accelerate.Accelerator(**given)
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=config["fsdp_version"],
            reshard_after_forward=config["fsdp_reshard_after_forward"],
            auto_wrap_policy=config["fsdp_auto_wrap_policy"],
            transformer_cls_names_to_wrap=config["fsdp_transformer_layer_cls_to_wrap"].split(","),
            cpu_ram_efficient_loading=config["fsdp_cpu_ram_efficient_loading"],
        )
        accelerator.state.distributed_type = DistributedType.FSDP
        return accelerator

    fit = Trainer.fit

    def fit_sharded(self) -> None:
        assert all(isinstance(weight, DTensor) for weight in self.model.parameters())
        fit(self)

    module.Accelerator, Trainer.fit = sharded, fit_sharded
    train(chosen) if die_at is None else train_and_die(chosen, die_at)


def _launched(rank: int, processes: int, port: int, function: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    function(*arguments)
