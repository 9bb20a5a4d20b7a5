"""What a stopped run goes on from: trained weights, optimizer and history, in one folder that appears whole."""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt, TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from stylear.errors import BadCheckpoint, BadInput
from stylear.lora import from_peft
from stylear.memory import out_of_memory

from .output import read_json, sha256_of, write_json

FORMAT = 2
WEIGHTS, OPTIMIZER, PROGRESS = "weights.safetensors", "optimizer.pt", "progress.json"
_NAME = re.compile(r"state-(\d{6,})")
# One way for a plain model, DDP and FSDP: whole tensors on the first process, of what trains alone.
_SAVE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
_SHAPES = StateDictOptions(ignore_frozen_params=True)
_LOAD = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)


@dataclass
class Progress:
    """How far a run is: `step` steps done in `seconds`, their losses, and (step, loss) of each held-out evaluation."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    step: NonNegativeInt = 0
    seconds: NonNegativeFloat = 0.0
    losses: list[float] = field(default_factory=list)
    held_out: list[tuple[NonNegativeInt, float]] = field(default_factory=list)


def save_state(
    folder: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, writes: bool = True
) -> None:
    """Write `folder`/state-<step> and delete the older ones.

    All processes have to call this; only the one with `writes` touches files. The folder gets its name in one step
    when everything in it is on the disk, so one that is there is whole.
    """
    weights = trained(model)
    states = get_optimizer_state_dict(model, optimizer, options=_SAVE)
    if not writes:
        return
    place = folder / f"state-{progress.step:06d}"
    draft = folder / f".{place.name}.{secrets.token_hex(4)}"
    draft.mkdir()
    try:
        save_file({name: value.contiguous() for name, value in weights.items()}, draft / WEIGHTS)
        torch.save(states, draft / OPTIMIZER)
        digests = {name: sha256_of(draft / name) for name in (WEIGHTS, OPTIMIZER)}
        write_json(draft / PROGRESS, {"format": FORMAT, **asdict(progress), "files": digests})
        for path in (*draft.iterdir(), draft):
            _sync(path)
        draft.rename(place)
        _sync(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _remove(state for state in states_in(folder) if state != place)


def states_in(folder: Path) -> list[Path]:
    """The whole states in a folder, oldest first."""
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=_step_of)


def _step_of(state: Path) -> int:
    return int(_NAME.fullmatch(state.name)[1])


def sweep(folder: Path) -> None:
    """Delete what a run that was killed while it wrote or deleted a state left behind, older states among it."""
    drafts = [path for path in folder.iterdir() if path.is_dir() and path.name.startswith(".state-")]
    _remove([*drafts, *states_in(folder)[:-1]])


def read_progress(state: Path) -> Progress:
    """How far a state is. BadInput, naming the file, if it or one beside it is not as it was written."""
    remedy = f"Delete {state} to start again."
    found = read_json(state / PROGRESS, "state of the training", f"delete {state} to start again")
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise BadInput(f"{state} is not a state of this version. {remedy}")
    files = found.pop("files", None)
    if not isinstance(files, dict) or files.keys() != {WEIGHTS, OPTIMIZER}:
        raise BadInput(f"{state / PROGRESS} is damaged. {remedy}")
    for name, digest in files.items():
        if not (state / name).is_file() or sha256_of(state / name) != digest:
            raise BadInput(f"{state / name} is not what was written. {remedy}")
    try:
        progress = TypeAdapter(Progress).validate_json(json.dumps(found))
    except ValueError as error:
        raise BadInput(f"{state / PROGRESS} is damaged. {remedy}") from error
    if progress.step != _step_of(state) or len(progress.losses) % max(1, progress.step):
        raise BadInput(f"{state / PROGRESS} is damaged. {remedy}")
    return progress


def load_state(state: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a state's weights and optimizer into a model and optimizer of the same kind; all processes call this.

    BadCheckpoint if a file is damaged or of another model. Nothing in a file is executed.
    """
    with _damage_told(state):
        weights = load_file(state / WEIGHTS)
        states = torch.load(state / OPTIMIZER, weights_only=True, mmap=True)
    shapes = {name: value.shape for name, value in get_model_state_dict(model, options=_SHAPES).items()}
    if shapes != {name: value.shape for name, value in weights.items()}:
        raise BadCheckpoint(f"{state} is of another model: delete it to start again.")
    set_model_state_dict(model, weights, options=_LOAD)
    with _damage_told(state):
        set_optimizer_state_dict(model, optimizer, states, options=_LOAD)
    for state in optimizer.state.values():
        state.update({name: value.clone() for name, value in state.items()})  # not the file's own pages


@contextmanager
def _damage_told(state: Path) -> Iterator[None]:
    """Raise what a damaged file ends its reader in as BadCheckpoint; that there is no memory for it goes through."""
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise
        raise BadCheckpoint(f"{state} is damaged: delete it to start again. ({error!r})") from error


def trained(model: nn.Module) -> dict[str, Tensor]:
    """What trains, whole, on the CPU, by the plain model's names; empty on all processes but the first."""
    return get_model_state_dict(model, options=_SAVE)


def released(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trained weights by a Step's own names as LoRA and resampler under the released keys."""
    lora = {name.removeprefix("styled.base."): value for name, value in weights.items() if ".lora_" in name}
    lora = {name.replace(".default.weight", ".weight"): value for name, value in lora.items()}
    prefix = "styled.resampler."
    resampler = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return from_peft(lora), resampler


def trained_base(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base's weights, among trained ones by a Step's names, under transformers' names; none if it was frozen."""
    prefix = "styled.base.base_model.model."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return {name.replace(".base_layer.", "."): value for name, value in own.items() if ".lora_" not in name}


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        hidden = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.old")
        folder.rename(hidden)  # half deleted, it must not be taken for whole
        shutil.rmtree(hidden)


def _sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk; Windows has no such thing for folders."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
