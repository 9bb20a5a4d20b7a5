"""python -m training: its stages, and what it says when one cannot run."""

import pytest

from training.__main__ import main
from training.stages import STAGES


def test_help_lists_the_stages_in_the_order_to_run_them(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["pretrain", "--help"])
    _, _, text = capsys.readouterr().out.partition("{")  # --bundled stands before them
    places = [text.index(name) for name in STAGES]
    assert places == sorted(places)


def test_a_stage_without_what_it_needs_says_so_in_one_line(tmp_path, capsys):
    assert main(["pretrain", "pictures", "--work", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "icons" in error and "Traceback" not in error
