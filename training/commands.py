"""The commands of `python -m training` by name; each one's module is imported when it runs."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from .config import Settings


@dataclass(frozen=True)
class Command:
    """`module` has the class `settings` and the function `run`, which takes them and returns a short summary.

    `mini`: what `--model mini` starts instead; its settings are in configs/COMMAND_mini.yaml.
    """

    module: str
    settings: str
    help: str
    mini: "Command | None" = None

    def load(self) -> tuple[type[Settings], Callable[[Settings], str]]:
        """The settings class and the function."""
        module = importlib.import_module(f".{self.module}", __package__)
        return getattr(module, self.settings), module.run


COMMANDS = {
    "example": Command("example", "ExampleSettings", "write small data and models to try the rest with"),
    "curate": Command("curate", "CurateSettings", "make the binary data: stylised and raw (text, image) pairs"),
    "tokenize": Command("tokenize", "TokenizeSettings", "turn pictures into VQGAN codes once, in shards"),
    "train": Command("train", "TrainSettings", "train LoRA and resampler on a frozen base (StyleAR's own stage)"),
    "dpo": Command("dpo", "DPOSettings", "sample, rank and train on preferences"),
    "evaluate": Command(
        "evaluate",
        "EvaluateSettings",
        "draw references x prompts x seeds and measure them",
        Command("bars.command", "BarsSettings", "measure the bundled mini against the bars it has to reach"),
    ),
    "study": Command("study.command", "StudySettings", "ask nine questions of the mini: pictures, figures, verdicts"),
    "export": Command("export", "ExportSettings", "write an adapter as official, PEFT or merged weights"),
}
