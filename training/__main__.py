"""The command line of the training: `python -m training COMMAND`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError

from stylear.errors import StyleARError
from stylear.terminal import open_streams, say

from . import stages
from .commands import COMMANDS, Command
from .config import CONFIGS, describe, read_settings
from .stages import STAGES

_DESCRIPTION = """From pictures and prompts to an adapter of your own, in this order:

{commands}

Every command reads a commented YAML file (shipped in training/configs, runs as it is) and takes changes as
key=value. Each can be stopped at any moment and started again with the same command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 130 when interrupted, or 2 with the reason on stderr."""
    open_streams()
    parser = _parser()
    try:
        given, more = parser.parse_known_args(arguments)
        if unknown := [word for word in more if word.startswith("-") or given.command == "pretrain"]:
            parser.error(f"there is no option {' '.join(unknown)}; settings are given as key=value")
        if given.command == "pretrain":
            for option in ("plan", "bundled"):
                if getattr(given, option) and given.stage != "all":
                    parser.error(f"--{option} is for `pretrain all`")
            _pretrain(given)
            return 0
        of_mini, quick = (getattr(given, name, None) for name in ("model", "quick"))
        if quick and not of_mini:
            parser.error("--quick goes with --model mini")
        command, file = _shipped(given.command, of_mini)
        kind, start = command.load()
        changes = [*given.changes, *more, *(["quick=true"] if quick else []), *_study(given)]
        if summary := start(read_settings(kind, given.config or file, changes)):
            say(summary)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__):
            raise
        say(f"error: {error.name} is not installed: python -m pip install -e '.[train]' in its folder", sys.stderr)
        return 2
    except (StyleARError, OSError, FloatingPointError, SafetensorError) as error:
        say(f"error: {error}", sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not (told := _ended_by_the_machine(error)):
            raise
        say(f"error: {told} What was saved stays: the same command goes on from there. ({error})", sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("stopped: the same command goes on from here", sys.stderr)
        return 130
    return 0


def _ended_by_the_machine(error: Exception) -> str | None:
    """What ended a run that nothing was wrong with, and what to do; None for any other error."""
    from stylear.memory import out_of_memory  # seconds to import, as the next

    from .processes import left_alone

    if out_of_memory(error):
        return "Memory ran out: lower batch, micro_batch or workers where the command has them, or close programs."
    return "Another process of this run has ended: see what it said." if left_alone(error) else None


def _pretrain(given: argparse.Namespace) -> None:
    """One stage; or the plan of all, then all of it, then the figures of what was made."""
    if given.stage != "all":
        stages.run(given.stage, given.work, given.downloads)
        return
    from . import whole

    plan = whole.survey(given.work, given.downloads, bundled=given.bundled)
    say(str(plan))
    if given.plan:
        return
    whole.make(plan, given.downloads)
    if not given.bundled:
        say((given.work / "check.md").read_text(encoding="utf-8"))
        return
    w = given.work
    say(f"{w} holds the bundled mini and what it was trained on. Next: python -m training study work={w}")


def _study(given: argparse.Namespace) -> list[str]:
    """What --plan and --question of `study` change."""
    asked = getattr(given, "question", None)
    return [*(["plan=true"] if getattr(given, "plan", False) else []), *([f"questions=[{asked}]"] if asked else [])]


def _shipped(name: str, of_mini: str | None) -> tuple[Command, Path]:
    """A command, or what `--model mini` makes of it, and the settings shipped for it."""
    command = COMMANDS[name]
    return (command.mini, CONFIGS / f"{name}_mini.yaml") if of_mini else (command, CONFIGS / f"{name}.yaml")


class _Help(argparse.Action):
    """--help of a command: only then is the command's module imported, for its settings."""

    def __init__(self, option_strings: Sequence[str], dest: str, command: str):
        super().__init__(option_strings, dest, nargs=0, help="show this and every setting")
        self.command = command

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        command, file = _shipped(self.command, getattr(namespace, "model", None))
        kind, _ = command.load()
        parser.epilog = f"settings (value in {file.name}, the one shipped):\n"
        parser.epilog += "\n".join(describe(kind, read_settings(kind, file)))
        parser.print_help()
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    summary = "\n".join(f"  {name:10} {command.help}" for name, command in COMMANDS.items())
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m training", formatter_class=plain, description=_DESCRIPTION.format(commands=summary)
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name, help=command.help, description=command.help, formatter_class=plain, add_help=False
        )
        sub.add_argument("-h", "--help", action=_Help, dest="help", command=name)
        if command.mini:
            sub.add_argument(
                "--model", choices=["mini"], help=f"{command.mini.help} (--model mini --help: its settings)"
            )
            sub.add_argument("--quick", action="store_true", help="with --model mini: fewer pictures, wider intervals")
        if name == "study":
            sub.add_argument("--plan", action="store_true", help="only say what there is to do and how long it takes")
            sub.add_argument("--question", choices=list("abcdefghi"), help="answer this one alone")
        sub.add_argument("--config", type=Path, help="YAML file (default: the one shipped)")
        sub.add_argument("changes", nargs="*", metavar="key=value", help="changes to it")
    pretrain = commands.add_parser("pretrain", help="make the mini's own parts, stage by stage or all")
    pretrain.add_argument("stage", choices=[*STAGES, "all"], help="one, in this order, or all that are not done")
    pretrain.add_argument("--plan", action="store_true", help="only say what `all` would do, and how long it takes")
    pretrain.add_argument(
        "--work",
        type=Path,
        default=Path("mini-work"),
        help="folder for data and checkpoints (default: %(default)s)",
    )
    pretrain.add_argument(
        "--bundled",
        action="store_true",
        help="with `all`: take the trained parts from the bundled mini and make only the data, as the study needs them",
    )
    pretrain.add_argument("--downloads", type=Path, help="folder with the drawing packages already downloaded")
    return parser


if __name__ == "__main__":
    sys.exit(main())
