"""`dpo` from end to end on tiny models: its loss, its two phases, stopping and going on, and what it writes."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import training.dpo
from stylear import StyleAR
from stylear.errors import BadInput, MissingPart
from stylear.images import open_image
from stylear.pipeline import MINI
from stylear.sampling import embed_prompt
from training.checkpoints import WEIGHTS, states_in
from training.config import CONFIGS, ModelPaths, read_settings
from training.dpo import FIGURES, DPOSettings, run
from training.dpo_steps import PairBatches, dpo_loss, log_probability, reference_log_probability, style_features
from training.judges import JudgeSettings, Scores, Verdict
from training.parts import Parts
from training.preferences import SampleSettings, load_pairs
from training.steps import Step
from training.styled import StyledModel


class Brightness:
    """Likes bright pictures."""

    name = "brightness"

    def __call__(self, reference, prompt, pictures):
        return [Verdict(Scores(float(np.asarray(picture).mean()), 0.0, 0.0)) for picture in pictures]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A tiny model, two style pictures and two prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.write_bundle(folder / "model")
    (folder / "styles").mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (16, 16), name).save(folder / "styles" / f"{name}.png")
    (folder / "prompts.txt").write_text("a cat\na house\n")
    return folder


@pytest.fixture(autouse=True)
def judge(monkeypatch):
    monkeypatch.setattr(training.dpo, "load_judge", lambda settings, device: Brightness())


def settings(inputs, out, **changes):
    values = {
        "model": ModelPaths(base=str(inputs / "model"), adapter=str(inputs / "model" / "adapter")),
        "styles": inputs / "styles",
        "prompts": inputs / "prompts.txt",
        "out": out,
        "sample": SampleSettings(per_prompt=3),
        "lora_rate": 1e-3,
        "resampler_rate": 1e-3,
        "warmup": 0,
        "steps": 6,
        "batch": 4,
        "micro_batch": 2,
        "save_every": 2,
    }
    return DPOSettings(**(values | changes))


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """The folder of a run that was never stopped."""
    out = tmp_path_factory.mktemp("finished") / "dpo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.dpo, "load_judge", lambda settings, device: Brightness())
        run(settings(inputs, out))
    return out


def data_of(inputs, out):
    """The run's pairs as batches, and the SFT model, ready to train."""
    parts = Parts(settings(inputs, out).model)
    base, vocabulary = parts.base()
    model = Step(StyledModel.from_adapter(base, parts.place("adapter")))
    pairs = load_pairs(out / "preferences")
    features = style_features(pairs, parts.image_encoder())
    return PairBatches(pairs, vocabulary, features, 16, tiny.HIDDEN, 0.1, 0), model


def history(out):
    progress = json.loads((states_in(out)[-1] / "progress.json").read_text())
    return np.array(progress["losses"]).reshape(-1, len(FIGURES))


def weights(out):
    return load_file(states_in(out)[-1] / WEIGHTS)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_the_loss_is_that_of_the_paper():
    policy, reference = torch.tensor([[-10.0], [-12.0]]), torch.tensor([[-11.0], [-11.5]])
    loss, rewards = dpo_loss(policy, reference, beta=0.3)
    assert rewards.flatten().tolist() == pytest.approx([0.3 * 1.0, 0.3 * -0.5])
    assert loss.item() == pytest.approx(-math.log(sigmoid(0.3 * ((-10 + 11) - (-12 + 11.5)))))


def test_label_smoothing_mixes_in_the_loss_of_the_pair_turned_round():
    policy, reference = torch.tensor([[-10.0], [-12.0]]), torch.zeros(2, 1)
    right, wrong = (dpo_loss(one, reference, 0.3)[0].item() for one in (policy, policy.flip(0)))
    assert dpo_loss(policy, reference, 0.3, 0.1)[0].item() == pytest.approx(0.9 * right + 0.1 * wrong)


