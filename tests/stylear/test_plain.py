"""Passes on a CPU without modules compute what the modules compute."""

import gc
import weakref

import pytest
import torch

from stylear import plain
from stylear.chameleon import Chameleon
from stylear.chameleon_config import ChameleonConfig
from stylear.graphs import Passes
from stylear.plain import Plain, _Packed
from stylear.quantize import quantize


def build(dtype: torch.dtype = torch.float32, **shape) -> Chameleon:
    """A decoder whose every weight is random, norms included."""
    values = {"vocab_size": 9, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 3}
    values |= {"num_attention_heads": 6, "num_key_value_heads": 6, "rms_norm_eps": 1e-3, **shape}
    generator = torch.Generator().manual_seed(0)
    model = Chameleon(ChameleonConfig(**values)).requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.copy_(("norm" in name) + 0.3 * torch.randn(weight.shape, generator=generator))
    return model.to(dtype).lay_out()


@pytest.fixture(params=["packed", "as they are"])
def matrices(request, monkeypatch) -> None:
    """Has passes read with the matrices that oneDNN ordered, however few the tokens, or never."""
    if request.param == "as they are":
        monkeypatch.setattr(_Packed, "suits", lambda model: False)
    elif not _Packed.suits(build()):
        pytest.skip("PyTorch has no packed matrices on this machine")
    monkeypatch.setattr(_Packed, "pays", lambda packed, tokens: True)


@pytest.mark.usefixtures("matrices")
@pytest.mark.parametrize("lengths", [[3, 3], [5, 2]], ids=["equal lengths", "unequal lengths"])
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_a_plain_pass_reads_and_keeps_what_the_modules_do(kv_heads, n, lengths):
    model, generator = build(num_key_value_heads=kv_heads), torch.Generator().manual_seed(1)
    before, embeddings = (torch.randn(2, length, 48, generator=generator) for length in (5, n))
    given, found, caches = embeddings.clone(), [], []
    for read in (model.read, Plain(model).read):
        cache = model.new_cache(2, 12)
        model(before, cache)
        cache.lengths = list(lengths)
        found.append(model(embeddings, cache, read=read))
        caches.append(cache)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(caches[1].kept, caches[0].kept, atol=1e-5, rtol=1e-5)
    assert caches[1].lengths == [length + n for length in lengths]
    assert torch.equal(embeddings, given)


@pytest.mark.usefixtures("matrices")
def test_a_plain_pass_in_bfloat16_is_as_near_to_float32_as_the_modules_are():
    exact, half = build(), build(torch.bfloat16)
    embeddings = torch.randn(1, 7, 48, generator=torch.Generator().manual_seed(1))
    wanted = exact(embeddings, exact.new_cache(1, 7))
    errors = [
        (half(embeddings.bfloat16(), half.new_cache(1, 7), read=read).float() - wanted).square().mean()
        for read in (half.read, Plain(half).read)
    ]
    assert errors[1] < 1.5 * errors[0]


def start_of(model: Chameleon) -> tuple:
    """Seven tokens and an empty cache for them."""
    return torch.randn(1, 7, 48, generator=torch.Generator().manual_seed(1)), model.new_cache(1, 7)


def read_by(model: Chameleon) -> torch.Tensor:
    return model(*start_of(model), read=Plain(model).read)


def test_matrices_are_packed_once_for_a_model_and_again_when_its_weights_change():
    model = build()
    if not _Packed.suits(model):
        pytest.skip("PyTorch has no packed matrices on this machine")
    before, packed = read_by(model), _Packed.of(model)
    assert _Packed.of(model) is packed
    model.model.layers[1].mlp.down_proj.weight.mul_(2)
    assert _Packed.of(model) is not packed
    written = read_by(model)
    assert not torch.allclose(written, before)
    torch.testing.assert_close(written, model(*start_of(model)), atol=1e-5, rtol=1e-5)
    weights = {name: weight + 1 for name, weight in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    torch.testing.assert_close(read_by(model), model(*start_of(model)), atol=1e-5, rtol=1e-5)


def test_matrices_made_in_inference_mode_are_packed_too():
    with torch.inference_mode():
        model = build()
        torch.testing.assert_close(read_by(model), model(*start_of(model)), atol=1e-5, rtol=1e-5)


def test_memory_that_a_packed_matrix_was_read_from_is_not_given_to_another():
    model = build()
    if not _Packed.suits(model):
        pytest.skip("PyTorch has no packed matrices on this machine")
    weight = model.model.layers[0].mlp.down_proj.weight
    memory = weight.numpy().copy()
    weight.data, alive = torch.from_numpy(memory), weakref.ref(memory)
    _Packed.of(model)
    weight.data = torch.zeros(weight.shape)
    del memory
    assert alive() is not None
    _Packed.of(model)
    assert alive() is None


def test_packed_matrices_go_with_their_model():
    model = build()
    Plain(model)
    known, alive = len(_Packed._known), weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None and len(_Packed._known) < max(known, 1)


def test_large_matrices_are_not_copied(monkeypatch):
    monkeypatch.setattr(plain, "_ROOM", 1000)
    assert not _Packed.suits(build())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_passes_of_whole_matrices_on_a_cpu_are_plain(dtype, monkeypatch):
    model = build(dtype)
    monkeypatch.setattr(model.model.layers[0], "forward", None)
    Passes(model, model.new_cache(1, 2))(torch.zeros(1, 1, 48, dtype=dtype))


@pytest.mark.parametrize(
    "model",
    [
        lambda: build(torch.float16),
        lambda: build(swin_norm=True),
        lambda: quantize(build(), "int8"),
        lambda: build().to("meta"),
    ],
    ids=["float16", "norms behind the layers", "quantised", "another device"],
)
def test_what_a_plain_pass_does_not_know_is_left_to_the_modules(model):
    assert not Plain.suits(model())


def test_a_compiled_model_is_left_to_the_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    model = build()
    assert model.compile_passes() == ""
    assert not Plain.suits(model)
