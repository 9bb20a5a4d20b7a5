"""Stands in for ComfyUI's folder_paths: model folders by key, and the input folder."""

import os

base_path = os.environ["FAKE_COMFY_BASE"]
models_dir = os.path.join(base_path, "models")
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {
    key: ([os.path.join(models_dir, key)], {".safetensors", ".pth", ".ckpt", ".pt", ".bin"})
    for key in ("loras", "vae", "clip_vision", "checkpoints")
}


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    """Append a folder; a key that is new gets an empty set of extensions, which lists every file."""
    paths, _ = folder_names_and_paths.setdefault(folder_name, ([], set()))
    if full_folder_path not in paths:
        paths.insert(0 if is_default else len(paths), full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    return folder_names_and_paths[folder_name][0][:]


def get_filename_list(folder_name: str) -> list[str]:
    return get_filename_list_(folder_name)[0]


def get_filename_list_(folder_name: str) -> tuple[list[str], dict[str, float], float]:
    """Files of all folders of a key, recursive, relative, filtered by the key's extensions; asked past the cache."""
    paths, extensions = folder_names_and_paths[folder_name]
    names = set()
    for root in paths:
        for folder, _, files in os.walk(root, followlinks=True):
            names.update(os.path.relpath(os.path.join(folder, file), root) for file in files)
    found = sorted(name for name in names if not extensions or os.path.splitext(name)[1].lower() in extensions)
    return found, {}, 0.0


def get_input_directory() -> str:
    return os.path.join(base_path, "input")
