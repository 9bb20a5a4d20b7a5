"""A training run: the same however it is cut up, stopped or spread, and an adapter that the engine draws with."""

import shutil
import signal
import threading
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_tokens
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stylear import StyleAR
from stylear.checkpoint import Place
from stylear.errors import BadInput, MissingPart
from training.checkpoints import states_in
from training.config import CONFIGS, read_settings
from training.export import source_record
from training.loop import can_compile
from training.output import read_json
from training.recipe import StyleContrast, TrainSettings
from training.steps import Draws
from training.together import together
from training.train import run
from training.trainer import Trainer


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    tiny.write_bundle(folder / "model", segmenter=False)
    tiny_tokens.write_tokens(folder / "tokens")
    return folder


@pytest.fixture(autouse=True)
def fresh():
    """accelerate keeps its state for as long as the process lives; a command is a process."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def twenty(root):
    """The weights of twenty steps in one process, all at once."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    run(tiny_tokens.settings(root, "twenty", steps=20))
    return weights(root / "twenty")


CONTRAST = {"contrast": StyleContrast(weight=5.0, pairs=3), "batch": 6, "steps": 6, "save_every": 2}


@pytest.fixture(scope="module")
def contrasted(root):
    """The weights of a few steps with the contrast on, all pictures of a step at once."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    run(tiny_tokens.settings(root, "contrasted", micro_batch=6, **CONTRAST))
    return weights(root / "contrasted")


def plain() -> Accelerator:
    """An accelerator of one process on the CPU."""
    return Accelerator(cpu=True)


def weights(out) -> dict[str, torch.Tensor]:
    return {
        key: value
        for name in ("model", "image_proj")
        for key, value in load_file(out / "adapter" / f"{name}.safetensors").items()
    }


def assert_close(found, expected, tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=tolerance, rtol=0, msg=name)


def test_weights_move_and_the_engine_loads_what_was_trained(root, twenty):
    model = StyleAR.load(root / "model", root / "twenty" / "adapter")
    picture = np.zeros((16, 16, 3), np.uint8)
    assert model.generate("a", model.encode_style(picture), width=16, height=16, top_k=1).shape == (1, 16, 16, 3)
    assert all(value.any() for name, value in twenty.items() if name.endswith("lora.B"))
    with safe_open(root / "twenty" / "adapter" / "model.safetensors", "pt") as file:
        assert '"noise": 0.1' in file.metadata()["stylear"]


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="there is no C++ compiler")
def test_compiled_layers_train_the_same_weights_as_plain_ones(root, twenty):
    run(tiny_tokens.settings(root, "compiled", steps=20, compile=True, loss_chunk=16))
    assert_close(weights(root / "compiled"), twenty, tolerance=1e-4)


def test_two_processes_train_the_same_weights_as_one(root, twenty):
    assert tiny_tokens.in_processes(tiny_tokens.train, tiny_tokens.settings(root, "two", steps=20), processes=2) == [
        0,
        0,
    ]
    assert_close(weights(root / "two"), twenty)


def test_processes_that_share_a_stage_train_the_same_weights_as_one(root, twenty):
    together(partial(run, tiny_tokens.settings(root, "together", steps=20)), 2)
    assert_close(weights(root / "together"), twenty)


def test_the_held_out_loss_is_the_same_on_any_number_of_processes(root):
    chosen = dict(sample_every=2, steps=2, prompts=["a"])
    run(tiny_tokens.settings(root, "held-1", **chosen))
    assert tiny_tokens.in_processes(tiny_tokens.train, tiny_tokens.settings(root, "held-2", **chosen), processes=2) == [
        0,
        0,
    ]
    one, two = (read_json(root / name / "summary.json")["held out"] for name in ("held-1", "held-2"))
    assert one[0][0] == 2 and one[0][1] == pytest.approx(two[0][1], abs=1e-5)
    assert (root / "held-2" / "samples" / "000002.png").exists() and (root / "held-2" / "loss.png").exists()


def test_two_sharded_processes_killed_and_started_again_train_the_same_weights_as_one(root):
    run(tiny_tokens.settings(root, "six", steps=6))
    chosen = tiny_tokens.settings(root, "sharded", steps=6, save_every=2)
    assert tiny_tokens.in_processes(tiny_tokens.train_sharded, chosen, 3, processes=2) == [-signal.SIGKILL] * 2
    assert [state.name for state in states_in(root / "sharded")] == ["state-000002"]
    assert tiny_tokens.in_processes(tiny_tokens.train_sharded, chosen, processes=2) == [0, 0]
    assert_close(weights(root / "sharded"), weights(root / "six"))


def test_adding_up_micro_batches_trains_the_same_weights(root, twenty):
    run(tiny_tokens.settings(root, "micro", steps=20, micro_batch=3))
    assert_close(weights(root / "micro"), twenty)


def test_checkpointed_layers_and_small_chunks_of_logits_train_the_same_weights(root, twenty):
    run(tiny_tokens.settings(root, "saving", steps=20, gradient_checkpointing=True, loss_chunk=7))
    assert_close(weights(root / "saving"), twenty)


def test_killed_at_any_step_and_started_again_it_trains_the_same_weights_bit_for_bit(root, twenty):
    chosen = tiny_tokens.settings(root, "killed", steps=20, save_every=3)
    step = int(np.random.default_rng().integers(3, 19))
    assert tiny_tokens.in_processes(tiny_tokens.train_and_die, chosen, step) == [-signal.SIGKILL]
    assert not (root / "killed" / "adapter").exists()
    run(chosen)
    found = weights(root / "killed")
    assert all(torch.equal(found[name], value) for name, value in twenty.items()), f"killed at step {step}"
    losses = [read_json(states_in(root / name)[-1] / "progress.json")["losses"] for name in ("killed", "twenty")]
    assert losses[0] == losses[1]
    logged = EventAccumulator(str(root / "killed" / "tensorboard")).Reload().Scalars("loss")
    assert [one.step for one in logged] == list(range(1, 21))


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.pt", "progress.json"])
def test_killed_while_a_state_is_written_the_one_before_is_gone_on_from(root, file):
    chosen = tiny_tokens.settings(root, f"half-{file}", save_every=2)
    assert tiny_tokens.in_processes(tiny_tokens.train_and_die_writing, chosen, file) == [-signal.SIGKILL]
    assert [state.name for state in states_in(chosen.out)] == ["state-000002"]
    run(chosen)
    assert [path.name for path in chosen.out.glob("*state-*")] == ["state-000004"]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(root, monkeypatch):
    losses = Trainer.losses

    def broken(self, rows, features):
        cross_entropy, z = losses(self, rows, features)
        return cross_entropy * (float("nan") if self.progress.step == 2 else 1), z

    monkeypatch.setattr(Trainer, "losses", broken)
    with pytest.raises(FloatingPointError, match=r"^Step 3: the loss is nan; .*nan/state-000002"):
        run(tiny_tokens.settings(root, "nan", save_every=1))
    assert [state.name for state in states_in(root / "nan")] == ["state-000002"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_a_disk_that_fills_under_the_log_is_told_once_and_without_a_traceback(root, monkeypatch):
    chosen, take, tracebacks = tiny_tokens.settings(root, "full_log"), Trainer.step, []

    def step_and_fill(self, number, loader):
        figures = take(self, number, loader)
        (log,) = (chosen.out / "tensorboard").iterdir()
        log.unlink()
        log.symlink_to("/dev/full")
        return figures

    monkeypatch.setattr(Trainer, "step", step_and_fill)
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)
    with pytest.raises(BadInput, match=r"The disk of .*full_log is full: make room"):
        run(chosen)
    assert not tracebacks


def test_a_gradient_that_is_not_finite_stops_the_run_before_a_weight_has_changed(root, monkeypatch):
    run(tiny_tokens.settings(root, "norm", steps=1))
    trainer = Trainer(tiny_tokens.settings(root, "norm", steps=1), plain())
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.model.styled.resampler.latents.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match="Step 1: the norm is"):
        trainer.step(0, trainer.loader(range(1)))
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())


def test_a_step_of_dropped_contexts_alone_leaves_the_resampler_without_gradient(root):
    trainer = Trainer(tiny_tokens.settings(root, context_drop=1.0, weight_decay=0), plain())
    before = trainer.model.styled.resampler.latents.clone()
    figures = trainer.step(0, trainer.loader(range(1)))
    assert figures["norm"] > 0 and torch.equal(trainer.model.styled.resampler.latents, before)


def test_the_summary_tells_how_often_the_pictures_were_gone_through(root, twenty):
    epochs = read_json(root / "twenty" / "summary.json")["epochs"]
    AcceleratorState._reset_state(reset_partial_state=True)
    mix = Trainer(tiny_tokens.settings(root), plain()).samples.order
    assert epochs == 20 * 4 / mix.epoch and 3 < epochs < 9  # of 13 pictures, the few stylised ones most often


def test_held_out_pictures_are_not_trained_on(root):
    trainer = Trainer(tiny_tokens.settings(root), plain())
    held = set(trainer.held_out.order.pictures.tolist())
    assert len(held) == 3 and not held & set(trainer.samples.order.indices(0, 200).tolist())


def test_the_two_parts_have_their_own_rates_and_the_frozen_base_stays(root):
    trainer = Trainer(tiny_tokens.settings(root, lora_rate=0, weight_decay=0), plain())
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.step(0, trainer.loader(range(1)))
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("styled.resampler.") for name in moved)


def test_it_starts_from_an_adapter_that_is_there(root):
    run(
        tiny_tokens.settings(root, "continued", steps=1, lora_rate=0, resampler_rate=0, init=root / "model" / "adapter")
    )
    found = weights(root / "continued")
    for name, value in {**tiny.lora_state(), **tiny.resampler_state()}.items():
        torch.testing.assert_close(found[name], value.half().float(), atol=0, rtol=0)


def test_a_share_of_what_it_started_from_is_kept_in_what_is_written(root):
    """The line between the adapter of before and the trained one, and a record of both."""
    begun = {"steps": 2, "init": root / "model" / "adapter"}
    for name, share in (("trained", 0.0), ("near", 0.25), ("half", 0.5)):
        AcceleratorState._reset_state(reset_partial_state=True)
        run(tiny_tokens.settings(root, name, init_share=share, **begun))
    before = {name: value.half().float() for name, value in {**tiny.lora_state(), **tiny.resampler_state()}.items()}
    trained = weights(root / "trained")
    assert any(not torch.equal(trained[name], value) for name, value in before.items())
    for name, share in (("near", 0.25), ("half", 0.5)):
        for key, value in weights(root / name).items():
            torch.testing.assert_close(value, (1 - share) * trained[key] + share * before[key], atol=1e-7, rtol=1e-5)
    AcceleratorState._reset_state(reset_partial_state=True)
    run(tiny_tokens.settings(root, "further", steps=1, init=root / "half" / "adapter"))
    made = source_record(Place(root / "further" / "adapter"))
    assert (made["steps"], made["init"]["steps"], made["init"]["init"]) == (1, 2, {"share": 0.5})


@pytest.mark.parametrize("more", [{}, {"base_rate": 1e-4}])
def test_a_share_of_nothing_or_beside_a_base_that_trains_is_refused(root, more):
    given = {"init": root / "model" / "adapter"} if more else {}
    with pytest.raises(BadInput, match="give init, and leave base_rate 0"):
        Trainer(tiny_tokens.settings(root, init_share=0.5, **given, **more), plain())


def test_other_settings_or_other_data_are_refused_in_a_folder_that_was_begun(root, tmp_path):
    run(tiny_tokens.settings(root, "begun", steps=1))
    with pytest.raises(BadInput, match="noise was 0.1 and is now 0.2"):
        run(tiny_tokens.settings(root, "begun", steps=1, noise=0.2))
    tiny_tokens.write_tokens(tmp_path / "tokens", 12)
    (tmp_path / "model").symlink_to(root / "model")
    chosen = tiny_tokens.settings(tmp_path, steps=2, save_every=1)
    run(chosen)
    tiny_tokens.write_tokens(tmp_path / "tokens", 13)
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(BadInput, match="other inputs than those of now: data"):
        run(chosen)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ("model/base/model.safetensors", "model.base"),
        ("model/image_encoder/open_clip.safetensors", "model.image_encoder"),
        ("init/model.safetensors", "init"),
        ("init/image_proj.safetensors", "init"),
    ],
)
def test_a_run_is_not_gone_on_with_on_other_weights_of_the_same_size(root, tmp_path, changed, name):
    shutil.copytree(root / "model", tmp_path / "model")
    (tmp_path / "model" / "adapter").rename(tmp_path / "init")
    chosen = tiny_tokens.settings(tmp_path, data=root / "tokens", init=tmp_path / "init", steps=1)
    run(chosen)
    tiny.double(tmp_path / changed)
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(BadInput, match=f"other inputs than those of now: {name}. Give another `out`"):
        run(chosen)


def test_data_of_another_vqgan_is_refused(root, monkeypatch):
    monkeypatch.setattr(tiny, "CODES", 20)
    tiny_tokens.write_tokens(root / "other", 4)
    with pytest.raises(BadInput, match="codes of a VQGAN with 20 and the tokenizer has 24"):
        run(tiny_tokens.settings(root, "refused", data=root / "other"))
    assert not (root / "refused").exists()


def test_data_of_another_vqgan_of_the_same_size_is_refused_naming_both(root):
    tiny_tokens.write_tokens(root / "others", vqgan="0123456789abcdef")
    told = r"others was made with the VQGAN .*\(0123456789ab\) and model\.vqgan is .*vqgan\.safetensors.*tokenize again"
    with pytest.raises(BadInput, match=told):
        run(tiny_tokens.settings(root, "refused", data=root / "others"))
    assert not (root / "refused").exists()


def test_an_adapter_to_go_on_from_that_is_not_there_is_told_by_its_setting(root):
    with pytest.raises(MissingPart, match=r"init is .*gone and nothing is there"):
        run(tiny_tokens.settings(root, init=root / "gone"))


@pytest.mark.parametrize(("name", "told"), [("adapter", "to go on from is `init`"), ("segmenter", "leave it out")])
def test_a_part_that_training_does_not_use_is_refused_before_anything_is_read(name, told):
    with pytest.raises(BadInput, match=rf"model\.{name}=nowhere.*there is no setting model\.{name}; .*{told}"):
        read_settings(TrainSettings, CONFIGS / "train.yaml", [f"model.{name}=nowhere"])


def test_a_run_begins_without_a_warning_about_checkpointing(root):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*gradient_checkpointing")
        Trainer(tiny_tokens.settings(root, gradient_checkpointing=True), plain())


def test_holding_out_everything_is_refused(root):
    with pytest.raises(BadInput, match="held_out is 16 and .* has 16 pictures"):
        run(tiny_tokens.settings(root, held_out=16))


def test_a_batch_that_the_processes_cannot_share_is_refused(root, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 3)
    with pytest.raises(BadInput, match="multiple of the 3 processes"):
        run(tiny_tokens.settings(root))


def test_a_benchmark_tells_the_share_outside_the_model_and_writes_nothing(root):
    told = run(tiny_tokens.settings(root, "timed", mode="benchmark", benchmark_steps=2))
    assert "Outside forward, backward and optimizer:" in told and "pictures/s" in told
    assert not (root / "timed").exists()


def test_rates_rise_and_then_follow_a_cosine(root):
    chosen = tiny_tokens.settings(root, steps=10, warmup=2, final_rate=0.1)
    assert chosen.rate(0) == pytest.approx(0.5) and chosen.rate(5) == pytest.approx(0.55)
    assert 0.1 < chosen.rate(9) < 0.13


def test_the_contrast_teaches_to_tell_styles_apart(root):
    def told_apart(name, **more):
        """Nats by which a picture is likelier under its own style than under the next picture's."""
        settings = tiny_tokens.settings(root, name, steps=20, lora_rate=1e-2, noise=0.0, **more)
        run(settings)
        AcceleratorState._reset_state(reset_partial_state=True)
        trainer = Trainer(settings.model_copy(update={"init": root / name / "adapter"}), plain())
        trainer.samples.draws = Draws(pairs=4, batch=4)
        rows = trainer.samples[range(4)]
        with torch.no_grad():
            own, other = trainer.losses(rows, trainer.features(rows))[0].split(4)
        AcceleratorState._reset_state(reset_partial_state=True)
        return float((other - own).mean())

    plain_run = told_apart("not-contrasted")
    assert told_apart("told-apart", contrast=StyleContrast(weight=5.0, pairs=4)) > plain_run + 0.1


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_contrasting_in_micro_batches_trains_the_same_weights(root, contrasted, micro_batch):
    run(tiny_tokens.settings(root, f"contrasted-{micro_batch}", micro_batch=micro_batch, **CONTRAST))
    assert_close(weights(root / f"contrasted-{micro_batch}"), contrasted)


