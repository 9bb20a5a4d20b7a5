"""The command line of the training: `python -m training pretrain STAGE`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stylear.errors import StyleARError

from .stages import STAGES, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage; its exit status: 0, or 2 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Make the mini model from nothing, or train StyleAR's own stage.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pretrain = commands.add_parser("pretrain", help="one stage of the mini model; run them in the order listed")
    pretrain.add_argument("stage", choices=list(STAGES))
    pretrain.add_argument(
        "--work",
        type=Path,
        default=Path("mini-work"),
        help="folder for data and checkpoints (default: %(default)s)",
    )
    pretrain.add_argument("--downloads", type=Path, help="folder with the drawing packages already downloaded")
    given = parser.parse_args(arguments)
    try:
        run(given.stage, given.work, given.downloads)
    except (StyleARError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