def test_the_log_probability_is_the_engines_of_the_codes_it_drew(inputs, finished):
    data, model = data_of(inputs, finished)
    pair = data.pairs[0]
    with torch.no_grad():
        ours = log_probability(model, data.batch([0]))
    engine = StyleAR.load(inputs / "model", inputs / "model" / "adapter", device="cpu")
    style = engine.encode_style(open_image(pair["style"])).with_noise(0.1, 2**32 + pair["case"])
    prompt = embed_prompt(engine.base, engine.vocabulary.prompt(pair["prompt"]), style.tokens)
    for row, name in enumerate(("chosen", "rejected")):
        ids = torch.tensor(engine.vocabulary.image_ids(torch.tensor(pair[name]["codes"])))
        with torch.no_grad():
            read = torch.cat((prompt, engine.base.embed(ids[:-1])))[None]
            hidden = engine.base(read, engine.base.new_cache(1, read.shape[1]))[0, len(prompt) - 1 :]
            logits = engine.base.logits(hidden, engine.base.head(torch.arange(engine.vocabulary.size)))
        drawn = torch.isin(ids, engine.vocabulary.code_ids)
        every = logits.log_softmax(-1)[torch.arange(len(ids)), ids]
        assert drawn.sum() == 16
        assert ours[row].item() == pytest.approx(every[drawn].sum().item(), abs=1e-4)


def test_both_pictures_of_a_pair_get_the_same_noise_every_time_and_other_pairs_other_noise(inputs, finished):
    data, _ = data_of(inputs, finished)
    noise = data.batch([0, 1])[2]
    assert noise[:2].equal(noise[2:])
    assert not noise[0].equal(noise[1])
    assert data.batch([1])[2][0].equal(noise[1])


def test_every_pass_takes_every_pair_once(inputs, finished):
    data, _ = data_of(inputs, finished)
    total = len(data.pairs)
    numbers = data.order(0, 3 * total)
    assert [sorted(numbers[i : i + total]) for i in range(0, 3 * total, total)] == [list(range(total))] * 3
    assert data.order(2, 3) == numbers[2:5]


def test_the_reference_is_computed_once(inputs, finished, tmp_path):
    data, model = data_of(inputs, finished)
    first = reference_log_probability(model, data, tmp_path, Accelerator(cpu=True), 2)
    with torch.no_grad():
        model.styled.resampler.latents.add_(1)
    assert reference_log_probability(model, data, tmp_path, Accelerator(cpu=True), 2).equal(first)


def test_training_starts_from_the_reference_with_a_loss_of_log_2(finished):
    loss, accuracy, *rewards = history(finished)[0]
    assert loss == pytest.approx(math.log(2), abs=1e-5)
    assert rewards == pytest.approx([0, 0, 0], abs=1e-4)


def test_the_margin_grows_until_every_pair_is_told_apart(finished):
    figures = history(finished)
    margin, accuracy = figures[:, FIGURES.index("margin")], figures[:, FIGURES.index("accuracy")]
    assert (np.diff(margin) > 0).all()
    assert accuracy[-1] == 1


def test_the_better_picture_in_the_judges_eyes_is_the_chosen_one(finished):
    for pair in load_pairs(finished / "preferences"):
        assert pair["chosen"]["score"] > pair["rejected"]["score"]


def test_the_adapter_loads_and_says_where_it_comes_from(inputs, finished):
    model = StyleAR.load(inputs / "model", finished / "adapter", device="cpu")
    before = StyleAR.load(inputs / "model", inputs / "model" / "adapter", device="cpu")
    assert not torch.equal(model.base.lm_head.weight, before.base.lm_head.weight)
    assert not torch.equal(model.resampler.latents, before.resampler.latents)
    for name in ("model", "image_proj"):
        with safe_open(finished / "adapter" / f"{name}.safetensors", "pt") as file:
            told = json.loads(file.metadata()["stylear"])
        assert (told["stage"], told["rank"], told["noise"], told["steps"]) == ("dpo", 2, 0.1, 6)


