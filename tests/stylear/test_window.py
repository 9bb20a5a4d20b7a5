"""Any window, any batch and the released loop draw the same picture from the same seed; nothing biases its law."""

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from tiny_tokenizer import tiny_tokenizer_json

from stylear import drawing, pace, sampling
from stylear.chameleon import Cache, Chameleon
from stylear.chameleon_config import ChameleonConfig
from stylear.drawing import Noise, SamplingSettings, draw, draw_surely, margin
from stylear.errors import BadInput, Cancelled
from stylear.pace import WINDOWS, Pace, Windows
from stylear.reference import reference_codes, reference_model
from stylear.sampling import embed_prompt, sample
from stylear.vocabulary import Vocabulary

CODES = 24
SIZES = [(1, 1), (1, 3), (2, 2), (3, 1)]
OTHER_WINDOWS = (4, 7, 12, 16)


def random_model(vocabulary: Vocabulary, seed: int, scale: float = 0.4, **shape) -> Chameleon:
    """A random decoder whose next code depends strongly on what it has read."""
    values = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    values |= {"num_key_value_heads": 2, "max_position_embeddings": 128, **shape}
    generator = torch.Generator().manual_seed(seed)
    model = Chameleon(ChameleonConfig(vocab_size=vocabulary.size, **values)).requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.copy_(("norm" in name) + scale * torch.randn(weight.shape, generator=generator))
    return model.lay_out()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(tiny_tokenizer_json(codes=CODES, grids=4))


@pytest.fixture(scope="module")
def model(vocabulary) -> Chameleon:
    return random_model(vocabulary, 0)


@pytest.fixture(scope="module")
def smooth(vocabulary) -> Chameleon:
    """A model whose codes hardly depend on each other, so that most guesses come true."""
    return random_model(vocabulary, 0, scale=0.05)


