"""Commands that faults are tried on, each a child of one process that has everything imported and no threads.

`python -m hostile.victims` reads one request a line (JSON: command, folder, fault) and answers each with how its child
ended. A fault strikes at the `at`-th change the child makes to its folder, so that it can be tried at each of them:
a file opened to be written or made safe (fsync), renamed, removed, a folder made or removed.
"""

import contextlib
import errno
import importlib
import json
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

OPENED = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "fsync"}
ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "forbidden": errno.EACCES}
FREED = {"os.rename", "os.remove", "os.rmdir"}  # what a full disk still does
DEADLINE = 100  # seconds on the clock for one child
COMMANDS = ("curate", "tokenize", "train", "dpo", "evaluate", "download")
PRELOADED = (
    *(f"training.{name}" for name in COMMANDS[:-1]),
    *("training.__main__", "training.instantstyle", "training.metrics.clip", "training.page", "stylear.__main__"),
    *("stylear.download", "stylear.pipeline", "open_clip", "huggingface_hub"),
    *("matplotlib.backends.backend_agg", "PIL.PngImagePlugin", "segment_anything.modeling", "numpy.testing"),
)


class Fault:
    """Counts a process's changes below its folder, and strikes at one of them.

    kind: "kill" by SIGKILL before the change; "torn": every file that is written from then on ends at `size` bytes,
    where the process is killed; "full", "read-only", "forbidden": every change from then on is refused; "cut": like
    torn, but the write is refused; "memory", "device memory": the error of that; "gone": `what` is removed; "stop":
    Ctrl-C; "timer": killed after `size` seconds. `only`: changes to paths with this in them count.
    """

    def __init__(
        self, folder: str, kind: str = "none", at: int = 1, size: float = 0, what: str = "", only: str = ""
    ) -> None:
        self.folder, self.kind, self.at, self.size, self.what = os.path.realpath(folder), kind, at, size, what
        self.only = only
        self.count, self.armed, fsync = 0, True, os.fsync
        sys.addaudithook(self._audit)

        def audited(handle) -> None:
            self._change("fsync", f"{self.folder}/handle")
            fsync(handle)

        os.fsync = audited
        if kind == "timer":
            signal.setitimer(signal.ITIMER_REAL, size)

    def _audit(self, event: str, args: tuple) -> None:
        if event == "open":
            if isinstance(args[0], int) or not (args[2] or 0) & OPENED:
                return
        elif event not in CHANGES:
            return
        if isinstance(args[0], str | bytes | os.PathLike):
            self._change(event, os.path.abspath(os.fsdecode(args[0])))

    def _change(self, event: str, path: str) -> None:
        if not self.armed or not path.startswith(self.folder) or self.only not in path:
            return
        self.count += 1
        if self.count < self.at or self.kind in ("none", "timer"):
            return
        if self.kind in ERRORS:
            if self.kind != "full" or event not in FREED:
                raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]), path)
        elif self.count == self.at:
            self._strike()

    def _strike(self) -> None:
        self.armed = False
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind in ("torn", "cut"):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if self.kind == "torn" else signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(self.size),) * 2)
        elif self.kind == "memory":
            raise MemoryError
        elif self.kind == "device memory":
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        elif self.kind == "gone":
            os.rename(self.what, f"{self.what}.gone")
        elif self.kind == "stop":
            raise KeyboardInterrupt
        self.armed = True


def prepare(command: str) -> None:
    """What stands for models that are not there, and clocks that stand still, so that files can be compared."""
    still = SimpleNamespace(perf_counter=lambda: 0.0, monotonic=lambda: 0.0, time=lambda: 0.0, sleep=time.sleep)
    for name in ("drawing", "trainer", "dpo"):
        importlib.import_module(f"training.{name}").time = still
    random.seed(0)
    if command == "curate":
        from training import curate

        curate.run.__defaults__ = (lambda _: _draw, None, lambda _: [])
    elif command == "dpo":
        from training import dpo

        dpo.load_judge = lambda settings, device: _Brightness()
    elif command == "download":
        import tiny_hub

        from stylear import download

        download.PARTS = {"base": tiny_hub.BASE} | tiny_hub.ADAPTER


def _draw(style, prompt: str, seed: int):
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8))


class _Brightness:
    name = "brightness"

    def __call__(self, reference, prompt, pictures):
        import numpy as np

        from training.judges import Scores, Verdict

        return [Verdict(Scores(float(np.asarray(picture).mean()), 0.0, 0.0)) for picture in pictures]


NOT_SET_UP = 78  # exit status of a command whose `setup` failed, which proves nothing


def _child(request: dict) -> None:
    """Run one command as its own command line does; ends the process."""
    os.chdir(request["folder"])
    os.environ.update(request.get("env", {}))
    words = request["words"]
    prepare(words[0])
    sys.argv = ["victim", *words]
    if request.get("setup"):
        module, _, name = request["setup"].rpartition(":")
        try:
            getattr(importlib.import_module(module), name)()
        except Exception:
            traceback.print_exc()
            os.write(request["told"], f"\n0 {NOT_SET_UP}".encode())
            os._exit(0)
    main = importlib.import_module("stylear.__main__" if words[0] in ("download", "generate") else "training.__main__")
    fault = Fault(**{"folder": request["folder"], **request.get("fault", {})})
    try:
        status = main.main(words)
        sys.stdout.flush()
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        fault.armed = False
        with contextlib.suppress(OSError):
            traceback.print_exc()
        status = 1
    fault.armed = False
    os.write(request["told"], f"\n{fault.count} {status}".encode())
    os._exit(0)


def _run(request: dict) -> dict:
    """Fork a child for a request; its exit status (negative: the signal), what it said and how many changes it made."""
    says, writes = os.pipe()
    counts, told = os.pipe()
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)
    else:
        os.setpgid(0, 0)
        closed = request.get("closed")  # the reader of what is said has gone
        if closed:
            os.close(says)
        for stream in (1, 2):
            os.dup2(writes, stream)
        sys.stdin = open(os.devnull)
        try:
            _child({**request, "told": told})
        finally:
            os._exit(1)
    os.close(writes)
    os.close(told)
    ends = os.pidfd_open(pid)
    said, until, watched = {says: b"", counts: b""}, time.monotonic() + DEADLINE, {ends, says, counts}
    if request.get("closed"):
        os.close(says)
        watched.discard(says)
    while ends in watched and time.monotonic() < until:
        watched = _read(watched, ends, said, 1)
    hangs = ends in watched
    os.killpg(pid, signal.SIGKILL)  # it or the workers it has left
    _, ended, used = os.wait4(pid, 0)
    watched.discard(ends)
    while watched:
        watched = _read(watched, ends, said, None)
    os.close(ends)
    changes, status = (said[counts].split() + [b"-1", b"-1"])[:2]
    status = -os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else int(status)
    found = {"status": status, "changes": int(changes), "said": said[says].decode(errors="replace"), "hangs": hangs}
    return found | {"seconds": used.ru_utime + used.ru_stime}


def _read(watched: set[int], ends: int, said: dict[int, bytes], wait: float | None) -> set[int]:
    """What is left to watch when what there is to read was read: pipes until they are closed, and a process's end."""
    left = set(watched)
    for handle in select.select(list(watched), [], [], wait)[0]:
        part = b"" if handle == ends else os.read(handle, 1 << 16)
        if part:
            said[handle] += part
            continue
        left.discard(handle)
        if handle != ends:
            os.close(handle)
    return left


def serve() -> None:
    """Answer requests until there are none."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in PRELOADED:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        answers.write(json.dumps(_run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    serve()
