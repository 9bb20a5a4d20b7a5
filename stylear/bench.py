"""Measures the sampler against the released loop and the device's memory bandwidth, side by side in one process."""

import copy
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor

from .chameleon import Chameleon
from .drawing import SamplingSettings, guide
from .memory import cache_bytes, check_weights
from .pace import Pace
from .quantize import quantize
from .reference import reference_codes, reference_model
from .sampling import check_window, codes_in, sample
from .subject import REMEDY, Subject
from .vocabulary import LATENTS_PER_GRID

_READ_WINDOW = 16  # in which the pictures are drawn that quantised decoders read
_MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One line of the table, means over pictures; `cpu_seconds` are the process's, `share` is of the bandwidth."""

    name: str
    passes: float
    ms_a_pass: float
    seconds: float
    cpu_seconds: float
    ratio: float | None
    gb_a_second: float
    share: float
    peak_mib: float


def run(
    subject: Subject,
    windows: Sequence[int | str],
    settings: SamplingSettings,
    batch: int = 1,
    reference_passes: int | None = None,
    kinds: Sequence[str] = (),
    compiled_too: bool = False,
    repeat: int = 1,
    pictures: int = 4,
    said: Callable[[str], None] = lambda name: None,
) -> dict:
    """Measure the released loop, unless `reference_passes` is 0, and every window; a dict of plain values for JSON.

    `reference_passes`: how many tokens to time the released loop for, whose time is then scaled to the whole picture
    and to `batch` pictures; all by default. `kinds`: of quantisation, whose windows are measured in place of the whole
    decoder's, with what they lose (see `losses`). `compiled_too`: measure each window once more with passes that
    torch.compile rewrote, or warn why it cannot. `pictures`: how many, or how many batches, a window draws, of seed 0
    and on, behind one that is not timed: how many guesses come true differs by a fifth from picture to picture. The
    released loop draws one. `repeat`: how often each is drawn, whose fastest run counts. The released loop keeps
    float32. Times include the prefill and what is drawn, not the VQGAN. `said` hears what is being measured.

    The subject is used up: its `weights` are emptied once the released loop has run, so that they make room, and its
    `base` is the last of the quantised ones in the end.
    BadInput for a window that is none, and where the released loop's weights do not fit.
    """
    for window in windows:
        if window != "auto":
            check_window(window, subject.grid, "a window")
    device, on_gpu = subject.prompt.device, subject.prompt.device.type != "cpu"
    bandwidth = measured_bandwidth(device)
    height, width = (LATENTS_PER_GRID * side for side in subject.grid)
    readings, tokens = len(settings.weights()), height * (width + 1) - 1
    parameters, lines = sum(weight.numel() for weight in subject.base.parameters()), []
    embedded = subject.base.model.embed_tokens.weight.numel()  # of which a pass reads a row or two
    timed = min(tokens, tokens if reference_passes is None else reference_passes)
    start = (subject.vocabulary, subject.prompt, subject.grid)
    if timed:
        copied = [one for one in subject.weights.values() if one.dtype != torch.float32 or not one.is_contiguous()]
        check_weights("The released loop", copied, torch.float32, device, REMEDY)
        said("the released loop")
        theirs = reference_model(subject.base.config, subject.weights, subject.lora)
        reference_codes(theirs, *start, 0, settings, 2)
        measured = _measured(device, lambda: reference_codes(theirs, *start, 0, settings, timed), repeat)
        lines.append(
            _row(
                "reference",
                tokens * batch * readings,
                batch * tokens / timed,
                measured,
                None,
                4 * (parameters - embedded),
                bandwidth,
            )
        )
        del theirs
    subject.weights.clear()
    reduced, lost = {"": subject.base}, []
    if kinds:
        said("what quantisation loses")
        reduced, lost = losses(subject, kinds, settings, batch)
    cache = cache_bytes(subject.base, batch * readings, len(subject.prompt) + tokens) // 2
    first = lines[0] if timed else None
    for (kind, base), compiled in itertools.product(reduced.items(), (False, True)[: 1 + compiled_too]):
        matrices = _bytes_read(base, subject)
        if compiled and base.compile_passes():
            continue
        for window in windows:
            name, passes = " ".join(filter(None, (kind, compiled * "compiled", f"window {window}"))), []
            said(name)
            draw = partial(_draw, subject, base, settings, window, Pace(), passes)
            draw(range(batch))
            passes.clear()
            batches = [range(n * batch, (n + 1) * batch) for n in range(pictures)]
            runs = [_measured(device, partial(draw, seeds), repeat) for seeds in batches]
            lines.append(_row(name, mean(passes), 1.0, _mean(runs), first, matrices + cache, bandwidth, on_gpu))
    return {
        "subject": subject.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(subject.prompt.dtype).removeprefix("torch."),
        "parameters": parameters,
        "quantized": lost,
        "picture": [height, width],
        "batch": batch,
        "pictures": pictures,
        **asdict(settings),
        "bandwidth_gb_a_second": bandwidth / 1e9,
        "scaled_from": timed if 0 < timed < batch * tokens else None,
        "rows": [asdict(row) for row in lines],
    }


