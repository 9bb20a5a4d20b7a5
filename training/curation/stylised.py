"""The stylised half: style pictures x prompts through InstantStyle; the reference is remembered only by its hash."""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image
from pydantic import Field

from stylear.errors import BadInput
from stylear.images import is_picture, open_image, to_rgb

from ..config import Settings
from ..instantstyle import InstantStyleSettings
from ..metrics.inputs import read_prompts
from ..output import sha256_of
from .items import Item, shown, tidy_caption

Draw = Callable[[Image.Image, str, int], Image.Image]


class StylisedSettings(Settings):
    """Style pictures and prompts, and how to draw them."""

    styles: Path | None = Field(None, description="folder of style pictures; null: draw nothing")
    prompts: Path | None = Field(None, description="text file with a prompt on each line")
    per_style: int | None = Field(
        None, ge=1, description="prompts for each style, taken in turn from the file; null: all (paper: 80 x 200)"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of the drawing")
    instantstyle: InstantStyleSettings = Field(InstantStyleSettings(), description="the models and how they draw")


@dataclass(frozen=True)
class Generated:
    """Pictures drawn when they are read; `draw` is called with (style, prompt, seed), one pair after the other.

    A pair's seed follows from the setting, the style's bytes and the prompt, so it stays when other pairs are added.
    Raises BadInput for a missing or empty folder or file, and for a style picture that cannot be read.
    """

    settings: StylisedSettings
    draw: Draw

    def __post_init__(self):
        if self.settings.prompts is None:
            raise BadInput("stylised.styles is set but stylised.prompts is not. Give the file of prompts.")
        for path in self._styles():
            open_image(path)
        self._prompts()

    def items(self) -> Iterator[Item]:
        """Style by style; style i begins at prompt i * per_style."""
        prompts = self._prompts()
        each = min(self.settings.per_style or len(prompts), len(prompts))
        for number, path in enumerate(self._styles()):
            digest = sha256_of(path)
            for step in range(each):
                prompt = prompts[(number * each + step) % len(prompts)]
                words = f"{self.settings.seed} {digest} {prompt}"
                seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")
                reference = {"style": path.name, "style_sha256": digest, "prompt": prompt, "seed": seed}
                where = f"{shown(path.name)}, {prompt}"
                yield Item(where, "stylised", partial(self._read, path, prompt, seed), reference)

    def count(self) -> int:
        """Styles times prompts."""
        prompts = self._prompts()
        return len(self._styles()) * min(self.settings.per_style or len(prompts), len(prompts))

    def inputs(self) -> Iterator[tuple[str, str]]:
        """The hash of each file."""
        for path in [self.settings.prompts, *self._styles()]:
            yield shown(str(path)), sha256_of(path)

    def _read(self, path: Path, prompt: str, seed: int) -> tuple[str, bytes]:
        file = io.BytesIO()
        self.draw(to_rgb(open_image(path)), prompt, seed).save(file, format="PNG")
        return tidy_caption(prompt), file.getvalue()

    def _styles(self) -> list[Path]:
        folder = self.settings.styles
        files = sorted(p for p in folder.iterdir() if is_picture(p)) if folder.is_dir() else []
        if not files:
            raise BadInput(f"There are no style pictures in {folder}: put some there or correct stylised.styles.")
        return files

    def _prompts(self) -> list[str]:
        return [prompt.text for prompt in read_prompts(self.settings.prompts)]
