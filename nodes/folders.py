"""The one file that knows ComfyUI's folders: what lies in them is offered, what is chosen of it is found."""

import logging
import os
import shutil
from pathlib import Path

import folder_paths

from ..stylear.errors import BadInput, MissingPart
from ..stylear.files import new_file

MINI = "mini (bundled)"
WITH_MODEL = "with the model"
FOLDER = "stylear"
_PACK = Path(__file__).parents[1]
PICTURES = (_PACK / "stylear" / "mini" / "references", _PACK / "workflows" / "input")
_WEIGHTS = (".safetensors", ".pth", ".ckpt", ".pt", ".bin")
_BASES = "diffusion_models"
_PRESETS = "stylear_presets"
_NO_PRESET = "(none yet)"
_SHOWN = 10  # names in one error
_SHARED_FOLDERS = {"adapter": "loras", "vqgan": "vae", "image_encoder": "clip_vision", "segmenter": "sams"}


def register_folders() -> None:
    """Add models/stylear and models/sams to ComfyUI's folders, beside what extra_model_paths.yaml has put there."""
    for key, endings in (
        (FOLDER, {*_WEIGHTS, ".json"}),
        (_SHARED_FOLDERS["segmenter"], {*_WEIGHTS}),
        (_PRESETS, {".safetensors"}),
    ):
        known = folder_paths.folder_names_and_paths.get(key, ((), ()))[1]
        folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))
        if not known:  # a set that another pack has filled may be shared, and is left as it is
            folder_paths.folder_names_and_paths[key][1].update(endings)


def offer_pictures() -> None:
    """Copy the pictures our workflows begin with to ComfyUI's input folder, so that they run as they open.

    They lie at its top, as stylear_NAME.png, because Load Image lists no subfolders. One that is there
    already is left alone; a folder that cannot be written costs a warning only.
    """
    target = Path(folder_paths.get_input_directory())
    try:
        for picture in (file for folder in PICTURES for file in sorted(folder.glob("*.png"))):
            offered = target / f"{FOLDER}_{picture.name}"
            if not os.path.lexists(offered):
                with new_file(offered) as draft:
                    shutil.copyfile(picture, draft)
    except (OSError, BadInput) as error:
        logging.warning("StyleAR: the example pictures could not be copied to %s: %s", target, error)


class Listing(dict):
    """Every file ComfyUI lists under a folder key, with forward slashes; each key is listed when first asked for.

    One serves one description of a node, so that new files are in the next.
    """

    def __missing__(self, key: str) -> list[str]:
        known = key in folder_paths.folder_names_and_paths
        self[key] = [name.replace(os.sep, "/") for name in _listed(key)] if known else []
        return self[key]


def _listed(key: str) -> list[str]:
    """What ComfyUI lists; its cache fails where a folder was deleted that it remembers, and is then passed by."""
    try:
        return folder_paths.get_filename_list(key)
    except OSError:
        return folder_paths.get_filename_list_(key)[0]


def _folders_of(files: list[str], *markers: str) -> list[str]:
    """The folders in which each of `markers`, a path relative to the folder, is among `files`."""
    known = set(files)
    first = f"/{markers[0]}"
    found = (name.removesuffix(first) for name in files if name.endswith(first))
    return sorted(folder for folder in found if all(f"{folder}/{marker}" in known for marker in markers))


def model_choices(listed: Listing | None = None) -> list[str]:
    """The bundled mini, then the folders that are, or have in base/, a base model.

    Those of models/stylear by their name, those of models/diffusion_models with that before it.
    """
    listed = Listing() if listed is None else listed
    whole = _folders_of(listed[FOLDER], "base/config.json")
    bare = {
        *_folders_of(listed[FOLDER], "config.json", "tokenizer.json"),
        *_folders_of(listed[FOLDER], "config.json", "model.safetensors.index.json"),
    }
    return [MINI, *whole, *sorted(bare - {f"{folder}/base" for folder in whole}), *_shared_bases(listed)]


