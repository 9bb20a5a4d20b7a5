"""LoRA files: ranks, shapes, names and strengths of another model or of none."""

import json

import pytest
import tiny
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from stylear import checkpoint
from stylear.lora import fold, from_peft, lora_rank, to_peft

from .harness import case, failed, hostile, outcome
from .strategies import edited, odd_texts

BASE = tiny.base_state()
MODULES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.mlp.down_proj",
    "lm_head.lm_head",
    "model.layers.9.self_attn.q_proj",
    "model.norm",
    "x",
]
PEFT = {
    "r": 2,
    "lora_alpha": 2,
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "target_modules": ["q_proj"],
}
INSIDE = {"model.layers.1.mlp.down_proj": 40}


@st.composite
def loras(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Halves of LoRA, of which some fit the tiny base."""
    lora = {}
    for module in draw(st.lists(st.sampled_from(MODULES), max_size=3, unique=True)):
        rank, size = draw(st.sampled_from([1, 2, 0, 7])), draw(st.sampled_from([32, 32, 32, 40, 0, 1]))
        outer = tiny.BASE_CONFIG["vocab_size"] if "head" in module else size
        shapes = {"A": (INSIDE.get(module, size), rank), "B": (rank + draw(st.sampled_from([0, 0, 0, 1])), outer)}
        fill = draw(st.sampled_from([0.1, 0.1, 1e20, float("nan"), float("inf"), 0]))
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.float64]))
        for half in draw(st.sampled_from(["AB", "AB", "AB", "A", "BA"])):
            shape = draw(st.sampled_from([shapes[half]] * 5 + [(), (3,), (2, 3, 4)]))
            value = torch.full(shape, fill if dtype.is_floating_point else 1, dtype=torch.float64).to(dtype)
            lora[f"{module}_lora.{half}" + draw(st.sampled_from([""] * 8 + [".x"]))] = value
    return lora


def check_fold(lora: dict[str, torch.Tensor]) -> None:
    """A LoRA folds into weights of the base's shapes, without changing those it was given, or is refused."""
    before = {key: value.clone() for key, value in BASE.items()}
    folded, rank = outcome(fold, BASE, lora), outcome(lora_rank, lora)
    assert failed(folded) or {k: v.shape for k, v in folded.items()} == {k: v.shape for k, v in BASE.items()}
    assert failed(rank) or rank >= 0
    assert all(torch.equal(BASE[key], value) for key, value in before.items()), "the base was changed"
    if not failed(rank):
        back = from_peft(to_peft(lora))
        assert all(
            torch.equal(
                back[key],
                value,
            )
            or value.isnan().any()
            for key, value in lora.items()
        )


@hostile(200, lora=loras())
def test_a_lora_of_any_shape_folds_or_is_refused(lora):
    check_fold(lora)


def check_load(folder, lora: dict[str, torch.Tensor]) -> None:
    """A base with a LoRA from a file has finite weights, or is refused."""
    if not lora:
        return
    save_file(lora, folder / "adapter.safetensors")
    found = outcome(checkpoint.load_adapter, folder)
    if failed(found):
        return
    assert all(value.isfinite().all() for value in found[0].values())
    base = outcome(checkpoint.load_base, folder, torch.float32, found[0])
    assert failed(base) or all(value.isfinite().all() for value in base[0].state_dict().values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny.write_base(tmp_path_factory.mktemp("lora"))
    save_file(tiny.resampler_state(), folder / "resampler.safetensors")
    return folder


@hostile(80, lora=loras())
def test_a_lora_file_of_any_shape_loads_or_is_refused(folder, lora):
    check_load(folder, lora)


@pytest.fixture(scope="module")
def peft(tmp_path_factory):
    return tiny.write_adapter(tmp_path_factory.mktemp("peft"), released=False)


def check_strength(folder, config: object) -> None:
    """The halves of a PEFT LoRA are finite whatever its strength is said to be."""
    (folder / "adapter_config.json").write_text(json.dumps(config))
    found = outcome(checkpoint.load_adapter, folder)
    assert failed(found) or all(value.isfinite().all() for value in found[0].values())


@hostile(150, config=edited(PEFT))
def test_a_peft_config_that_is_edited_is_read_or_refused(peft, config):
    check_strength(peft, config)


STRENGTHS = [10**400, -(10**400), 1e308, 5e-324, float("nan"), float("inf"), "2", "nan", [2], {}, True, None, -1, 0]


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
@pytest.mark.parametrize("strength", STRENGTHS, ids=lambda value: str(value)[:9])
def test_a_strength_that_is_no_number_is_refused(peft, key, strength):
    with case():
        check_strength(peft, PEFT | {key: strength})


@hostile(60, key=odd_texts)
def test_a_key_of_any_text_is_refused(key):
    check_fold({key: torch.ones(2, 2)})
