"""Models come and go, and pictures are drawn, without anything being kept: no tensor, no thread, no memory."""

import ctypes
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from stylear import StyleAR

from .harness import FACTOR, case, tally

MODELS = 50
WARM = 5  # rounds in which caches that stay are filled
GROWTH = 0.02  # of the memory that the process has then


def tensor_bytes() -> int:
    """Bytes of all tensors that anything holds."""
    gc.collect()
    tensors = (one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter))
    storages = [one.untyped_storage() for one in tensors if one.layout == torch.strided and one.device.type == "cpu"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def memory() -> int:
    """Bytes of memory that this process has now, with what is free given back; 0 where nothing tells."""
    if not sys.platform.startswith("linux"):
        return 0
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def check_flat(work: Callable[[], object], times: int) -> None:
    """After a warm-up, so many rounds of work leave no tensor, no thread and next to no memory behind."""
    for _ in range(WARM):
        work()
    tensors, threads, before = tensor_bytes(), threading.active_count(), memory()
    for _ in range(times):
        with case():
            work()
    assert tensor_bytes() == tensors and threading.active_count() <= threads
    grown = memory() - before
    assert grown <= GROWTH * before, f"{grown >> 20} MiB more than {before >> 20}"
    tally["rounds of load"] += times


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny.write_bundle(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("which", ["tiny", "mini"] if FACTOR > 1 else ["tiny"])  # the mini takes half a minute
def test_models_that_were_loaded_drawn_with_and_let_go_leave_nothing(bundle, which):
    picture, gone = Image.new("RGB", (20, 24), "teal"), []

    def load_and_draw() -> None:
        model = StyleAR.load(bundle if which == "tiny" else "mini", device="cpu")
        model.generate("a cat", model.encode_style(picture), width=1, height=1, window=1)
        gone.append(weakref.ref(model))

    check_flat(load_and_draw, MODELS)
    gc.collect()
    assert not any(model() for model in gone)


def test_one_model_that_draws_encodes_and_refuses_over_and_over_keeps_nothing(bundle):
    model, picture = StyleAR.load(bundle, device="cpu"), Image.new("RGB", (20, 24), "teal")

    def draw() -> None:
        style = model.encode_style(picture)
        model.generate("a cat", style, width=8, height=8, window=1, preview=lambda pictures: None)
        for wrong in ({"cfg": float("nan")}, {"prompt": "word " * 10_000}, {"cancelled": lambda: True}):
            with pytest.raises(Exception, match=r"nan|shorten|[Cc]ancel|[Ss]topped"):
                model.generate(**{"prompt": "a cat", "style": style, "width": 8, "height": 8, "window": 1} | wrong)

    check_flat(draw, 30)