def _shared_bases(listed: Listing) -> list[str]:
    """Folders of models/diffusion_models in Hugging Face's layout, of which ComfyUI lists the weights alone."""
    folders = sorted({name.rpartition("/")[0] for name in listed[_BASES]} - {""})
    roots = folder_paths.get_folder_paths(_BASES) if folders else []

    def has(folder: str, name: str) -> bool:
        return any(os.path.isfile(os.path.join(root, *folder.split("/"), name)) for root in roots)

    known = ("tokenizer.json", "model.safetensors.index.json")
    return [f"{_BASES}/{f}" for f in folders if has(f, "config.json") and any(has(f, name) for name in known)]


def part_choices(part: str, listed: Listing | None = None) -> list[str]:
    """What may stand in for one part: weight files and their folders, as paths under ComfyUI's models."""
    listed = Listing() if listed is None else listed
    choices = set()
    for key in (FOLDER, _SHARED_FOLDERS[part]):
        for name in listed[key]:
            if name.endswith(_WEIGHTS):
                choices.add(f"{key}/{name}")
                if "/" in name:
                    choices.add(f"{key}/{name.rpartition('/')[0]}")
    return [WITH_MODEL, *sorted(choices)]


def depth_model_choices() -> list[str]:
    """Folders of models/stylear in the Hugging Face layout of a model that reads pictures and no text."""
    files = Listing()[FOLDER]
    found = _folders_of(files, "config.json", "preprocessor_config.json")
    return [folder for folder in found if f"{folder}/tokenizer.json" not in files]


def preset_choices() -> list[str]:
    """The files of models/stylear_presets, or one value that stands for none."""
    return sorted(Listing()[_PRESETS]) or [_NO_PRESET]


def locate_preset(choice: str) -> str:
    """The path of a value of `preset_choices`; MissingPart if it is gone by now."""
    choices = [f"{_PRESETS}/{name}" for name in Listing()[_PRESETS]]
    if choice == _NO_PRESET:
        raise MissingPart("There is no preset yet: keep a style with Save Style Preset, then refresh (R).")
    return _locate(f"{_PRESETS}/{_chosen(choice, 'preset')}", choices, _PRESETS, kind="preset")


def presets_folder() -> str:
    """Where presets are saved: the first of their folders, which is made if it is not there."""
    folder = folder_paths.get_folder_paths(_PRESETS)[0]
    os.makedirs(folder, exist_ok=True)
    return folder


def locate_model(choice: str) -> str:
    """The path of a value of `model_choices` or `depth_model_choices`; MissingPart if it is gone by now."""
    names = [*model_choices()[1:], *depth_model_choices()]

    def with_key(name: str) -> str:
        return name if name.startswith(f"{_BASES}/") else f"{FOLDER}/{name}"

    return _locate(with_key(_chosen(choice, "model")), [with_key(name) for name in names], FOLDER, _BASES, kind="model")


def locate_part(choice: str, part: str) -> str:
    """The path of a value of `part_choices`; MissingPart if it is gone by now."""
    kind = part.replace("_", " ")
    return _locate(_chosen(choice, kind), part_choices(part)[1:], FOLDER, _SHARED_FOLDERS[part], kind=kind)


def _chosen(choice: object, kind: str) -> str:
    """The name that a combo gave; BadInput for what another node put in its place."""
    if not isinstance(choice, str):
        given = type(choice).__name__
        raise BadInput(f"The {kind} is chosen by its name, and this is of type {given}. Choose one of the list.")
    return choice


def _locate(choice: str, choices: list[str], *keys: str, kind: str) -> str:
    """Find KEY/NAME in the folders of KEY; a stranger's workflow opens only what is listed at this moment."""
    key, _, name = choice.partition("/")
    key = key if key in keys and key in folder_paths.folder_names_and_paths else FOLDER
    roots = folder_paths.get_folder_paths(key)
    if choice in choices:
        for root in roots:
            path = os.path.join(root, *name.split("/"))
            if os.path.exists(path):
                return path
    raise MissingPart(
        f"There is no {kind} {name!r}: put it into models/{key} and refresh (R), or choose another.\n"
        f"Searched: {', '.join(roots)}\n"
        f"Found: {_enumerate(choices)}"
    )


def _enumerate(names: list[str]) -> str:
    """The first names of a list, and how many there are beside."""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{rest}" if names else "nothing"
