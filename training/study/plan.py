"""What a study has to do: its variants and cells, what is done of them, and how long the rest takes here."""

from collections import Counter
from dataclasses import dataclass

from ..loop import can_compile, training_device
from ..whole import PROBE, UNCOMPILED, duration, probe
from .cells import Subjects
from .cells import state_of as cell_state
from .questions import Cell, Variant, cells_of, variants_of
from .settings import StudySettings
from .variants import check_stages, preferring, refusal
from .variants import state_of as variant_state

# Seconds of one core of an AMD EPYC with bfloat16 arithmetic, where `probe` takes PROBE seconds.
BEGIN = 60.0  # a training's start, with what is compiled anew
STEP = 1.1 / 16  # a training step, for each picture
JOINT = 1.4  # times as long, where the base trains too
PICTURE = 1.0
APART = 1.4  # times as long, with a guidance of the style's own
SAMPLE = 0.8  # a picture for preference pairs, four at once


@dataclass(frozen=True)
class Task:
    """A variant or a cell: `state` is done, begun or to do, else what is wrong; seconds that remain on one core."""

    one: Variant | Cell
    state: str
    seconds: float

    @property
    def wrong(self) -> bool:
        return self.state.startswith("of another")


@dataclass(frozen=True)
class Plan:
    """Everything that the study will do; `obstacles` say why it cannot begin, and what to do."""

    settings: StudySettings
    variants: tuple[Task, ...]
    cells: tuple[Task, ...]
    pictures: int
    obstacles: tuple[str, ...]

    def __str__(self) -> str:
        left = sum(task.seconds for task in (*self.variants, *self.cells))
        s = self.settings
        head = (
            f"The study in {s.out}, questions {', '.join(s.questions)}: {len(self.variants)} variants, "
            f"{len(self.cells)} cells, {self.pictures} pictures; by a probe about {duration(left)} of one core left"
        )
        head += f", {duration(left / s.workers)} on {s.workers} free ones." if s.workers > 1 else "."
        rows = [("variant", "what it is", "state", "time left")]
        rows += [(task.one.name, task.one.told, task.state, _left(task)) for task in self.variants]
        rows += [("", "", "", ""), ("cell", "", "state", "time left")]
        rows += [(task.one.name, "", task.state, _left(task)) for task in self.cells]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        widths[0] = max(len(task.one.name) for task in self.variants) + 1
        lines = [_line(row, widths) for row in rows]
        return "\n".join([head, *lines, *(f"In the way: {text}" for text in self.obstacles)])


def _left(task: Task) -> str:
    return duration(task.seconds) if task.seconds else ""


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    if row[1] or row[0] in ("", "variant"):
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    room = widths[0] + 2 + widths[1]
    return f"{row[0].ljust(room)}  {row[2].ljust(widths[2])}  {row[3]}".rstrip()


def survey(settings: StudySettings) -> Plan:
    """Look at what is there and at this machine; changes nothing. MissingPart for what `pretrain` has to make first."""
    s, device = settings, training_device()
    variants = variants_of(s.questions)
    check_stages(s, variants)
    states = {one.name: variant_state(s, one) for one in variants}
    pace = probe(device) / PROBE
    trained = tuple(Task(one, states[one.name], pace * _training(s, one, states[one.name])) for one in variants)
    subjects, cells, pictures = Subjects.of(s), [], 0
    for cell in cells_of(s.questions):
        count = len(subjects.of_cell(cell.how, s.few))
        made = states[cell.variant] == "done"
        state = cell_state(s, cell) if made else "to do"
        own = count * PICTURE * pace * (APART if cell.how.style_cfg else 1)
        cells.append(Task(cell, state, own if state in ("to do", "begun") else 0))
        pictures += count
    wrong = [task for task in (*trained, *cells) if task.wrong]
    obstacles = [refusal(s.folder(task.one), task.state) for task in wrong]
    lacking = Counter(cell.how.cases for cell in cells_of(s.questions) if not subjects.cases[cell.how.cases])
    obstacles += [f"No style in {s.work / 'pictures'} has two test pictures of the kind {kind}." for kind in lacking]
    return Plan(s, trained, tuple(cells), pictures, tuple(obstacles))


def _training(settings: StudySettings, variant: Variant, state: str) -> float:
    """Seconds that are left of a variant's training; of preference training, which is not compiled, all of it."""
    s, device = settings, training_device()
    if state not in ("to do", "begun"):
        return 0
    slow = UNCOMPILED if device.type == "cpu" else 1
    if variant.of:
        recipe = preferring(s, variant)
        pictures = 2 * recipe.steps * recipe.batch + 2 * s.cases
        return BEGIN + s.cases * recipe.sample.per_prompt * SAMPLE + pictures * STEP * slow
    compiled = can_compile(device) if s.compile is None else s.compile
    step = s.batch * STEP * (1 if compiled else slow) * (JOINT if variant.joint else 1)
    return BEGIN + (s.steps - _steps_done(s, variant)) * step


def _steps_done(settings: StudySettings, variant: Variant) -> int:
    states = sorted((settings.folder(variant) / "run").glob("state-*"))
    return int(states[-1].name.removeprefix("state-")) if states else 0
