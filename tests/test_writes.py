"""Every file is written by the one writer that makes it whole or not at all; the exceptions are named, with why."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = sorted(path for room in ("stylear", "nodes", "training") for path in (ROOT / room).rglob("*.py"))
WRITES = {
    "write_text",
    "write_bytes",
    "save_file",
    "save_weights",
    "savefig",
    "save_pretrained",
    "savez",
    "touch",
    "open_memmap",
    "save_to_disk",
}
MOVES = {"os.replace", "os.rename", "os.link", "os.symlink", "shutil.copyfile", "shutil.copy", "shutil.move"}
MODE = re.compile(r"[rbt]*[wax+][wax+bt]*([:|]\w*)?")
WRITERS = {"new_file", "write_atomically"}
ALLOWED = {
    "stylear/files.py": "the writer itself",
    "stylear/download.py:fetch": "a draft that outlives the run that began it, so that it can go on",
    "stylear/download.py:_stream": "the same draft",
    "stylear/checkpoint/save.py": "what it is given is a draft: its callers are the ones looked at",
    "training/checkpoints.py": "a folder, made beside its place and renamed",
    "training/export.py": "a folder, made beside its place and renamed",
    "training/log.py:_write": "records added to the run's own file, of which readers leave a torn last one out",
    "training/preferences.py:save_pairs": "a folder, made beside its place and renamed",
    "training/tiny_sdxl.py": "a folder, made beside its place and renamed",
    "training/data/pictures.py:build_pictures": "gigabytes in place; pictures.json, written last, says they are whole",
}


def raw_writes(source: str) -> list[tuple[str, int, str]]:
    """(function, line, what is called) of each write that is neither in a draft of a writer nor into memory."""
    tree = ast.parse(source)
    memory = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).endswith("BytesIO()")
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    handed = {
        argument.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _name(node) in WRITERS
        for argument in node.args
        if isinstance(argument, ast.Name)
    }
    found = []

    def visit(node: ast.AST, function: str, safe: bool) -> None:
        if isinstance(node, ast.FunctionDef):
            function, safe = node.name, safe or node.name in handed
        if isinstance(node, ast.With) and any(_name(item.context_expr) in WRITERS for item in node.items):
            safe = True
        if isinstance(node, ast.Call):
            safe = safe or _name(node) in WRITERS
            into_memory = any(isinstance(word, ast.Name) and word.id in memory for word in node.args[:1])
            if not safe and not into_memory and _writes(node):
                found.append((function, node.lineno, ast.unparse(node.func)))
        for child in ast.iter_child_nodes(node):
            visit(child, function, safe)

    visit(tree, "", False)
    return found


def _name(node: ast.AST) -> str:
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def _writes(call: ast.Call) -> bool:
    called, name = ast.unparse(call.func), _name(call)
    if name == "open":
        modes = [*call.args[called == "open" : 2], *(word.value for word in call.keywords if word.arg == "mode")]
        return any(isinstance(mode, ast.Constant) and MODE.fullmatch(str(mode.value)) for mode in modes)
    ours = called in ("save", "rename")  # functions, of safetensors and of our own; what writes is a method
    return name in WRITES or called in MOVES or (name in ("save", "rename") and bool(call.args) and not ours)


@pytest.mark.parametrize("file", PRODUCT, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_write_goes_through_the_writer(file):
    place = file.relative_to(ROOT).as_posix()
    found = raw_writes(file.read_text(encoding="utf-8"))
    assert not [
        f"{place}:{line} {called} in {function}"
        for function, line, called in found
        if not {place, f"{place}:{function}"} & ALLOWED.keys()
    ]


def test_no_exception_outlives_its_reason():
    for place in ALLOWED:
        file, _, function = place.partition(":")
        found = raw_writes((ROOT / file).read_text(encoding="utf-8"))
        assert any(function in ("", where) for where, *_ in found), place


@pytest.mark.parametrize(
    "planted",
    [
        "path.write_text('x')",
        "open('x', 'w')",
        "path.open(mode='ab')",
        "torch.save(x, path)",
        "image.save(path, 'PNG')",
        "save_file(x, path)",
        "os.replace(a, b)",
        "path.rename(other)",
        "shutil.copyfile(a, b)",
        "tarfile.open(path, 'w:gz')",
    ],
)
def test_a_raw_write_is_seen(planted):
    assert raw_writes(f"def f():\n    {planted}")
    assert not raw_writes(f"def f():\n    with new_file(x) as path:\n        {planted}")


@pytest.mark.parametrize("harmless", ["open('w')", "path.open('rb')", "Image.open(file)", "a = BytesIO()\nb.save(a)"])
def test_a_read_is_no_write(harmless):
    assert not raw_writes(harmless)
