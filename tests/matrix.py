"""Runs the suite at one end of the versions that pyproject.toml declares, in an environment made for it.

python -m tests.matrix --lowest             every declared package at its floor
python -m tests.matrix --newest             every one as new as its ceiling and the registry have it
python -m tests.matrix --lowest -- -k lora  what comes behind -- goes to pytest

With pip and venv alone, on Python 3.11 or newer. It takes about 6 GB in a folder that is deleted at the end, and says
which versions were there: those are what README.md tells.
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
DECLARED = re.compile(r"([\w.-]+)>=([\d.]+),<[\d.]+")


def floors(project: dict) -> dict[str, str]:
    """The floor of each package that pyproject.toml's `project` declares; ValueError where one has no two ends."""
    tested = [project["optional-dependencies"][extra] for extra in ("train", "test")]
    found = {}
    for line in sum(tested, project["dependencies"]):
        if not line.startswith(f"{project['name']}["):
            declared = DECLARED.fullmatch(line)
            if not declared or declared[1] in found:
                raise ValueError(f"{line}: say each package once, as NAME>=FLOOR,<CEILING.")
            found[declared[1]] = declared[2]
    return found


def run(lowest: bool, folder: Path, words: list[str]) -> int:
    """Make the environment in `folder`, print what is in it and run pytest there; pytest's exit status."""
    names = floors(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    venv.create(folder / "env", with_pip=True)
    programs = [folder / "env" / "bin" / "python", folder / "env" / "Scripts" / "python.exe"]
    python = next(path for path in programs if path.exists())
    ends = folder / "ends.txt"
    ends.write_text("".join(f"{name}=={floor}\n" for name, floor in names.items()) if lowest else "", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--upgrade"]
    subprocess.run([*pip, "pip"], check=True)
    subprocess.run([*pip, "--constraint", str(ends), "-e", f"{ROOT}[test]"], check=True)
    there = next((folder / "env").rglob("site-packages"))
    found = {name: next(importlib.metadata.distributions(name=name, path=[str(there)])).version for name in names}
    sys.stdout.write("".join(f"{name} {version}\n" for name, version in found.items()))
    sys.stdout.flush()
    return subprocess.call([str(python), "-m", "pytest", *words], cwd=ROOT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__.partition("\n")[0])
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--lowest", action="store_true", help="every declared package at its floor")
    end.add_argument("--newest", action="store_true", help="every one as new as its ceiling and the registry have it")
    parser.add_argument("pytest", nargs="*", help="words for pytest, behind --: -- -k lora")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="matrix-") as scratch:
        sys.exit(run(given.lowest, Path(scratch), given.pytest))
