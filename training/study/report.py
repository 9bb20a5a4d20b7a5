"""Writes the page: for each question its command, table, plot, pictures, verdict and a person's remarks."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stylear.checkpoint import load_adapter
from stylear.errors import BadInput

from ..loop import write_atomically
from ..output import provenance, read_json
from ..stages import STAGES
from .cells import INPUTS, RESULT, Subjects, measure_ceilings, state_of
from .illustrations import GRID, pictures, plot
from .questions import QUESTIONS, SHIPPED, VARIANTS, Claim, Question
from .settings import StudySettings
from .variants import kept, shared_preferences, shared_recipe
from .verdicts import CONFIRMS, CONTRADICTS, OPEN, Tested, Values, check, figures, pulled, together

MEASURES = ("prompt", "style", "nearest", "leak", "pull", "balance")
COUNTS = ("steps", "batch", "seed", "cases", "preference_steps", "pictures", "few", "first_seed", "draws")
STAMP = "<!-- of {} -->"  # the last line of an answer
VERDICT = re.compile(rf"\*\*Verdict: the mini ({CONFIRMS}|{CONTRADICTS}|{OPEN})")

RULE = """
Rows of one kind of cases draw the same pictures with the same seeds; rows told as `few` and the grid over α, β and γ
the first {few} of them. `prompt`: how often the judge's first guess is the concept asked for. `style`: how often it is
the reference's style. `nearest`: how often the nearest of all styles' mean features is the reference's, which can tell
styles never trained on too. `leak`: how often the first guess is what the reference shows, beside chance, which is how
often it is what another picture's reference shows. `pull`: how much likelier the judge finds what the reference shows
than what other references show, in nats; it moves long before a leak is the first guess. `balance`: the harmonic mean
of prompt and style. Shares have Wilson's 95 % interval, the others a bootstrapped one; that of `nearest` for styles
never trained on is over styles.

