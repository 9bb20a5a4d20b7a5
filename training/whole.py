"""All stages of the mini in one run: what there is to do, how long it takes here and whether it can, then doing it."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import nn

from stylear.errors import BadInput

from .bundled import ON_THE_WAY, bundled_files, is_taken, take
from .inputs import changed_inputs
from .loop import can_compile, cores, steps_done, training_device
from .stages import RECIPES, RECORD, STAGES, Stage, run, was_taken

GB = 1e9
MEMORY = 5 * GB  # room for the largest stage, by estimate
UNCOMPILED = 3  # times as long, on a CPU


@dataclass(frozen=True)
class Cost:
    """What a stage took where it was measured: seconds of each step on two cores, and `disk` bytes.

    `host` are those that no GPU takes over: drawing a batch, and starting some thousand operations. `spread`: every
    core takes its share of them. A stage that is no training is one step.
    """

    host: float
    device: float = 0.0
    disk: float = 0.0
    spread: bool = False


# Measured on two cores of an AMD EPYC with bfloat16 arithmetic, where `probe` takes PROBE seconds.
PROBE = 0.065
TO_TAKE = "to take from the bundled mini"
COSTS = {
    "icons": Cost(100, disk=0.8 * GB, spread=True),
    "pictures": Cost(330, disk=2.4 * GB, spread=True),
    "vqgan": Cost(0.02, 1.05, 0.05 * GB),
    "clip": Cost(0.04, 0.9, 0.03 * GB),
    "sam": Cost(0.05, 1.0, 0.02 * GB),
    "tokens": Cost(30, 950, 0.1 * GB),
    "base": Cost(0.05, 1.1, 0.05 * GB),
    "corpus": Cost(90, disk=0.6 * GB),
    "style": Cost(0.1, 1.1, 0.05 * GB),
    "depth_corpus": Cost(30, disk=0.2 * GB),
    "adapter": Cost(0.1, 2.1, 0.05 * GB),
    "judge": Cost(0.02, 0.4, 0.03 * GB),
    "instruments": Cost(15, disk=0.01 * GB),
    "bundle": Cost(5, disk=0.03 * GB),
    "check": Cost(400),
}


@dataclass(frozen=True)
class Task:
    """A stage and what is to be done: `state` is done, to do, to take (from the bundle), begun, or else what is wrong;
    seconds that remain."""

    stage: Stage
    state: str
    wrong: bool
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Everything that `make` will do in the folder `work`; `obstacles` say why it cannot begin, and what to do."""

    work: Path
    device: torch.device
    tasks: tuple[Task, ...]
    notes: tuple[str, ...]
    obstacles: tuple[str, ...]

    def __str__(self) -> str:
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{cores()} CPU cores"
        total = duration(sum(task.seconds for task in self.tasks))
        rows = [("stage", "makes", "of", "state", "time left")]
        for task in self.tasks:
            stage = task.stage
            left = duration(task.seconds) if task.seconds else ""
            rows.append((stage.name, stage.told, ", ".join(stage.of) or "packages", task.state, left))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        head = f"The mini, in {self.work}, on {where}: about {total} left, estimated by a probe."
        return "\n".join([head, *table, *self.notes, *(f"In the way: {text}" for text in self.obstacles)])


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 7 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def probe(device: torch.device) -> float:
    """Seconds of a training step of a small network with the mini's kinds of layers; the best of a second's."""
    with torch.random.fork_rng(devices=[]):
        block = nn.TransformerEncoderLayer(256, 4, 704, dropout=0.0, batch_first=True)
        model = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.SiLU(),
            nn.Conv2d(64, 256, 3, 2, 1), nn.Flatten(2), nn.Linear(256, 256), block, nn.Linear(256, 1024),
        ).to(device)  # fmt: skip
        pixels = torch.randn(4, 3, 64, 64).to(device)
    optimizer, taken = torch.optim.AdamW(model.parameters()), []
    while len(taken) < 4 or sum(taken) < 1:  # the first one warms up
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(pixels).float().logsumexp(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # a GPU is waited for
        taken.append(time.perf_counter() - start)
    return min(taken)


def survey(
    work: Path, downloads: Path | None = None, device: torch.device | None = None, bundled: bool = False
) -> Plan:
    """Look at what is there and at this machine; changes nothing.

    `bundled`: what the bundled mini has is taken from it instead of being trained, and nothing is put into the bundle.
    """
    device = device or training_device()
    states, wrong = _states(work, bundled)
    pace, compiled = probe(device) / PROBE, can_compile(device)
    notes, slow = [], 1.0
    if device.type == "cpu" and not compiled:
        notes.append(f"There is no C++ compiler, so training takes about {UNCOMPILED} times as long: install g++.")
        slow = UNCOMPILED
    tasks = []
    for name in states:
        stage = STAGES[name]
        idle = states[name] in ("done", TO_TAKE, *wrong.values())
        cost, left = COSTS[name], 0 if idle else _steps_left(name, work)
        host = cost.host * (2 / cores() if cost.spread else 1)
        tasks.append(Task(stage, states[name], name in wrong, left * (host + cost.device * pace * slow)))
    todo = [task for task in tasks if task.seconds]
    disk, free = sum(COSTS[task.stage.name].disk for task in todo), shutil.disk_usage(_there(work)).free
    memory = psutil.virtual_memory().available
    notes.append(f"Disk: {disk / GB:.1f} GB needed, {free / GB:.1f} GB free.")
    notes.append(f"Memory: {MEMORY / GB:.0f} GB needed, {memory / GB:.1f} GB free.")
    obstacles = []
    if wrong:
        obstacles.append(_to_move(work, wrong))
    if states[next(iter(states))] != "done":
        obstacles += _missing_packages(downloads or work / "downloads")
    if free < disk:
        obstacles.append(f"The disk of {work} is too small: free {(disk - free) / GB:.1f} GB, or give another --work.")
    if memory < MEMORY:
        obstacles.append(f"There is too little memory: close other programs until {MEMORY / GB:.0f} GB are free.")
    return Plan(work, device, tuple(tasks), tuple(notes), tuple(obstacles))


def make(plan: Plan, downloads: Path | None = None) -> None:
    """Make the stages that are not done, in their order. BadInput, before anything is done, where it cannot begin."""
    if plan.obstacles:
        raise BadInput(" ".join(plan.obstacles))
    for task in plan.tasks:
        if task.state == TO_TAKE:
            take(task.stage.name, plan.work)
        elif task.state != "done":
            run(task.stage.name, plan.work, downloads)
            torch.compiler.reset()  # the next one begins as if it were alone


def _states(work: Path, bundled: bool) -> tuple[dict[str, str], dict[str, str]]:
    """The state of each stage that is asked for, and those that are wrong: their product may not be used."""
    states, wrong = {}, {}
    for name, stage in STAGES.items():
        if bundled and (not stage.files or name in ON_THE_WAY):
            continue
        folder, taken = work / name, bundled and bool(bundled_files(name))
        record = folder / RECORD
        unmade = [before for before in stage.of if states.get(before, "done") != "done"]
        if not stage.files or not folder.exists() or not any(folder.iterdir()):
            states[name] = TO_TAKE if taken else "to do"
        elif was_taken(name, work):
            states[name] = "done" if is_taken(name, work) else TO_TAKE
            if not bundled:
                wrong[name] = "from the bundled mini, which --bundled takes"
        elif taken:
            wrong[name] = "not from the bundled mini"
        elif not record.exists():
            wrong[name] = "made of what is not known"
        elif unmade and STAGES[unmade[0]].files:
            wrong[name] = f"older than {unmade[0]}"
        elif changed := changed_inputs(record, stage.inputs(work)):
            wrong[name] = f"of another {', '.join(changed)}"
        else:
            states[name] = "done" if stage.is_made(work) else "begun"
        states[name] = wrong.get(name) or states[name]
    return states, wrong


def _to_move(work: Path, wrong: dict[str, str]) -> str:
    told = "; ".join(f"{work / name} ({why})" for name, why in wrong.items())
    return (
        f"What is there is not what this run would make: {told}. Move these folders away, "
        "or bring back what they were made of, or give another --work. "
        "`python -m training pretrain STAGE` goes on with one whose making nobody wrote down."
    )


def _missing_packages(downloads: Path) -> list[str]:
    from .data.icons import packages

    missing = [package.filename for package in packages() if not (downloads / package.filename).exists()]
    if not missing or shutil.which("npm"):
        return []
    return [
        f"{downloads} lacks {len(missing)} packages ({missing[0]}, ...), and npm, which fetches them, is not here: "
        "install Node.js, or give the folder they were downloaded to as --downloads."
    ]


def _steps_left(name: str, work: Path) -> int:
    """Steps still to take of a stage that trains; one for a stage that does not."""
    if name in RECIPES:
        states = sorted((work / name).glob("state-*"))
        done = int(states[-1].name.removeprefix("state-")) if states else 0
    else:
        done = steps_done(work / name)
    return max(1, _steps(name) - done)


def _steps(name: str) -> int:
    from .config import CONFIGS, read_settings
    from .judge import JudgeSettings
    from .pretrain.base import BaseSettings
    from .pretrain.clip import CLIPSettings
    from .pretrain.sam import SAMSettings
    from .pretrain.vqgan import VQGANSettings
    from .recipe import TrainSettings

    if name in RECIPES:
        return read_settings(TrainSettings, CONFIGS / RECIPES[name]).steps
    trained = {"vqgan": VQGANSettings, "clip": CLIPSettings, "sam": SAMSettings, "base": BaseSettings}
    settings = {**trained, "judge": JudgeSettings}.get(name)
    return settings().schedule.steps if settings else 1


def _there(work: Path) -> Path:
    """The nearest folder above that exists."""
    return next(folder for folder in (work.absolute(), *work.absolute().parents) if folder.exists())
