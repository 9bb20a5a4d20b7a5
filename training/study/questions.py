"""The nine questions: the variants of the recipe, the cells of pictures drawn with them, and what the paper claims."""

from dataclasses import dataclass, field
from typing import Any

SHIPPED, DEFAULT = "shipped", "default"  # the adapter that is there; the same recipe in the study's few steps
BASE_RATE = 5e-4  # of joint training: between the LoRA's and what the base was trained at
STRONG = {"noise": 0.5, "noise_relative": True}
DROPPED = {"style_drop": 0.5}
VIEWED = {"views": {"shuffle": 4, "crop": 0.6, "flip": 0.5}}
PREFERRED = {"lora_rate": 5e-5, "resampler_rate": 1e-5}  # what dpo.yaml gives for more pairs than its own eight
PUNISHED = {"judge": {"leakage": 2.0}}
MARGIN = 0.05  # what counts as no difference, where a claim says that something costs nothing


@dataclass(frozen=True)
class Variant:
    """An adapter: trained by the recipe with `changes`, or, with `of`, that variant's after preference training.

    `changes` are those to the recipe of `train`, or of `dpo`.
    """

    name: str
    told: str
    changes: dict[str, Any] = field(default_factory=dict)
    of: str | None = None

    @property
    def joint(self) -> bool:
        """Whether its base was trained too."""
        return bool(self.changes.get("base_rate"))


@dataclass(frozen=True)
class How:
    """How the pictures of a cell are drawn.

    `cases`: pair (held-out pairs of concept and style), family (such pairs drawn by families never trained on) or
    unseen (styles never trained on); `few`: only the first of them. `reference`: the picture, or a texture without an
    object in its style. `mask`: what is subtracted from it (paper 3.3): none, sam, true, eroded, shifted, random
    (another picture's mask), whole (the whole picture, from itself). `gamma`: noise, if `relative` in units of the
    tokens' root mean square. `style_cfg`: None is one guidance for both.
    """

    cases: str = "pair"
    few: bool = False
    reference: str = "picture"
    mask: str = "none"
    alpha: float = 0.2
    beta: float = 0.8
    gamma: float = 0.1
    relative: bool = False
    cfg: float = 4.0
    style_cfg: float | None = None


@dataclass(frozen=True)
class Cell:
    """Pictures of one variant, drawn in one way."""

    variant: str
    how: How = How()

    @property
    def name(self) -> str:
        """Its folder: the variant's, and in it what is not as usual."""
        usual = How()
        own = {key: value for key, value in vars(self.how).items() if value != getattr(usual, key)}
        told = (key if value is True else f"{key}-{value}" for key, value in own.items())
        return f"{self.variant}/{'_'.join(told) or 'usual'}"


@dataclass(frozen=True)
class Claim:
    """`measure` is better in the row `better` than in each of `others`, or worse by at most `margin`.

    Measures: prompt, style, nearest, balance (their harmonic mean: of prompt and style), leak (less is better). The
    row "chance" is that of a blind guess. `ours`: asked beside what the paper claims.
    """

    told: str
    measure: str
    better: str
    others: tuple[str, ...]
    margin: float = 0.0
    ours: bool = False


@dataclass(frozen=True)
class Question:
    """A question: what the paper says, what is looked at beside each other, by row of its table, what is tested, and
    what of the mini limits the answer (`limit`)."""

    letter: str
    title: str
    paper: str
    rows: dict[str, Cell]
    claims: tuple[Claim, ...]
    limit: str = ""


def _train(name: str, told: str, **changes: Any) -> Variant:
    return Variant(name, told, changes)


