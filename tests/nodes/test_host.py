"""Parts of a model in the care of ComfyUI's memory manager."""

import gc
import weakref

import pytest
import torch


def test_only_the_parts_a_node_needs_are_loaded(comfy, host, model):
    comfy.management.unload_all_models()
    assert model.ready("vqgan", "no such part") is model.model
    assert comfy.management.loaded_models() == [model.patchers["vqgan"]]
    comfy.management.unload_all_models()
    assert comfy.management.loaded_models() == []


def test_comfyuis_cache_recognises_the_wire_by_its_largest_part(model, engine):
    assert model.patcher.model.part in engine.parts.values()
    assert model.patcher.model_size() == max(p.model_size() for p in model.patchers.values())


def test_a_model_leaves_memory_when_its_last_wire_goes(comfy, host, engine):
    model = host.HostedModel(engine)
    model.ready("base")
    gone = weakref.ref(model.patchers["base"])
    del model
    assert gone() is None, "something else holds the patcher"
    gc.collect()
    assert all(patcher is not None for patcher in comfy.management.loaded_models())


@pytest.mark.parametrize("value", ["a string", 3, None])
def test_a_value_written_where_a_model_belongs_is_refused(host, errors, value):
    with pytest.raises(errors.BadInput, match="model is a .* Connect Load StyleAR"):
        host.HostedModel.on(value)


def test_a_borrowed_module_is_on_the_device_only_inside_the_block(comfy, host):
    comfy.management.unload_all_models()
    with host.on_device(torch.nn.Linear(1, 1)) as module:
        assert [p.model.part for p in comfy.management.loaded_models()] == [module]
    del module
    assert comfy.management.loaded_models() == []


def test_the_dtype_is_comfyuis_choice_unless_the_person_chose(host):
    assert host.weights_dtype("auto") == torch.float32  # on a CPU
    assert host.weights_dtype("float16") == torch.float16


def test_auto_is_bfloat16_where_the_device_is_good_at_it(comfy, host, monkeypatch):
    monkeypatch.setattr(comfy.management, "should_use_bf16", lambda device: True)
    assert host.weights_dtype("auto") == torch.bfloat16


def test_results_go_out_in_the_dtype_comfyui_asks_for(comfy, host, monkeypatch):
    monkeypatch.setattr(comfy.management, "intermediate_dtype", lambda: torch.float16)
    assert host.to_output(torch.rand(1, 2, 2, 3)).dtype == torch.float16