def start_of(model, vocabulary, words: str, style_seed: int, with_condition: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(style_seed)
    condition = torch.randint(CODES, (2, 4), generator=generator) if with_condition else None
    return embed_prompt(model, vocabulary.prompt(words, condition), torch.randn(16, 32, generator=generator))


def combinations(count: int) -> list[tuple]:
    """`count` of all (prompt, style, seed, size, cfg, top-k, temperature, condition), evenly mixed."""
    every = itertools.product(
        *(("", "a ship"), (1, 2), (0, 5), SIZES, (0.0, 1.0, 4.0), (1, 5, 2000), (0.5, 1.0), (False, True))
    )
    return random.Random(0).sample(list(every), count)  # noqa: S311


@pytest.mark.parametrize("chunk", range(8))
def test_every_window_draws_exactly_the_codes_of_window_1(model, smooth, vocabulary, chunk):
    for words, style, seed, grid, cfg, top_k, temperature, condition in combinations(208)[chunk::8]:
        for one in (model, smooth):
            start = start_of(one, vocabulary, words, style, condition)
            asked = (one, vocabulary, start, grid, [seed], SamplingSettings(cfg, top_k, temperature))
            plain = sample(*asked)
            for window in (window for window in OTHER_WINDOWS if window <= plain.numel()):
                assert torch.equal(sample(*asked, window=window), plain), (words, style, seed, grid, cfg, top_k, window)


@pytest.mark.parametrize("window", [1, 3, 16])
@pytest.mark.parametrize("name", ["model", "smooth"])
def test_a_picture_is_exactly_the_same_alone_and_in_a_batch(request, vocabulary, name, window):
    model = request.getfixturevalue(name)
    start, settings = start_of(model, vocabulary, "a ship", 1), SamplingSettings(2.0, 12)
    batch = sample(model, vocabulary, start, (2, 2), range(5), settings, window=window)
    for seed, codes in enumerate(batch):
        assert torch.equal(sample(model, vocabulary, start, (2, 2), [seed], settings)[0], codes)


@pytest.mark.parametrize("top_k", [1, 5, 2000])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_windows_draw_exactly_the_picture_of_the_released_loop(model, vocabulary, cfg, top_k):
    start, settings = start_of(model, vocabulary, "a ship", 1), SamplingSettings(cfg, top_k)
    theirs = reference_model(model.config, model.state_dict())
    for seed in range(3):
        expected = reference_codes(theirs, vocabulary, start, (2, 2), seed, settings)
        drawn = sample(model, vocabulary, start, (2, 2), [seed], settings, window=8)[0]
        assert torch.equal(drawn, expected)


def passes_of(monkeypatch, *asked, **options) -> int:
    """How many passes a call takes behind its prefill."""
    seen = []
    monkeypatch.setattr(sampling._Run, "_read", lambda *a, old=sampling._Run._read: seen.append(a) or old(*a))
    sample(*asked, **options)
    monkeypatch.undo()
    return len(seen)


def test_a_window_saves_passes_where_guesses_come_true(smooth, vocabulary, monkeypatch):
    asked = (smooth, vocabulary, start_of(smooth, vocabulary, "", 1), (2, 4), [0], SamplingSettings(1.0))
    plain, windowed = passes_of(monkeypatch, *asked), passes_of(monkeypatch, *asked, window=8)
    assert plain == 31 and windowed < 16


def rows_of(monkeypatch, *asked, **options) -> list[int]:
    """Over how many rows each pass of a call goes behind its prefill, in memory that stays where it is."""
    caches, seen, new, call = [], [], Chameleon.new_cache, sampling.Passes.__call__
    monkeypatch.setattr(Chameleon, "new_cache", lambda *a: caches.append(new(*a)) or caches[-1])
    monkeypatch.setattr(sampling.Passes, "__call__", lambda self, read: seen.append(len(read)) or call(self, read))
    first = []
    sample(*asked, **options, progress=lambda *_: first.append(caches[0].kept.data_ptr()))
    monkeypatch.undo()
    assert len(set(first)) == 1
    return seen


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_finished_pictures_leave_the_batch_and_the_others_stay_exactly_the_same(smooth, vocabulary, cfg, monkeypatch):
    settings, seeds, grid = SamplingSettings(cfg, 12), range(8), (2, 4)
    asked = (smooth, vocabulary, start_of(smooth, vocabulary, "a ship", 1), grid)
    rows = rows_of(monkeypatch, *asked, seeds, settings, window=8)
    assert rows[0] == 8 * (1 + (cfg != 1)) and rows == sorted(rows, reverse=True) and rows[-1] <= rows[0] / 2
    batch = sample(*asked, seeds, settings, window=8)
    for seed, codes in zip(seeds, batch, strict=True):
        assert torch.equal(sample(*asked, [seed], settings)[0], codes)


def test_a_row_that_is_moved_wrongly_breaks_the_equality_of_a_batch(smooth, vocabulary, monkeypatch):
    """A planted fault: the rows that stay are not those of the pictures that do."""
    asked = (smooth, vocabulary, start_of(smooth, vocabulary, "a ship", 1), (2, 4), range(8), SamplingSettings(2.0, 12))
    right = sample(*asked, window=8)
    keep = Cache.keep
    monkeypatch.setattr(Cache, "keep", lambda self, rows: keep(self, list(range(len(rows)))))
    assert not torch.equal(sample(*asked, window=8), right)


def test_a_window_may_be_exactly_the_picture_and_no_larger(model, vocabulary):
    asked = (model, vocabulary, start_of(model, vocabulary, "", 1), (1, 2), [0], SamplingSettings())
    assert torch.equal(sample(*asked, window=8), sample(*asked))
    with pytest.raises(BadInput, match="window is 9; it has to be a whole number from 1 to 8, the codes of this"):
        sample(*asked, window=9)


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "4", None, 10**9])
def test_a_window_that_is_no_sensible_number_is_refused(model, vocabulary, window):
    with pytest.raises(BadInput, match="window"):
        sample(model, vocabulary, torch.zeros(4, 32), (1, 1), [0], SamplingSettings(), window=window)