def test_two_processes_that_contrast_in_two_micro_batches_train_the_same_weights_as_one_in_one(root, contrasted):
    chosen = tiny_tokens.settings(root, "contrasted-two", micro_batch=2, **CONTRAST)
    assert tiny_tokens.in_processes(tiny_tokens.train, chosen, processes=2) == [0, 0]
    assert_close(weights(root / "contrasted-two"), contrasted)
    figures = [read_json(root / name / "summary.json")["loss of the last tenth"] for name in (chosen.out, "contrasted")]
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)


def test_sharded_processes_of_which_one_has_nothing_to_contrast_train_the_same_weights_as_one(root):
    settings = CONTRAST | {"contrast": StyleContrast(weight=5.0, pairs=1)}
    run(tiny_tokens.settings(root, "one-pair", **settings))
    chosen = tiny_tokens.settings(root, "one-pair-sharded", micro_batch=2, **settings)
    assert tiny_tokens.in_processes(tiny_tokens.train_sharded, chosen, processes=2) == [0, 0]
    assert_close(weights(chosen.out), weights(root / "one-pair"))


def test_a_contrasting_run_that_was_killed_and_started_again_trains_the_same_weights_bit_for_bit(root, contrasted):
    chosen = tiny_tokens.settings(root, "contrasted-killed", micro_batch=6, **CONTRAST)
    assert tiny_tokens.in_processes(tiny_tokens.train_and_die, chosen, 3) == [-signal.SIGKILL]
    run(chosen)
    found = weights(chosen.out)
    assert all(torch.equal(found[name], value) for name, value in contrasted.items())