@torch.no_grad()
def losses(
    subject: Subject, kinds: Sequence[str], settings: SamplingSettings, pictures: int
) -> tuple[dict[str, Chameleon], list[dict]]:
    """The decoder quantised in each of `kinds`, and what its matrices shrink to and its law of codes loses.

    The whole decoder draws pictures of seed 0 and on; every decoder then reads these, and at each code its guided
    logits are compared: the error's standard deviation as a share of the logits' own, the mean KL divergence in
    nats at the temperature, and the share of codes at which the likeliest one is the same.
    """
    window = min(_READ_WINDOW, codes_in(subject.grid))
    start = (subject.vocabulary, subject.prompt, subject.grid)
    codes = sample(subject.base, *start, range(pictures), settings, window=window)
    before, exact = _bytes_read(subject.base, subject), _guided(subject.base, subject, codes, settings.cfg)
    law, reduced, lost = (exact / settings.temperature).log_softmax(-1), {}, []
    for kind in kinds:
        base = subject.base if kind == kinds[-1] else copy.deepcopy(subject.base)
        reduced[kind] = quantize(base, kind)
        after = _guided(base, subject, codes, settings.cfg)
        other = (after / settings.temperature).log_softmax(-1)
        lost.append(
            {
                "kind": kind,
                "matrices_mib": [before / _MIB, _bytes_read(base, subject) / _MIB],
                "codes": codes.numel(),
                "logits_error": float((after - exact).std() / exact.std()),
                "kl": float((law.exp() * (law - other)).sum(-1).mean()),
                "same_likeliest": float((after.argmax(-1) == exact.argmax(-1)).float().mean()),
            }
        )
    return reduced, lost


def _guided(base: Chameleon, subject: Subject, codes: Tensor, cfg: float) -> Tensor:
    """Guided logits [pictures, codes, k] of every code of finished pictures, int64 [pictures, h, w], read at once."""
    vocabulary, device = subject.vocabulary, subject.prompt.device
    opening = torch.tensor(vocabulary.image_opening(*subject.grid), device=device)
    lines = F.pad(vocabulary.code_ids.to(device)[codes], (0, 1), value=vocabulary.new_line).flatten(1)
    picture = base.embed(torch.cat((opening.expand(len(codes), -1), lines), dim=1))
    body = torch.arange(lines.shape[1], device=device)
    places = body[body % (codes.shape[2] + 1) != codes.shape[2]] + len(opening) - 1
    logits = []
    for prefix in (subject.prompt, subject.prompt[:0])[: 1 + (cfg != 1)]:
        read = torch.cat((prefix.expand(len(codes), -1, -1), picture), dim=1)
        hidden = base(read, base.new_cache(*read.shape[:2]))[:, len(prefix) :]
        logits.append(base.logits(hidden[:, places], base.head(vocabulary.code_ids)))
    return guide(torch.cat(logits), (cfg, 1 - cfg)[: len(logits)])


