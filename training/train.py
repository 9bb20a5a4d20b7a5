"""`train`: StyleAR's own stage. LoRA and resampler learn, on a frozen base, to draw a picture from its own style."""

from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from stylear.checkpoint import Place
from stylear.errors import BadInput, MissingPart

from .export import source_record
from .inputs import hold_inputs
from .output import output_folder, provenance, write_json
from .plan import plan
from .processes import LONG
from .recipe import TrainSettings
from .styled import write_adapter
from .trainer import Trainer

CHAIN = ("data", "steps", "pictures", "init")  # of an adapter's record, in that of one that goes on from it
CHANGEABLE = ("mode", "workers", "save_every", "benchmark_steps", "sample_every", "prompts", "references")


def run(settings: TrainSettings) -> str:
    """Train, from where it was left if it was; returns the summary ("" on all processes but the first).

    Writes under `out`: state-<step>/ (to go on from), tensorboard/, loss.png, samples/<step>.png, and at the end
    adapter/{model,image_proj}.safetensors, base/ where base_rate trained it too, and summary.json. With mode plan or
    benchmark nothing is written.

    Raises BadInput, BadCheckpoint or MissingPart; FloatingPointError at a loss or gradient that is not finite, with
    the last state kept.
    """
    if settings.init and not settings.init.exists():
        raise MissingPart(
            f"init is {settings.init} and nothing is there: correct the path; `train` and `dpo` write an adapter, in "
            "adapter/ of their folder."
        )
    if settings.mode == "plan":
        return plan(settings)
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONG)],
    )
    if settings.batch % accelerator.num_processes:
        raise BadInput(f"batch is {settings.batch}: make it a multiple of the {accelerator.num_processes} processes.")
    trainer = Trainer(settings, accelerator)  # before the folder: what is refused here has begun nothing
    if settings.mode == "benchmark":
        return _benchmark(trainer)
    held: AbstractContextManager = nullcontext()
    if accelerator.is_main_process:
        held = output_folder(settings.out, settings, CHANGEABLE)
    with held:
        if accelerator.is_main_process:
            hold_inputs(settings.out, trainer.inputs())
        trainer.resume()
        trainer.fit()
        weights = trainer.weights()
        told = _finish(trainer, *weights) if accelerator.is_main_process else ""
        accelerator.wait_for_everyone()
    return told


def _finish(trainer: Trainer, lora: dict, resampler: dict, base: dict) -> str:
    """Write the adapter, the base if it was trained, and summary.json; returns what they say."""
    s, progress = trainer.settings, trainer.progress
    made = {
        "base": s.model.base,
        "rank": trainer.rank,
        "targets": list(trainer.targets),
        "noise": s.noise,
        "data": trainer.tokens.sha256,
        "steps": progress.step,
        "pictures": progress.step * s.batch,
        **({"init": _before(s)} if s.init else {}),
        "provenance": provenance(),
    }
    write_adapter(s.out / "adapter", lora, resampler, made)
    if base:
        trainer.write_base(s.out / "base", base)
    losses, rate = progress.losses, progress.step * s.batch / max(progress.seconds, 1e-9)
    few, epochs = max(1, len(losses) // 10), progress.step * s.batch / trainer.samples.order.epoch
    figures = {
        "epochs": epochs,
        "loss of the first tenth": sum(losses[:few]) / few,
        "loss of the last tenth": sum(losses[-few:]) / few,
        "held out": progress.held_out,
        "seconds": progress.seconds,
        "pictures a second": rate,
        "parameters": {"lora": _count(lora), "resampler": _count(resampler)},
    }
    write_json(s.out / "summary.json", {**made, **figures})
    held_out = f", held out {progress.held_out[-1][1]:.3f}" if progress.held_out else ""
    shown = [name for name in ("loss.png", "samples") if (s.out / name).exists()]
    first, last = (figures[f"loss of the {tenth} tenth"] for tenth in ("first", "last"))
    return (
        f"Trained {progress.step} steps of {s.batch} pictures ({epochs:.3g} epochs) in {progress.seconds:.0f} s "
        f"({rate:.1f} pictures/s): loss {first:.3f} to {last:.3f} nats a token"
        f"{held_out}.\nAdapter ({_count(lora):,} LoRA and {_count(resampler):,} resampler parameters): "
        f"{s.out / 'adapter'}\nIn {s.out}: {', '.join([*shown, 'tensorboard', 'summary.json'])}"
    )


def _before(settings: TrainSettings) -> dict[str, object]:
    """What the adapter that was gone on from says of its making, and its share in the new one."""
    known = source_record(Place(settings.init))
    return {"share": settings.init_share, **{name: known[name] for name in CHAIN if name in known}}


def _count(weights: dict[str, torch.Tensor]) -> int:
    return sum(value.numel() for value in weights.values())


def _benchmark(trainer: Trainer) -> str:
    """Time steps after two to warm up: samples a second, and the share that is not the model's or optimizer's work."""
    s, seconds = trainer.settings, trainer.clock.seconds
    loader = trainer.loader(range(s.benchmark_steps + 2))
    for step in range(2):
        trainer.step(step, loader)
    seconds.clear()
    for step in range(2, s.benchmark_steps + 2):
        with trainer.clock.of("all"):
            trainer.step(step, loader)
    if not trainer.accelerator.is_main_process:
        return ""
    outside = seconds["all"] - seconds["work"]
    again = sum(len(trainer.samples.contrasted(step)) for step in range(2, s.benchmark_steps + 2)) / s.benchmark_steps
    contrast = f", {again:.4g} of them looked at again for the contrast," if again else ""
    return (
        f"{s.benchmark_steps} steps of {s.batch} pictures{contrast} on {trainer.accelerator.num_processes} x "
        f"{trainer.accelerator.device.type}, {s.precision}: {seconds['all'] / s.benchmark_steps:.3f} s a step, "
        f"{s.benchmark_steps * s.batch / seconds['all']:.2f} pictures/s.\n"
        f"Outside forward, backward and optimizer: {outside / seconds['all']:.2%} of the time "
        f"(reading {seconds['data'] / seconds['all']:.2%})."
    )