def test_the_contrast_is_logged_and_one_that_is_no_number_stops_the_run_before_a_weight_has_changed(root, monkeypatch):
    trainer = Trainer(tiny_tokens.settings(root, "broken-contrast", **CONTRAST), plain())
    assert 0 < trainer.step(0, trainer.loader(range(1)))["contrast"] < 5
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    terms = Trainer.terms

    def broken(self, rows):
        cross_entropy, z, contrast = terms(self, rows)
        return cross_entropy, z, contrast * float("nan")

    monkeypatch.setattr(Trainer, "terms", broken)
    with pytest.raises(FloatingPointError, match="Step 2: the contrast is nan"):
        trainer.step(1, trainer.loader(range(1, 2)))
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())


def test_a_benchmark_tells_how_many_pictures_are_looked_at_again(root):
    chosen = {"mode": "benchmark", "benchmark_steps": 2, "context_drop": 0.0}
    assert "6 pictures, 3 of them looked at again" in run(tiny_tokens.settings(root, **(CONTRAST | chosen)))


@pytest.mark.parametrize("change", [{"batch": 1}, {"context_drop": 1}])
def test_a_contrast_without_another_picture_to_compare_with_is_refused(root, change):
    with pytest.raises(BadInput, match="raise batch or lower context_drop"):
        run(tiny_tokens.settings(root, **(CONTRAST | change)))


