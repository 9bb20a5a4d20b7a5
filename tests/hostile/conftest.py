"""Counts the cases of each family, and keeps what a case can take of memory below what would end the machine."""

import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch

from . import faults, harness

ROOM = 12 << 30  # bytes that may be asked for beyond what the process has; a bomb ends in MemoryError


@pytest.fixture(autouse=True, scope="package")
def limited_memory():
    if not sys.platform.startswith("linux") or torch.cuda.is_available():  # which reserves any amount
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """Small runs of the long commands, to try faults on."""
    with faults.bench(tmp_path_factory.mktemp("bench")) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = harness.tally.copy()
    try:
        return (yield)
    finally:
        item.user_properties += [(name, value - before[name]) for name, value in harness.tally.items()]


def pytest_terminal_summary(terminalreporter):
    families = defaultdict(Counter)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                families[Path(report.fspath).stem.removeprefix("test_")].update(dict(report.user_properties))
    families = {family: dict(+figures) for family, figures in sorted(families.items()) if +figures}
    if not families:
        return
    total = dict(sum(map(Counter, families.values()), Counter()))
    columns = sorted(total)
    terminalreporter.section("hostile cases")
    terminalreporter.line(f"{'family':15}" + "".join(f"{column:>18}" for column in columns))
    for family, figures in {**families, "all": total}.items():
        terminalreporter.line(f"{family:15}" + "".join(f"{figures.get(column, 0):18,}" for column in columns))
    if file := os.environ.get("STYLEAR_HOSTILE_FIGURES"):
        failed = len(terminalreporter.stats.get("failed", ())) + len(terminalreporter.stats.get("error", ()))
        figures = {"families": families, "all": total, "failed": failed}
        Path(file).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
