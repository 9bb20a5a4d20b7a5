"""Safetensors files: headers that lie, bytes that are not there, numbers that cannot be computed with."""

import json
import struct

import pytest
import safetensors.torch
import tiny
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stylear import checkpoint, convert
from stylear.checkpoint.describe import describe
from stylear.style import StyleTokens

from .harness import failed, hostile, outcome
from .strategies import INFINITY, NAN, damaged, edited, odd_values

SMALL = {"latents": torch.ones(1, 2, 3), "proj_in.weight": torch.ones(2, 2), "layers.0.0.to_q.weight": torch.ones(4, 2)}
DTYPES = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "C64",
    "I64",
    "U64",
    "U16",
    "I8",
    "BOOL",
    "X",
    "",
]
PARTS = ["resampler", "lora", "image_encoder", "vqgan", "segmenter", "base"]
SHAPES = [(), (0,), (3,), (0, 0), (1, 1), (2, 0, 2, 2), (1, 2, 3, 4, 5)]


def header_of(state: dict[str, torch.Tensor]) -> dict:
    header, at = {"__metadata__": {"format": "pt", "stylear": "{}"}}, 0
    for key, value in state.items():
        header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    return header


def file_of(header: object, body: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header, ensure_ascii=True).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def load(part: str, place) -> object:
    """A part's weights once it is loaded."""
    found = getattr(checkpoint, "load_adapter" if part in ("lora", "resampler") else f"load_{part}")(place)
    if part in ("lora", "resampler"):
        return {**found[0], **found[1].state_dict()}
    return (found[0] if part == "base" else found).state_dict()


def check_bytes(folder, data: bytes) -> None:
    """Whatever reads a file of these bytes ends well, and what it says of the tensors is so."""
    path = folder / "x.safetensors"
    path.write_bytes(data)
    file = outcome(checkpoint.open_weights, path)
    outcome(describe, path)
    outcome(describe, folder)
    outcome(StyleTokens.load, path)
    outcome(checkpoint.load_adapter, folder)
    outcome(convert.convert, path, folder / "y.safetensors")
    (folder / "y.safetensors").unlink(missing_ok=True)
    if failed(file):
        return
    tensors = outcome(file.read)
    if not failed(tensors):
        assert {key: value.shape for key, value in tensors.items()} == {k: v.shape for k, v in file.like.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("safetensors")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny.write_bundle(tmp_path_factory.mktemp("bundle"))


headers = edited(header_of(SMALL), odd_values | st.sampled_from(DTYPES) | st.lists(st.integers(-1, 2**40), max_size=4))


@hostile(200, header=headers, length=st.none() | st.integers(0, 2**64 - 1), body=st.sampled_from([0, 23, 72, 200]))
def test_a_header_that_lies_is_refused(folder, header, length, body):
    check_bytes(folder, file_of(header, bytes(body), length))


@hostile(150, data=damaged(file_of(header_of(SMALL), bytes(72))))
def test_a_damaged_file_is_refused(folder, data):
    check_bytes(folder, data)


METADATA = {
    "nested": "[" * 100_000,
    "nested objects": '{"kind": ' * 20_000,
    "infinite": "1e999",
    "NaN": '{"kind": NaN}',
}


@hostile(60, text=st.text(max_size=30) | st.sampled_from(list(METADATA)))
def test_metadata_of_any_text_are_refused(folder, text):
    header = header_of({"tokens": torch.ones(2, 3)}) | {"__metadata__": {"stylear": METADATA.get(text, text)}}
    check_bytes(folder, file_of(header, bytes(24)))


def change(weights: dict[str, torch.Tensor], key: str, how: str, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The weights with one of them gone, renamed, of another dtype or shape, or with a number that is none."""
    value = weights[key]
    if how in ("gone", "renamed"):
        rest = {name: kept for name, kept in weights.items() if name != key}
        return rest if how == "gone" else rest | {f"{key}.x": value}
    if how == "shape":
        return weights | {key: torch.zeros(shape)}
    if how in ("nan", "infinity", "huge"):
        value = value.float().clone()
        value.view(-1)[-1:] = {"nan": NAN, "infinity": INFINITY, "huge": 3e38}[how]
        return weights | {key: value}
    return weights | {key: value.to(getattr(torch, how))}


HOWS = [
    "gone",
    "renamed",
    "shape",
    "shape",
    "nan",
    "infinity",
    "huge",
    "int64",
    "uint8",
    "bool",
    *(["complex64"] if torch.complex64 in safetensors.torch._SIZE else []),  # an older safetensors writes none
    "float64",
    "bfloat16",
    "float8_e5m2",
]


def check_change(bundle, part: str, number: int, how: str, shape: tuple[int, ...]) -> None:
    """A part with one weight changed loads to finite numbers, twice the same, or is refused."""
    found = checkpoint.find(part, bundle)
    whole, metadata, path = load_file(found.path), dict(found.file.metadata), found.path
    key = sorted(found.keys.values())[number % len(found.keys)]
    kept = path.read_bytes()
    try:
        save_file(change(whole, key, how, shape), path, metadata)
        weights = outcome(load, part, path.parent)
        outcome(describe, path)
        if not failed(weights):
            assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point()), (
                part,
                key,
                how,
            )
            again = load(part, path.parent)
            assert all(torch.equal(value, again[name]) for name, value in weights.items())
    finally:
        path.write_bytes(kept)


@hostile(
    250,
    part=st.sampled_from(PARTS),
    number=st.integers(0, 999),
    how=st.sampled_from(HOWS),
    shape=st.sampled_from(SHAPES),
)
def test_a_part_with_a_weight_that_cannot_be_is_refused(bundle, part, number, how, shape):
    check_change(bundle, part, number, how, shape)
