"""The two official pickles, image_proj.pth and vqgan.ckpt: nothing in them runs, and what they claim is checked."""

import builtins
import codecs
import functools
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict

import pytest
import tiny
import torch
from hypothesis import strategies as st

from stylear import checkpoint, convert
from stylear.checkpoint.describe import describe
from stylear.errors import BadCheckpoint

from .harness import case, failed, hostile, outcome
from .strategies import damaged

OFFICIAL = {"image_proj.pth": tiny.resampler_state, "vqgan.ckpt": tiny.vqgan_state}
SUFFIXES = (".pth", ".ckpt", ".pt", ".bin", ".safetensors", "")
WRAPPINGS = ("bare", "a value", "a key", "in the state dict", "beside the state dict", "a tensor's hook")
CONTAINERS = ("zip", "legacy", "plain pickle")


class Call:
    """Pickles as a call of a function, which whoever unpickles without a guard makes."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments

    def __hash__(self):
        return 1


def payload(name: str, witness) -> Call:
    """A call that makes the file `witness`."""
    return {
        "open": lambda: Call(open, str(witness), "w"),
        "system": lambda: Call(os.system, f"touch '{witness}'"),
        "mkdir": lambda: Call(os.mkdir, str(witness)),
        "eval": lambda: Call(builtins.eval, f"open({str(witness)!r}, 'w')"),
        "exec": lambda: Call(builtins.exec, f"open({str(witness)!r}, 'w')"),
        "popen": lambda: Call(subprocess.call, ["touch", str(witness)]),
        "partial": lambda: Call(functools.partial(open, str(witness), "w")),
        "torch.save": lambda: Call(torch.save, 1, str(witness)),
        "copied": lambda: Call(pickle.loads, pickle.dumps(Call(open, str(witness), "w"))),
    }[name]()


PAYLOADS = ["open", "system", "mkdir", "eval", "exec", "popen", "partial", "torch.save", "copied"]


def wrapped(thing: object, how: str, state: dict) -> object:
    return {
        "bare": lambda: thing,
        "a value": lambda: state | {"extra": thing},
        "a key": lambda: state | {thing: 1},
        "in the state dict": lambda: {"state_dict": state | {"extra": [thing]}},
        "beside the state dict": lambda: {"state_dict": state, "callbacks": {"x": thing}},
        "a tensor's hook": lambda: state | {"extra": {"_backward_hooks": (thing,)}},
    }[how]()


def contained(content: object, how: str) -> bytes:
    file = io.BytesIO()
    if how == "plain pickle":
        pickle.dump(content, file)
    elif how == "legacy":
        torch.save(content, file, _use_new_zipfile_serialization=False)
    else:
        torch.save(content, file)
    return file.getvalue()


def check_nothing_runs(folder, data: bytes, name: str) -> None:
    """Every reader refuses the file, and the file that it would make is not there."""
    path, witness = folder / name, folder / "witness"
    path.write_bytes(data)
    readers = (checkpoint.open_weights, describe, checkpoint.load_vqgan, checkpoint.load_adapter)
    for read in readers:
        for place in (path, folder):
            found = outcome(read, place)
            assert not witness.exists(), f"{read.__name__} ran what {name} says"
            assert failed(found) or read is describe, f"{read.__name__} took {name}"
    outcome(convert.convert, path, folder / "converted.safetensors")
    assert not witness.exists()


@hostile(
    150,
    name=st.sampled_from(list(OFFICIAL)),
    suffix=st.sampled_from(SUFFIXES),
    what=st.sampled_from(PAYLOADS),
    how=st.sampled_from(WRAPPINGS),
    container=st.sampled_from(CONTAINERS),
)
def test_what_a_pickle_would_run_does_not_run(tmp_path_factory, name, suffix, what, how, container):
    folder = tmp_path_factory.mktemp("payload", numbered=True)
    content = wrapped(payload(what, folder / "witness"), how, {"latents": torch.ones(1, 2, 3)})
    data = contained(content, container)
    check_nothing_runs(folder, data, name.rpartition(".")[0] + suffix)


def test_the_payloads_do_run_where_nothing_guards(tmp_path):
    for what in PAYLOADS:
        if what != "popen" or sys.platform != "win32":
            pickle.loads(pickle.dumps(payload(what, tmp_path / what)))
            assert (tmp_path / what).exists(), what


def official(name: str) -> bytes:
    return contained(OFFICIAL[name]() if name == "image_proj.pth" else {"state_dict": OFFICIAL[name]()}, "zip")


def legacy() -> bytes:
    return contained({"latents": torch.ones(1, 2, 3), "proj_in.weight": torch.ones(2, 2)}, "legacy")


def check_bytes(folder, data: bytes, name: str) -> None:
    """A file is read, to tensors of the shapes and sizes it has bytes for, or refused."""
    path = folder / name
    path.write_bytes(data)
    file = outcome(checkpoint.open_weights, path)
    outcome(describe, path)
    outcome(checkpoint.load_vqgan if name.startswith("vqgan") else checkpoint.load_adapter, folder)
    if not failed(file):
        tensors = file.read()
        assert sum(value.numel() for value in tensors.values()) <= len(data), "more numbers than the file has bytes"
        outcome(convert.convert, path, folder / "converted.safetensors", overwrite=True)
        (folder / "converted.safetensors").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pickles")


@hostile(150, data=damaged(official("image_proj.pth")) | damaged(legacy()))
def test_a_damaged_resampler_is_refused(place, data):
    check_bytes(place, data, "image_proj.pth")


@hostile(50, data=damaged(official("vqgan.ckpt")))
def test_a_damaged_vqgan_is_refused(place, data):
    check_bytes(place, data, "vqgan.ckpt")


def copies(call: Call) -> dict:
    """The call made a thousand times, of arguments that are in the file once."""
    return {"latents": torch.ones(1), "x": [Call(call.function, *call.arguments) for _ in range(1000)]}


BOMBS = {
    "one number for millions": lambda: {"latents": torch.zeros(1, dtype=torch.float16).expand(1 << 30)},
    "memory shared by all": lambda: {str(i): torch.zeros(1 << 10).expand(1 << 10, 1 << 10) for i in range(2)},
    "ten gigabytes of zeros": lambda: {"latents": torch.ones(1), "x": Call(bytearray, 10 << 30)},
    "a text encoded again and again": lambda: copies(Call(codecs.encode, "a" * (1 << 20), "utf_32")),
    "a shape of a million sides": lambda: copies(Call(torch.Size, [1] * (1 << 18))),
    "a dictionary copied again and again": lambda: copies(Call(OrderedDict, [(i, i) for i in range(1 << 14)])),
    "a sparse tensor": lambda: {"latents": torch.sparse_coo_tensor([[0]], [1.0], (1 << 40,))},
    "a nested tensor": lambda: {"latents": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
    "a key that is no text": lambda: {"\ud800": torch.ones(1), "latents": torch.ones(1)},
    "a key that moves the cursor": lambda: {"\x1b[2J": torch.ones(1)},
    "parameters": lambda: {key: torch.nn.Parameter(value.half()) for key, value in tiny.resampler_state().items()},
    "complex numbers": lambda: {"latents": torch.ones(1, 2, 3, dtype=torch.complex64).conj()},
    "negated numbers": lambda: {"latents": torch.ones(1, 2, 3, dtype=torch.complex64).conj().imag},
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_a_small_pickle_does_not_become_a_large_model(place, bomb, container):
    try:
        data = contained(BOMBS[bomb](), container)
    except (RuntimeError, NotImplementedError, UnicodeEncodeError) as error:
        pytest.skip(f"PyTorch does not save it: {error}")
    with case():
        check_bytes(place, data, "image_proj.pth")


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(place):
    squeezed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(official("image_proj.pth"))) as plain,
        zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as zipped,
    ):
        for member in plain.infolist():
            zipped.writestr(
                member.filename, plain.read(member) + (bytes(1 << 28) if member.filename.endswith("/0") else b"")
            )
    (place / "image_proj.pth").write_bytes(squeezed.getvalue())
    with case():
        assert isinstance(outcome(checkpoint.open_weights, place / "image_proj.pth"), BadCheckpoint)


def test_a_pickle_by_a_name_that_only_pytorch_finds_is_looked_at(place):
    plain, renamed = io.BytesIO(contained(BOMBS["ten gigabytes of zeros"](), "zip")), io.BytesIO()
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(renamed, "w") as zipped:
        for member in archive.infolist():
            zipped.writestr(member.filename.replace("data.pkl", "DATA.PKL"), archive.read(member))
    (place / "image_proj.pth").write_bytes(renamed.getvalue())
    with case():
        assert isinstance(outcome(checkpoint.open_weights, place / "image_proj.pth"), BadCheckpoint)


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_what_trainers_save_beside_weights_is_read(place, container):
    model = torch.nn.Linear(2, 3)
    model.bias.note = "an attribute"
    model.weight.data.note = "an attribute"
    kept = {"milestones": Counter({10: 1}), "names": {"a", "b"}, "bias": model.bias, "weight": model.weight.data}
    beside = kept | {
        "epoch": 3,
        "rate": 1e-3,
        "shape": torch.Size([1, 2]),
        "dtype": torch.float16,
        "on": torch.device("cpu"),
    }
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    content = {"state_dict": model.state_dict(), "optimizer": optimizer, "hyper_parameters": beside}
    (place / "trained.ckpt").write_bytes(contained(content, container))
    assert set(checkpoint.open_weights(place / "trained.ckpt").like) == {"weight", "bias"}


def pickled_key(thing: bytes) -> bytes:
    """A pickle of a dict with a key that is too much to look up, in the bytes of its opcodes."""
    return b"\x80\x02}q\x00" + thing + b"K\x01s."


SHARED = b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(1, 41))
KEYS = {
    "a key that shares itself": pickled_key(SHARED),
    "a key as deep as a million": pickled_key(b")" + b"\x85" * 1_000_000),
    "a set of such": b"\x80\x02c__builtin__\nset\n](" + b")" + b"\x85" * 1_000_000 + b"e\x85R.",
    "a text that takes minutes": b"\x80\x02c_codecs\nencode\nX"
    + (30_000).to_bytes(4, "little")
    + b"\xc3\xa9" * 15_000
    + b"X\x08\x00\x00\x00punycode\x86R.",
    "a tensor that makes its numbers more": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00J\xff\xff\xff\x7f\x85K\x01\x85\x89}tR.",
}


@pytest.mark.parametrize("what", KEYS)
def test_a_pickle_that_would_take_the_time_or_the_stack_is_refused(place, what):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("archive/data.pkl", KEYS[what])
        zipped.writestr("archive/version", "3\n")
        zipped.writestr("archive/data/0", bytes(4))
    (place / "image_proj.pth").write_bytes(file.getvalue())
    with case():
        found = outcome(checkpoint.open_weights, place / "image_proj.pth")
    assert isinstance(found, BadCheckpoint) and "holds more than weights" in str(found)
