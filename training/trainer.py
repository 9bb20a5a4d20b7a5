"""The loop of `train`, on one process of several: steps, states, evaluations."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from stylear.checkpoint import Place, find, load_adapter
from stylear.encoder import ImageEncoder
from stylear.errors import BadInput
from stylear.images import open_image, to_rgb
from stylear.resampler import Resampler, ResamplerConfig

from .checkpoints import (
    Progress,
    load_state,
    read_progress,
    released,
    save_state,
    states_in,
    sweep,
    trained,
    trained_base,
)
from .config import FrozenPaths
from .hf_model import ChameleonForConditionalGeneration, write_base
from .inputs import files_sha256, tensors_sha256
from .log import Log
from .mix import Mix
from .parts import Parts, adapter_files
from .plots import loss_plot, sample_sheet
from .recipe import TrainSettings
from .steps import Draws, Listed, Rows, Samples, Step, parts_of_steps
from .styled import StyledModel, mixed, write_adapter
from .tokens import KINDS, TokenSet

HELD_OUT = 255  # in place of a kind, so that the mix passes it over
PAD_TO = 32  # with torch.compile, so that shapes repeat


@dataclass
class Clock:
    """Seconds by what they went to; the device's queue is waited for when `exact`."""

    exact: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + self._now() - start

    def _now(self) -> float:
        if self.exact and torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return time.perf_counter()


