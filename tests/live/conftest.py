"""Needs a ComfyUI checkout in COMFYUI_DIR, run by a Python that has its requirements; skipped without one."""

from pathlib import Path

import pytest
from comfy_server import ROOT, ComfyServer, active, checkout


def pytest_collection_modifyitems(items):
    reason = None
    if not checkout():
        reason = "COMFYUI_DIR names no ComfyUI checkout"
    elif not (ROOT / "stylear" / "mini" / "base").is_dir():
        reason = "the bundled mini is not there"
    for item in items if reason else ():
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def server():
    """A running ComfyUI with the pack in it."""
    with ComfyServer(checkout()) as running:
        yield running


@pytest.fixture
def graph(request) -> dict:
    """The API graph a test is parametrised with by name, or first_picture, as it runs when it opens."""
    return active(getattr(request, "param", "first_picture"))