RATIOS = {"1:1": [1, 1], "1:3": [1, 3], "1:6": [1, 6], "1:30": [1, 30]}
_SLUGS = {name: name.replace(":", "_") for name in RATIOS}
_NONE = {"noise": 0.0, "base_rate": BASE_RATE}
_RELEASED = {"rank": 4, "ratio": [1, 3], "misread": 0.0, "opening": {"steps": 0}, "contrast": {"weight": 0}}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(SHIPPED, "the adapter of the work folder, trained to the end"),
        Variant(DEFAULT, "its recipe in the study's steps"),
        _train("stylised_only", "no raw pictures", ratio=[1, 0]),
        *(_train(f"ratio_{_SLUGS[name]}", f"stylised to raw {name}", ratio=ratio) for name, ratio in RATIOS.items()),
        _train("raw_only", "no stylised pictures", ratio=[0, 1]),
        *(_train(f"tokens_{m}", f"{m} style tokens", resampler={"tokens": m}) for m in (4, 8, 32)),
        *(
            _train(f"tenth_{_SLUGS[name]}", f"a tenth of the data, {name}", ratio=RATIOS[name], data_share=0.1)
            for name in ("1:1", "1:3", "1:6")
        ),
        _train("joint", "base trained too, no noise: nothing keeps content out", **_NONE),
        _train("joint_noise", "joint, noise of half the tokens' size", **_NONE | STRONG),
        _train("joint_drop", "joint, half of the style tokens dropped", **_NONE | DROPPED),
        _train("joint_views", "joint, the reference shuffled, cropped, flipped", **_NONE | VIEWED),
        _train("frozen", "frozen base, no noise", noise=0.0),
        _train("together", "frozen base, noise, dropped tokens, views", **STRONG | DROPPED | VIEWED),
        _train("paper", "the paper's recipe: rank 4, 1:3, whole pictures, codes read as they are", **_RELEASED),
        Variant("dpo", "preference pairs for prompt and style, a little against leakage", PREFERRED, SHIPPED),
        Variant("joint_pairs", "joint, preference pairs against leakage", PREFERRED | PUNISHED, "joint"),
    )
}

_A = {"stylised only": Cell("stylised_only")}
_A |= {name: Cell(f"ratio_{_SLUGS[name]}") for name in RATIOS}
_A |= {"raw only": Cell("raw_only"), "7:1 (the mini's)": Cell(DEFAULT)}

_B = {
    "neither": Cell(SHIPPED, How(gamma=0.0)),
    "subtraction": Cell(SHIPPED, How(mask="sam", gamma=0.0)),
    "noise": Cell(SHIPPED),
    "both": Cell(SHIPPED, How(mask="sam")),
}
_B |= {"neither, few": Cell(SHIPPED, How(few=True, gamma=0.0)), "noise, few": Cell(SHIPPED, How(few=True))}
_B |= {
    f"α {alpha} β {beta} γ {gamma}": Cell(SHIPPED, How(few=True, mask="sam", alpha=alpha, beta=beta, gamma=gamma))
    for alpha in (0.0, 0.2, 0.5)
    for beta in (0.4, 0.8, 1.2)
    for gamma in (0.0, 0.1, 0.3)
}

_F = {"nothing subtracted": Cell(SHIPPED), "SAM's mask": Cell(SHIPPED, How(mask="sam"))}
_F |= {f"{name} mask": Cell(SHIPPED, How(mask=name)) for name in ("true", "eroded", "shifted", "random")}
_F |= {"whole picture": Cell(SHIPPED, How(mask="whole"))}
_F |= {
    "texture": Cell(SHIPPED, How(reference="texture")),
    "texture, SAM's mask": Cell(SHIPPED, How(reference="texture", mask="sam")),
}

_SCALES = (2.0, 4.0, 8.0)
_H = {f"both {scale:g}": Cell(SHIPPED, How(cfg=scale)) for scale in _SCALES}
_H |= {
    f"text {text:g}, style {style:g}": Cell(SHIPPED, How(cfg=text, style_cfg=style))
    for text in _SCALES
    for style in _SCALES
    if text != style
}

_QUIET = How(gamma=0.0)
_LOUD = How(gamma=STRONG["noise"], relative=True)
_I = {
    "none (joint)": Cell("joint", _QUIET),
    "noise": Cell("joint_noise", _LOUD),
    "token dropout": Cell("joint_drop", _QUIET),
    "views": Cell("joint_views", _QUIET),
    "frozen base": Cell("frozen", _QUIET),
    "SAM subtraction": Cell("joint", How(mask="sam", gamma=0.0)),
    "preference pairs": Cell("joint_pairs", _QUIET),
    "all but pairs": Cell("together", How(mask="sam", gamma=STRONG["noise"], relative=True)),
    "the mini's": Cell(DEFAULT),
    "the paper's training": Cell("paper"),
}
_MEASURES = tuple(_I)[1:7]
_PAPERS = ("noise", "SAM subtraction")

