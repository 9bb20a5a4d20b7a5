"""A LoRA folds into its weights as the released code applies it, and travels to PEFT and back unchanged."""

import peft
import pytest
import torch
from peak import Peak
from safetensors.torch import load_file
from torch import nn

from stylear.errors import BadCheckpoint
from stylear.lora import fold, from_peft, lora_rank, lora_targets, to_peft

Q = "model.layers.0.self_attn.q_proj"


def lora(rank: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """A LoRA in the released layout for two modules and the head."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {Q: (6, 8), "model.layers.1.mlp.down_proj": (10, 6), "lm_head.lm_head": (6, 20)}
    weights = {}
    for module, (inputs, outputs) in shapes.items():
        weights[f"{module}_lora.A"] = torch.randn(inputs, rank, generator=generator)
        weights[f"{module}_lora.B"] = torch.randn(rank, outputs, generator=generator)
    return weights


def base(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The weights that LoRA belongs to, and one that it leaves alone."""
    generator = torch.Generator().manual_seed(7)
    shapes = {Q: (8, 6), "model.layers.1.mlp.down_proj": (6, 10), "lm_head": (20, 6), "model.norm": (6,)}
    return {f"{name}.weight": torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize(("module", "key"), [(Q, Q), ("lm_head", "lm_head.lm_head")])
def test_a_folded_weight_does_what_weight_and_lora_did(module, key):
    weights, changes = base(), lora()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    expected = x @ weights[f"{module}.weight"].T + (x @ changes[f"{key}_lora.A"]) @ changes[f"{key}_lora.B"]
    torch.testing.assert_close(x @ fold(weights, changes)[f"{module}.weight"].T, expected, atol=1e-5, rtol=1e-5)


def test_folding_leaves_its_inputs_and_other_weights_as_they_were():
    weights = base()
    copies = {name: weight.clone() for name, weight in weights.items()}
    folded = fold(weights, lora())
    assert folded["model.norm.weight"] is weights["model.norm.weight"]
    assert all(torch.equal(weights[name], copy) for name, copy in copies.items())


def test_half_precision_weights_are_added_in_float32_and_rounded_once():
    weights, changes = base(torch.bfloat16), lora()
    folded = fold(weights, {name: change.bfloat16() for name, change in changes.items()})
    a, b = (changes[f"{Q}_lora.{half}"].bfloat16().float() for half in "AB")
    exact = weights[f"{Q}.weight"].float() + (a @ b).T
    assert torch.equal(folded[f"{Q}.weight"], exact.bfloat16())


def test_a_fold_into_another_dtype_rounds_once_and_keeps_one_matrix_in_float32_at_a_time():
    weights = {f"{n}.weight": torch.randn(32, 32) for n in range(20)}
    changes = {f"{n}_lora.{half}": torch.randn(32, 32) for n in range(20) for half in "AB"}
    with Peak() as peak:
        folded = fold(weights, changes, torch.bfloat16)
    wanted = fold(weights, changes)
    assert all(torch.equal(value, wanted[name].bfloat16()) for name, value in folded.items())
    assert peak.most <= sum(value.nbytes for value in folded.values()) + 4 * wanted["0.weight"].nbytes


def test_targets_and_rank_are_read_from_the_keys_and_shapes():
    assert lora_targets(lora()) == ("lm_head", Q, "model.layers.1.mlp.down_proj")
    assert lora_rank(lora(rank=3)) == 3


def test_mixed_ranks_are_refused():
    mixed = lora(rank=4) | {name: weight for name, weight in lora(rank=2).items() if name.startswith(Q)}
    with pytest.raises(BadCheckpoint, match=r"\[2, 4\]"):
        lora_rank(mixed)


def test_peft_and_back_is_the_same_lora():
    there = to_peft(lora())
    assert there[f"base_model.model.{Q}.lora_A.weight"].shape == (4, 6)
    back = from_peft(there)
    assert back.keys() == lora().keys()
    assert all(torch.equal(back[name], weight) for name, weight in lora().items())


def test_peft_itself_loads_what_we_give_it_and_computes_the_same():
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(6, 8, bias=False)
            self.lm_head = nn.Linear(8, 20, bias=False)

        def forward(self, x):
            return self.lm_head(self.proj(x))

    generator = torch.Generator().manual_seed(0)
    sizes = {"proj_lora": (6, 8), "lm_head.lm_head_lora": (8, 20)}
    changes = {}
    for name, (inputs, outputs) in sizes.items():
        changes[f"{name}.A"] = torch.randn(inputs, 4, generator=generator)
        changes[f"{name}.B"] = torch.randn(4, outputs, generator=generator)
    plain = Tiny()
    weights = {name: weight.clone() for name, weight in plain.state_dict().items()}
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["proj", "lm_head"])
    wrapped = peft.get_peft_model(plain, config)
    result = peft.set_peft_model_state_dict(wrapped, to_peft(changes))
    assert not result.unexpected_keys

    x = torch.randn(2, 6, generator=generator)
    folded = Tiny()
    folded.load_state_dict(fold(weights, changes))
    torch.testing.assert_close(folded(x), wrapped(x), atol=1e-4, rtol=1e-4)
    saved = from_peft(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    assert all(torch.equal(saved[name], weight) for name, weight in changes.items())


def test_pefts_alpha_goes_into_b():
    scaled = from_peft(to_peft(lora()), scaling=2.0)
    assert torch.equal(scaled[f"{Q}_lora.A"], lora()[f"{Q}_lora.A"])
    assert torch.equal(scaled[f"{Q}_lora.B"], 2 * lora()[f"{Q}_lora.B"])


def test_keys_of_a_running_peft_model_are_understood():
    running = {
        "base_model.model.lm_head.lora_A.default.weight": torch.zeros(4, 6),
        "base_model.model.lm_head.lora_B.default.weight": torch.zeros(20, 4),
    }
    assert set(from_peft(running)) == {"lm_head.lm_head_lora.A", "lm_head.lm_head_lora.B"}


def test_a_lora_of_another_size_is_refused_with_both_shapes():
    weights = base() | {f"{Q}.weight": torch.zeros(9, 6)}
    with pytest.raises(BadCheckpoint, match=r"\[8, 6\] and the base has \[9, 6\]"):
        fold(weights, lora())


def test_a_lora_for_layers_the_base_lacks_is_refused():
    weights = base()
    del weights[f"{Q}.weight"]
    with pytest.raises(BadCheckpoint, match=f"{Q}.weight"):
        fold(weights, lora())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({f"{Q}_lora.B": torch.zeros(3, 8)}, r"\[6, 4\] and B \[3, 8\]"),
        ({f"{Q}_lora.A": torch.zeros(6)}, r"A \[6\]"),
        ({"model.norm.weight": torch.zeros(6)}, "model.norm.weight"),
        ({"other_lora.A": torch.zeros(6, 4)}, "other has only A"),
    ],
)
def test_a_broken_lora_is_refused_with_what_is_wrong(changed, named):
    with pytest.raises(BadCheckpoint, match=named):
        fold(base(), lora() | changed)


def test_an_empty_lora_is_refused():
    with pytest.raises(BadCheckpoint, match="empty"):
        fold(base(), {})


def test_foreign_keys_are_not_taken_for_pefts():
    with pytest.raises(BadCheckpoint, match=f"{Q}_lora.A"):
        from_peft(lora())


@pytest.mark.parametrize("folder", ["stylear_models", "stylear_models/Depth_condition"])
def test_golden_released_lora_names_its_modules_and_fits_the_base(golden, folder):
    released = load_file(golden / "tiny" / folder / "model.safetensors")
    weights = load_file(golden / "tiny/Alpha-VLLM/Lumina-mGPT-7B-768/model.safetensors")
    targets = lora_targets(released)
    assert lora_rank(released) == 4
    assert len(targets) == 11 and "lm_head" in targets and "model.layers.1.mlp.down_proj" in targets
    folded = fold(weights, released)
    changed = {name for name in weights if not torch.equal(folded[name], weights[name])}
    assert changed == {f"{target}.weight" for target in targets}
