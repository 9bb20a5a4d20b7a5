"""Tries faults on small runs of every long command, and compares what they leave with a run that none befell."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiny
import tiny_tokens
import torch
import yaml
from PIL import Image
from tiny_hub import serving

from training.checkpoints import OPTIMIZER, PROGRESS

from .victims import NOT_SET_UP

ROOT = Path(__file__).parents[2]
KILLED = (-9, -14, -25)  # SIGKILL; SIGALRM and SIGXFSZ, which kill as it does: nothing of Python runs
MODEL = {"base": "model"}


class Ended(NamedTuple):
    """How a run ended.

    Its exit status (negative: the signal), the changes it made, what it said, whether it hung, seconds of processor.
    """

    status: int
    changes: int
    said: str
    hangs: bool
    seconds: float


class Bench:
    """Inputs for the commands, the process their runs are children of, and what each run should leave.

    In a run's folder the inputs are links, or copies where the fault is to them; what it writes lies in its `out`.
    """

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.numbers, self._whole = root, count(), {}
        self.inputs = root / "inputs"
        self.env = {"HF_TOKEN": "", "HF_ENDPOINT": url}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hostile.victims"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.words = {
            "curate": ["curate", "--config=curate.yaml"],
            "tokenize": ["tokenize", "--config=tokenize.yaml"],
            "train": ["train", "--config=train.yaml"],
            "dpo": ["dpo", "--config=dpo.yaml"],
            "evaluate": ["evaluate", "--config=evaluate.yaml"],
            "download": ["download", "out", "--accept", "--endpoint", url],
        }
        self._write_inputs()
        self.before = contents(self.inputs)

    def _write_inputs(self) -> None:
        self.inputs.mkdir(parents=True)
        tiny.write_bundle(self.inputs / "model")
        tiny_tokens.write_tokens(self.inputs / "tokens")
        rng = np.random.default_rng(0)
        for folder, names in (("in", [f"{i:02d}" for i in range(7)]), ("styles", ["red", "blue"])):
            (self.inputs / folder).mkdir()
            for name in names:
                pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(self.inputs / folder / f"{name}.png")
                (self.inputs / folder / f"{name}.txt").write_text(f"a {name} thing")
        (self.inputs / "prompts.txt").write_text("a cat\na dog\n")
        train = tiny_tokens.settings(Path(), steps=2, save_every=1, sample_every=2, batch=2, micro_batch=2)
        stylised = {"styles": "styles", "prompts": "prompts.txt"}
        model = {"model": {**MODEL, "adapter": "model/adapter"}, "prompts": "prompts.txt"}
        given = {
            "curate": {"sources": [{"kind": "raw", "path": "in"}], "stylised": stylised, "shard_size": 4}
            | {"filters": {"min_side": 8, "near_duplicates": 2}},
            "tokenize": {"curated": "curated", "model": MODEL, "device": "cpu", "batch": 2, "features": True},
            "train": train.model_dump(mode="json"),
            "dpo": model
            | {"styles": "styles", "steps": 2, "batch": 2, "micro_batch": 2, "save_every": 1, "sheet_rows": 1}
            | {"sample": {"per_prompt": 2, "cases": 2}, "judge": {"leakage": 0}},
            "evaluate": model
            | {"references": "styles", "seeds": 1, "width": 8, "height": 8, "device": "cpu", "draws": 100},
        }
        for command, values in given.items():
            (self.inputs / f"{command}.yaml").write_text(yaml.safe_dump({**values, "out": "out"}))
        folder, ended = self.ran("curate")
        assert ended.status == 0, ended.said
        shutil.move(folder / "out", self.inputs / "curated")

    def folder(self, copied: bool = False) -> Path:
        """A new folder to run in."""
        folder = self.root / f"run{next(self.numbers)}"
        folder.mkdir()
        for path in self.inputs.iterdir():
            if not copied:
                (folder / path.name).symlink_to(path)
            elif path.is_dir():
                shutil.copytree(path, folder / path.name)
            else:
                shutil.copy(path, folder)
        return folder

    def run(self, command: str, folder: Path, *more: str, closed: bool = False, setup: str = "", **fault) -> Ended:
        """Run a command in a folder, with more words and a fault as `victims.Fault` takes it.

        closed: nobody reads what it says; setup: MODULE:FUNCTION, called before it.
        """
        request = {"words": [*self.words[command], *more], "folder": str(folder), "fault": fault, "env": self.env}
        request |= {"closed": closed, "setup": setup}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        ended = Ended(**json.loads(self.process.stdout.readline()))
        if setup and ended.status == NOT_SET_UP:
            raise RuntimeError(f"{setup} failed: {ended.said}")
        return ended

    def ran(self, command: str, *more: str, **fault) -> tuple[Path, Ended]:
        """Run a command in a new folder, which is returned too."""
        folder = self.folder()
        return folder, self.run(command, folder, *more, **fault)

    def whole(self, command: str) -> tuple[dict[str, bytes], int]:
        """What an undisturbed run leaves, and how many changes it makes."""
        if command not in self._whole:
            folder, ended = self.ran(command)
            assert ended.status == 0, ended.said
            self._whole[command] = contents(folder / "out"), ended.changes
        return self._whole[command]

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait(60)


@contextmanager
def bench(root: Path) -> Iterator[Bench]:
    """A Bench below a folder, with a server to download from."""
    with serving() as hub:
        made = Bench(root, hub.url)
        try:
            yield made
        finally:
            made.close()


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock and the logs, which tell when they were written.

    Of an optimizer's state what is in it, for pickles of the same values can differ, and so their digests.
    """
    seen = {OPTIMIZER: _values, PROGRESS: _but_digest}
    return {
        path.relative_to(out).as_posix(): seen.get(path.name, Path.read_bytes)(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock" and "tensorboard" not in path.parts
    }


def differing(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """The names of files that are in one alone or not the same in both."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def _but_digest(progress: Path) -> bytes:
    found = json.loads(progress.read_bytes())
    if isinstance(found.get("files"), dict):
        found["files"].pop(OPTIMIZER, None)
    return json.dumps(found).encode()


def _values(pickle: Path) -> bytes:
    def plain(value: object) -> object:
        if isinstance(value, dict):
            return sorted((str(key), plain(one)) for key, one in value.items())
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return (value.dtype, value.tolist()) if isinstance(value, torch.Tensor) else value

    return repr(plain(torch.load(pickle, weights_only=True))).encode()


def check_resumed(bench: Bench, command: str, *faults: dict, setup: str = "") -> int:
    """A run that faults end one after the other, and that is then left alone, ends with the files of one undisturbed.

    Returns how many of the faults ended it. `setup`: as of `Bench.run`.
    """
    whole, _ = bench.whole(command)
    folder, ended = bench.folder(), []
    for fault in faults:
        ended.append(bench.run(command, folder, setup=setup, **fault))
        assert ended[-1].status in (0, *KILLED), (fault, ended[-1])
    last = bench.run(command, folder, setup=setup)
    assert last.status == 0 and not last.hangs, (faults, last)
    wrong = differing(contents(folder / "out"), whole)
    assert not wrong, (command, faults, wrong)
    shutil.rmtree(folder)
    return sum(one.status != 0 for one in ended)
