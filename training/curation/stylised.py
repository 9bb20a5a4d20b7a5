"""The stylised half: style pictures x prompts through InstantStyle; the reference is remembered only by its hash."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from PIL import Image
from pydantic import Field

from stylear.errors import BadInput
from stylear.images import open_image, to_rgb

from ..config import Settings
from ..instantstyle import InstantStyleSettings
from ..loop import write_atomically
from ..metrics.inputs import read_prompts, read_references
from ..output import sha256_of
from .items import Item, broken, shown, tidy_caption

Draw = Callable[[Image.Image, str, int], Image.Image]


class StylisedSettings(Settings):
    """Style pictures and prompts, and how to draw them."""

    styles: Path | None = Field(None, description="folder of style pictures, or a JSON list; null: draw nothing")
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
    What is drawn is kept in the folder `drawn`, by the pair's number, so that it is drawn once. A style picture that
    cannot be read is left out as one record, "broken_style". Raises BadInput for a missing folder or file, for one
    without prompts, and where no style picture can be read.
    """

    settings: StylisedSettings
    draw: Draw
    drawn: Path

    def __post_init__(self):
        if self.settings.prompts is None:
            raise BadInput("stylised.styles is set but stylised.prompts is not. Give the file of prompts.")
        self.count()  # so that what cannot be used is told before anything is drawn

    def items(self) -> Iterator[Item]:
        """Style by style; style i begins at prompt i * per_style."""
        prompts, (styles, skipped) = self._prompts, self._styles
        for number, path in enumerate(styles):
            digest = sha256_of(path)
            for pair in range(number * self._each, (number + 1) * self._each):
                prompt = prompts[pair % len(prompts)]
                words = f"{self.settings.seed} {digest} {prompt}"
                seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")
                reference = {"style": path.name, "style_sha256": digest, "prompt": prompt, "seed": seed}
                where = f"{shown(path.name)}, {prompt}"
                file = self.drawn / f"{pair:08d}.png"
                yield Item(where, "stylised", partial(self._read, path, prompt, seed, file), reference, file)
        for told in skipped:
            yield broken(shown(str(self.settings.styles)), "stylised", told, "broken_style")

    def count(self) -> int:
        """Styles times prompts, and the styles that are left out."""
        styles, skipped = self._styles
        return len(styles) * self._each + len(skipped)

    def inputs(self) -> Iterator[tuple[str, str]]:
        """The hash of each file that is used."""
        for path in [self.settings.prompts, *self._styles[0]]:
            yield shown(str(path)), sha256_of(path)

    def _read(self, path: Path, prompt: str, seed: int, file: Path) -> tuple[str, bytes]:
        if not file.exists():
            picture = self.draw(to_rgb(open_image(path)), prompt, seed)
            write_atomically(file, lambda draft: picture.save(draft, format="PNG"))
        return tidy_caption(prompt), file.read_bytes()

    @property
    def _each(self) -> int:
        """Prompts for each style."""
        return min(self.settings.per_style or len(self._prompts), len(self._prompts))

    @cached_property
    def _styles(self) -> tuple[list[Path], list[str]]:
        """The style pictures, and why others were skipped."""
        found, skipped = read_references(self.settings.styles)
        return [reference.picture for reference in found], skipped

    @cached_property
    def _prompts(self) -> list[str]:
        return [prompt.text for prompt in read_prompts(self.settings.prompts)]
