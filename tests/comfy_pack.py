"""Opens the pack as ComfyUI does: beside a checkout where COMFYUI_DIR names one, else beside the fake."""

import asyncio
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
FAKE = Path(__file__).parent / "nodes" / "fake_comfy"
PACK_NAME = "custom_nodes_x_stylear_pack"  # ComfyUI makes the name up from the folder; ours must not matter


@pytest.fixture(scope="session")
def comfy(tmp_path_factory) -> SimpleNamespace:
    """ComfyUI's modules that the tests look into: folders, management, utils, cli_args and the server."""
    base = tmp_path_factory.mktemp("comfy")
    (base / "input").mkdir()
    checkout = os.environ.get("COMFYUI_DIR")
    os.environ["FAKE_COMFY_BASE"] = str(base)
    sys.path.insert(0, checkout or str(FAKE))
    if checkout:
        import comfy.options

        comfy.options.enable_args_parsing()
        arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", str(base)]
    import comfy.cli_args
    import comfy.model_management
    import comfy.utils
    import folder_paths
    import server

    if checkout:
        sys.argv = arguments
    return SimpleNamespace(
        folders=folder_paths,
        management=comfy.model_management,
        utils=comfy.utils,
        cli_args=comfy.cli_args,
        server=server.PromptServer,
    )


@pytest.fixture(scope="session")
def pack(comfy) -> ModuleType:
    """The pack, imported from its folder under a foreign name."""
    spec = importlib.util.spec_from_file_location(PACK_NAME, ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK_NAME] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def extension(pack):
    """What the pack hands to ComfyUI."""
    return asyncio.run(pack.comfy_entrypoint())


@pytest.fixture(scope="session")
def nodes(extension) -> dict[str, type]:
    """The node classes by id."""
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture
def host(pack, extension) -> ModuleType:
    """nodes/host.py of the loaded pack."""
    return sys.modules[f"{PACK_NAME}.nodes.host"]


@pytest.fixture
def folders(pack, extension) -> ModuleType:
    """nodes/folders.py of the loaded pack."""
    return sys.modules[f"{PACK_NAME}.nodes.folders"]


@pytest.fixture
def running(pack, extension) -> ModuleType:
    """nodes/running.py of the loaded pack."""
    return sys.modules[f"{PACK_NAME}.nodes.running"]


@pytest.fixture
def errors(pack, extension) -> ModuleType:
    """stylear/errors.py of the loaded pack."""
    return sys.modules[f"{PACK_NAME}.stylear.errors"]


@pytest.fixture
def models(comfy, folders, tmp_path, monkeypatch) -> Path:
    """An empty models/stylear of the test's own."""
    folder = tmp_path / "models" / "stylear"
    folder.mkdir(parents=True)
    monkeypatch.setattr(comfy.folders, "folder_names_and_paths", dict(comfy.folders.folder_names_and_paths))
    comfy.folders.folder_names_and_paths["stylear"] = ([str(folder)], set())
    folders.register_folders()
    shutil.rmtree(Path(comfy.folders.models_dir) / "stylear", ignore_errors=True)
    return folder