@pytest.mark.parametrize("count", [4, 24])
def test_as_many_style_tokens_as_asked_for_are_trained_and_drawn_with(root, count):
    shape = {"tokens": count, "width": 16, "depth": 1, "heads": 1}
    run(tiny_tokens.settings(root, f"tokens-{count}", steps=1, resampler=shape, sample_every=1, prompts=["a"]))
    model = StyleAR.load(root / "model", root / f"tokens-{count}" / "adapter")
    style = model.encode_style(np.zeros((16, 16, 3), np.uint8))
    assert len(style.tokens) == count
    assert model.generate("a", style, width=16, height=16, top_k=1).shape == (1, 16, 16, 3)


def test_a_base_that_trains_too_moves_is_written_and_drawn_with(root):
    chosen = {"base_rate": 1e-3, "sample_every": 4, "prompts": ["a"]}
    run(tiny_tokens.settings(root, "joint", **chosen))
    found, before = (load_file(root / name / "base" / "model.safetensors") for name in ("joint", "model"))
    assert found.keys() == before.keys()
    for name in ("lm_head.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        assert found[name].shape == before[name].shape and not torch.equal(found[name], before[name].half())
    parts = {name: root / "model" / name for name in ("vqgan", "image_encoder")}
    model = StyleAR.load(root / "joint" / "base", root / "joint" / "adapter", **parts)
    assert model.size == tiny.SIZE
    assert model.generate("a", model.encode_style(np.zeros((16, 16, 3), np.uint8)), top_k=1).shape[1:] == (16, 16, 3)


def test_a_base_that_trains_too_is_gone_on_with_bit_for_bit(root):
    chosen = {"base_rate": 1e-3, "steps": 4, "save_every": 2}
    assert tiny_tokens.in_processes(tiny_tokens.train_and_die, tiny_tokens.settings(root, "cut", **chosen), 2) == [
        -signal.SIGKILL
    ]
    run(tiny_tokens.settings(root, "cut", **chosen))
    AcceleratorState._reset_state(reset_partial_state=True)
    run(tiny_tokens.settings(root, "whole", **chosen))
    for name in ("base/model", "adapter/model", "adapter/image_proj"):
        one, other = (load_file(root / out / f"{name}.safetensors") for out in ("cut", "whole"))
        assert all(torch.equal(one[key], other[key]) for key in other)


def test_a_share_of_the_data_is_of_each_kind_and_nothing_else_is_seen(root):
    trainer = Trainer(tiny_tokens.settings(root, data_share=0.5, held_out=0), plain())
    kinds, seen = trainer.tokens.kinds, np.unique(trainer.samples.order.indices(0, 400))
    assert [int((kinds[seen] == kind).sum()) for kind in (0, 1)] == [2, 6]
    assert [int((kinds == kind).sum()) for kind in (0, 1)] == [4, 12]