**The rule.** A claim says that a measure is better in one row than in others, or that it is no worse, which means by at
most {margin:.0f} points. Leaks count above chance. Rows of the same pictures are compared picture by picture, others
apart, by {draws} bootstrap samples to which two pictures are added, one for either side, so that no interval is empty;
with k comparisons in a claim their intervals are of 100 − 5/k percent. The mini
*confirms* a claim if every interval lies on the claimed side, *contradicts* it if one lies wholly on the other, and
otherwise *cannot tell*. A question's verdict is that of the paper's claims, or of ours where it makes none: contradicts
if one of them is contradicted, confirms if all are confirmed. With many claims one may fail by chance. `pull` was added
when leaks turned out to be too few to compare, so no claim is about it; beside each claim about leaks stands how much
less pull there is. Where hardly anything leaks, that a row leaks no more than another is soon confirmed and says
little. One training stands behind each variant, so intervals are of pictures drawn, not of trainings; questions that
were answered on different machines have trainings of their own, with the same recipe and seed.
""".strip()


def check_texts(settings: StudySettings) -> None:
    """BadInput, before hours of work, if the page or the remarks that it is made of cannot be read."""
    _text(settings.report)
    _text(settings.remarks)


def write_report(settings: StudySettings) -> dict[str, str]:
    """Write the page, its plots and pictures from all results there are; returns the verdict of each question.

    An answer that the page already has, of a question that is not drawn here, stays if it is of the same mini, as much
    trained and drawn: so a study that was begun elsewhere goes on.
    """
    subjects, page = Subjects.of(settings), settings.report
    folder, stamps = page.with_suffix(""), {letter: stamp_of(settings, letter) for letter in QUESTIONS}
    found, remarks = {}, read_remarks(settings.remarks)
    before = read_answers(page, stamps)
    parts: list[str] = []
    for letter, question in QUESTIONS.items():
        rows = _values(settings, question)
        if not all(name in rows for name in question.rows):
            if letter in before and not _is_stale(settings, question):
                found[letter], text, told = before[letter]
                parts.append("\n".join([text, *_end(remarks.get(letter) or told, stamps[letter])]))
                continue
            parts.append(
                f"## {letter}. {question.title}\n\nNot drawn yet: `python -m training study --question {letter}`."
            )
            continue
        tested = [check(claim, rows, settings.draws) for claim in question.claims]
        found[letter] = together(tested)
        scored = {name: figures(values, settings.draws) for name, values in rows.items()}
        plot(scored, folder / f"{letter}_plot.png")
        pictures(settings, subjects, question, folder / f"{letter}_pictures.webp")
        less = {claim: _less_pull(claim, rows, settings.draws) for claim in question.claims}
        told = (rows, scored, tested, less, found[letter], folder.name)
        section = _section(question, subjects.instruments.judge.style_names, *told)
        parts.append("\n".join([section, *_end(remarks.get(letter), stamps[letter])]))
    text = "\n\n".join([_head(settings, subjects, found), *parts]) + "\n"
    write_atomically(page, lambda draft: draft.write_text(text, encoding="utf-8"))
    return found


def stamp_of(settings: StudySettings, letter: str) -> str:
    """What tells an answer to a question of one mini, as much trained and drawn, from others: a hash.

    It is of what the question draws with, so that another adapter leaves the answers of variants that are trained for
    the study alone. The same for an adapter and its bundled half precision.
    """
    s, digest, question = settings, hashlib.sha256(), QUESTIONS[letter]
    variants = {cell.variant: VARIANTS[cell.variant] for cell in question.rows.values()}
    parts = ["base", "vqgan", "clip", "judge"]
    if any(cell.how.mask == "sam" for cell in question.rows.values()):
        parts.append("sam")
    told = {name: STAGES[name].content(s.work) for name in parts} | {name: getattr(s, name) for name in COUNTS}
    told |= {
        "recipe": kept(shared_recipe(s)),
        "preferences": kept(shared_preferences(s)),
        "asked": repr((question, variants)),
    }
    digest.update(json.dumps(told, sort_keys=True).encode())
    if any(SHIPPED in (one.name, one.of) for one in variants.values()):
        lora, resampler = load_adapter(s.parts(VARIANTS[SHIPPED]).adapter)
        for name, value in sorted({**lora, **resampler.state_dict()}.items()):
            digest.update(name.encode() + value.half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_answers(page: Path, stamps: Mapping[str, str]) -> dict[str, tuple[str, str, str]]:
    """Verdict, section and remarks of each question that a page answers; none of an answer with another stamp."""
    text, answers = _text(page), {}
    for part in re.split(r"^(?=## [a-i]\. )", text, flags=re.MULTILINE)[1:]:
        body, stamped, _ = part.rpartition(STAMP.format(stamps[part[3]]))
        section, _, told = body.strip().partition("\n\nRemarks: ")
        if stamped and (verdict := VERDICT.search(section)):
            answers[part[3]] = verdict[1], section, told
    return answers


def _is_stale(settings: StudySettings, question: Question) -> bool:
    """Whether a row of a question was drawn here, of other things than there are now."""
    begun = (cell for cell in question.rows.values() if (settings.folder(cell) / INPUTS).exists())
    return any(state_of(settings, cell).startswith("of another") for cell in begun)


def read_remarks(file: Path) -> dict[str, str]:
    """A person's remarks by question: what stands under `## LETTER` in the file, if there is one."""
    parts = re.split(r"^## ([a-i])\b.*$", _text(file), flags=re.MULTILINE)
    found = {}
    for letter, text in zip(parts[1::2], map(str.strip, parts[2::2]), strict=True):
        if text:
            found[letter] = f"{found[letter]}\n\n{text}" if letter in found else text
    return found


def _text(file: Path) -> str:
    """What a file says, nothing if there is none; BadInput for one that cannot be read, lest it be written over."""
    try:
        return file.read_text(encoding="utf-8-sig") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is not a page of text that can be read: mend it or move it away. {error}") from error