class Trainer:
    """A run on one process of several: model, optimizer and samples, and how far it is."""

    def __init__(self, settings: TrainSettings, accelerator: Accelerator):
        """Load and check everything that is read; raises as `run`."""
        s = self.settings = settings
        self.accelerator, self.clock = accelerator, Clock(s.mode == "benchmark")
        self.tokens, self.parts = TokenSet(s.data), Parts(s.model)
        half = torch.bfloat16 if s.precision == "bf16" else None
        base, vocabulary = self.parts.base(torch.float32 if s.base_rate else half or torch.float32)
        self.encoder = self.parts.image_encoder().to(accelerator.device)
        styled = styled_model(base, self.encoder.config.width, s)
        shape, lora = styled.resampler.config, styled.base.peft_config["default"]
        self.rank, self.targets = lora.r, sorted({name.split(".")[-1] for name in styled.base.targeted_module_names})
        _check(self.tokens, len(vocabulary.code_ids), self.encoder, shape, base.config.hidden_size)
        _check_vqgan(self.tokens, self.parts)
        if s.held_out >= len(self.tokens):
            raise BadInput(f"held_out is {s.held_out} and {s.data} has {len(self.tokens)} pictures: keep fewer.")
        if s.init_share and (s.base_rate or not s.init):
            raise BadInput("init_share mixes an adapter with the one it began as: give init, and leave base_rate 0.")
        if s.contrast.looks and (s.batch == 1 or s.context_drop == 1):
            raise BadInput(
                "contrast compares pictures of a step that have a prompt: raise batch or lower context_drop."
            )
        held = np.random.default_rng(s.seed).choice(len(self.tokens), s.held_out, replace=False)
        kinds = self.tokens.kinds.copy()
        kinds[held] = HELD_OUT
        kinds = some_of(kinds, s.data_share, s.seed)
        reads = (vocabulary, self.encoder.config, shape.output, PAD_TO if s.compile else 1, shape.tokens)
        draws = Draws(
            s.seed, s.noise, s.context_drop, s.views, s.contrast.looks, s.batch, s.misread, s.style_drop, s.opening
        )
        self.samples = Samples(self.tokens, Mix(kinds, s.ratio, s.seed), draws, *reads)
        self.held_out = Samples(self.tokens, Listed(np.sort(held)), Draws(s.seed), *reads) if len(held) else None
        self.rates = (s.lora_rate, s.resampler_rate, *([s.base_rate] if s.base_rate else []))
        optimizer = torch.optim.AdamW(groups_of(styled), betas=s.betas, weight_decay=s.weight_decay)
        if accelerator.is_fsdp2:  # accelerate's own policy rounds losses and sums of gradients to bfloat16
            accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(half, torch.float32)
        self.model, optimizer = accelerator.prepare(Step(styled.train(), s.loss_chunk, s.noise_relative), optimizer)
        self.optimizer = optimizer.optimizer
        if s.compile:  # the layers alone: compiled together with the loss in chunks, gradients were wrong (torch 2.15)
            if accelerator.device.type == "cpu":
                base.config._attn_implementation = "eager"  # compiled, it is faster there than torch's own
            base.model.compile(dynamic=False)
        self.progress = Progress()

    def inputs(self) -> dict[str, str | None]:
        """What the weights depend on beside the settings, for `hold_inputs`."""
        init = {"init": files_sha256(adapter_files(Place(self.settings.init)))} if self.settings.init else {}
        return {"data": self.tokens.sha256, **self.parts.inputs("base", "image_encoder"), **init}

    def resume(self) -> None:
        """Go on from the newest state in `out`, if there is one."""
        self.accelerator.wait_for_everyone()
        if states := states_in(self.settings.out):
            self.progress = read_progress(states[-1])
            load_state(states[-1], self.model, self.optimizer)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            sweep(self.settings.out)

    def fit(self) -> None:
        """Take the steps that are left."""
        s, progress, main = self.settings, self.progress, self.accelerator.is_main_process
        steps = range(progress.step, s.steps)
        if not steps:
            return
        log = Log(s.out / "tensorboard", steps.start + 1) if main else None
        loader = self.loader(steps)
        bar = tqdm(steps, "train", s.steps, initial=steps.start, unit="step", disable=not main)
        for step in bar:
            start = time.perf_counter()
            figures = self.step(step, loader)
            progress.step = step + 1
            progress.losses.append(figures["loss"])
            due = s.sample_every and (progress.step % s.sample_every == 0 or progress.step == s.steps)
            if due and self.held_out:
                figures["held out"] = self.held_out_loss()
                progress.held_out.append((progress.step, figures["held out"]))
            progress.seconds += time.perf_counter() - start
            if log:
                log.figures(progress.step, figures)
            bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
            if due:
                self.show(log)
            if progress.step % s.save_every == 0 or progress.step == s.steps:
                save_state(s.out, progress, self.model, self.optimizer, main)

    def loader(self, steps: range) -> Iterator:
        """This process's forward passes of the steps, read ahead."""
        s, a = self.settings, self.accelerator
        shares = (steps, s.batch, s.micro_batch, a.process_index, a.num_processes)
        parts = parts_of_steps(*shares, order=self.samples.arranged)
        return self.samples.loader(parts, s.workers)

    def step(self, number: int, loader: Iterator) -> dict[str, float]:
        """One optimizer step; its loss (nats a token), log(Z)^2, contrast, the gradient's norm and the rates' share.

        The sums are divided by the whole step's tokens and contrasted pictures, so that neither processes nor
        micro-batches change the result.
        """
        s, a = self.settings, self.accelerator
        with self.clock.of("data"):
            tokens = self.samples.predicted(range(number * s.batch, (number + 1) * s.batch))
            pairs = max(1, len(self.samples.contrasted(number)))
        passes = -(-s.batch // a.num_processes // s.micro_batch)
        sums = torch.zeros(3, device=a.device)
        for index in range(passes):
            with self.clock.of("data"):
                rows = next(loader).to(a.device)
            with self.clock.of("work"), nullcontext() if index == passes - 1 else a.no_sync(self.model):
                cross_entropy, z, contrast = (value.sum() for value in self.terms(rows))
                loss = (cross_entropy + s.z_loss * z) / tokens + s.contrast.weight * contrast / pairs
                a.backward(loss * a.num_processes)  # processes' gradients are averaged
                sums += torch.stack([cross_entropy, z, contrast]).detach()
        with self.clock.of("work"):
            norm = a.clip_grad_norm_([w for w in self.model.parameters() if w.requires_grad], s.clip)
            norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
            loss, z, contrast = (a.reduce(sums, "sum") / sums.new_tensor([tokens, tokens, pairs])).tolist()
            figures = {"loss": loss, "z": z, "norm": norm, "rate": s.rate(number)}
            figures |= {"contrast": contrast} if s.contrast.looks else {}
            self.check(number, figures)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * figures["rate"]
            self.optimizer.step()
            self.optimizer.zero_grad()
        return figures

    def features(self, rows: Rows) -> Tensor:
        """The style pictures as the image encoder sees them, float [B, N, C]."""
        if rows.features is not None:
            return rows.features
        with torch.no_grad():
            return self.encoder(rows.pixels)

    def losses(self, rows: Rows, features: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's sums of cross-entropy and log(Z)^2, with gradients to what trains."""
        with self.accelerator.autocast():
            return self.model(rows.batch, features, rows.noise, rows.kept)

    def terms(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of cross-entropy and log(Z)^2 of each row under its own style, and how badly styles are told apart.

        float32 [B - K], [B - K], [K] for K rows that come again (Rows.again, StyleContrast).
        """
        cross_entropy, z = self.losses(rows, self.features(rows))
        own, other = cross_entropy.tensor_split([len(cross_entropy) - len(rows.again)])
        contrast = F.softplus(-self.settings.contrast.sharpness * (other - own[rows.again]))
        return own, z[: len(own)], contrast

    def check(self, number: int, figures: dict[str, float]) -> None:
        """FloatingPointError, before any weight has changed, if a step's loss, contrast or gradient is not finite."""
        watched = [name for name in ("loss", "contrast", "norm") if name in figures]
        wrong = next((name for name in watched if not math.isfinite(figures[name])), None)
        if wrong:
            states = states_in(self.settings.out) if self.settings.out.is_dir() else []
            kept = f"the last good state is {states[-1]}" if states else "no state was saved yet"
            raise FloatingPointError(
                f"Step {number + 1}: the {wrong} is {figures[wrong]}; {kept}. Lower the learning rates or raise warmup."
            )

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Cross-entropy in nats a token over the held-out pictures: with their prompts, without noise and views."""
        a, count = self.accelerator, len(self.held_out.order.pictures)
        each = -(-count // a.num_processes)
        mine = range(a.process_index * each, (a.process_index + 1) * each)
        total = torch.zeros((), device=a.device)
        self.model.eval()
        for start in mine[:: self.settings.micro_batch]:
            numbers = range(start, min(start + self.settings.micro_batch, mine.stop))
            rows = next(self.held_out.loader(iter([numbers]), 0)).to(a.device)
            real = torch.tensor([number < count for number in numbers], device=a.device)
            total += (self.losses(rows, self.features(rows))[0] * real).sum()
        self.model.train()
        return float(a.reduce(total, "sum")) / self.held_out.predicted(range(count))

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """LoRA and resampler under the released keys, mixed with init's by `init_share`, and the base where it trains.

        Empty on all processes but the first; all have to call.
        """
        found, s = trained(self.model), self.settings
        if not self.accelerator.is_main_process:
            return {}, {}, {}
        lora, resampler = released(found)
        if s.init_share:
            first, before = load_adapter(s.init)
            lora = mixed(lora, first, s.init_share)
            resampler = mixed(resampler, before.state_dict(), s.init_share)
        return lora, resampler, trained_base(found)

    def write_base(self, folder: Path, weights: dict[str, Tensor]) -> Parts:
        """Write a base that was trained as a folder like the one it began as; returns this run's parts with it."""
        config = find("base", self.parts.base_place).path.parent / "config.json"
        write_base(folder, weights, config, self.parts.tokenizer())
        beside = {name: str(self.parts.place(name).path) for name in ("vqgan", "image_encoder")}
        return Parts(FrozenPaths(base=str(folder), **beside))

    def show(self, log: Log | None) -> None:
        """Plot the losses and draw the sheet with the weights as they are."""
        lora, resampler, base = self.weights()
        if self.accelerator.is_main_process:
            s, step = self.settings, self.progress.step
            loss_plot(self.progress.losses, self.progress.held_out, s.out / "loss.png")
            scratch = s.out / ".sampled"
            write_adapter(scratch, lora, resampler, {})
            parts = self.write_base(scratch / "base", base) if base else self.parts
            model = parts.pipeline(scratch, device=self.accelerator.device)
            references, captions = self.references()
            sheet = s.out / "samples" / f"{step:06d}.png"
            sample_sheet(model, references, s.prompts or captions, sheet, s.seed)
            log.picture(step, "samples", sheet)
        self.accelerator.wait_for_everyone()

    def references(self, count: int = 3) -> tuple[list[Image.Image], list[str]]:
        """The pictures that samples are in the style of, and captions: given ones, else of held-out or first data."""
        s = self.settings
        order = (self.held_out or self.samples).order
        examples = [self.tokens[i] for i in order.indices(0, count)]
        given = [to_rgb(open_image(path)) for path in s.references]
        return given or [example.picture for example in examples], [example.caption for example in examples]


def styled_model(base: ChameleonForConditionalGeneration, features: int, settings: TrainSettings) -> StyledModel:
    """The base with the adapter of `init`, or with a new one drawn from the seed, ready to train.

    `features`: width of the image encoder's. A new LoRA starts as the released code's: A ~ N(0, 1 / rank), B = 0.
    """
    s = settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(s.seed)
        if s.init:
            styled = StyledModel.from_adapter(base, s.init)
        else:
            shape = ResamplerConfig(features=features, output=base.config.hidden_size, **s.resampler.model_dump())
            styled = StyledModel(base, Resampler(shape), s.rank, s.targets)
            for name, weight in styled.named_parameters():
                if ".lora_A." in name:
                    torch.nn.init.normal_(weight, std=s.rank**-0.5)
    if s.base_rate:
        styled.base.requires_grad_(True)
    if s.gradient_checkpointing:
        styled.forget_activations()
    return styled


def groups_of(styled: StyledModel) -> list[dict[str, list[Tensor]]]:
    """The optimizer's groups: LoRA, resampler and, where it trains, the base."""
    lora = [weight for name, weight in styled.named_parameters() if ".lora_" in name]
    base = [weight for name, weight in styled.base.named_parameters() if weight.requires_grad and ".lora_" not in name]
    parts = [lora, list(styled.resampler.parameters()), base]
    return [{"params": part} for part in parts if part]


def some_of(kinds: np.ndarray, share: float, seed: int) -> np.ndarray:
    """`kinds` uint8 [N] with all but a share of each kind's pictures passed over, at least one of each kept."""
    if share == 1:
        return kinds
    kinds, rng = kinds.copy(), np.random.default_rng([seed, 1])
    for kind in range(len(KINDS)):
        places = rng.permutation(np.flatnonzero(kinds == kind))
        kinds[places[max(1, round(share * len(places))) :]] = HELD_OUT
    return kinds


def _check(tokens: TokenSet, codes: int, encoder: ImageEncoder, shape: ResamplerConfig, hidden: int) -> None:
    """BadInput if data and parts do not belong together."""
    for what, ours, other, theirs in (
        (f"{tokens.folder} has codes of a VQGAN with", tokens.codes, "the tokenizer has", codes),
        ("the adapter reads features of width", shape.features, "the image encoder makes", encoder.config.width),
        ("the adapter makes tokens of width", shape.output, "the base reads", hidden),
    ):
        if ours != theirs:
            raise BadInput(f"Data and parts do not belong together: {what} {ours} and {other} {theirs}.")
    made = [encoder.config.tokens, encoder.config.width]
    if tokens.features is not None and list(tokens.features) != made:
        raise BadInput(
            f"{tokens.folder} has features {tokens.features} and the image encoder makes {made}: tokenize anew."
        )


def _check_vqgan(tokens: TokenSet, parts: Parts) -> None:
    """BadInput if the codes are of another VQGAN than the model's: they would be drawn as something else."""
    given = tensors_sha256(parts.vqgan())
    if given != tokens.vqgan:
        path = find("vqgan", parts.place("vqgan")).path
        raise BadInput(
            f"{tokens.folder} was made with the VQGAN {tokens.made_with} ({tokens.vqgan[:12]}) and model.vqgan is "
            f"{path} ({given[:12]}): run tokenize again with this one, or give the other as model.vqgan."
        )
