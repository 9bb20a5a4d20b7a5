"""What ComfyUI finds when it opens the pack."""

import ast
import asyncio
import inspect
import logging
import os
import subprocess
import sys

import pytest
from bench import FAKE, ROOT

IDS = [
    *("LoadStyleAR", "StyleTokenEncode", "SAMSubtract", "NoiseInject", "DepthCondition", "ARSample"),
    *("StyleBlend", "SaveStylePreset", "LoadStylePreset"),
]


def test_the_nodes_are_offered_under_the_ids_that_workflows_use(nodes):
    assert list(nodes) == IDS


def test_every_node_id_is_a_literal_where_registry_scanners_look_for_it():
    found = set()
    for file in (ROOT / "nodes").glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.keyword) and call.arg == "node_id":
                found.add(ast.literal_eval(call.value))
    assert found == set(IDS)


def test_the_door_offers_the_v3_entry_point_and_nothing_that_would_hide_it(pack):
    assert inspect.iscoroutinefunction(pack.comfy_entrypoint)
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")


@pytest.mark.parametrize("node_id", IDS)
def test_a_node_takes_exactly_the_inputs_its_schema_shows(nodes, node_id):
    node = nodes[node_id]
    parameters = inspect.signature(node.execute).parameters
    shown = {item.id: item for item in node.define_schema().inputs}
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        shown = {name: item for name, item in shown.items() if name in parameters}
        parameters = {name: p for name, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    assert list(shown) == list(parameters)
    for name, item in shown.items():
        assert item.optional == (parameters[name].default is not inspect.Parameter.empty), name


@pytest.mark.parametrize("node_id", IDS)
def test_a_node_explains_itself_and_each_of_its_sockets(nodes, node_id):
    schema = nodes[node_id].define_schema()
    assert schema.category == "StyleAR"
    assert schema.display_name and schema.search_aliases and len(schema.description) > 40
    for item in [*schema.inputs, *schema.outputs]:
        assert len(item.tooltip) > 15, item.id


OPEN_AND_NAME_HEAVY_IMPORTS = """
import asyncio, importlib.util, sys
sys.path.insert(0, sys.argv[1])
spec = importlib.util.spec_from_file_location("pack", sys.argv[2])
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
heavy = {"transformers", "open_clip", "segment_anything", "tokenizers", "cv2", "torchvision", "scipy"}
engine = {name.partition(".stylear.")[2] for name in sys.modules if name.startswith("pack.stylear.")}
sys.exit(", ".join((heavy & set(sys.modules)) | (engine - {"errors", "files", "images"})) or 0)
"""


def test_opening_the_pack_imports_no_heavy_library_and_of_the_engine_only_errors_files_and_pictures():
    command = [sys.executable, "-c", OPEN_AND_NAME_HEAVY_IMPORTS, str(FAKE), str(ROOT / "__init__.py")]
    environment = {**os.environ, "FAKE_COMFY_BASE": str(FAKE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr


def test_no_module_of_the_pack_is_imported_by_a_name_comfyui_also_uses():
    for folder in ("nodes", "stylear"):
        for file in (ROOT / folder).rglob("*.py"):
            for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(statement, ast.Import):
                    assert not {a.name.split(".")[0] for a in statement.names} & {"nodes", "stylear"}, file
                elif isinstance(statement, ast.ImportFrom) and not statement.level:
                    assert statement.module.split(".")[0] not in ("nodes", "stylear"), file


def test_model_folders_named_in_extra_model_paths_are_kept_and_listed(comfy, folders, models):
    (models / "mine").mkdir()
    (models / "mine" / "model.safetensors").touch()
    folders.register_folders()
    folders.register_folders()
    paths = comfy.folders.get_folder_paths("stylear")
    assert paths == [str(models), os.path.join(comfy.folders.models_dir, "stylear")]
    assert "stylear/mine/model.safetensors" in folders.part_choices("vqgan")


@pytest.fixture
def inputs(folders, comfy, tmp_path, monkeypatch):
    """ComfyUI's input folder, with two bundled pictures, in two folders, waiting to be put there."""
    shelves, inputs = [tmp_path / "references", tmp_path / "depth"], tmp_path / "input"
    for shelf, name in zip(shelves, ("neon.png", "ink.png"), strict=True):
        shelf.mkdir()
        (shelf / name).write_bytes(name.encode())
    inputs.mkdir()
    monkeypatch.setattr(folders, "PICTURES", shelves)
    monkeypatch.setattr(comfy.folders, "get_input_directory", lambda: str(inputs))
    return inputs


def test_the_pictures_that_workflows_begin_with_are_there_once_the_pack_is_loaded(extension, inputs):
    asyncio.run(extension.on_load())
    found = {picture.name: picture.read_bytes() for picture in inputs.iterdir()}
    assert found == {"stylear_neon.png": b"neon.png", "stylear_ink.png": b"ink.png"}


def test_a_picture_of_the_persons_own_is_never_overwritten(folders, inputs):
    (inputs / "stylear_neon.png").write_bytes(b"mine")
    folders.offer_pictures()
    assert (inputs / "stylear_neon.png").read_bytes() == b"mine"
    assert (inputs / "stylear_ink.png").exists()


def test_an_input_folder_that_cannot_be_written_costs_a_warning_and_not_the_pack(folders, inputs, caplog):
    inputs.rmdir()
    with caplog.at_level(logging.WARNING):
        folders.offer_pictures()
    assert "could not be copied" in caplog.text
