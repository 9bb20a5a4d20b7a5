"""What the Comfy Registry, the Manager and its scanners ask of a pack."""

import ast
import re
import shutil
import subprocess

import pytest
from bench import ROOT
from PIL import Image

SHIPPED = [ROOT / "__init__.py", *sorted((ROOT / "nodes").glob("*.py")), *sorted((ROOT / "stylear").rglob("*.py"))]


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_metadata_are_those_the_registry_wants(project):
    about, comfy = project["project"], project["tool"]["comfy"]
    assert "comfyui" not in about["name"].lower() and len(about["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert about["description"] and about["requires-python"] and (ROOT / about["license"]["file"]).is_file()
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["requires-comfyui"].startswith(">=")
    assert any("GPU" in line for line in about["classifiers"])


def test_the_icon_is_a_square_of_at_most_400_pixels(project):
    icon = Image.open(ROOT / project["tool"]["comfy"]["Icon"])
    assert icon.width == icon.height <= 400


def test_the_banner_is_21_to_9(project):
    banner = Image.open(ROOT / project["tool"]["comfy"]["Banner"])
    assert banner.width * 9 == banner.height * 21


@pytest.mark.skipif(not shutil.which("sed"), reason="there is no sed, which publishing uses")
def test_publishing_turns_the_pictures_into_addresses():
    workflow = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    (script,) = re.findall(r'sed -i "(.*)" pyproject.toml', workflow)
    script = script.replace('\\"', '"').replace("$PAGE", "PAGE")
    about = subprocess.run(["sed", script, ROOT / "pyproject.toml"], capture_output=True, text=True, check=True).stdout
    for name in ("Icon", "Banner"):
        assert f'{name} = "PAGE/raw/main/docs/{name.lower()}.png"' in about.splitlines()


def test_the_newest_entry_of_the_changelog_is_this_version(project):
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert newest == project["project"]["version"]


def test_the_oldest_comfyui_is_the_same_in_the_metadata_the_readme_and_the_changelog(project):
    oldest = project["tool"]["comfy"]["requires-comfyui"].removeprefix(">=").removesuffix(".0")
    for name in ("README.md", "CHANGELOG.md"):
        assert f"{oldest} or newer" in (ROOT / name).read_text(encoding="utf-8")


def test_every_dependency_is_declared_with_both_ends(project):
    matrix = pytest.importorskip("matrix")
    floors = matrix.floors(project["project"])
    assert {"torch", "transformers", "peft", "open_clip_torch", "safetensors", "numpy", "pillow"} <= floors.keys()
    for line in ("torch", "torch>=2", "torch<3", "torch>=2,<3.0b"):
        with pytest.raises(ValueError, match="FLOOR"):
            matrix.floors(project["project"] | {"dependencies": [line]})


def test_requirements_change_nothing_that_comfyui_brings():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    for line in wanted:
        assert re.fullmatch(r"[a-zA-Z_-]+>=[\d.]+", line), "ranges, no pins, no addresses, no options"
        assert not re.match(r"torch|numpy|transformers|pillow|safetensors", line, re.IGNORECASE)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nothing_is_run_that_a_scanner_would_stop(file):
    for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Import | ast.ImportFrom):
            names = {getattr(call, "module", None), *(alias.name for alias in call.names)}
            assert not names & {"subprocess", "pip", "marshal", "ctypes"}
        if isinstance(call, ast.Call):
            called = ast.unparse(call.func)
            assert called not in ("eval", "exec", "os.system", "pickle.load", "pickle.loads", "torch.jit.load")
            if called == "torch.load":
                assert any(word.arg == "weights_only" and ast.literal_eval(word.value) for word in call.keywords)


def test_only_the_owner_publishes():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8"))
    for job in workflow["jobs"].values():
        assert "github.repository_owner == vars.COMFY_PUBLISHER" in job["if"]


def test_the_forms_for_issues_and_the_workflows_can_be_read():
    yaml = pytest.importorskip("yaml")
    files = sorted((ROOT / ".github").rglob("*.yml"))
    assert len(files) == 5 and all(yaml.safe_load(file.read_text(encoding="utf-8")) for file in files)


def test_only_download_may_use_the_network():
    for file in SHIPPED:
        text = file.read_text(encoding="utf-8")
        if file.name != "download.py":
            assert not re.search(r"urllib\.request|(import|from) (requests|httpx|socket|huggingface_hub)\b", text), file


def test_every_shipped_file_can_be_written_on_windows_and_macos():
    folders = ("nodes", "stylear", "web", "locales", "workflows", "docs")
    files = [file.relative_to(ROOT).as_posix() for folder in folders for file in (ROOT / folder).rglob("*")]
    assert len({name.lower() for name in files}) == len(files), "names that differ in case only"
    for name in files:
        assert len(name) < 120 and re.fullmatch(r"[\w.,/-]+", name, re.ASCII), name
        assert not re.search(r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)|\.(/|$)", name, re.IGNORECASE), name
