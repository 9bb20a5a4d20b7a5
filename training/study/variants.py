"""Makes the variants: each a folder with its resolved recipe and hash, trained by `train` or `dpo` as they are."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylear.errors import BadInput, MissingPart

from ..config import CONFIGS, FrozenPaths, read_settings
from ..data.captions import article
from ..dpo import DPOSettings
from ..judge import load_judge
from ..loop import can_compile, training_device, write_atomically
from ..output import read_json, write_json
from ..recipe import TrainSettings
from ..stages import STAGES
from ..tokens import KINDS, TokenSet
from .questions import SHIPPED, VARIANTS, Variant
from .settings import StudySettings

RECIPE = "recipe.json"
FREE = ("mode", "model", "data", "out", "compile", "workers", "save_every", "sample_every", "prompts", "references")
STYLES = 32  # training pictures that preference pairs take their styles from


def training(settings: StudySettings, variant: Variant) -> TrainSettings:
    """The resolved recipe of a variant that is trained."""
    s, w = settings, settings.work
    compiled = can_compile(training_device()) if s.compile is None else s.compile
    model = FrozenPaths(base=str(w / "base"), vqgan=str(w / "vqgan"), image_encoder=str(w / "clip"))
    recipe = shared_recipe(s)
    opening = {"opening": {"steps": recipe.opening.steps * s.steps // recipe.steps}}
    own = {"steps": s.steps, "batch": s.batch, "seed": s.seed, "sample_every": 0, "compile": compiled}
    places = {"model": model.model_dump(), "data": w / "corpus", "out": s.folder(variant) / "run"}
    return _changed(recipe, opening, variant.changes, {**own, **places})


def preferring(settings: StudySettings, variant: Variant) -> DPOSettings:
    """The resolved recipe of a variant that is trained on preference pairs."""
    s, given = settings, settings.out / "preferences"
    own = {"steps": s.preference_steps, "seed": s.seed, "sample": {"cases": s.cases}}
    own |= {"precision": shared_recipe(s).precision, "judge": {"model": str(s.work / "clip")}}
    places = {"styles": given / "styles", "prompts": given / "prompts.txt", "out": s.folder(variant) / "run"}
    places["model"] = s.parts(VARIANTS[variant.of]).model_dump()
    return _changed(shared_preferences(s), variant.changes, {**own, **places})


def shared_recipe(settings: StudySettings) -> TrainSettings:
    """What `train` is told for every variant, before its changes."""
    return read_settings(TrainSettings, settings.recipe or CONFIGS / "mini.yaml")


def shared_preferences(settings: StudySettings) -> DPOSettings:
    """What `dpo` is told for every variant, before its changes."""
    return read_settings(DPOSettings, settings.preferences or CONFIGS / "dpo.yaml")


def _changed(recipe: Any, *changes: dict[str, Any]) -> Any:
    """Settings with changes, in which what is nested changes what is nested."""
    values = recipe.model_dump()
    for change in changes:
        for name, value in change.items():
            nested = isinstance(value, dict) and isinstance(values[name], dict)
            values[name] = {**values[name], **value} if nested else value
    return type(recipe).model_validate(values)


def recipe_of(settings: StudySettings, variant: Variant) -> dict[str, Any]:
    """What decides a variant, as JSON values: its settings, and the content of what it is made of."""
    stages = ("base", "clip", "vqgan")
    if variant.name == SHIPPED:
        made = {"adapter": STAGES["adapter"].content(settings.work)}
    elif variant.of:
        made = {"of": sha_of(settings, VARIANTS[variant.of])}
        made |= kept(preferring(settings, variant), ("styles", "prompts", "model"))
        stages += ("corpus",)
    else:
        made = kept(training(settings, variant))
        stages += ("corpus",)
    return {**made, **{name: STAGES[name].content(settings.work) for name in stages}}


def kept(recipe: Any, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Of settings as JSON values what decides what is made: not places, nor how it is made; and not `more`."""
    values = recipe.model_dump(mode="json")
    if "judge" in values:
        values["judge"] |= {"model": "clip"}
    if not values.get("init"):
        values.pop("init_share", None)  # a share of nothing
    return {name: value for name, value in values.items() if name not in (*FREE, *more)}


