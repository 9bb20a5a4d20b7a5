"""What ComfyUI does that a pack has to know: one test for each trap, named for what must be true of ours."""

import ast
import inspect
import math
import os
from importlib import import_module
from types import SimpleNamespace

import pytest
import tiny
import torch
from bench import PACK_NAME, ROOT

SOURCES = sorted((ROOT / "nodes").glob("*.py"))
SAMPLE = {
    "prompt": "a cat",
    "width": 0,
    "height": 0,
    "seed": 0,
    "batch_size": 1,
    "cfg": 4.0,
    "top_k": 2000,
    "temperature": 1.0,
}
PICTURE = torch.rand(1, 12, 16, 3)


def walk(kind):
    """Every syntax node of a kind in the sources of the nodes."""
    for file in SOURCES:
        for found in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(found, kind):
                yield found


@pytest.fixture(scope="module")
def style(pack, extension):
    tokens = torch.zeros(16, tiny.HIDDEN)
    return import_module(f"{PACK_NAME}.stylear.style").StyleTokens(tokens, torch.zeros(5, 24), PICTURE[0])


@pytest.fixture
def inputs(model, style):
    """For each node what it is run with when only its required inputs are connected."""
    return {
        "LoadStyleAR": {"model": "mini (bundled)"},
        "StyleTokenEncode": {"model": model, "image": PICTURE},
        "SAMSubtract": {"model": model, "style": style, "alpha": 0.2, "beta": 0.8},
        "NoiseInject": {"style": style, "gamma": 0.1, "seed": 0},
        "DepthCondition": {"model": model, "image": PICTURE},
        "ARSample": {"model": model, "style": style, **SAMPLE},
    }


def test_trap_1_and_2_no_node_checks_inputs_itself_which_would_switch_comfyuis_own_checks_off(nodes):
    for node in nodes.values():
        assert not {"validate_inputs", "VALIDATE_INPUTS"} & vars(node).keys()


@pytest.mark.parametrize(
    ("node", "name", "least", "most"),
    [
        ("NoiseInject", "gamma", 0, 5),
        ("SAMSubtract", "alpha", 0, 1),
        ("SAMSubtract", "beta", 0, 2),
        ("ARSample", "cfg", 1, 30),
        ("ARSample", "style_cfg", -1, 30),
        ("ARSample", "style_strength", 0, 5),
        ("ARSample", "temperature", 0.05, 5),
        ("ARSample", "top_k", 1, 65536),
        ("ARSample", "batch_size", 1, 64),
    ],
)
def test_trap_3_a_number_that_passes_validation_is_refused_by_its_name_with_the_widgets_own_range(
    nodes, inputs, errors, node, name, least, most
):
    for value in (math.nan, math.inf, most + 1):
        with pytest.raises(errors.BadInput, match=f"^{name} is .* from {least} to {most}"):
            nodes[node].execute(**inputs[node] | {name: value})


def test_trap_4_no_node_blocks_execution_without_placeholders():
    blocks = [call for call in walk(ast.Call) if any(word.arg == "block_execution" for word in call.keywords)]
    assert all(call.args for call in blocks)


@pytest.mark.parametrize("ending", [SystemExit(2), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("name", ["LoadStyleAR", "StyleTokenEncode", "SAMSubtract", "DepthCondition", "ARSample"])
def test_trap_5_a_library_that_ends_the_program_ends_no_worker(nodes, inputs, engine, monkeypatch, name, ending):
    def end(*_, **__):
        raise ending

    for method in ("encode_style", "content_mask", "encode_condition", "generate"):
        monkeypatch.setattr(engine, method, end)
    monkeypatch.setattr(import_module(f"{PACK_NAME}.stylear.pipeline").StyleAR, "load", end)
    with pytest.raises(RuntimeError, match="the queue goes on"):
        nodes[name].execute(**inputs[name])


def test_trap_6_and_10_every_preview_is_an_rgb_picture_with_a_format_and_a_size(nodes, inputs, comfy, monkeypatch):
    sent = []
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Auto)
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **_: sent.append(preview))
    nodes["ARSample"].execute(**inputs["ARSample"])
    comfy.utils.set_progress_bar_global_hook(None)
    shown = [preview for preview in sent if preview]
    assert shown and all(
        (kind, image.mode, size) == ("JPEG", "RGB", comfy.cli_args.args.preview_size) and min(image.size) > 0
        for kind, image, size in shown
    )


@pytest.mark.parametrize("base", [Exception, BaseException])
def test_trap_7_the_stop_button_is_never_swallowed_whatever_it_derives_from(nodes, inputs, engine, base, monkeypatch):
    stop = type("InterruptProcessingException", (base,), {})

    def stopped(*_, **__):
        raise stop

    monkeypatch.setattr(engine, "generate", stopped)
    with pytest.raises(stop):
        nodes["ARSample"].execute(**inputs["ARSample"])


def test_trap_7_no_source_of_the_pack_catches_everything():
    engine = [
        file for file in (ROOT / "stylear").rglob("*.py") if file.name in ("sampling.py", "pipeline.py", "pace.py")
    ]
    for file in [*SOURCES, *engine]:
        for handler in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(handler, ast.ExceptHandler):
                assert handler.type and ast.unparse(handler.type) not in ("Exception", "BaseException"), file


