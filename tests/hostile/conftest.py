"""Counts the cases of each family, and keeps what a case can take of memory below what would end the machine."""

import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch

from . import faults, harness
from .report import lines

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
    for kind, reports in terminalreporter.stats.items():
        for report in reports:
            family = Path(getattr(report, "fspath", "")).stem.removeprefix("test_")
            if kind in ("failed", "error"):
                families[family]["failed"] += 1
            if getattr(report, "when", "") == "call":
                families[family].update(dict(report.user_properties))
    families = {family: dict(+figures) for family, figures in sorted(families.items()) if +figures}
    if not families:
        return
    terminalreporter.section("hostile cases")
    for line in lines(families):
        terminalreporter.line(line)
    if file := os.environ.get("STYLEAR_HOSTILE_FIGURES"):
        Path(file).write_text(json.dumps(families) + "\n", encoding="utf-8")
