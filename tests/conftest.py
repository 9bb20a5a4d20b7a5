"""Fixtures every room shares: the recorded official run, and the pack as ComfyUI opens it."""

import json
from pathlib import Path

import pytest
from comfy_pack import comfy, errors, extension, folders, host, models, nodes, pack, running  # noqa: F401
from golden_data import unpack


@pytest.fixture(scope="session")
def golden(tmp_path_factory) -> Path:
    """The folder of the recorded official run, unpacked once (tests/golden/README.md says what is in it)."""
    return unpack(Path(__file__).parent / "golden", tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def golden_components(golden) -> dict:
    """components.json of the recorded run."""
    return json.loads((golden / "components.json").read_text())