def sha_of(settings: StudySettings, variant: Variant) -> str:
    """The hash of a variant's recipe."""
    return hashlib.sha256(json.dumps(recipe_of(settings, variant), sort_keys=True).encode()).hexdigest()


def state_of(settings: StudySettings, variant: Variant) -> str:
    """done, begun or to do; else what its folder is of that is not so now."""
    folder = settings.folder(variant)
    if variant.name == SHIPPED:
        return "done"
    if not (folder / RECIPE).exists():
        return "to do"
    before, now = read_json(folder / RECIPE)["recipe"], recipe_of(settings, variant)
    if changed := sorted(name for name in {*before, *now} if before.get(name) != now.get(name)):
        return f"of another {', '.join(changed)}"
    return "done" if (folder / "run" / "summary.json").exists() else "begun"


def make(settings: StudySettings, variant: Variant) -> None:
    """Train a variant, from where it was left; BadInput if its folder was begun by another recipe."""
    from .. import dpo, train

    torch.set_num_threads(1)
    torch.compiler.reset()  # only so many versions of a layer are compiled in one process, those of other variants too
    folder, state = settings.folder(variant), state_of(settings, variant)
    if state == "done":
        return
    if state.startswith("of another"):
        raise BadInput(refusal(folder, state))
    recipe = recipe_of(settings, variant)
    write_json(folder / RECIPE, {"told": variant.told, "sha256": sha_of(settings, variant), "recipe": recipe})
    if variant.of:
        write_references(settings)
        dpo.run(preferring(settings, variant))
    else:
        train.run(training(settings, variant))


def refusal(folder: Path, state: str) -> str:
    """What is wrong with a folder that was made of other things, and what to do."""
    return f"{folder} is {state} than there is now: move it away, or bring back what it was made of."


def write_references(settings: StudySettings) -> None:
    """Training pictures as styles with their captions, and prompts, for preference pairs: none that are measured."""
    tokens, folder = TokenSet(settings.work / "corpus"), settings.out / "preferences"
    stylised = np.flatnonzero(tokens.kinds == KINDS.index("stylised"))
    rng = np.random.default_rng(settings.seed)
    for row in rng.permutation(stylised)[:STYLES]:
        example = tokens[int(row)]
        place = folder / "styles" / f"{example.key}.png"
        write_atomically(place, lambda path, data=example.encoded: path.write_bytes(data))
        text = example.caption
        write_atomically(place.with_suffix(".txt"), lambda path, text=text: path.write_text(text, encoding="utf-8"))
    words = load_judge(settings.work / "judge" / "judge.safetensors").concept_names
    prompts = [f"{article(word)} {word}" for word in rng.permutation(words)[:STYLES]]
    write_atomically(folder / "prompts.txt", lambda path: path.write_text("\n".join(prompts) + "\n", encoding="utf-8"))


def check_stages(settings: StudySettings, variants: list[Variant]) -> None:
    """MissingPart, naming what makes it, for a stage of `pretrain` that is needed and not there."""
    wanted = ["pictures", "base", "vqgan", "clip", "sam", "judge"]
    wanted += ["adapter"] if any(SHIPPED in (one.name, one.of) for one in variants) else []
    wanted += ["corpus"] if any(one.name != SHIPPED for one in variants) else []
    for name in wanted:
        if not STAGES[name].is_made(settings.work):
            raise MissingPart(
                f"The study takes {name}, which is not in {settings.work / name}: make it first, with "
                f"`python -m training pretrain {name}`, or all for the bundled mini with `all --bundled`, or give "
                "another `work`."
            )
