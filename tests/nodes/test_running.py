"""Progress, stop button and previews while a node runs, and a worker thread that outlives it."""

import pytest
import torch


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt()])
def test_a_library_that_exits_does_not_take_comfyuis_worker_with_it(running, error):
    with pytest.raises(RuntimeError, match="tried to end ComfyUI"), running.contained():
        raise error


def test_the_stop_button_passes_through(comfy, running):
    with pytest.raises(comfy.management.InterruptProcessingException), running.contained():
        raise comfy.management.InterruptProcessingException


@pytest.fixture
def shown(comfy):
    """What the progress bar sends to the page: (value, total, preview)."""
    sent = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **_: sent.append((value, total, preview)))
    yield sent
    comfy.utils.set_progress_bar_global_hook(None)


def test_progress_reaches_the_page_from_the_first_step_to_the_last(running, shown):
    run = running.Run()
    for done in range(1, 11):
        run.progress(done, 10)
    assert shown[0] == (1, 10, None) and shown[-1] == (10, 10, None)


def test_the_stop_button_is_looked_at_on_every_step_not_only_when_the_bar_moves(comfy, running):
    run = running.Run()
    assert run.cancelled() is False
    comfy.management.interrupt_current_processing()
    with pytest.raises(comfy.management.InterruptProcessingException):
        run.cancelled()
    assert run.cancelled() is False, "the stop is used up"


def test_no_preview_is_made_when_the_person_has_previews_off(running):
    assert running.Run().preview is None


@pytest.fixture
def previews_on(comfy, monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Auto)


@pytest.mark.parametrize(
    "pictures",
    [torch.rand(1, 4, 6, 3), torch.rand(3, 4, 6, 3), torch.rand(1, 4, 6, 4), torch.rand(1, 4, 6).half()],
    ids=["one", "batch", "rgba", "grey"],
)
def test_a_preview_is_always_an_rgb_image_that_jpeg_can_hold(comfy, running, shown, previews_on, pictures):
    run = running.Run()
    run.progress(1, 4)
    run.preview(pictures)
    kind, image, size = shown[-1][2]
    assert (kind, image.mode, image.size, size) == ("JPEG", "RGB", (6, 4), comfy.cli_args.args.preview_size)
    assert shown[-1][:2] == (1, 4)


def test_a_preview_before_the_first_step_is_left_out(running, shown, previews_on):
    running.Run().preview(torch.rand(1, 4, 6, 3))
    assert shown == []