def test_trap_8_the_whole_chain_runs_under_inference_mode_and_again_outside(nodes, models):
    tiny.write_bundle(models / "tiny")
    with torch.inference_mode():
        model = nodes["LoadStyleAR"].execute(model="tiny").result[0]
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            style = nodes["StyleTokenEncode"].execute(model=model, image=PICTURE).result[0]
            style = nodes["SAMSubtract"].execute(model=model, style=style, alpha=0.2, beta=0.8).result[0]
            style = nodes["NoiseInject"].execute(style=style, gamma=0.1, seed=0).result[0]
            condition = nodes["DepthCondition"].execute(model=model, image=PICTURE).result[0]
            sample = SAMPLE | {"model": model, "style": style, "condition": condition, "window": "1"}
            assert nodes["ARSample"].execute(**sample).result[0].std() > 0


def test_trap_9_stop_is_looked_for_before_every_pass_though_the_bar_moves_more_seldom(
    comfy, nodes, inputs, monkeypatch
):
    looked = []
    name = "throw_exception_if_processing_interrupted"
    monkeypatch.setattr(comfy.management, name, lambda: looked.append(1))
    nodes["ARSample"].execute(**inputs["ARSample"])
    assert len(looked) >= 4, "the stub draws in four passes"


def test_trap_11_only_what_a_file_decides_has_a_fingerprint_and_it_stands_wires_that_it_sees_as_none(nodes):
    made = {name for name, node in nodes.items() if {"fingerprint_inputs", "IS_CHANGED"} & vars(node).keys()}
    assert made == {"SaveStylePreset", "LoadStylePreset"}
    for name in made:
        nodes[name].fingerprint_inputs(**{item.id: None for item in nodes[name].define_schema().inputs})
        nodes[name].fingerprint_inputs()


def test_trap_12_no_input_is_lazy_so_none_is_looked_for_again(nodes):
    for node in nodes.values():
        assert "check_lazy_status" not in vars(node)
        assert not any(getattr(item, "lazy", None) for item in node.define_schema().inputs)


def test_trap_13_no_node_writes_to_its_class_which_comfyui_locks():
    for assigned in walk((ast.Assign, ast.AugAssign, ast.AnnAssign)):
        targets = assigned.targets if isinstance(assigned, ast.Assign) else [assigned.target]
        assert not any(ast.unparse(target).startswith("cls.") for target in targets), ast.unparse(assigned)


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened from now on."""
    import builtins

    found, own = [], builtins.open
    monkeypatch.setattr(builtins, "open", lambda file, *args, **named: found.append(file) or own(file, *args, **named))
    return found


def test_trap_14_describing_the_nodes_opens_no_file_imports_nothing_and_lists_each_folder_once(
    nodes, comfy, models, monkeypatch, opened
):
    import sys

    listed, own = [], comfy.folders.get_filename_list
    monkeypatch.setattr(comfy.folders, "get_filename_list", lambda key: listed.append(key) or own(key))
    before = set(sys.modules)
    for node in nodes.values():
        listed.clear()
        node.define_schema()
        assert len(listed) == len(set(listed)), node
    assert opened == [] and set(sys.modules) == before


def test_trap_14_a_folder_that_is_gone_or_cannot_be_read_costs_no_node(nodes, folders, models):
    models.rmdir()
    assert folders.MINI in next(i for i in nodes["LoadStyleAR"].define_schema().inputs if i.id == "model").options


def test_trap_14_what_is_put_in_or_taken_out_of_a_folder_is_in_the_next_list(nodes, models):
    def offered():
        return next(i for i in nodes["LoadStyleAR"].define_schema().inputs if i.id == "model").options

    assert "new" not in offered()
    (models / "new" / "base").mkdir(parents=True)
    (models / "new" / "base" / "config.json").touch()
    assert "new" in offered()
    (models / "new" / "base" / "config.json").unlink()
    os.utime(models / "new" / "base", (1, 1))  # a file system's clock may be too coarse for a test
    assert "new" not in offered()


def test_trap_15_inputs_that_grow_have_a_default_as_they_may_be_missing(nodes):
    for node in nodes.values():
        parameters = inspect.signature(node.execute).parameters
        for item in node.define_schema().inputs:
            if hasattr(item, "template"):
                assert parameters[item.id].default is not inspect.Parameter.empty, item.id


@pytest.mark.parametrize("name", ["StyleTokenEncode", "SAMSubtract", "NoiseInject", "DepthCondition", "ARSample"])
def test_trap_16_a_node_runs_with_its_required_inputs_alone(nodes, inputs, name):
    required = {item.id for item in nodes[name].define_schema().inputs if not item.optional}
    assert inputs[name].keys() == required
    assert nodes[name].execute(**inputs[name]).result[0] is not None


def test_trap_16_load_stylear_runs_with_its_required_inputs_alone(nodes, inputs, engine, monkeypatch):
    pipeline = import_module(f"{PACK_NAME}.stylear.pipeline")
    monkeypatch.setattr(pipeline, "StyleAR", SimpleNamespace(load=lambda *_, **__: engine))
    assert nodes["LoadStyleAR"].execute(**inputs["LoadStyleAR"]).result[0].model is engine
