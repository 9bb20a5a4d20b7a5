"""The plan counts what trains as it was released, and its memory as it is shared out."""

import pytest
import tiny
import tiny_tokens
import torch
from accelerate import Accelerator

from training.config import CONFIGS, read_settings
from training.plan import RELEASED, Shapes, memory, meta_model, plan, shapes_of
from training.recipe import TrainSettings
from training.tokens import TokenSet
from training.trainer import Trainer, groups_of


@pytest.fixture(scope="module")
def released():
    return Shapes(meta_model(RELEASED, 1280, TrainSettings(precision="bf16")), 0, 2500)


def test_the_released_trainable_set_has_the_released_parameters(released):
    lora, resampler = (sum(weight.numel() for weight in group["params"]) for group in groups_of(released.styled))
    assert (lora, resampler) == (6_406_144, 609_402_880)
    trained = {name for name, weight in released.styled.named_parameters() if weight.requires_grad}
    assert sum(1 for name in trained if ".lora_" in name) == 2 * (5 * 32 + 1)
    assert sum(1 for name in trained if name.startswith("resampler.")) == 51
    assert all(weight.is_meta for weight in released.styled.parameters())


def test_trained_weights_stay_float32_on_a_bfloat16_base(released):
    kinds = {(weight.requires_grad, weight.dtype) for weight in released.styled.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_the_7b_in_bfloat16_takes_its_weights_and_16_bytes_for_each_trained_parameter(released):
    found = memory(released, TrainSettings(precision="bf16", gradient_checkpointing=True, micro_batch=1), 1)
    assert found["frozen base"] == 2 * 7_013_666_816
    trained = 6_406_144 + 609_402_880
    assert sum(value for part, value in found.items() if part.startswith(("LoRA", "their"))) == 16 * trained
    assert found["gathered: layers, both ends, resampler"] == 0


def test_what_fsdp_shares_out_shrinks_with_the_devices_and_the_rest_does_not(released):
    two, eight = (memory(released, TrainSettings(precision="bf16"), devices) for devices in (2, 8))
    shared = {part for part in two if two[part] == 4 * eight[part] > 0}
    assert shared == {"frozen base", "LoRA and resampler", "their gradients", "their AdamW averages"}
    assert all(two[part] == eight[part] for part in two.keys() - shared)


def test_pictures_that_are_looked_at_again_are_planned_for(released, tmp_path):
    given = {"model": {"base": str(tmp_path)}, "data": tmp_path, "batch": 16}
    plain, contrasted = (TrainSettings(**given, contrast={"weight": weight, "pairs": 4}) for weight in (0, 0.2))
    one, other = (memory(released, settings, 1)["activations"] for settings in (plain, contrasted))
    assert other / one == pytest.approx(10 / 8)
    assert "10 rows of 2500 tokens at a time, contrasted ones among them" in plan(contrasted)


def test_checkpointed_layers_take_less_memory(released):
    kept, computed = (
        memory(released, TrainSettings(gradient_checkpointing=on), 1)["activations"] for on in (False, True)
    )
    assert computed < kept / 5


@pytest.mark.parametrize("contrast", [{}, {"weight": 1.0, "pairs": 2}], ids=["plain", "contrasted"])
def test_activations_are_planned_as_torch_keeps_them(tmp_path, contrast):
    tiny.write_bundle(tmp_path / "model", segmenter=False)
    tiny_tokens.write_tokens(tmp_path / "tokens")
    chosen = tiny_tokens.settings(tmp_path, contrast=contrast)
    trainer = Trainer(chosen, Accelerator(cpu=True))
    rows, kept = next(trainer.loader(range(1))), {}
    weights = {weight.untyped_storage().data_ptr() for weight in trainer.model.parameters()}

    def keep(tensor):
        if (storage := tensor.untyped_storage()).data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = trainer.losses(rows, trainer.features(rows))
    planned = memory(Shapes(shapes_of(chosen)[0].styled, 0, rows.batch.ids.shape[1]), chosen, 1)["activations"]
    assert losses[0].requires_grad
    assert 0.5 < sum(size for _, size in kept.values()) / planned < 2


@pytest.mark.parametrize("name", ["train", "paper"])
def test_the_shipped_settings_can_be_read(name):
    assert read_settings(TrainSettings, CONFIGS / f"{name}.yaml").mode == "train"


def test_the_papers_settings_have_its_recipe():
    found = read_settings(TrainSettings, CONFIGS / "paper.yaml")
    assert (found.rank, found.noise, found.ratio, found.context_drop) == (4, 0.1, (1, 3), 0.1)
    assert not found.views.change and found.resampler == TrainSettings().resampler


def test_without_base_or_data_the_released_model_is_planned_for(tmp_path):
    told = plan(TrainSettings(model={"base": str(tmp_path / "none")}, data=tmp_path, out=tmp_path / "out"))
    assert "released 7B" in told and "768 px" in told
    assert "6,406,144 LoRA, 609,402,880 resampler" in told
    assert not (tmp_path / "out").exists()


def test_with_base_and_data_theirs_are_planned_for(tmp_path):
    tiny.write_bundle(tmp_path / "model", segmenter=False)
    data = TokenSet(tiny_tokens.write_tokens(tmp_path / "tokens"))
    longest = (data.lengths + data.condition_lengths).max() + 128
    told = plan(tiny_tokens.settings(tmp_path))
    assert str(tmp_path / "model" / "base") in told and f"4 rows of {longest} tokens" in told
    assert "3,9" in told.splitlines()[-1]