def measured_bandwidth(device: torch.device) -> float:
    """Bytes a second at which the device reads memory: the best of several sums over a large tensor."""
    size = 2**30 if device.type == "cuda" else 2**27
    large, best = torch.ones(size // 4, device=device), 0.0
    for _ in range(5):
        start = time.perf_counter()
        large.sum().cpu()
        best = max(best, size / (time.perf_counter() - start))
    return best


def table(result: Mapping) -> str:
    """The result of `run` as plain text."""
    lines = [
        "{subject}: {parameters:,} parameters, {dtype}, {device}, {threads} threads, torch {torch}".format(**result),
        "{0[0]} x {0[1]} codes, batch {1}, cfg {2:g}, top-k {3}; memory is read at {4:.1f} GB/s".format(
            *(result[key] for key in ("picture", "batch", "cfg", "top_k", "bandwidth_gb_a_second"))
        ),
        "",
        f"{'loop':<20}{'passes':>8}{'ms/pass':>10}{'seconds':>10}{'cpu s':>9}{'ratio':>8}{'GB/s':>8}{'limit':>7}"
        f"{'peak MiB':>10}",
    ]
    for row in result["rows"]:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(
            f"{row['name']:<20}{row['passes']:>8.0f}{row['ms_a_pass']:>10.3f}{row['seconds']:>10.3f}"
            f"{row['cpu_seconds']:>9.3f}{ratio:>8}{row['gb_a_second']:>8.2f}{row['share']:>7.0%}{row['peak_mib']:>10.0f}"
        )
    for lost in reversed(result["quantized"]):
        lines[1:1] = [
            "{kind}: matrices of {matrices_mib[0]:.1f} MiB take {matrices_mib[1]:.1f}; at {codes} codes guided "
            "logits are off by {logits_error:.2%}, KL is {kl:.5f} nats and the likeliest code is the same at "
            "{same_likeliest:.1%}".format(**lost)
        ]
    best = max(result["rows"], key=lambda row: row["share"])
    lines += ["", f"roofline: {best['name']} reaches {best['share']:.0%} of the measured memory bandwidth"]
    clock, timed = "CPU seconds" if result["device"] == "cpu" else "seconds", result["scaled_from"]
    lines += [f"ratio: the reference's {clock} over a line's; limit: GB/s over what memory is read at"]
    lines += [f"peak: the most memory {'this process took by then' if result['device'] == 'cpu' else 'of the device'}"]
    lines += [f"each window is the mean of {result['pictures']} pictures or batches, behind one that is not timed"]
    if timed:
        lines += [f"the reference's times are scaled up from its first {timed} tokens"]
    return "\n".join(lines)


def _draw(
    subject: Subject,
    base: Chameleon,
    settings: SamplingSettings,
    window: int | str,
    pace: Pace,
    passes: list[int],
    seeds: range,
) -> None:
    """Draw a batch and append to `passes` how many it took."""
    rows, seen = len(seeds) * len(settings.weights()), []
    if window == "auto":
        window = pace.windows(base, len(subject.vocabulary.code_ids), rows, codes_in(subject.grid))
    start = (subject.vocabulary, subject.prompt, subject.grid)
    sample(base, *start, seeds, settings, lambda *step: seen.append(step), window=window)
    passes.append(len(seen))


def _bytes_read(base: Chameleon, subject: Subject) -> int:
    """Bytes of weights that a pass reads: all matrices of the layers, and of the head the picture's rows."""
    layers = sum(weight.nbytes for weight in base.model.layers.state_dict().values())
    head = base.lm_head.weight
    return layers + len(subject.vocabulary.code_ids) * head.shape[1] * head.element_size()


def _measured(device: torch.device, call: Callable[[], object], repeat: int) -> tuple[float, float, float]:
    """Of the fastest of several runs what `_run_once` measures."""
    return min((_run_once(device, call) for _ in range(repeat)), key=lambda run: run[device.type == "cpu"])


def _mean(runs: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The mean times of several runs, and the highest peak."""
    seconds, cpu, peaks = zip(*runs, strict=True)
    return mean(seconds), mean(cpu), max(peaks)


def _run_once(device: torch.device, call: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and the peak of memory in MiB: the device's, or all this process ever took on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start, cpu = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return seconds, cpu, _peak(device) / _MIB


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0  # not told there
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _row(
    name: str,
    passes: float,
    scale: float,
    measured: tuple[float, float, float],
    first: Row | None,
    bytes_a_pass: int,
    bandwidth: float,
    on_gpu: bool = False,
) -> Row:
    """A line; its ratio to the first is of CPU seconds on a CPU and of seconds elsewhere."""
    seconds, cpu, peak = measured[0] * scale, measured[1] * scale, measured[2]
    ratio = None if first is None else first.seconds / seconds if on_gpu else first.cpu_seconds / cpu
    rate = passes * bytes_a_pass / seconds
    return Row(name, passes, 1e3 * seconds / passes, seconds, cpu, ratio, rate / 1e9, rate / bandwidth, peak)
