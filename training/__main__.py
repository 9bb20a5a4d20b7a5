"""The command line of the training: `python -m training pretrain STAGE`."""

import argparse
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Make the mini model from nothing, or train StyleAR's own stage.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pretrain = commands.add_parser("pretrain", help="one stage of the mini model; run them in the order listed")
    pretrain.add_argument(
        "stage",
        choices=["icons", "pictures", "vqgan", "clip", "sam", "tokens", "base", "adapter", "judge", "bundle", "check"],
    )
    pretrain.add_argument(
        "--work",
        type=Path,
        default=Path("mini-work"),
        help="folder for data and checkpoints (default: %(default)s)",
    )
    pretrain.add_argument("--downloads", type=Path, help="folder with the drawing packages already downloaded")
    given = parser.parse_args(arguments)
    from . import stages

    stages.run(given.stage, given.work, given.downloads)


if __name__ == "__main__":
    main()
