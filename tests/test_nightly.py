"""The nightly run keeps its figures family by family and goes on after them."""

import json
import sys
from pathlib import Path

import pytest
from hostile import __main__ as nightly
from hostile.conftest import pytest_terminal_summary

FAMILIES = [file.stem.removeprefix("test_") for file in sorted(nightly.HERE.glob("test_*.py"))]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the command with `words`; returns its exit status, the families tried, and what the file holds."""

    def run(*words, ends=lambda family: (0, {"cases": 3})):
        tried, file = [], tmp_path / "figures.json"

        def call(command, env):
            family = Path(command[3]).stem.removeprefix("test_")
            tried.append(family)
            status, figures = ends(family)
            if figures is not None:
                Path(env["STYLEAR_HOSTILE_FIGURES"]).write_text(json.dumps({family: figures}))
            return status

        monkeypatch.setattr(nightly.subprocess, "call", call)
        monkeypatch.setattr(sys, "argv", ["hostile", "--json", str(file), *words])
        status = nightly.main()
        return status, tried, json.loads(file.read_text()) if file.exists() else None

    return run


def test_each_family_is_tried_once_and_counted(run, capsys):
    status, tried, kept = run("--cases", "10")
    assert status == 0 and tried == FAMILIES and kept["all"] == {"cases": 3 * len(FAMILIES)}
    assert capsys.readouterr().out.splitlines()[-1].split() == ["all", str(3 * len(FAMILIES))]


def test_a_stopped_run_goes_on_with_the_family_it_was_at(run):
    status, tried, kept = run(ends=lambda family: (2, {}) if family == FAMILIES[3] else (0, {"cases": 3}))
    assert status == 2 and tried == FAMILIES[:4] and list(kept["families"]) == FAMILIES[:3]
    status, tried, kept = run()
    assert status == 0 and tried == FAMILIES[3:] and list(kept["families"]) == FAMILIES


def test_a_family_that_failed_is_told_and_tried_again(run):
    failed = {FAMILIES[1]: (1, {"cases": 3, "failed": 1})}
    status, _, kept = run(ends=lambda family: failed.get(family, (0, {"cases": 3})))
    assert status == 1 and kept["all"]["failed"] == 1
    status, tried, kept = run()
    assert status == 0 and tried == [FAMILIES[1]] and "failed" not in kept["all"]


def test_families_of_which_nothing_was_chosen_are_left_out(run):
    chosen = FAMILIES[5]
    _, _, kept = run("--", "-k", chosen, ends=lambda family: (0, {"cases": 1}) if family == chosen else (5, None))
    assert kept["families"] == {chosen: {"cases": 1}}


def test_figures_of_other_cases_are_not_gone_on_with(run, capsys):
    run("--cases", "10")
    with pytest.raises(SystemExit):
        run("--cases", "11")
    assert "holds figures of other cases" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "{}", "3", '{"asked": 1}', "\udcff"])
def test_a_file_that_is_no_record_is_told_and_kept(run, tmp_path, capsys, text):
    file = tmp_path / "figures.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SystemExit):
        run()
    assert "is no file of this command" in capsys.readouterr().err
    assert file.read_bytes() == text.encode(errors="surrogateescape")


def test_failures_outside_a_case_count_too(monkeypatch, tmp_path):
    class Report:
        def __init__(self, when, **figures):
            self.fspath, self.when, self.user_properties = "tests/hostile/test_x.py", when, list(figures.items())

    class Reporter:
        stats = {"error": [Report("setup")], "failed": [Report("call", cases=2)], "": [object()]}
        section = line = staticmethod(lambda *_: None)

    monkeypatch.setenv("STYLEAR_HOSTILE_FIGURES", str(tmp_path / "told.json"))
    pytest_terminal_summary(Reporter)
    assert json.loads((tmp_path / "told.json").read_text()) == {"x": {"failed": 2, "cases": 2}}
