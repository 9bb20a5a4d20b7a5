"""The one file that knows ComfyUI's memory manager, folders, progress, stop button, previews and tensors."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management as management
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy.model_patcher import ModelPatcher

from ..stylear.errors import BadInput, MissingPart
from ..stylear.files import new_file
from ..stylear.images import is_plain, to_pil

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


# -- folders -------------------------------------------------------------------------------------------------


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


# -- memory --------------------------------------------------------------------------------------------------


class _Managed(torch.nn.Module):
    """A plain module around one part: ComfyUI writes bookkeeping attributes on what it manages."""

    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part
        self.device = offload_device()


def _patcher(part: torch.nn.Module) -> ModelPatcher:
    """Put a part in ComfyUI's care; the plain patcher, as the dynamic one wants layers of its own ops."""
    return ModelPatcher(_Managed(part), load_device=management.get_torch_device(), offload_device=offload_device())


class HostedModel:
    """The value on a STYLEAR_MODEL wire: the engine's model, each of its parts in ComfyUI's care.

    ComfyUI keeps only weak references, so the patchers live here and go when the last wire goes.
    """

    def __init__(self, model) -> None:
        self.model = model
        self.patchers = {name: _patcher(part) for name, part in model.parts.items()}

    @classmethod
    def on(cls, wire) -> "HostedModel":
        """What a model input was given; BadInput for a value that a workflow wrote there itself."""
        if not isinstance(wire, cls):
            raise BadInput(f"model is a {type(wire).__name__}, not a StyleAR model. Connect Load StyleAR to it.")
        return wire

    @property
    def patcher(self) -> ModelPatcher:
        """The largest part's patcher, by which ComfyUI's cache recognises a value that holds a model."""
        return max(self.patchers.values(), key=ModelPatcher.model_size)

    def ready(self, *parts: str, memory: int = 0):
        """The engine's model, once `parts` are wholly on the compute device with `memory` bytes free beside.

        A part the model does not have is passed over: the engine says what is missing.
        """
        wanted = [self.patchers[name] for name in parts if name in self.patchers]
        management.load_models_gpu(wanted, memory_required=memory, force_full_load=True)
        return self.model


@contextmanager
def on_device(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """A module on the compute device, for as long as the block lasts."""
    patcher = _patcher(module)  # ComfyUI forgets the module when this reference goes
    management.load_models_gpu([patcher], force_full_load=True)
    yield patcher.model.part


def offload_device() -> torch.device:
    """Where weights rest: the CPU, or the GPU under --highvram."""
    return management.unet_offload_device()


def weights_dtype(choice: str) -> torch.dtype:
    """The dtype named by a combo; "auto" is bfloat16 where the device is good at it, else float32."""
    if isinstance(choice, str) and choice == "auto":
        return torch.bfloat16 if management.should_use_bf16(management.get_torch_device()) else torch.float32
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if not isinstance(choice, str) or choice not in known:
        raise BadInput(f"dtype is not one of auto, {', '.join(known)}. Choose one of these.")
    return known[choice]


@contextmanager
def contained() -> Iterator[None]:
    """Keep SystemExit and KeyboardInterrupt of a library from ending ComfyUI's worker thread for good."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"A library tried to end ComfyUI ({error!r}); the queue goes on.") from error


# -- while it runs -------------------------------------------------------------------------------------------


class Run:
    """Progress bar, stop button and preview of one execution, as the callables that the engine takes."""

    def __init__(self) -> None:
        self._bar = None
        self._done = 0

    def progress(self, done: int, total: int) -> None:
        """Show `done` of `total` steps."""
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total)
        self._done = done
        self._bar.update_absolute(done, total)

    def cancelled(self) -> bool:
        """Raise ComfyUI's own interrupt when stop was pressed; the bar looks too, but not on every step."""
        management.throw_exception_if_processing_interrupted()
        return False

    @property
    def preview(self) -> Callable | None:
        """A callable that takes the pictures so far [B, H, W, 3]; None when previews are switched off."""
        return None if args.preview_method == LatentPreviewMethod.NoPreviews else self._show

    def _show(self, pictures: torch.Tensor) -> None:
        if self._bar is not None:
            # Anything but RGB that JPEG cannot hold would end ComfyUI's server, see its publish loop.
            preview = ("JPEG", to_pil(pictures[0], name="preview").convert("RGB"), args.preview_size)
            self._bar.update_absolute(self._done, preview=preview)


# -- pictures ------------------------------------------------------------------------------------------------


def first_picture(image: torch.Tensor, name: str) -> torch.Tensor:
    """The first picture of an IMAGE [B, H, W, C], which may be float16: float32 [H, W, C] on the CPU."""
    if not isinstance(image, torch.Tensor) or not is_plain(image):
        raise BadInput(f"{name} is a {type(image).__name__}, not a picture. Connect an IMAGE to it.")
    if image.ndim != 4 or image.numel() == 0:
        raise BadInput(f"{name} holds no picture: its shape is {tuple(image.shape)}, not [batch, height, width, 3].")
    return image[0].detach().to("cpu", torch.float32)


def first_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """The first of a MASK [B, H, W] or [H, W]: float32 [H, W] on the CPU; None when nothing is marked.

    LoadImage gives 64 x 64 zeros for a picture without alpha: that is no mask, not an empty region.
    """
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor) or not is_plain(mask) or mask.ndim < 2:
        raise BadInput("mask is not a mask. Connect a MASK to it.")
    if mask.numel() == 0:
        return None
    mask = mask.reshape(-1, *mask.shape[-2:])[0].detach().to("cpu", torch.float32)
    return mask if mask.any() else None


def to_output(pixels: torch.Tensor) -> torch.Tensor:
    """Move a result to the device and dtype that ComfyUI passes between nodes."""
    return pixels.to(management.intermediate_device(), management.intermediate_dtype())