def test_everything_there_is_to_look_at_is_written(finished):
    for name in ("pairs.png", "before_after.png", "loss.png"):
        with Image.open(finished / name) as picture:
            picture.verify()
    assert list((finished / "tensorboard").glob("events.*"))
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["pairs"], summary["steps"]) == (4, 6)


def dies(monkeypatch, name, calls):
    """Let a function of training.dpo work `calls` times and then end the run as a kill would."""
    real, left = getattr(training.dpo, name), [calls]

    def wrapped(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(training.dpo, name, wrapped)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("judge_cases", 0),
        ("save_pairs", 0),
        ("pairs_sheet", 0),
        ("style_features", 0),
        ("_step", 1),
        ("_step", 3),
        ("write_adapter", 0),
        ("write_sheet", 0),
    ],
)
def test_a_run_stopped_anywhere_ends_as_one_never_stopped(inputs, finished, tmp_path, name, calls):
    with pytest.MonkeyPatch.context() as patch:
        dies(patch, name, calls)
        with pytest.raises(KeyboardInterrupt):
            run(settings(inputs, tmp_path / "dpo"))
    run(settings(inputs, tmp_path / "dpo"))
    expected = weights(finished)
    found = weights(tmp_path / "dpo")
    assert found.keys() == expected.keys()
    assert all(found[key].equal(expected[key]) for key in expected)
    assert (history(tmp_path / "dpo") == history(finished)).all()


def test_a_case_that_was_drawn_is_not_drawn_again(inputs, tmp_path, monkeypatch):
    out = tmp_path / "dpo"
    with pytest.MonkeyPatch.context() as patch:
        dies(patch, "judge_cases", 0)
        with pytest.raises(KeyboardInterrupt):
            run(settings(inputs, out))
    kept = {path: path.stat().st_mtime_ns for path in sorted((out / "samples").iterdir())}
    next(iter(kept)).unlink()
    run(settings(inputs, out))
    assert {path for path, when in kept.items() if path.stat().st_mtime_ns != when} == {next(iter(kept))}


def test_a_finished_run_started_again_only_tells_what_it_did(inputs, finished, monkeypatch):
    dies(monkeypatch, "_train", 0)
    assert "4 pairs of 4 cases" in run(settings(inputs, finished))


def test_more_steps_go_on_from_where_it_ended(inputs, tmp_path, finished):
    run(settings(inputs, tmp_path / "dpo", steps=4))
    run(settings(inputs, tmp_path / "dpo", steps=6))
    assert all(value.equal(weights(finished)[key]) for key, value in weights(tmp_path / "dpo").items())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(inputs, tmp_path, monkeypatch):
    real, calls = training.dpo.dpo_loss, []

    def broken(policy, *rest):
        calls.append(None)
        return real(policy * math.nan if len(calls) > 6 else policy, *rest)

    monkeypatch.setattr(training.dpo, "dpo_loss", broken)
    with pytest.raises(FloatingPointError, match="the loss of step 3 is nan"):
        run(settings(inputs, tmp_path / "dpo"))
    assert [state.name for state in states_in(tmp_path / "dpo")] == ["state-000002"]
    assert all(value.isfinite().all() for value in weights(tmp_path / "dpo").values())


def test_other_settings_in_the_same_folder_are_refused_by_name(inputs, finished):
    with pytest.raises(BadInput, match="beta was 0.1 and is now 0.2"):
        run(settings(inputs, finished, beta=0.2))


def test_other_pictures_in_the_same_folder_are_refused_by_name(inputs, tmp_path):
    styles = tmp_path / "styles"
    styles.mkdir()
    Image.new("RGB", (16, 16), "red").save(styles / "a.png")
    changes = {"styles": styles, "steps": 1}
    run(settings(inputs, tmp_path / "dpo", **changes))
    Image.new("RGB", (16, 16), "blue").save(styles / "a.png")
    with pytest.raises(BadInput, match="other inputs than those of now: styles"):
        run(settings(inputs, tmp_path / "dpo", **changes))


