"""Token shards: bytes that were changed, columns that do not agree, codes that are none, names that lead elsewhere."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import tiny
from hypothesis import strategies as st
from tiny_tokens import write_tokens

from stylear.errors import BadInput
from training.tokens import INDEX, SCHEMA, TokenSet

from .harness import case, failed, hostile, outcome
from .strategies import NAMES, damaged, edited, odd_values

SHARD = "tokens-00000.arrow"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "whole", 5, features=True)


@pytest.fixture(scope="module")
def folder(whole):
    return shutil.copytree(whole, whole.parent / "changed")


def read(folder) -> list:
    """Every record of a token folder, its picture decoded."""
    tokens = TokenSet(folder)
    found = [tokens[i] for i in range(len(tokens))]
    for example in found:
        outcome(lambda one=example: one.picture)
    assert len(tokens.kinds) == len(tokens.lengths) == len(tokens.condition_lengths) == len(found)
    return found


def check(folder) -> None:
    """What a token folder gives is as its index says and of codes that there are; or it is refused."""
    found = outcome(read, folder)
    if failed(found):
        return
    shape = TokenSet(folder).features
    assert failed(outcome(read, folder)) is False
    for example in found:
        for codes in (example.codes, example.condition_codes):
            if codes is not None:
                assert codes.ndim == 2 and codes.size and 0 <= codes.min() <= codes.max() < tiny.CODES
        assert example.kind in ("raw", "stylised") and isinstance(example.caption, str)
        assert (shape is None and example.features is None) or example.features.shape == tuple(shape)


def take(folder, whole, data: bytes) -> None:
    """Put a shard of these bytes into the folder, with an index that agrees with them."""
    (folder / SHARD).write_bytes(data)
    index = json.loads((whole / INDEX).read_text())
    index["shards"][0] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / INDEX).write_text(json.dumps(index))


def shard(whole) -> bytes:
    return (whole / SHARD).read_bytes()


@hostile(250, data=st.data())
def test_a_damaged_shard_is_refused(folder, whole, data):
    take(folder, whole, data.draw(damaged(shard(whole))))
    check(folder)


@hostile(150, places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=6))
def test_a_shard_with_flipped_bits_of_the_same_size_is_read_or_refused(folder, whole, places):
    data = bytearray(shard(whole))
    for place, bit in places:
        data[place % len(data)] ^= 1 << bit
    take(folder, whole, bytes(data))
    check(folder)


CELLS = {
    "kind": ["raw", "stylised", "", "RAW", None],
    "caption": ["", "x", None, "\0"],
    "height": [4, 0, -1, 5, 2**31 - 1, None],
    "width": [6, 0, -1, 7, 2**31 - 1, None],
    "codes": [[0] * 24, [], [23] * 24, [24] * 24, [65535] * 24, [0] * 23, None],
    "picture": [b"", b"x", None],
    "features": [None, b"", b"x", b"\0" * 240, b"\0" * 241],
    "condition": ["", "depth", "x", None],
    "condition_height": [0, 2, -1, 3, None],
    "condition_width": [0, 4, 5, None],
    "condition_codes": [[], [0] * 8, [99] * 8, None],
}


@hostile(
    200, cells=st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in CELLS.items()})
)
def test_a_record_whose_cells_do_not_agree_is_refused(folder, whole, cells):
    rows = pa.ipc.open_stream(shard(whole)).read_all().to_pylist()
    rows[2] |= cells
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as stream:
        stream.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
    take(folder, whole, sink.getvalue().to_pybytes())
    check(folder)


@hostile(200, data=st.data())
def test_an_edited_index_of_shards_is_read_or_refused(folder, whole, data):
    (folder / SHARD).write_bytes(shard(whole))
    index = json.loads((whole / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(data.draw(edited(index, odd_values | st.sampled_from(NAMES)))))
    check(folder)


@pytest.mark.parametrize(
    "name", [f"../whole/{SHARD}", f"./{SHARD}", f"..\\whole\\{SHARD}", "absolute", "link/x", "C:x", "x" * 300]
)
def test_an_index_reads_no_file_but_those_beside_it(folder, whole, name):
    with case():
        index = json.loads((whole / INDEX).read_text())
        index["shards"][0]["file"] = str(whole / SHARD) if name == "absolute" else name
        (folder / INDEX).write_text(json.dumps(index))
        assert isinstance(outcome(read, folder), BadInput)


def test_a_compressed_batch_that_claims_gigabytes_is_refused(folder, whole):
    rows = pa.ipc.open_stream(shard(whole)).read_all()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(rows)
    data = bytearray(sink.getvalue().to_pybytes())
    magic = data.find(b"\x28\xb5\x2f\xfd")  # of zstd, behind the size that it says to unpack to
    assert magic > 8
    data[magic - 8 : magic] = np.int64(1 << 42).tobytes()
    take(folder, whole, bytes(data))
    with case():
        check(folder)
