"""The nightly run: python -m tests.hostile --cases 100000."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from training.output import write_json

from .report import lines, total

DESCRIPTION = "Try many hostile cases, new ones each time; prints cases tried, faults survived and load held."
HERE = Path(__file__).parent
IN_CI = 7000  # cases at least of one run without a factor
NOTHING_CHOSEN = 5  # pytest's exit status


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=DESCRIPTION)
    parser.add_argument("--cases", type=int, default=100_000, help="how many at least (%(default)s)")
    parser.add_argument("--json", type=Path, help="keeps the figures family by family, and goes on after those")
    parser.add_argument("--processes", default="2", help="how many at once, or auto (%(default)s)")
    parser.add_argument("pytest", nargs="*", help="words for pytest, behind --: -- -k pictures --hypothesis-seed=1")
    given = parser.parse_args()
    asked = {"cases": given.cases, "pytest": given.pytest}
    families = {}
    if given.json and given.json.exists():
        try:
            kept = json.loads(given.json.read_text(encoding="utf-8"))
            before, families = kept["asked"], dict(kept["families"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"{given.json} is no file of this command: name another. ({error})")
        if before != asked:
            parser.error(f"{given.json} holds figures of other cases, {before}: name another file.")
    for file in sorted(HERE.glob("test_*.py")):
        name = file.stem.removeprefix("test_")
        if name in families and not families[name].get("failed"):
            print(f"{name}: done before", flush=True)
            continue
        print(f"\n{name}", flush=True)
        status, figures = _try(file, given)
        if status == NOTHING_CHOSEN:
            continue
        families[name] = figures
        if status and not figures.get("failed"):
            return status  # stopped, or broken before it could count
        if given.json:
            write_json(given.json, {"asked": asked, "families": families, "all": total(families)})
    print("\n" + "\n".join(lines(families)))
    return int(any(figures.get("failed") for figures in families.values()))


def _try(file: Path, given: argparse.Namespace) -> tuple[int, dict[str, int]]:
    """Run one family; pytest's exit status and the figures."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "figures.json"
        factor = str(-(-given.cases // IN_CI))
        environment = {**os.environ, "STYLEAR_HOSTILE_FACTOR": factor, "STYLEAR_HOSTILE_FIGURES": str(told)}
        words = [str(file), "-q", "-o", "addopts=", "-n", given.processes, "--dist", "load", *given.pytest]
        status = subprocess.call([sys.executable, "-m", "pytest", *words], env=environment)
        families = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
        return status, total(families)


if __name__ == "__main__":
    sys.exit(main())
