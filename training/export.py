"""Writes an adapter in another layout: the released two files, a PEFT folder, or merged into its base."""

import json
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft import LoraConfig
from pydantic import Field
from torch import Tensor

from stylear.checkpoint import Place, find, find_tokenizer, load_adapter, save_weights
from stylear.checkpoint import load_base as read_base
from stylear.errors import BadCheckpoint, BadInput
from stylear.lora import lora_rank, lora_targets, to_peft
from stylear.pipeline import DTYPES

from .config import ModelPaths, Settings
from .output import provenance, read_json, write_json
from .parts import Parts
from .styled import write_adapter

_EXPORTED = re.compile(
    r"(model(-\d+-of-\d+)?|image_proj|adapter_model)\.safetensors|model\.safetensors\.index\.json"
    r"|(config|adapter_config|tokenizer)\.json|README\.md"
)


class ExportSettings(Settings):
    """What is written where."""

    model: ModelPaths = Field(ModelPaths(), description="the base, and the adapter to export in any layout")
    to: Literal["official", "peft", "merged"] = Field("official", description="layout to write")
    out: Path = Field(Path("work/export"), description="folder to write")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights written")
    shard_size: str = Field("5GB", pattern=r"^\d+(KB|MB|GB)$", description="merged: the largest file")
    overwrite: bool = Field(False, description="replace `out` if it is there")


def run(settings: ExportSettings) -> str:
    """Export; returns what was written. BadInput if `out` is there, or the errors of the loader."""
    parts, dtype = Parts(settings.model), DTYPES[settings.dtype]
    lora, resampler = load_adapter(parts.place("adapter"))
    record = {**source_record(parts.place("adapter")), "rank": lora_rank(lora), "exported": provenance()}
    with _new_folder(settings.out, settings.overwrite) as draft:
        if settings.to == "official":
            write_adapter(draft, lora, resampler.state_dict(), record, dtype)
        elif settings.to == "peft":
            _write_peft(draft, lora, dtype, record, settings.model.base)
            _write_resampler(draft, resampler.state_dict(), dtype, record)
        else:
            _write_merged(draft, parts, lora, dtype, record, settings.shard_size)
            _write_resampler(draft / "adapter", resampler.state_dict(), dtype, record)
        _check(draft, settings.to, lora, resampler.state_dict(), dtype)
    files = sorted(path for path in settings.out.rglob("*") if path.is_file())
    lines = [f"  {path}  {path.stat().st_size / 1e6:,.1f} MB" for path in files]
    use = f"base={settings.out}" if settings.to == "merged" else f"adapter={settings.out}"
    return "\n".join([f"Exported rank {record['rank']} as {settings.to}; StyleAR.load(…, {use}) reads it:", *lines])


def source_record(adapter: Place) -> dict:
    """What an adapter's files say about how they were made (metadata `stylear`); empty for those of others."""
    for kind in ("lora", "resampler"):
        try:
            found = json.loads(find(kind, adapter).file.metadata.get("stylear", "{}"))
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found:
            return found
    return {}


@contextmanager
def _new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A draft folder that becomes `folder` when the block ends well; what was there goes only then."""
    folder = folder.absolute()
    if folder.exists() and not overwrite:
        raise BadInput(f"{folder} is there already. Give another `out`, or say overwrite=true.")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file. Give the path of a folder as `out`.")
    others = [path.name for path in folder.rglob("*") if path.is_file() and not _EXPORTED.fullmatch(path.name)]
    if others:
        raise BadInput(f"{folder} holds {others[0]}, which is not of an export. Give another `out`.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    draft, old = (folder.with_name(f".{folder.name}.{token}.{word}") for word in ("new", "old"))
    draft.mkdir()
    try:
        yield draft
        if folder.exists():
            folder.rename(old)
        try:
            draft.rename(folder)
        except OSError:
            old.rename(folder) if old.exists() else None
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _plain(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", dtype).contiguous() for key, value in weights.items()}


def _header(record: Mapping[str, object]) -> dict[str, str]:
    return {"format": "pt", "stylear": json.dumps(dict(record))}


def _write_resampler(folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype, record: Mapping) -> None:
    folder.mkdir(exist_ok=True)
    save_weights(_plain(weights, dtype), folder / "image_proj.safetensors", _header(record))


def _write_peft(
    folder: Path, lora: Mapping[str, Tensor], dtype: torch.dtype, record: Mapping[str, object], base: str
) -> None:
    """A folder that PeftModel.from_pretrained reads: its config and adapter_model.safetensors."""
    rank = lora_rank(dict(lora))
    targets = list(lora_targets(dict(lora)))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, bias="none", base_model_name_or_path=base)
    config.inference_mode = True
    config.save_pretrained(folder)
    save_weights(_plain(to_peft(dict(lora)), dtype), folder / "adapter_model.safetensors", _header(record))


def _write_merged(
    folder: Path, parts: Parts, lora: dict[str, Tensor], dtype: torch.dtype, record: Mapping[str, object], limit: str
) -> None:
    """The base with the LoRA folded in (in float32), in Hugging Face's layout and marked as merged."""
    tokenizers = find("vqgan", parts.place("vqgan")).path
    decoder, _ = read_base(parts.base_place, dtype, lora, tokenizer_place=tokenizers)
    source = find("base", parts.base_place).path.parent
    weights = _plain(decoder.state_dict(), dtype)
    plan = split_torch_state_dict_into_shards(weights, max_shard_size=limit)
    for name, keys in plan.filename_to_tensors.items():
        save_weights({key: weights[key] for key in keys}, folder / name, _header(record))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)
    config = read_json(source / "config.json", "config")
    ours = config.get("stylear") if isinstance(config.get("stylear"), dict) else {}
    config["stylear"] = {**ours, "merged": True}
    write_json(folder / "config.json", config)
    shutil.copyfile(find_tokenizer(source, tokenizers), folder / "tokenizer.json")


def _check(
    folder: Path, to: str, lora: Mapping[str, Tensor], resampler: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Read back what was written and compare; BadCheckpoint if it is not the adapter."""
    found, read = load_adapter(folder / "adapter" if to == "merged" else folder, merged=to == "merged")
    pairs = [(resampler, read.state_dict()), *([] if to == "merged" else [(lora, found)])]
    for wanted, got in pairs:
        for key, value in wanted.items():
            if key not in got or not torch.equal(value.to(dtype).float(), got[key]):
                raise BadCheckpoint(f"{folder}: {key} was not written as it was. Check the disk and export again.")