# -- what would break it ---------------------------------------------------------------------------


def test_a_stale_cache_slot_breaks_the_equality_of_windows(model, vocabulary, monkeypatch):
    """A planted fault: rows that go on where the guesses ended, as if all of them had come true."""
    asked = (model, vocabulary, start_of(model, vocabulary, "", 1), (2, 2), [0], SamplingSettings(2.0))
    plain = sample(*asked)

    def read_too_far(self, count, old=sampling._Run._read):
        if hasattr(self, "ends"):
            self.begun = [begun + 1 for begun in self.ends]
        self.ends = list(self.begun)
        return old(self, count)

    monkeypatch.setattr(sampling._Run, "_read", read_too_far)
    monkeypatch.setattr(Chameleon, "new_cache", lambda self, r, s, old=Chameleon.new_cache: old(self, r, s + 64))
    assert not torch.equal(sample(*asked, window=8), plain)


def test_a_guess_that_is_kept_unchecked_breaks_the_equality_of_windows(model, vocabulary, monkeypatch):
    """A planted fault: the first guess of each window stands whatever the law says."""
    asked = (model, vocabulary, start_of(model, vocabulary, "", 1), (2, 2), [0], SamplingSettings(2.0))
    plain = sample(*asked)

    def believing(self, found, count, old=sampling._Run._commit):
        for picture, values in zip(self.live, found, strict=True):
            body, place = self.body[picture], self.places[picture]
            if count > 1 and body[self._at(place)] >= 0:
                values[0] = body[self._at(place)]
        old(self, found, count)

    monkeypatch.setattr(sampling._Run, "_commit", believing)
    assert not torch.equal(sample(*asked, window=8), plain)


def test_noise_drawn_anew_for_a_place_breaks_the_equality_of_windows(model, vocabulary, monkeypatch):
    asked = (model, vocabulary, start_of(model, vocabulary, "", 1), (2, 2), [0], SamplingSettings(2.0))
    plain = sample(*asked)
    monkeypatch.setattr(Noise, "at", lambda *asked, old=Noise.at: old(*asked).flip(-1))
    assert not torch.equal(sample(*asked, window=8), plain)


# -- ties ------------------------------------------------------------------------------------------


def test_a_draw_that_rounding_could_change_is_in_doubt_and_others_are_not():
    logits = torch.tensor([[0.0, 1.0, 1.0001], [0.0, 1.0, 3.0]])
    codes, doubt = draw_surely(logits, None, 1, torch.tensor(1e-3))
    assert codes.tolist() == [2, 2] and doubt.tolist() == [True, False]


def test_a_code_at_the_edge_of_the_top_k_is_in_doubt_only_if_it_is_drawn():
    logits, noise = torch.tensor([0.0, 1.0, 1.0001, 5.0]), torch.tensor([0.0, 0.0, 9.0, 0.0])
    assert draw_surely(logits[None], noise[None], 2, torch.tensor(1e-3))[1].tolist() == [True]
    assert draw_surely(logits[None], 0 * noise[None], 2, torch.tensor(1e-3))[1].tolist() == [False]


def test_the_last_of_the_top_k_is_in_no_doubt_where_the_next_is_far_below_it():
    logits, noise = torch.tensor([0.0, 1.0, 3.0, 5.0]), torch.tensor([0.0, 0.0, 9.0, 0.0])
    codes, doubt = draw_surely(logits[None], noise[None], 2, torch.tensor(1e-3))
    assert codes.tolist() == [2] and doubt.tolist() == [False]
    assert draw_surely(logits[None], noise[None], 2, torch.tensor(1.0))[1].tolist() == [True]


