"""Quantised decoders are smaller, close to what they were made from, and sample in windows like any other."""

import pytest
import tiny
import torch

from stylear import BadInput, StyleAR
from stylear.chameleon import Chameleon
from stylear.chameleon_config import ChameleonConfig
from stylear.quantize import KINDS, quantize

CONFIG = ChameleonConfig(64, 128, 192, 2, 4, 2)


def random_model(dtype=torch.float32, **shape) -> Chameleon:
    generator = torch.Generator().manual_seed(0)
    model = Chameleon(ChameleonConfig(**CONFIG.__dict__ | shape)).requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.copy_(("norm" in name) + weight.shape[-1] ** -0.5 * torch.randn(weight.shape, generator=generator))
    return model.to(dtype)


def logits(model, n: int = 12):
    ids = torch.arange(n)[None]
    return model.logits(model(model.embed(ids), model.new_cache(1, n)))


def size(model) -> int:
    return sum(value.nbytes for value in model.model.layers.state_dict().values())


@pytest.mark.parametrize("n", [4, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind,most", [("int8", 0.04), ("int4", 0.4)])
def test_quantised_logits_are_close(kind, most, dtype, n):
    exact, quantised = logits(random_model(), n), logits(quantize(random_model(dtype), kind), n)
    rounding = 0.0 if dtype == torch.float32 else 0.02
    assert (quantised - exact).std() < (most + rounding) * exact.std()


@pytest.mark.parametrize("kind,share", [("int8", 0.27), ("int4", 0.17)])
def test_quantised_layers_take_the_share_of_memory_their_bits_say(kind, share):
    assert size(quantize(random_model(), kind)) < share * size(random_model())


def test_odd_rows_and_groups_that_do_not_divide_are_quantised_too():
    shape = {"hidden_size": 24, "intermediate_size": 17, "num_attention_heads": 2, "num_key_value_heads": 2}
    assert logits(quantize(random_model(**shape), "int4")).isfinite().all()


@pytest.mark.parametrize("kind", ["int3", "", True, 8])
def test_another_kind_is_refused(kind):
    with pytest.raises(BadInput, match="quantize is .* Use int8 or int4"):
        quantize(random_model(), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_draws_exactly_the_same_picture_with_any_window(tmp_path, kind):
    model = StyleAR.load(tiny.write_bundle(tmp_path / "model"), device="cpu", quantize=kind)
    style = model.encode_style(torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0)))
    assert model.info()["quantize"] == kind
    assert torch.equal(model.generate("a cat", style, window=1), model.generate("a cat", style, window=8))