class Stopped(Exception):
    """Raised where drawing would begin."""


def stops(*_):
    raise Stopped


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ("styles/red.txt", "styles"),
        ("prompts.txt", "prompts"),
        ("model/base/model.safetensors", "model.base"),
        ("model/adapter/image_proj.safetensors", "model.adapter"),
        ("model/vqgan/vqgan.safetensors", "model.vqgan"),
        ("model/image_encoder/open_clip.safetensors", "model.image_encoder"),
        ("model/segmenter/sam.safetensors", "model.segmenter"),
        ("judge.safetensors", "judge.model"),
    ],
)
def test_a_run_is_not_gone_on_with_on_other_inputs(inputs, tmp_path, monkeypatch, changed, name):
    here = tmp_path / "inputs"
    shutil.copytree(inputs, here)
    (here / "styles" / "red.txt").write_text("a red square")
    shutil.copy(MINI / "image_encoder" / "open_clip.safetensors", here / "judge.safetensors")
    chosen = settings(here, tmp_path / "dpo", judge=JudgeSettings(model=str(here / "judge.safetensors")))
    monkeypatch.setattr(training.dpo, "_make_pairs", stops)
    with pytest.raises(Stopped):
        run(chosen)
    file = here / changed
    tiny.double(file) if file.suffix == ".safetensors" else file.write_text("a cat\na horse\n")
    with pytest.raises(BadInput, match=f"other inputs than those of now: {name}. Give another `out`"):
        run(chosen)


def test_a_segmenter_that_the_judge_is_not_shown_may_change(inputs, tmp_path, monkeypatch):
    shutil.copytree(inputs, tmp_path / "inputs")
    chosen = settings(tmp_path / "inputs", tmp_path / "dpo", judge=JudgeSettings(leakage=0))
    monkeypatch.setattr(training.dpo, "_make_pairs", stops)
    for _ in range(2):
        with pytest.raises(Stopped):
            run(chosen)
        tiny.double(tmp_path / "inputs" / "model" / "segmenter" / "sam.safetensors")


def test_a_judge_that_is_not_there_is_told_before_anything_is_drawn(inputs, tmp_path):
    with pytest.raises(MissingPart, match="no CLIP at nowhere"):
        run(settings(inputs, tmp_path / "dpo", judge=JudgeSettings(model="nowhere")))
    assert not (tmp_path / "dpo" / "samples").exists()


def test_no_pair_at_all_is_an_error_that_says_what_to_change(inputs, tmp_path):
    with pytest.raises(BadInput, match="No pair is left of 4 cases .*lower min_margin"):
        run(settings(inputs, tmp_path / "dpo", min_margin=1e6))


def test_the_sft_term_is_the_chosen_pictures_own_loss(inputs, finished, tmp_path):
    weight = 0.5
    run(settings(inputs, tmp_path / "dpo", sft_weight=weight, steps=1))
    reference = load_file(finished / "reference" / "00000.safetensors")["log_probability"]
    expected = math.log(2) - weight * reference[0].mean().item() / 16
    assert history(tmp_path / "dpo")[0][0] == pytest.approx(expected, abs=1e-4)


def test_micro_batches_do_not_change_the_step(inputs, finished, tmp_path):
    run(settings(inputs, tmp_path / "dpo", micro_batch=3, steps=2, gradient_checkpointing=True))
    assert history(tmp_path / "dpo")[1] == pytest.approx(history(finished)[1], abs=1e-4)


def test_the_shipped_settings_name_every_setting():
    shipped = CONFIGS / "dpo.yaml"
    read_settings(DPOSettings, shipped)
    text = Path(shipped).read_text()
    assert all(f"{name}:" in text for name in DPOSettings.model_fields)
