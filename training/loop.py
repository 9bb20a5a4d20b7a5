"""The training loop the mini's parts share: schedule, progress, resumable checkpoints."""

import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from stylear.errors import BadInput
from stylear.files import new_file

from .together import place, shared


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `warmup` steps up to `learning_rate`, at the end down to `floor` of it along a cosine.

    `decay`: the share of the steps in which the rate falls; before them it stays. 1 is the plain cosine.
    `muon`: matrices whose name ends in _proj.weight are trained by Muon (torch's, scaled to AdamW's step), the rest
    by AdamW.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    floor: float = 0.05
    decay: float = 1.0
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    save_every: int = 100
    muon: bool = False

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        fallen = max(0.0, 1 - (1 - step / self.steps) / self.decay)
        cosine = 0.5 * (1 + math.cos(math.pi * fallen))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * cosine)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def training_device() -> torch.device:
    """Where the mini's parts are trained: on the first CUDA device, where there is none on the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def can_compile(device: torch.device) -> bool:
    """Whether the mini's parts are compiled for a device: for a CPU, where torch.compile has its C++ compiler."""
    return device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is not None


def steps_done(folder: Path) -> int:
    """How many steps the state that `fit` left in `folder` has behind it; 0 without one."""
    file = folder / "state.pt"
    return torch.load(file, map_location="cpu", weights_only=True)["step"] if file.exists() else 0


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a temporary file beside `path`, then put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, overwrite=True) as draft:
        write(draft)


def fit(
    name: str,
    model: nn.Module,
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    folder: Path,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    evaluate_every: int = 500,
) -> None:
    """Train `parameters` of `model` for the schedule's steps; stops at any moment lose at most `save_every` steps.

    `loss_of(step)` draws its own batch. The global generator is seeded anew at each step, so a resumed run
    takes the same steps as one never stopped. State lies in `folder`/state.pt, and goes on on any device.
    Of processes that share the training (`together`) each computes on what its own `loss_of` draws, the gradients are
    averaged, and the first one saves and evaluates.
    Raises FloatingPointError at a loss that is not finite; the last saved state stays.
    """
    parameters = [p for p in parameters if p.requires_grad]
    optimizers = _optimizers(model, parameters, schedule)
    state_file = folder / "state.pt"
    names = {n for n, p in model.named_parameters() if p.requires_grad} | {n for n, _ in model.named_buffers()}
    recipe = repr(schedule)
    first = 0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        if state.get("recipe") != recipe or state["model"].keys() != names & model.state_dict().keys():
            raise BadInput(
                f"{state_file} is of another model or recipe: move {folder} away, or go on with what it was begun with."
            )
        model.load_state_dict(state["model"], strict=False)
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        first = state["step"]
    average: float | None = None
    bar = tqdm(
        range(first, schedule.steps),
        initial=first,
        total=schedule.steps,
        desc=name,
        unit="step",
        mininterval=10,
        disable=place()[0] != 0,
    )
    for step in bar:
        torch.manual_seed(schedule.seed * 1_000_003 + step)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = schedule.rate(step)
        loss, figures = loss_of(step)
        model.zero_grad(set_to_none=True)
        loss.backward()
        if not math.isfinite(value := shared(parameters, loss).item()):
            raise FloatingPointError(
                f"{name}: the loss of step {step} is {value}; the state of {state_file} is the last good one."
            )
        nn.utils.clip_grad_norm_(parameters, schedule.clip)
        for optimizer in optimizers:
            optimizer.step()
        average = value if average is None else 0.98 * average + 0.02 * value
        bar.set_postfix({"loss": f"{average:.4f}"} | {k: f"{v:.3g}" for k, v in figures.items()}, refresh=False)
        done = step + 1
        if place()[0] != 0:
            continue
        if done % schedule.save_every == 0 or done == schedule.steps:
            kept = {k: v for k, v in model.state_dict().items() if k in names}
            states = [optimizer.state_dict() for optimizer in optimizers]
            state = {"model": kept, "optimizers": states, "step": done, "recipe": recipe}
            write_atomically(state_file, lambda path, state=state: torch.save(state, path))
        if evaluate and (done % evaluate_every == 0 or done == schedule.steps):
            model.eval()
            tqdm.write(
                f"{name} step {done} loss {average:.4f} " + " ".join(f"{k} {v:.4g}" for k, v in evaluate(done).items())
            )
            model.train()


def _optimizers(model: nn.Module, parameters: list[nn.Parameter], schedule: Schedule) -> list[torch.optim.Optimizer]:
    chosen = {id(p) for n, p in model.named_parameters() if schedule.muon and n.endswith("_proj.weight")}
    matrices = [p for p in parameters if id(p) in chosen]
    rest = [p for p in parameters if id(p) not in chosen]
    rate, decay = schedule.learning_rate, schedule.weight_decay
    adamw = torch.optim.AdamW(rest, rate, betas=(0.9, 0.95), weight_decay=decay)
    if not matrices:
        return [adamw]
    return [torch.optim.Muon(matrices, rate, decay, adjust_lr_fn="match_rms_adamw"), adamw]
