"""Judges of drawn pictures: what each thinks of prompt, style and leakage, and one number from the three."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Literal, Protocol

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from stylear.errors import BadCheckpoint, BadInput, MissingPart

from .config import Settings
from .inputs import files_at

HIGHEST = 10  # of a vision-language model's marks
_QUESTION = f"""Picture 1 is a style reference. Picture 2 was drawn in its style for this prompt: {{prompt}}
Mark picture 2 with whole numbers from 0 to {HIGHEST}:
prompt: how well it shows what the prompt says ({HIGHEST} is everything),
style: how well its colours, strokes and textures match picture 1 ({HIGHEST} is the same hand),
leakage: how much of picture 1's objects it repeats although the prompt does not ask for them ({HIGHEST} is a copy).
Answer with one line and nothing else, like this: {{{{"prompt": N, "style": N, "leakage": N}}}}"""
_MARK = r"""\b{name}\b["'*_`]*\s*(?:score)?\s*(?:\([^)\n]*\))?["'*_`]*\s*(?:[:=]|\bis\b)\s*["'*_`]*\s*"""
_NUMBER = r"(?<![\d.,-])(\d{1,4}(?:[.,]\d{1,4})?)(?![\d])\s*(?:(?:/|out of)\s*(\d{1,4})\b)?(?!\s*(?:-|–|to\b)\s*\d)"


class JudgeSettings(Settings):
    """Who judges, and how much each of its three scores counts."""

    kind: Literal["score", "vlm"] = Field(
        "score", description="score: cosines of a CLIP; vlm: marks of a vision-language model, scaled to 0..1"
    )
    model: str = Field("mini", description="score: a CLIP's folder or file, or mini for the bundled one; vlm: a folder")
    prompt: float = Field(1.0, ge=0, description="weight of the agreement with the prompt")
    style: float = Field(1.0, ge=0, description="weight of the likeness to the reference's style")
    leakage: float = Field(0.5, ge=0, description="weight of what leaked from the reference, which is taken off")


@dataclass(frozen=True)
class Scores:
    """What a judge thinks of a picture: more is better for `prompt` and `style`, worse for `leakage`."""

    prompt: float
    style: float
    leakage: float

    def total(self, weights: JudgeSettings) -> float:
        """prompt x its weight + style x its weight - leakage x its weight."""
        return weights.prompt * self.prompt + weights.style * self.style - weights.leakage * self.leakage


@dataclass(frozen=True)
class Verdict:
    """The scores of a picture, or None where the judge's answer could not be read; `said` is that answer."""

    scores: Scores | None
    said: str = ""


@dataclass(frozen=True)
class Reference:
    """A style picture and what it shows: its caption, else its object cut out on white, else neither."""

    picture: Image.Image
    caption: str | None = None
    content: Image.Image | None = None


class Judge(Protocol):
    """Looks at all pictures of one prompt in one style; a verdict for each, in their order."""

    name: str

    def __call__(self, reference: Reference, prompt: str, pictures: Sequence[Image.Image]) -> list[Verdict]: ...


class Clip(Protocol):
    """What ScoreJudge asks of a CLIP (training.metrics.clip.ClipScore): unit vectors, float [n, d]."""

    name: str

    def texts(self, texts: list[str]) -> Tensor: ...

    def images(self, images: list[Image.Image]) -> Tensor: ...


class ScoreJudge:
    """Scores from a CLIP alone, all cosines in -1..1.

    prompt = cos(text of the prompt, picture); style = cos(reference, picture); leakage = cos(what the reference shows,
    picture), where what it shows is the text of its caption if it has one, else its object cut out on white. Leakage
    is 0 where the reference has neither, and where the prompt asks for just what the caption says. A CLIP sees content
    and style at once, so the cosine to the reference rewards a copy of it too: the leakage's weight works against that.
    """

    def __init__(self, clip: Clip):
        self.clip, self.name = clip, f"score by {clip.name}"

    def __call__(self, reference: Reference, prompt: str, pictures: Sequence[Image.Image]) -> list[Verdict]:
        drawn = torch.as_tensor(self.clip.images(list(pictures)))
        asked = torch.as_tensor(self.clip.texts([prompt]))[0]
        style = torch.as_tensor(self.clip.images([reference.picture]))[0]
        if reference.caption and _plain(reference.caption) != _plain(prompt):
            content = torch.as_tensor(self.clip.texts([reference.caption]))[0]
        elif not reference.caption and reference.content is not None:
            content = torch.as_tensor(self.clip.images([reference.content]))[0]
        else:
            content = torch.zeros_like(style)
        cosines = drawn.double() @ torch.stack([asked, style, content], dim=1).double()
        return [Verdict(Scores(*row)) for row in cosines.tolist()]


class VLMJudge:
    """Marks from a vision-language model that is shown the reference and one picture at a time, greedily decoded.

    `ask` is a transformers image-text-to-text pipeline, or any callable like it.
    """

    def __init__(self, ask: Callable[..., list[dict]], name: str = "vlm"):
        self.ask, self.name = ask, name

    def __call__(self, reference: Reference, prompt: str, pictures: Sequence[Image.Image]) -> list[Verdict]:
        question = _QUESTION.format(prompt=json.dumps(prompt, ensure_ascii=False))
        verdicts = []
        for picture in pictures:
            shown = [{"type": "image", "image": image} for image in (reference.picture, picture)]
            chat = [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]
            said = _answer(self.ask(text=chat, return_full_text=False, generate_kwargs={"do_sample": False}))
            verdicts.append(Verdict(read_marks(said), said))
        return verdicts

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "VLMJudge":
        """A model and its processor from a local folder; nothing is downloaded and none of its code is run.

        Raises MissingPart without one, BadCheckpoint for a folder that is no vision-language model.
        """
        _vlm(folder)
        from transformers import pipeline

        dtype = "dtype" if "dtype" in signature(pipeline).parameters else "torch_dtype"  # transformers before 4.56
        options = {"trust_remote_code": False, dtype: "auto", "model_kwargs": {"use_safetensors": True}}
        try:
            ask = pipeline("image-text-to-text", str(folder), device=device, **options)
        except Exception as error:  # transformers builds what the files say, and can raise nearly anything
            raise BadCheckpoint(
                f"{folder} is no vision-language model that transformers can load: copy its whole folder. ({error})"
            ) from error
        if getattr(ask.processor, "chat_template", None) is None:
            raise BadCheckpoint(f"The model in {folder} has no chat template: use an instruction-tuned one.")
        return cls(ask, f"marks by {folder.name}")


def _vlm(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise MissingPart(
            f"There is no vision-language model in {folder}: put its whole Hugging Face folder there, "
            "or judge with kind: score."
        )
    return folder


def judge_files(settings: JudgeSettings) -> list[Path]:
    """The files of the model that the settings name; MissingPart if it is not there."""
    if settings.kind == "vlm":
        return files_at(_vlm(Path(settings.model)))
    from .metrics.clip import clip_files

    return clip_files(settings.model)


def load_judge(settings: JudgeSettings, device: torch.device | str = "cpu") -> Judge:
    """The judge that the settings name; errors as its parts'."""
    if not (settings.prompt or settings.style or settings.leakage):
        raise BadInput("All three weights of the judge are 0, so no picture is better: set one of them.")
    if settings.kind == "vlm":
        return VLMJudge.load(Path(settings.model), device)
    from .metrics.clip import ClipScore

    return ScoreJudge(ClipScore.load(settings.model, device))


def read_marks(said: str) -> Scores | None:
    """The three marks in a model's answer as Scores in 0..1, or None if one is missing or out of 0..10.

    Reads JSON, `Style: 7`, `**Style:** 7.5/10`, `style score is 3 out of 5` and the like, in any order and with words
    around. Of several marks of one name the last counts, because a model that reasons answers at the end; a range such
    as 0-10 is no mark.
    """
    marks = []
    for name in ("prompt", "style", "leakage"):
        found = re.findall(_MARK.format(name=name) + _NUMBER, said, re.IGNORECASE)
        if not found:
            return None
        number, most = found[-1]
        mark = float(number.replace(",", ".")) / (float(most) if most else HIGHEST) if most != "0" else -1.0
        if not 0 <= mark <= 1:
            return None
        marks.append(mark)
    return Scores(*marks)


def _answer(reply: object) -> str:
    """The text of a pipeline's reply, whose last chat message it may be; what is neither counts as saying nothing."""
    first = reply[0] if isinstance(reply, list) and reply else reply
    text = first.get("generated_text") if isinstance(first, dict) else None
    if isinstance(text, list) and text and isinstance(text[-1], dict):
        text = text[-1].get("content")
    return text if isinstance(text, str) else ""


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