QUESTIONS = {
    question.letter: question
    for question in (
        Question(
            "a", "Which share of raw pictures?",
            "Stylised pictures alone give a poor style; 1:3 balances best; more raw pictures let content through "
            "(Table 2: stylised alone, 1:3, 1:6, 1:30).",
            _A,
            (
                Claim("1:3 has more style than stylised pictures alone", "style", "1:3", ("stylised only",)),
                Claim("1:3 lets less content through than 1:6 and 1:30", "leak", "1:3", ("1:6", "1:30")),
                Claim("1:3 balances prompt and style better than stylised alone, 1:6 and 1:30", "balance", "1:3",
                      ("stylised only", "1:6", "1:30")),
                Claim("and better than 1:1 and raw pictures alone", "balance", "1:3", ("1:1", "raw only"), ours=True),
            ),
            "The mini's raw pictures are few and plain: drawings as their authors made them and in one colour, one for "
            "44 stylised; the paper has three for one. A large share of raw shows the same ones many times.",
        ),
        Question(
            "b", "What do subtraction and noise do?",
            "Without style-enhanced tokens content leaks; with them it does not, and style is kept (Fig. 8). It does "
            "not give α, β and γ; the released code has 0.2, 0.8, and 0.3 or 0.1.",
            _B,
            (
                Claim("subtraction keeps content out", "leak", "subtraction", ("neither",)),
                Claim("noise keeps content out", "leak", "noise", ("neither",)),
                Claim("both together keep content out", "leak", "both", ("neither",)),
                Claim("both together cost no style", "style", "both", ("neither",), MARGIN),
            ),
            "The adapter was trained with noise of 0.1, so `neither` leaves it out only when drawing.",
        ),
        Question(
            "c", "How many style tokens?",
            "It has 16 and compares no other number.",
            {**{str(m): Cell(f"tokens_{m}") for m in (4, 8)}, "16": Cell(DEFAULT), "32": Cell("tokens_32")},
            (
                Claim("16 carry more style than 4", "style", "16", ("4",), ours=True),
                Claim("16 carry no less style than 32", "style", "16", ("32",), MARGIN, ours=True),
                Claim("16 let no more content through than 4", "leak", "16", ("4",), MARGIN, ours=True),
            ),
            "The mini's base learned its prompts with 16 places for style, so other numbers start behind.",
        ),
        Question(
            "d", "Does preference training help?",
            "DPO improves prompt following, and style slightly.",
            {"off": Cell(SHIPPED), "on": Cell("dpo")},
            (
                Claim("prompts are followed better", "prompt", "on", ("off",)),
                Claim("style is no worse", "style", "on", ("off",), MARGIN),
            ),
            "The pairs are judged by the mini's own CLIP, and the pictures measured by another judge.",
        ),
        Question(
            "e", "Does it read styles and hands it never trained on?",
            "It assumes that style is taken from any reference picture.",
            {
                "trained styles": Cell(SHIPPED),
                "families never trained on": Cell(SHIPPED, How(cases="family")),
                "styles never trained on": Cell(SHIPPED, How(cases="unseen")),
            },
            (
                Claim("a style never trained on comes through at all", "nearest", "styles never trained on",
                      ("chance",)),
                Claim("and as well as a trained one", "nearest", "styles never trained on", ("trained styles",),
                      MARGIN),
                Claim("a style drawn by another hand comes through as well", "style", "families never trained on",
                      ("trained styles",), MARGIN, ours=True),
            ),
            "Eight styles are kept back from all training, so the base has never drawn them either.",
        ),
        Question(
            "f", "What if SAM fails?",
            "The object is cut out by SAM before it is subtracted, and style is kept; what a wrong mask does is not "
            "told.",
            _F,
            (
                Claim("SAM's mask costs no style", "style", "SAM's mask", ("nothing subtracted",), MARGIN),
                Claim("it is as good as the true one", "leak", "SAM's mask", ("true mask",), MARGIN, ours=True),
                Claim("a true mask keeps more content out than a wrong one", "leak", "true mask",
                      ("eroded mask", "shifted mask", "random mask"), ours=True),
                Claim("where there is no object, subtraction costs no style", "style", "texture, SAM's mask",
                      ("texture",), MARGIN, ours=True),
            ),
            "A whole picture subtracted from itself leaves a fifth of it, which the resampler's norms make good again. "
            "Textures are drawn in a style without an object; the judge itself names the style of few of them, see the "
            "real pictures above.",
        ),
        Question(
            "g", "Is 1:3 still best with a tenth of the data?",
            "1:3 is best at 65,368 pictures; other sizes were not tried.",
            {
                **{f"a tenth, {name}": Cell(f"tenth_{_SLUGS[name]}") for name in ("1:1", "1:3", "1:6")},
                **{f"all, {name}": Cell(f"ratio_{_SLUGS[name]}") for name in ("1:1", "1:3", "1:6")},
            },
            (
                Claim("1:3 balances prompt and style best at a tenth", "balance", "a tenth, 1:3",
                      ("a tenth, 1:1", "a tenth, 1:6"), ours=True),
                Claim("1:3 loses nothing by having a tenth of the data", "balance", "a tenth, 1:3", ("all, 1:3",),
                      MARGIN, ours=True),
            ),
            "In so few steps a tenth still has more stylised pictures than are shown; it is the raw ones that repeat.",
        ),
        Question(
            "h", "Does one guidance scale for text and style do?",
            "The released code has one; the paper does not ask.",
            _H,
            (
                Claim("one scale of 4 balances as well as any of these pairs", "balance", "both 4",
                      tuple(name for name in _H if name.startswith("text")), MARGIN, ours=True),
            ),
            "Without a style means with that of a white sheet, as released; so more text than style bleaches. Pairs "
            "differ by a factor of two at least.",
        ),
        Question(
            "i", "What keeps content out?",
            "Noise and SAM subtraction. That its base is frozen and that it trains on preferences is told for other "
            "reasons; token dropout and views are ours.",
            _I,
            (
                *(
                    Claim(f"content is kept out by {name} alone", "leak", name, ("none (joint)",),
                          ours=name not in _PAPERS)
                    for name in _MEASURES
                ),
                Claim("all but pairs keep content out", "leak", "all but pairs", ("none (joint)",), ours=True),
                Claim("and cost no prompt against the frozen base alone", "prompt", "all but pairs", ("frozen base",),
                      MARGIN, ours=True),
                Claim("the paper's training keeps as much out as all but pairs", "leak", "the paper's training",
                      ("all but pairs",), MARGIN, ours=True),
            ),
            "Only if the row without any measure leaks can a measure be seen to keep anything out. In that row the "
            "base goes on training, without noise. To it one measure is added: noise of half the tokens' size, half "
            "of the style tokens dropped, the reference shuffled, cropped and flipped, the base kept frozen, SAM's "
            "subtraction when drawing, preference pairs against leaks. `all but pairs` has the others at once. The "
            "paper's training is rank 4, 1:3, whole pictures, codes read as they are, without its subtraction and "
            "its pairs.",
        ),
    )
}  # fmt: skip


def cells_of(letters: tuple[str, ...]) -> list[Cell]:
    """What the questions look at, each once."""
    return list(dict.fromkeys(cell for letter in letters for cell in QUESTIONS[letter].rows.values()))


def variants_of(letters: tuple[str, ...]) -> list[Variant]:
    """The variants that the questions take, one that another starts from before it."""
    names = dict.fromkeys(cell.variant for cell in cells_of(letters))
    of = (name for name in names if VARIANTS[name].of)
    wanted = {*names, *(VARIANTS[name].of for name in of)}
    return [variant for variant in VARIANTS.values() if variant.name in wanted]