def _values(settings: StudySettings, question: Question) -> dict[str, Values]:
    """Of the rows that are drawn, by what is there now."""
    files = {name: settings.folder(cell) / RESULT for name, cell in question.rows.items()}
    made = [name for name, file in files.items() if file.exists() and state_of(settings, question.rows[name]) == "done"]
    return {name: Values.of(read_json(files[name], "result")) for name in made}


def _head(settings: StudySettings, subjects: Subjects, found: Mapping[str, str]) -> str:
    made, ceilings = provenance(), measure_ceilings(settings, subjects)
    scored = {name: figures(Values.of(one), settings.draws) for name, one in ceilings.items()}
    verdicts = [
        f"| [{letter}](#{_anchor(letter, q)}) | {q.title} | {q.paper} | **{found[letter]}**{_whose(q)} |"
        for letter, q in QUESTIONS.items()
        if letter in found
    ]
    margin = max(claim.margin for q in QUESTIONS.values() for claim in q.claims)
    return "\n".join([
        "# The study: does the method work, and what of it?",
        "",
        "Nine questions to the bundled mini, asked by `python -m training study` "
        "([study.yaml](../training/configs/study.yaml)), which writes this page; `--question b` asks one alone. "
        f"Made with stylear {made['stylear']}, torch {made['torch']}. Questions b, d, e, f and h draw with the mini's "
        f"own adapter{_long(settings)}; a, c, g and i compare variants of its recipe that were trained for "
        f"{settings.steps} steps of {settings.batch} pictures. {settings.pictures} pictures at most in each cell. What "
        "a toy domain of centred objects says about the paper's pictures is little; what it says about the mechanism "
        "is below.",
        "",
        "| | question | what the paper says | the mini |",
        "|---|---|---|---|",
        *verdicts,
        "",
        "## How it is measured",
        "",
        RULE.format(margin=100 * margin, draws=settings.draws, few=settings.few),
        "",
        "Real pictures, read the same way: of what is asked for, never trained on.",
        "",
        table(scored, MEASURES[:3]),
    ])  # fmt: skip


def _long(settings: StudySettings) -> str:
    """How long the adapter of the work folder was trained, if it says so."""
    made, steps = read_json(settings.work / "adapter" / "summary.json", "summary"), []
    while isinstance(made, dict) and "steps" in made:
        steps.insert(0, str(made["steps"]))
        made = made.get("init")
    return f", of {' + '.join(steps)} steps" if steps else ""


def _whose(question: Question) -> str:
    return ", of claims that are ours" if all(claim.ours for claim in question.claims) else ""


def _less_pull(claim: Claim, rows: Mapping[str, Values], draws: int) -> dict[str, tuple[float, float, float]]:
    """For each row that a claim about leaks compares with, how much less pull there is, in nats."""
    if claim.measure != "leak":
        return {}
    less = {other: pulled(rows[claim.better], rows[other], draws) for other in claim.others}
    return {other: one for other, one in less.items() if one}


def _anchor(letter: str, question: Question) -> str:
    return re.sub(r"[^a-z0-9 -]", "", f"{letter} {question.title}".lower()).replace(" ", "-")


def _section(
    question: Question,
    styles: Sequence[str],
    rows: Mapping[str, Values],
    scored: Mapping[str, dict],
    tested: Sequence[Tested],
    less_pull: Mapping[Claim, dict],
    verdict: str,
    folder: str,
) -> str:
    letter = question.letter
    lines = [
        f"## {letter}. {question.title}", "",
        f"`python -m training study --question {letter}`", "",
        f"The paper: {question.paper}", "",
        *([f"Mind: {question.limit}", ""] if question.limit else []),
        f"**Verdict: the mini {verdict}{_of(question, verdict)}.**", "",
        *(_claim(one, less_pull[one.claim]) for one in tested), "",
        table(scored), "",
        *best_of_grid(scored),
        *by_style(rows, styles),
        f"![Figures with intervals]({folder}/{letter}_plot.png)", "",
        f"![Pictures, row by row]({folder}/{letter}_pictures.webp)",
    ]  # fmt: skip
    return "\n".join(lines)


