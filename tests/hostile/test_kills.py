"""Killed anywhere and run again, every long command ends with the files of a run that was never stopped."""

import random

import pytest

from .faults import check_resumed
from .harness import FACTOR, case, survived

RUNS = {"curate": 6, "tokenize": 5, "train": 3, "dpo": 3, "evaluate": 4, "download": 6}  # in CI
GOLDEN = 0.618034  # multiples of it, without their whole part, are spread evenly however many they are
SIZES = (0, 1, 100, 3000)  # bytes after which a file is torn


def faults_of(number: int, changes: int, rng: random.Random) -> list[dict]:
    """The faults of a run by number: where they strike goes evenly over a run's changes, and a third strikes twice."""
    kinds = ("kill", "torn", "kill", "timer")
    faults = []
    for again in range(1 + (number % 3 == 2)):
        at = 1 + int(changes * ((number + 1) * GOLDEN % 1)) if not again else rng.randint(1, changes)
        kind = kinds[(number + again) % len(kinds)]
        size = rng.random() * changes / 60 if kind == "timer" else rng.choice(SIZES)
        faults.append({"kind": kind, "at": at, "size": size})
    return faults


@pytest.mark.parametrize(("command", "number"), [(c, n) for c, runs in RUNS.items() for n in range(int(runs * FACTOR))])
def test_killed_at_any_change_it_makes_and_run_again_it_ends_with_the_same_files(bench, command, number):
    seed = number if FACTOR <= 1 else random.SystemRandom().getrandbits(32)
    faults = faults_of(number, bench.whole(command)[1], random.Random(seed))
    try:
        with case():
            survived(check_resumed(bench, command, *faults))
    except BaseException as error:
        error.add_note(f"seed {seed}: {faults}")
        raise