def test_no_logits_within_the_margin_change_a_code_that_is_not_in_doubt():
    """Laws with many near ties, each wrong by anything up to the margin."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randint(12, (300, CODES), generator=generator) + 0.05 * torch.randn(300, CODES, generator=generator)
    noise, margin, sure = torch.randn(300, CODES, generator=generator), torch.tensor(0.02), 0
    for top_k in (2, 3, 7, CODES - 1):
        codes, doubt = draw_surely(logits, noise, top_k, margin)
        sure += int((~doubt).sum())
        for _ in range(20):
            off = logits + margin * (2 * torch.rand(logits.shape, generator=generator) - 1)
            assert torch.equal(draw(off, noise, top_k)[~doubt], codes[~doubt])
    assert sure > 600  # of 1200


def test_few_codes_are_in_doubt_however_few_may_be_drawn(model, vocabulary, monkeypatch):
    again, redraw = [], sampling._Run._draw_again
    monkeypatch.setattr(sampling._Run, "_draw_again", lambda *a: again.append(a) or redraw(*a))
    asked = (model, vocabulary, start_of(model, vocabulary, "", 1), (2, 2), range(8), SamplingSettings(2.0, 2))
    assert 10 * len(again) < sample(*asked, window=4).numel()


def test_without_doubt_both_draws_are_the_same():
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn(2, 400, CODES, generator=generator)
    for top_k in (1, 5, 24, 100):
        drawn = draw(logits, None if top_k == 1 else noise, top_k)
        again, doubt = draw_surely(logits, None if top_k == 1 else noise, top_k, torch.tensor(0.0))
        assert torch.equal(drawn, again) and not doubt.any()


def test_codes_in_doubt_are_drawn_again_and_stay_exactly_the_same(model, vocabulary, monkeypatch):
    asked = (model, vocabulary, start_of(model, vocabulary, "", 1), (2, 2), [0, 1], SamplingSettings(2.0, 12))
    plain, again = sample(*asked, window=4), []
    monkeypatch.setattr(drawing, "_TIE", 1.0)
    redraw = sampling._Run._draw_again
    monkeypatch.setattr(sampling._Run, "_draw_again", lambda *a: again.append(a) or redraw(*a))
    assert torch.equal(sample(*asked, window=4), plain)
    assert len(again) == plain.numel()


@pytest.mark.parametrize("cfg", [0.0, 1.0, 4.0])
def test_the_margin_is_several_times_what_other_shapes_of_the_same_reading_differ_by(model, vocabulary, cfg):
    """Guided logits of the same codes, read in windows and at once."""
    start = start_of(model, vocabulary, "a ship", 1)
    ids = model.embed(torch.randint(vocabulary.size, (40,), generator=torch.Generator().manual_seed(3)))
    rows = []
    for piece in (1, 2, 3, 8, 40):
        cache = model.new_cache(2, 200)
        model(start[None], cache, range(0, 1))
        read = [model(part[None].expand(2, -1, -1), cache) for part in ids.split(piece)]
        rows.append(model.logits(torch.cat(read, dim=1)))
    guided = torch.stack([drawing.guide(logits, (cfg, 1 - cfg)) for logits in rows])
    assert 4 * (guided - guided[0]).abs().max() < margin(rows[0], (cfg, 1 - cfg))


# -- the law ---------------------------------------------------------------------------------------


def chi_square(pictures: torch.Tensor, law: torch.Tensor, codes: int) -> float:
    """The statistic of whole pictures [n, places] of `codes` codes against their law [codes ** places]."""
    weights = codes ** torch.arange(pictures.shape[1]).flip(0)
    counts = (pictures * weights).sum(1).bincount(minlength=len(law))
    expected = law * len(pictures)
    return float(((counts - expected).square() / expected).sum())


@pytest.fixture(scope="module")
def three() -> tuple[Vocabulary, Chameleon, torch.Tensor]:
    """A model of three codes, and the law of its four-code pictures at guidance 2, counted out [81]."""
    vocabulary = Vocabulary(tiny_tokenizer_json(codes=3, grids=1))
    model = random_model(vocabulary, 4, scale=0.2)
    start, law = start_of(model, vocabulary, "", 1), []
    for codes in itertools.product(range(3), repeat=4):
        picture = model.embed(torch.tensor(vocabulary.image_ids(torch.tensor(codes).view(2, 2))))
        rows = []
        for prefix in (start, start[:0]):
            embeddings = torch.cat((prefix, picture))[None]
            hidden = model(embeddings, model.new_cache(1, embeddings.shape[1]))[0, len(prefix) :]
            rows.append(model.logits(hidden[[2, 3, 5, 6]])[:, vocabulary.code_ids])
        guided = rows[1] + 2.0 * (rows[0] - rows[1])
        law.append(guided.softmax(-1)[range(4), list(codes)].prod())
    return vocabulary, model, start, torch.stack(law)


def drawn_pictures(three, count: int, window: int) -> torch.Tensor:
    vocabulary, model, start, _ = three
    parts = range(0, count, 250)
    settings = SamplingSettings(2.0)
    drawn = [
        sample(model, vocabulary, start, (1, 1), range(part, part + 250), settings, window=window) for part in parts
    ]
    return torch.cat(drawn).flatten(1)


CRITICAL = 124.84  # chi-square, 80 degrees of freedom, p = 0.001


def test_windows_draw_exactly_by_the_law_of_the_model(three):
    assert abs(float(three[3].sum()) - 1) < 1e-4
    assert chi_square(drawn_pictures(three, 2000, 4), three[3], 3) < CRITICAL


def test_the_test_of_the_law_finds_a_window_that_keeps_a_guess(three, monkeypatch):
    """A planted bias: in a window the first guess stands whenever it is code 0."""

    def believing(self, found, count, old=sampling._Run._commit):
        for picture, values in zip(self.live, found, strict=True):
            body, place = self.body[picture], self.places[picture]
            if place and place < self.total and body[self._at(place)] == 0:
                values[0] = 0
        old(self, found, count)

    monkeypatch.setattr(sampling._Run, "_commit", believing)
    assert chi_square(drawn_pictures(three, 2000, 4), three[3], 3) > CRITICAL


# -- the choice of a window ------------------------------------------------------------------------


def told(windows: Windows, right: int, passes: int = 50) -> Windows:
    """After so many passes in each of which `right` guesses came true and the next did not, if there was a next."""
    for _ in range(passes):
        for before in range(min(right + 1, windows.most)):
            windows.tell(before, before < right)
    return windows


def test_one_window_is_always_taken():
    windows = told(Windows({7: 1.0}), 0)
    assert (windows.best(), windows.most, windows.ahead(7)) == (7, 7, 6)


def test_where_no_guess_comes_true_the_chosen_window_is_1_and_one_code_is_still_guessed():
    windows = told(Windows({1: 1.0, 4: 1.1, 16: 1.2}), 0)
    assert windows.best() == 1 and windows.ahead(1) == 1


@pytest.mark.parametrize("right,best", [(1, 2), (3, 4), (15, 16), (63, 64)])
def test_the_chosen_window_is_as_long_as_the_guesses_that_come_true(right, best):
    assert told(Windows({1: 1.0, 2: 1.1, 4: 1.3, 16: 1.7, 64: 3.0}), right).best() == best


def test_the_chosen_window_is_worth_its_cost():
    assert told(Windows({1: 1.0, 4: 4.0, 16: 16.0}), 15).best() == 1


def test_of_windows_that_are_nearly_as_good_the_largest_is_chosen():
    """One guess comes true and none behind it."""
    costs = {1: 1.0, 2: 1.1, 3: 1.15, 4: 1.3}
    assert told(Windows(costs), 1).best() == 3
    assert told(Windows({window: costs[window] for window in (1, 2, 4)}), 1).best() == 2


def test_what_is_done_around_a_pass_speaks_for_larger_windows():
    windows = told(Windows({1: 1.0, 2: 1.6, 4: 3.6}), 3)
    assert windows.best() == 2
    windows.took(2, 1.6 + 8.0)
    assert windows.best() == 4
    for _ in range(50):
        windows.took(4, 3.0)  # a pass that was faster than measured takes nothing away
    assert windows.best() == 2


def test_a_sampling_run_tells_what_its_passes_took_but_the_prefill(smooth, vocabulary, monkeypatch):
    told, ticks = [], itertools.count()
    monkeypatch.setattr(sampling, "clock_of", lambda device: lambda: 3.0 * next(ticks))
    monkeypatch.setattr(Windows, "took", lambda self, window, cost: told.append((window, cost)))
    sample(smooth, vocabulary, start_of(smooth, vocabulary, "", 1), (2, 2), [0], SamplingSettings(), window=1)
    assert told == [(1, 3.0)] * 15


def test_a_wrong_guess_that_no_pass_had_made_anew_does_not_speak_against_windows(smooth, vocabulary, monkeypatch):
    """Planted: every guess is the least likely code, so each pass draws one code and finds the first guess wrong."""
    monkeypatch.setattr(
        sampling.Outlook, "expect", lambda self, p, f, guided, ahead: -F.pad(guided, (0, 0, 0, ahead), mode="replicate")
    )
    heard = []
    monkeypatch.setattr(Windows, "tell", lambda self, before, right: heard.append((before, right)))
    start = start_of(smooth, vocabulary, "", 1)
    sample(smooth, vocabulary, start, (2, 2), [0], SamplingSettings(top_k=1), window=4)
    assert heard == [(0, False)] * 14  # of 16 codes; the first had no guess, and the guess of the second was new


def test_guesses_that_mostly_come_true_behind_others_are_worth_a_large_window():
    """Two of five first guesses come true and then all the others: 1, 1.4, 1.8 and so on codes a pass."""
    windows = Windows({1: 1.0, 4: 1.5, 16: 2.0})
    for turn in range(100):
        told(windows, 16 if turn % 5 < 2 else 0, passes=1)
    assert windows.best() == 16


def test_a_window_that_changes_from_pass_to_pass_draws_exactly_the_same_picture(smooth, vocabulary):
    class Alternating(Windows):
        def best(self):
            self.turn = getattr(self, "turn", -1) + 1
            return WINDOWS[self.turn % len(WINDOWS)]

    start = start_of(smooth, vocabulary, "", 1)
    for cfg, top_k in ((1.0, 2000), (3.0, 6), (2.0, 1)):
        asked = (smooth, vocabulary, start, (2, 3), [3, 4], SamplingSettings(cfg, top_k))
        alternating = Alternating(dict.fromkeys(WINDOWS, 1.0))
        assert torch.equal(sample(*asked, window=alternating), sample(*asked))


def timed_passes(monkeypatch) -> list[tuple[int, int]]:
    """(rows, window) of every pass that is timed from here on; each takes as long as a pass of one code."""
    seen = []
    monkeypatch.setattr(pace.Passes, "__call__", lambda self, read: seen.append(tuple(read.shape[:2])) or read)
    monkeypatch.setattr(pace, "clock_of", lambda device: lambda: float(len(seen)))
    return seen


def test_the_cost_of_windows_is_measured_once_and_kept(model, monkeypatch):
    seen, measured = timed_passes(monkeypatch), Pace()
    costs = measured.costs(model, CODES, 2, 64)
    assert costs == dict.fromkeys((*WINDOWS, 3, 6, 12, 24, 48), 1.0) and len(seen) == 2 * len(WINDOWS)
    assert measured.costs(model, CODES, 2, 64) == costs and len(seen) == 2 * len(WINDOWS)
    assert measured.costs(model, CODES, 1, 64) == costs and len(seen) == 4 * len(WINDOWS)


def test_short_passes_are_timed_more_often(model, monkeypatch):
    seen = timed_passes(monkeypatch)
    monkeypatch.setattr(pace, "clock_of", lambda device: lambda: len(seen) / 128)
    assert Pace().costs(model, CODES, 2, 1) == {1: 1 / 128} and len(seen) == 7


def test_other_programs_on_the_cpu_do_not_count_as_a_slow_pass(model, monkeypatch):
    monkeypatch.setattr(pace.sys, "platform", "linux")
    monkeypatch.setattr(pace.time, "perf_counter", lambda: pytest.fail("the time of all programs was taken"))
    assert Pace().costs(model, CODES, 2, 1)[1] > 0


@pytest.mark.parametrize("tiles,pairs,window", [(True, True, 16), (False, True, 8), (False, False, 1)])
def test_in_half_precision_no_clock_chooses_the_window(vocabulary, monkeypatch, tiles, pairs, window):
    """It would change the picture: it is one window for CPUs that multiply bfloat16 in one way, and 1 for others."""
    seen, able = timed_passes(monkeypatch), {"avx512_bf16": pairs, "amx_bf16": tiles}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    half = random_model(vocabulary, 0).bfloat16()
    assert Pace().windows(half, CODES, 2, 64) == window and Pace().windows(half, CODES, 2, 12) == min(window, 12)
    assert Pace().windows(half.half(), CODES, 2, 64) == 1 and not seen


def test_no_window_is_timed_that_is_larger_than_the_picture(model, monkeypatch):
    seen = timed_passes(monkeypatch)
    assert set(Pace().costs(model, CODES, 2, 12)) == {1, 2, 3, 4, 6, 8}
    assert {window for _, window in seen} == {1, 2, 4, 8}


@pytest.mark.parametrize("rows,most", [(2, 64), (16, 32), (128, 4), (1024, 1)])
def test_the_more_rows_the_fewer_windows_are_timed(model, monkeypatch, rows, most):
    seen = timed_passes(monkeypatch)
    Pace().costs(model, CODES, rows, 64)
    assert max(seen) == (rows, most) and sum(rows * window for rows, window in seen) <= max(2048, 2 * rows)


def test_windows_whose_codes_are_no_cheaper_are_not_timed_further(model, monkeypatch):
    monkeypatch.setattr(pace, "_measure", lambda model, codes, rows, window, cancelled: float(window))
    assert Pace().costs(model, CODES, 2, 64) == {1: 1.0, 2: 2.0}


def test_a_window_between_two_that_were_timed_costs_what_lies_between(model, monkeypatch):
    monkeypatch.setattr(pace, "_measure", lambda model, codes, rows, window, cancelled: 8.0 + window)
    assert Pace().costs(model, CODES, 2, 16) == {window: 8.0 + window for window in (1, 2, 3, 4, 6, 8, 12, 16)}


def test_no_window_costs_more_than_a_larger_one(model, monkeypatch):
    """What disturbs a timing only ever adds to it."""
    timed = {1: 9.0, 2: 3.0, 4: 5.0, 8: 4.0, 16: 6.0}
    monkeypatch.setattr(pace, "_measure", lambda model, codes, rows, window, cancelled: timed[window])
    costs = Pace().costs(model, CODES, 2, 16)
    assert [costs[window] for window in timed] == [3.0, 3.0, 4.0, 4.0, 6.0]


def test_timing_ends_when_it_is_cancelled_and_goes_on_where_it_was(model, monkeypatch):
    seen, measured = timed_passes(monkeypatch), Pace()
    with pytest.raises(Cancelled):
        measured.costs(model, CODES, 2, 64, lambda: len(seen) == 5)
    assert len(seen) == 5
    assert set(measured.costs(model, CODES, 2, 4)) == {1, 2, 3, 4} and len(seen) == 5 + 2


def test_a_wider_decoder_is_given_more_room_to_round():
    logits = torch.ones(2, 3, 4)
    narrow, wide = margin(logits, (4, -3), 64), margin(logits, (4, -3), 4096)
    assert narrow == margin(logits, (4, -3)) and wide == 8 * narrow
