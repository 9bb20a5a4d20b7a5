"""`dpo`: sample pictures, have them judged, keep preference pairs, train on them against the frozen SFT adapter."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from matplotlib.figure import Figure
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from stylear.errors import BadInput
from stylear.images import open_image, to_rgb
from stylear.lora import lora_rank

from .checkpoints import WEIGHTS, Progress, load_state, read_progress, released, save_state, states_in, sweep
from .config import ModelPaths, Settings
from .dpo_steps import PairBatches, dpo_loss, log_probability, reference_log_probability, style_features
from .inputs import files_sha256, hold_inputs
from .judges import JudgeSettings, judge_files, load_judge
from .log import Log
from .loop import write_atomically
from .output import output_folder, provenance, read_json, sha256_of, write_json
from .parts import Parts
from .preferences import (
    Case,
    SampleSettings,
    build_pairs,
    decode,
    draw_codes,
    judge_cases,
    load_pairs,
    pairs_sheet,
    read_cases,
    read_samples,
    sample_cases,
    samples_file,
    save_pairs,
    scores_file,
    write_sheet,
)
from .processes import LONG
from .steps import Step, parts_of_steps
from .styled import StyledModel, write_adapter
from .trainer import groups_of

CHANGEABLE = ("steps", "save_every", "sheet_rows")
FIGURES = ("loss", "accuracy", "margin", "chosen", "rejected")


class DPOSettings(Settings):
    """Settings of `dpo`."""

    model: ModelPaths = Field(ModelPaths(adapter="work/adapter/adapter"), description="model.adapter: the SFT adapter")
    styles: Path = Field(
        Path("work/example/styles"),
        description="folder of style pictures, NAME.txt beside one its caption; or a JSON list",
    )
    prompts: Path = Field(Path("work/example/prompts.txt"), description="text file with a prompt a line")
    out: Path = Field(Path("work/dpo"), description="folder to write")
    sample: SampleSettings = Field(SampleSettings(), description="how the pictures to choose from are drawn")
    judge: JudgeSettings = Field(JudgeSettings(), description="who ranks them")
    min_margin: float = Field(0.0, ge=0, description="pairs whose scores are less apart are dropped; ties always are")
    beta: float = Field(0.1, gt=0, description="how strongly the policy is held to the SFT adapter")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs taken to be the wrong way round")
    sft_weight: float = Field(0.0, ge=0, description="weight of the chosen picture's own loss (nats a code)")
    noise: float = Field(0.1, ge=0, le=1000, description="gamma on the style tokens, in sampling and in training")
    lora_rate: float = Field(5e-5, ge=0, description="learning rate of the LoRA, constant after the warm-up")
    resampler_rate: float = Field(1e-5, ge=0, description="learning rate of the resampler")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, of both")
    warmup: int = Field(10, ge=0, description="steps over which the rates rise")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    steps: int = Field(100, ge=1, description="optimizer steps")
    batch: int = Field(8, ge=1, description="pairs in a step, over all processes")
    micro_batch: int = Field(2, ge=1, description="pairs at once on a device: two pictures each")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the frozen base and of the arithmetic")
    gradient_checkpointing: bool = Field(False, description="less memory for a third more time")
    seed: int = Field(0, ge=0, lt=2**31, description="decides every draw")
    save_every: int = Field(50, ge=1, description="steps between saved states: what a stop loses at most")
    sheet_rows: int = Field(8, ge=1, le=64, description="cases in the sheet of pictures before and after")


def run(settings: DPOSettings) -> str:
    """Draw, judge, pair and train, each from where it was left; writes under `out`:

    samples/ and scores/ (a file a case), preferences/ (a `datasets` folder) and pairs.png, reference/, state-STEP/,
    tensorboard/, adapter/{model,image_proj}.safetensors, before_after.png, loss.png and, last, summary.json.
    """
    folder = settings.out
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONG)],
    )
    if settings.batch % accelerator.num_processes:
        raise BadInput(f"batch is {settings.batch}: make it a multiple of the {accelerator.num_processes} processes.")
    with ExitStack() as held:
        parts = Parts(settings.model)
        cases = read_cases(settings.styles, settings.prompts, settings.sample.cases, settings.seed)
        if accelerator.is_main_process:
            held.enter_context(output_folder(folder, settings, CHANGEABLE))
            hold_inputs(folder, _inputs(settings, cases, parts))
            sweep(folder)
        accelerator.wait_for_everyone()
        done = folder / "summary.json"
        if not done.exists() or read_json(done, "summary")["steps"] != settings.steps:
            counts = _make_pairs(settings, cases, folder, parts, accelerator)
            history = _train(settings, folder, parts, accelerator)
            if accelerator.is_main_process:
                _finish(settings, cases, folder, parts, counts, history)
        accelerator.wait_for_everyone()
        return _told(read_json(done, "summary"), folder) if accelerator.is_main_process else ""


def _inputs(settings: DPOSettings, cases: list[Case], parts: Parts) -> dict[str, Any]:
    """What the run depends on beside the settings, for `hold_inputs`."""
    names = ("base", "adapter", "vqgan", "image_encoder", *(["segmenter"] if _cuts_out(settings) else []))
    return {
        "styles": [[case.style.name, case.style_sha256, case.style.caption] for case in cases],
        "prompts": [[case.prompt.text, case.prompt.content] for case in cases],
        **parts.inputs(*names),
        "judge.model": files_sha256(judge_files(settings.judge)),
    }


def _cuts_out(settings: DPOSettings) -> bool:
    """Whether the judge is shown what the segmenter finds in styles without a caption."""
    return settings.judge.kind == "score" and settings.judge.leakage > 0


def _make_pairs(
    settings: DPOSettings, cases: list[Case], folder: Path, parts: Parts, accelerator: Accelerator
) -> dict[str, int | str]:
    """Draw, judge and pair what is not there yet, the cases shared by the processes; returns what pairs.json counts."""
    record, samples, scores = folder / "pairs.json", folder / "samples", folder / "scores"
    device, mine = accelerator.device, cases[accelerator.process_index :: accelerator.num_processes]
    if not record.exists():
        if left := _left(mine, lambda case: samples_file(samples, case), "drawing", accelerator):
            model = parts.pipeline(device=device, dtype=_dtype(settings))
            sample_cases(left, samples, model, settings.sample, settings.noise, settings.seed)
            del model
        vqgan = parts.vqgan().to(device)
        if left := _left(mine, lambda case: scores_file(scores, case), "judging", accelerator):
            segmenter = parts.segmenter() if _cuts_out(settings) else None
            judge = load_judge(settings.judge, device)
            judge_cases(left, samples, scores, judge, vqgan, segmenter and segmenter.to(device))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            rows, counts = build_pairs(cases, samples, scores, settings.judge, settings.min_margin)
            if not rows:
                raise BadInput(
                    f"No pair is left of {len(cases)} cases ({counts['answers not read']} answers were not read; "
                    f"{scores} has them): lower min_margin, or draw more cases, in another `out`."
                )
            save_pairs(rows, folder / "preferences")
            pairs_sheet(load_pairs(folder / "preferences"), vqgan, folder / "pairs.png")
            write_json(record, counts)
        accelerator.wait_for_everyone()
    return read_json(record, "count of pairs")


def _left(cases: list[Case], file_of: Callable[[Case], Path], doing: str, accelerator: Accelerator) -> Iterable[Case]:
    """The cases without a file, under a progress bar that counts the others as done."""
    left = [case for case in cases if not file_of(case).exists()]
    quiet, before = not accelerator.is_main_process, len(cases) - len(left)
    return left and tqdm(left, desc=doing, unit="case", initial=before, total=len(cases), disable=quiet)


def _train(settings: DPOSettings, folder: Path, parts: Parts, accelerator: Accelerator) -> np.ndarray:
    """Train on the pairs, from the state in `folder` if there is one; FIGURES of every step, float64 [steps, 5]."""
    base, vocabulary = parts.base(_dtype(settings))
    model = Step(StyledModel.from_adapter(base, parts.place("adapter"))).train()
    if settings.gradient_checkpointing:
        model.styled.forget_activations()
    pairs, resampler = load_pairs(folder / "preferences"), model.styled.resampler
    features = style_features(pairs, parts.image_encoder().to(accelerator.device))
    shape = resampler.config.tokens, resampler.config.output
    data = PairBatches(pairs, vocabulary, features, *shape, settings.noise, settings.seed)
    rates = settings.lora_rate, settings.resampler_rate
    optimizer = torch.optim.AdamW(groups_of(model.styled), weight_decay=settings.weight_decay)
    if accelerator.is_fsdp2:  # accelerate's own policy rounds the sums of log-probabilities to bfloat16
        half = torch.bfloat16 if settings.precision == "bf16" else None
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(half, torch.float32)
    model, optimizer = accelerator.prepare(model, optimizer)
    optimizer = optimizer.optimizer
    reference = reference_log_probability(model, data, folder / "reference", accelerator, settings.micro_batch)
    progress = _begin(folder, model, optimizer, settings.steps)
    first, quiet, began = progress.step, not accelerator.is_main_process, time.monotonic() - progress.seconds
    bar = tqdm(range(first, settings.steps), "dpo", settings.steps, unit="step", initial=first, disable=quiet)
    log = None if quiet else Log(folder / "tensorboard", first)
    for step in bar:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / max(1, settings.warmup))
        figures = _step(step, settings, model, optimizer, data, reference, accelerator)
        named = dict(zip(FIGURES, figures, strict=True))
        bar.set_postfix({name: f"{value:.4g}" for name, value in named.items()}, refresh=False)
        if log:
            log.figures(step, named)
        progress.step, progress.seconds = step + 1, time.monotonic() - began
        progress.losses += figures
        if progress.step % settings.save_every == 0 or progress.step == settings.steps:
            save_state(folder, progress, model, optimizer, writes=not quiet)
    accelerator.wait_for_everyone()
    return np.array(progress.losses).reshape(-1, len(FIGURES))


def _begin(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Progress:
    """Take over the newest state in `folder`, if there is one; its `losses` are the FIGURES of each step in turn."""
    states = states_in(folder)
    if not states:
        return Progress()
    progress = read_progress(states[-1])
    if progress.step > steps:
        raise BadInput(f"{states[-1]} is beyond steps={steps}: give that many at least, or another `out`.")
    load_state(states[-1], model, optimizer)
    return progress


def _step(
    step: int,
    settings: DPOSettings,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: PairBatches,
    reference: Tensor,
    accelerator: Accelerator,
) -> list[float]:
    """One optimizer step on pairs step x batch .. of the run; FIGURES, means over the step's pairs.

    Raises FloatingPointError, before the weights change, if the loss or the gradient is not finite.
    """
    process, processes = accelerator.process_index, accelerator.num_processes
    shares = range(step, step + 1), settings.batch, settings.micro_batch, process, processes
    parts = list(parts_of_steps(*shares, order=lambda share: data.order(share.start, len(share))))
    sums = torch.zeros(len(FIGURES), device=accelerator.device)
    optimizer.zero_grad()
    for numbers in parts:
        with nullcontext() if numbers is parts[-1] else accelerator.no_sync(model):
            with accelerator.autocast():
                policy = log_probability(model, data.batch(numbers))
            known = reference[:, numbers].to(policy.device)
            loss, rewards = dpo_loss(policy, known, settings.beta, settings.label_smoothing)
            if settings.sft_weight:
                loss = loss - settings.sft_weight * policy[0] / data.codes
            accelerator.backward(loss.sum() * processes / settings.batch)  # processes' gradients are averaged
        margin = rewards[0] - rewards[1]
        sums += torch.stack([value.detach().float().sum() for value in (loss, margin > 0, margin, *rewards)])
    norm = accelerator.clip_grad_norm_([one for one in model.parameters() if one.requires_grad], settings.clip)
    norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    figures = (accelerator.reduce(sums, "sum") / settings.batch).tolist()
    if not math.isfinite(figures[0] + norm):
        raise FloatingPointError(
            f"dpo: the loss of step {step} is {figures[0]} and its gradient's norm {norm}; the last saved state is "
            "good: lower lora_rate and resampler_rate, in another `out`."
        )
    optimizer.step()
    return figures


def _finish(
    settings: DPOSettings, cases: list[Case], folder: Path, parts: Parts, counts: dict, history: np.ndarray
) -> None:
    """Write the adapter, its pictures beside those of before, at the same seeds, the plot and the summary."""
    lora, resampler = released(load_file(states_in(folder)[-1] / WEIGHTS))
    data = [sha256_of(path) for path in sorted((folder / "preferences").glob("*.arrow"))]
    told = {"stage": "dpo", "base": settings.model.base, "rank": lora_rank(lora), "noise": settings.noise}
    told |= {"beta": settings.beta, "data": ",".join(data), "steps": len(history), **provenance()}
    write_adapter(folder / "adapter", lora, resampler, told)
    model = parts.pipeline(folder / "adapter", dtype=_dtype(settings))
    rows = []
    for case in cases[: settings.sheet_rows]:
        codes, seeds = read_samples(folder / "samples", case)
        new = draw_codes(model, case, seeds[:1], settings.sample, settings.noise, case.noise_seed(settings.seed))
        pictures = decode(model.vqgan, torch.cat([codes[:1], new]))
        rows.append(([to_rgb(open_image(case.style.picture)), *pictures], [case.prompt.text, "before", "after"]))
    write_sheet(rows, folder / "before_after.png")
    plot(history, folder / "loss.png")
    ends = {"first": history[0], "last": history[-max(1, len(history) // 10) :].mean(0)}
    ends = {when: dict(zip(FIGURES, figures.tolist(), strict=True)) for when, figures in ends.items()}
    write_json(folder / "summary.json", {"steps": len(history), **counts, **ends, "provenance": provenance()})


def plot(history: np.ndarray, path: Path) -> None:
    """A PNG of FIGURES float [steps, 5]: loss, accuracy, and the rewards of chosen and rejected with their margin."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = (("loss",), ("accuracy",), ("margin", "chosen", "rejected"))
    for axes, names in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            axes.plot(range(1, len(history) + 1), history[:, FIGURES.index(name)], label=name)
        axes.set_xlabel("step")
        axes.legend()
    write_atomically(path, lambda draft: figure.savefig(draft, format="png", dpi=110))


def _dtype(settings: DPOSettings) -> torch.dtype:
    return torch.bfloat16 if settings.precision == "bf16" else torch.float32


def _told(summary: dict, folder: Path) -> str:
    first, last = summary["first"], summary["last"]
    return (
        f"{summary['pairs']} pairs of {summary['cases']} cases ({summary['without a clear best']} without a clear "
        f"best, {summary['answers not read']} answers not read); {summary['steps']} steps: loss {first['loss']:.4f} "
        f"-> {last['loss']:.4f}, accuracy {last['accuracy']:.2f}, margin {last['margin']:.3f}\n"
        f"wrote {folder}/adapter (model.safetensors, image_proj.safetensors), preferences, pairs.png, "
        "before_after.png, loss.png, tensorboard, summary.json"
    )
