"""The memory asked for before a call is what the call takes, and not much more."""

import pytest
import torch
from peak import Peak

from stylear import memory, sampling
from stylear.errors import BadInput
from stylear.memory import copied_bytes, drawing_bytes, picture_bytes, sampling_bytes, segmenting_bytes
from stylear.pipeline import MINI, StyleAR
from stylear.style import StyleTokens
from stylear.vqgan import VQGAN, VQGANConfig

RELEASED = VQGANConfig()
SMALL = VQGANConfig(channels=32, multipliers=(1, 2, 4), blocks=1, latent_channels=16, code_channels=16, codes=1024)


@pytest.fixture
def mini():
    """Loaded anew: what its passes copy is copied at the first."""
    if not (MINI / "base").is_dir():
        pytest.skip("the bundled mini is not there")
    return StyleAR.load("mini", device="cpu")


@pytest.mark.parametrize(
    ("config", "size"), [(RELEASED, (768, 768)), (RELEASED, (1024, 512)), (SMALL, (128, 64))], ids=str
)
def test_a_picture_takes_in_the_vqgan_what_is_asked_for_and_at_least_half_of_it(config, size):
    with torch.device("meta"), torch.no_grad():
        vqgan = VQGAN(config)
        codes = torch.zeros(1, *(side // vqgan.downsampling for side in reversed(size)), dtype=torch.int64)
        for work in (lambda: vqgan.decode(codes), lambda: vqgan.encode(torch.zeros(1, 3, *reversed(size)))):
            with Peak() as peak:
                work()
            assert peak.most <= picture_bytes(vqgan, size) <= 2.5 * peak.most


def test_sam_takes_what_is_asked_for_and_at_least_half_of_it():
    segment_anything = pytest.importorskip("segment_anything")
    with torch.device("meta"), torch.no_grad():
        sam = segment_anything.sam_model_registry["vit_b"]()
        block = next(block for block in sam.image_encoder.blocks if not block.window_size)
        with Peak() as peak:
            block(torch.zeros(1, 64, 64, 768))
    segmenter = type("Segmenter", (), {"sam": sam})
    assert peak.most <= segmenting_bytes(segmenter) <= 2 * peak.most


@pytest.mark.parametrize(
    ("changes", "readings", "window"),
    [({"cfg": 1.0}, 1, 16), ({"batch_size": 3}, 2, 16), ({"style_cfg": 2.0}, 3, 16), ({"batch_size": 12}, 2, 64)],
)
def test_sampling_takes_no_more_than_is_asked_for(mini, monkeypatch, changes, readings, window):
    style, checked = StyleTokens(torch.zeros(16, mini.resampler.config.output)), []
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    checks = sampling.check_room
    monkeypatch.setattr(sampling, "check_room", lambda *asked: checked.append(drawing_bytes(*asked)) or checks(*asked))
    with Peak() as peak:
        mini.generate("a cat", style, window=window, width=32, height=32, **changes)
    batch = changes.get("batch_size", 1)
    asked = sampling_bytes(mini.base, mini.vqgan, (32, 32), batch, readings, window=window)
    assert peak.most <= asked <= 3 * peak.most
    assert peak.most - copied_bytes(mini.base) <= checked[0] <= asked


def test_without_a_window_the_most_that_auto_may_draw_is_asked_for(mini):
    def asked(**more):
        return sampling_bytes(mini.base, mini.vqgan, (2048, 2048), **more)

    assert asked(batch_size=2) == asked(batch_size=2, window=64) > asked(batch_size=2, window=16)
    assert asked(batch_size=16) == asked(batch_size=16, window=16)
    mini.base.bfloat16()
    assert asked(batch_size=2) == asked(batch_size=2, window=16)


def test_more_rows_longer_pictures_and_conditions_are_asked_more_for(mini):
    def asked(size=(2048, 2048), **changes):
        return sampling_bytes(mini.base, mini.vqgan, size, **changes)

    drawn_at_once = asked(batch_size=64)
    assert asked(batch_size=64, readings=1) * 2 == pytest.approx(drawn_at_once, rel=1e-3)
    assert asked(batch_size=64, condition=torch.zeros(16, 16, dtype=torch.int64)) > drawn_at_once
    assert asked(batch_size=128) == pytest.approx(2 * drawn_at_once, rel=1e-3)
    assert asked((64, 64), batch_size=64) < drawn_at_once


@pytest.fixture
def gib_free(monkeypatch, tmp_path):
    """Has Linux say that one GiB is available and another is left of swap."""
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 9999999 kB\nMemAvailable: 1048576 kB\nSwapFree: 1048576 kB\n")
    monkeypatch.setattr(memory, "_LINUX", told)


def of_gib(count: float) -> list[torch.Tensor]:
    return [torch.empty(int(count * 2**28), dtype=torch.float32, device="meta")]


@pytest.mark.usefixtures("gib_free")
def test_weights_that_fit_with_swap_are_let_through_and_larger_ones_are_told_with_both_numbers():
    memory.check_weights("The model", of_gib(1.9), torch.float32)
    memory.check_weights("The model", of_gib(3.9), torch.bfloat16)
    with pytest.raises(BadInput, match=r"model takes 2\.10 GiB in float32 and cpu has 2\.00 GiB free\. Close"):
        memory.check_weights("The model", of_gib(2.1), torch.float32)
    with pytest.raises(BadInput, match=r"4\.10 GiB in bfloat16 .* free\. Close"):
        memory.check_weights("The model", of_gib(8.2), torch.bfloat16)


@pytest.mark.usefixtures("gib_free")
def test_a_container_has_what_its_group_and_those_above_leave_it(monkeypatch, tmp_path):
    def group(folder, limit, current, files):
        folder.mkdir(parents=True, exist_ok=True)
        told = {"max": limit, "current": current, "stat": f"anon 5\ninactive_file {files}"}
        for name, value in told.items():
            (folder / f"memory.{name}").write_text(f"{value}\n")

    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_GROUP", tmp_path / "own")
    (tmp_path / "own").write_text("0::/pod/box\n")
    cpu = torch.device("cpu")
    assert memory.free_bytes(cpu) == 2**30  # nothing is told of the group
    group(tmp_path / "groups" / "pod" / "box", "max", 7, 0)
    assert memory.free_bytes(cpu) == 2**30
    group(tmp_path / "groups" / "pod", 2**29, 2**28, 2**20)
    assert memory.free_bytes(cpu) == 2**28 + 2**20
    with pytest.raises(BadInput, match=r"0\.30 GiB in float32 and cpu has 0\.25 GiB free"):  # swap is not its to take
        memory.check_weights("The model", of_gib(0.3), torch.float32)
    group(tmp_path / "groups" / "pod", "much", 2**28, 0)
    assert memory.free_bytes(cpu) == 2**30


def test_where_nothing_tells_what_is_free_all_weights_are_let_through(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_LINUX", tmp_path / "nothing")
    memory.check_weights("The model", of_gib(1e6), torch.float32)


def test_a_system_that_does_not_tell_its_memory_is_believed_to_have_it(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\n")
    monkeypatch.setattr(memory, "_LINUX", tmp_path / "meminfo")
    assert memory.free_bytes(torch.device("cpu")) is None
