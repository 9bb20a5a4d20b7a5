"""The nightly run: python -m tests.hostile --cases 100000."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

DESCRIPTION = "Try many hostile cases, new ones each time; prints cases tried, faults survived and load held."
IN_CI = 7000  # cases at least of one run without a factor

parser = argparse.ArgumentParser(
    prog="python -m tests.hostile",
    description=DESCRIPTION,
)
parser.add_argument("--cases", type=int, default=100_000, help="how many at least (%(default)s)")
parser.add_argument("--json", type=Path, help="file to write the figures to, beside the table that is printed")
parser.add_argument("--processes", default="2", help="how many at once, or auto (%(default)s)")
parser.add_argument("pytest", nargs="*", help="more words for pytest, behind --: -- -k pictures --hypothesis-seed=1")
given = parser.parse_args()
words = [str(Path(__file__).parent), "-q", "-o", "addopts=", "-n", given.processes, "--dist", "load", *given.pytest]
told = {"STYLEAR_HOSTILE_FACTOR": str(-(-given.cases // IN_CI))}
if given.json:
    told["STYLEAR_HOSTILE_FIGURES"] = str(given.json.resolve())
sys.exit(subprocess.call([sys.executable, "-m", "pytest", *words], env={**os.environ, **told}))
