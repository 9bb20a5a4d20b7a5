"""Every input of every node, of every type: what other packs put on a wire, and what a stranger types."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import strategies as st

from .graphs import OURS, PICTURE, Graphs, large
from .harness import failed, hostile, outcome
from .strategies import odd_values

SOUND = {
    "LoadStyleAR": {"model": "tiny"},
    "StyleTokenEncode": {"image": PICTURE},
    "SAMSubtract": {"alpha": 0.2, "beta": 0.8, "points": "", "box": ""},
    "NoiseInject": {"gamma": 0.1, "seed": 0},
    "DepthCondition": {"image": PICTURE},
    "ARSample": {
        "prompt": "a cat",
        "width": 8,
        "height": 8,
        "seed": 0,
        "batch_size": 1,
        "cfg": 4.0,
        "top_k": 9,
        "temperature": 1.0,
        "window": "1",
    },
}
TENSORS = {
    "no pictures": torch.zeros(0, 8, 8, 3),
    "no pixels": torch.zeros(1, 0, 8, 3),
    "one pixel": torch.zeros(1, 1, 1, 3),
    "long": torch.zeros(1, 1, 5000, 3),
    "with alpha": torch.zeros(1, 8, 8, 4),
    "two channels": torch.zeros(1, 8, 8, 2),
    "channels first": torch.zeros(1, 3, 8, 9),
    "no dimensions": torch.tensor(1.0),
    "one dimension": torch.zeros(3),
    "five dimensions": torch.zeros(1, 1, 8, 8, 3),
    "not numbers": torch.full((1, 8, 8, 3), float("nan")),
    "bright": torch.full((1, 8, 8, 3), 255.0),
    "whole numbers": torch.zeros(1, 8, 8, 3, dtype=torch.int64),
    "half": torch.zeros(1, 8, 8, 3, dtype=torch.float16),
    "complex": torch.zeros(1, 8, 8, 3, dtype=torch.complex64),
    "sparse": torch.zeros(1, 8, 8, 3).to_sparse(),
    "without memory": torch.zeros(1, 8, 8, 3, device="meta"),
    "a mask": torch.ones(1, 8, 8),
    "a batch of masks": torch.ones(3, 20, 24),
    "codes": torch.zeros(2, 2, dtype=torch.int64),
}
THINGS = {
    "something else": SimpleNamespace(tokens=torch.zeros(16, 32)),
    "a latent": {"samples": torch.zeros(1, 4, 8, 8)},
    "tuple": (1, 2),
    "bytes": b"x",
    "a kind": int,
}
TYPED = [
    "1,2",
    "1,2;3,4,0",
    "1",
    "a,b",
    "nan,nan",
    "1e400,1",
    ";;",
    ",",
    "1,2,3,4",
    "4,3,2,1",
    "0,0,24,20",
    "-1,-1",
    "x" * 1000,
    "1,2," * 1000,
    "auto",
    "0",
    "8",
    "17",
    "none",
    "int8",
    "int4",
    "bfloat16",
    "float16",
    "float32",
    "loras/x",
    "stylear/tiny",
    "stylear/../tiny",
    "mini (bundled)",
    "with the model",
    "../tiny",
]
values = (
    st.sampled_from(list(TENSORS)).map(TENSORS.get)
    | st.sampled_from(list(THINGS)).map(THINGS.get)
    | st.sampled_from(TYPED)
    | odd_values
)


@pytest.fixture
def graphs(nodes, models):
    return Graphs(nodes, models)


def names(graphs: Graphs) -> list[tuple[str, str]]:
    return [(node, item.id) for node in OURS for item in graphs.nodes[node].define_schema().inputs]


def check_node(graphs: Graphs, node: str, inputs: dict) -> None:
    """A node returns what its outputs promise and changes none of its inputs, or ends in a documented error."""
    if large(inputs):
        return
    before = {
        name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor) and not value.is_meta
    }
    found = outcome(graphs.call, node, errors=(graphs.errors.StyleARError,), **inputs)
    for name, value in before.items():
        assert torch.equal(
            value.to_dense().nan_to_num() if value.is_floating_point() else value.to_dense(), _plain(inputs[name])
        ), name
    if failed(found):
        return
    if node == "ARSample":
        assert found[0].ndim == 4 and found[0].shape[3] == 3 and 0 <= found[0].min() and found[0].max() <= 1
    if node == "DepthCondition":
        assert found[0].dtype == torch.int64 and 0 <= found[0].min() and found[0].max() < 24
    if node in ("StyleTokenEncode", "SAMSubtract", "NoiseInject"):
        assert found[0].tokens.isfinite().all()
    if node == "SAMSubtract":
        assert 0 <= found[1].min() and found[1].max() <= 1


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.to_dense().nan_to_num() if value.is_floating_point() else value.to_dense()


def test_every_input_of_every_type_is_taken_or_refused(graphs):
    sockets = {"model": graphs.model, "style": graphs.style}
    wrong = values | st.sampled_from(list(sockets)).map(sockets.get)

    @hostile(
        350,
        place=st.sampled_from(names(graphs)),
        value=wrong,
        more=st.none() | st.tuples(st.sampled_from(names(graphs)), wrong),
    )
    def call(place, value, more):
        node, name = place
        inputs = sockets | SOUND[node] | {name: value}
        if more and more[0][0] == node:
            inputs[more[0][1]] = more[1]
        check_node(graphs, node, inputs)

    call()
