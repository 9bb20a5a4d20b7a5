"""Counts the cases of each family, and keeps what a case can take of memory below what would end the machine."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from . import harness

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = harness.counted
    try:
        return (yield)
    finally:
        item.user_properties.append(("cases", harness.counted - before))


def pytest_terminal_summary(terminalreporter):
    families = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    families[Path(report.fspath).stem.removeprefix("test_")] += value * (name == "cases")
    families = +families
    if families:
        terminalreporter.section("hostile cases")
        for family, cases in families.items():
            terminalreporter.line(f"{family:15}{cases:8,}")
        terminalreporter.line(f"{'all':15}{families.total():8,}")