def _end(remarks: str | None, stamp: str) -> list[str]:
    return [*(["", f"Remarks: {remarks}"] if remarks else []), "", STAMP.format(stamp)]


def best_of_grid(scored: Mapping[str, Mapping[str, tuple]]) -> list[str]:
    """A line that says which row of a grid balances best, and how many may as well; nothing without a grid."""
    grid = {name: found["balance"] for name, found in scored.items() if GRID.search(name)}
    if not grid:
        return []
    best = max(grid, key=lambda name: grid[name][0])
    reaching = sum(high >= grid[best][0] for _, _, high in grid.values()) - 1
    told = (
        f"Of the grid {best} balances best, {_told(grid[best])}; the intervals of {reaching} others reach that value."
    )
    return [told, ""]


def by_style(rows: Mapping[str, Values], styles: Sequence[str]) -> list[str]:
    """A line for each row of styles never trained on: which of them came through how often; nothing without any."""
    lines = []
    for name, values in rows.items():
        if values.cases == "unseen":
            each = [(styles[style], values.nearest[values.wanted == style]) for style in np.unique(values.wanted)]
            ordered = sorted(each, key=lambda one: -one[1].mean())
            told = ", ".join(f"{style} {int(hits.sum())} of {len(hits)}" for style, hits in ordered)
            lines += [f"Nearest, {name}: {told}.", ""]
    return lines


def _of(question: Question, verdict: str) -> str:
    if _whose(question):
        return (
            ", of claims that are ours: the paper makes none"
            if verdict == OPEN
            else " claims that are ours: the paper makes none"
        )
    return "" if verdict == OPEN else " the paper"


def _claim(one: Tested, less_pull: Mapping[str, tuple[float, float, float]]) -> str:
    told, pulls = [], []
    for other, (value, low, high) in one.differences.items():
        against = "" if len(one.differences) == 1 else f"against {other} "
        told.append(f"{against}{_points(value)} ({_points(low)} … {_points(high)})")
        if other in less_pull:
            value, low, high = less_pull[other]
            pulls.append(f"{against}{value:+.2f} ({low:+.2f} … {high:+.2f})")
    nats = f" Less pull: {'; '.join(pulls)} nats." if pulls else ""
    ours = "; ours" if one.claim.ours else ""
    return f"- {one.claim.told} ({one.claim.measure}{ours}): **{one.verdict}**, {'; '.join(told)} points.{nats}"


def table(scored: Mapping[str, Mapping[str, tuple]], measures: Sequence[str] = MEASURES) -> str:
    """Rows of figures as Markdown."""
    lines = [f"| | {' | '.join(measures)} |", "|---" * (len(measures) + 1) + "|"]
    for name, found in scored.items():
        cells = [(_nats if measure == "pull" else _told)(found.get(measure)) for measure in measures]
        if "leak" in measures and "leak" in found:
            cells[measures.index("leak")] += f", chance {100 * (found['leak'][0] - found['excess'][0]):.1f}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(figure: tuple[float, float | None, float | None] | None) -> str:
    if figure is None:
        return "–"
    value, low, high = figure
    spread = "" if low is None else f" ({100 * low:.0f} … {100 * high:.0f})"
    return f"{100 * value:.1f} %{spread}"


def _nats(figure: tuple[float, float | None, float | None] | None) -> str:
    if figure is None:
        return "–"
    value, low, high = figure
    return f"{value:+.2f}" + ("" if low is None else f" ({low:+.2f} … {high:+.2f})")


def _points(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # no minus before nothing
