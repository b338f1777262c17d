"""Sweeps in a WebUI: the queue, progress, interrupt, the LoRA's name, and what makes a batch worthless."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_eval.errors import HostError, Interrupted, LoraFileError
from lora_eval.host import current
from lora_eval.host.current import Settings
from lora_eval.host.protocol import ImageRequest, LoraUse, Sampling
from lora_eval.host.webui.queue import reload_watch
from lora_eval.scorecard.plan.make import default_sampling
from tests.host import fake_webui as fakes

SAMPLING = Sampling(sampler="Euler", steps=4, cfg_scale=5.0, width=64, height=96, clip_skip=1)
LONG = 30.0


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    webui = fakes.FakeWebui(tmp_path)
    webui.install(monkeypatch)
    return webui


@pytest.fixture
def host(webui: Any) -> Any:
    return fakes.FakeHost(webui)


def lora_at(path: Path, content: bytes = b"lora") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def requests(*prompts: str) -> list[ImageRequest]:
    return [ImageRequest(prompt, seed, f"no {prompt}") for seed, prompt in enumerate(prompts, 1)]


# -- what is asked of the host -------------------------------------------------------------------------


def test_one_batch_with_the_prompts_seeds_and_settings_asked(webui: Any, host: Any) -> None:
    drawn = host.generate(requests("a cat", "a dog"), SAMPLING)
    (p,) = webui.calls
    assert (p.prompt, p.negative_prompt, p.seed) == (["a cat", "a dog"], ["no a cat", "no a dog"], [1, 2])
    assert (p.batch_size, p.n_iter, p.steps, p.cfg_scale, p.width, p.height) == (2, 1, 4, 5.0, 64, 96)
    assert (p.sampler_name, p.scheduler) == ("Euler", "Automatic")
    assert p.do_not_save_samples and p.do_not_save_grid and not p.restore_faces and not p.tiling
    assert [np.asarray(d.image).tolist() for d in drawn] == [
        np.asarray(fakes.picture(prompt, seed)).tolist() for prompt, seed in (("a cat", 1), ("a dog", 2))
    ]
    assert drawn[1].infotext == "a dog\nNegative prompt: no a dog\nSteps: 4, Seed: 2"


def test_the_picture_size_of_the_settings_stands_in_for_the_models_own(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings()
    monkeypatch.setattr(current, "_settings", lambda: settings)
    assert host.native_size() == (512, 512)
    settings.size = 384
    assert host.native_size() == (384, 384)
    assert (default_sampling(host).width, default_sampling(host).height) == (384, 384)


@pytest.mark.parametrize("side", [-64, 8, 100, 4096])
def test_a_picture_size_in_the_settings_that_cannot_be_drawn_is_named(
    host: Any, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    monkeypatch.setattr(current, "_settings", lambda: Settings(size=side))
    with pytest.raises(HostError, match=f"settings is {side}; choose 0 or a multiple of 8"):
        host.native_size()


def test_options_that_change_pictures_or_fetch_files_are_overridden_only_where_they_differ(
    webui: Any, host: Any
) -> None:
    host.generate(requests("a cat"), SAMPLING)
    assert webui.calls[0].override_settings == {"CLIP_stop_at_last_layers": 1, "show_progress_type": "Approx cheap"}
    webui.options |= {"CLIP_stop_at_last_layers": 1, "token_merging_ratio": 0.5, "sd_lora": "other"}
    host.generate(requests("a cat"), SAMPLING)
    overridden = webui.calls[1].override_settings
    assert (overridden["token_merging_ratio"], overridden["sd_lora"]) == (0.0, "None")


def test_prompts_of_different_length_are_not_padded_in_one_batch_and_keep_their_order(webui: Any, host: Any) -> None:
    long = " ".join(["word"] * 100)
    drawn = host.generate(requests("a cat", long, "a dog"), SAMPLING)
    assert [p.prompt for p in webui.calls] == [["a cat", "a dog"], [long]]
    assert [d.infotext.split("\n")[0] for d in drawn] == ["a cat", long, "a dog"]


def test_nothing_asked_is_nothing_drawn(webui: Any, host: Any) -> None:
    assert host.generate([], SAMPLING) == [] and webui.calls == []


def test_unknown_sampler_is_refused_with_the_known_ones(webui: Any, host: Any) -> None:
    with pytest.raises(HostError, match=r"'Euler b'.*Euler, DDIM"):
        host.generate(requests("a cat"), Sampling(sampler="Euler b"))
    assert webui.calls == []


# -- LoRA ----------------------------------------------------------------------------------------------


def test_a_lora_of_the_folder_goes_by_its_own_name(webui: Any, host: Any) -> None:
    path = lora_at(webui.lora_dir / "sub" / "cat.safetensors")
    drawn = host.generate(requests("a cat", "a dog"), SAMPLING, LoraUse(path, 0.7))
    assert webui.calls[0].prompt == ["a cat <lora:cat:0.7>", "a dog <lora:cat:0.7>"]
    assert drawn[0].infotext.startswith("a cat <lora:cat:0.7>\nNegative prompt: no a cat\nSteps: ")
    assert list(webui.lora_dir.rglob("*.safetensors")) == [path]


def test_a_checkpoint_elsewhere_is_lent_for_the_job_and_taken_back(webui: Any, host: Any, tmp_path: Path) -> None:
    path = lora_at(tmp_path / "run" / "cat.safetensors")
    with host.job("sweep", 2):
        for weight in (0.5, 1.0):
            host.generate(requests("a cat"), SAMPLING, LoraUse(path, weight))
        lent = list(webui.lora_dir.rglob("*.safetensors"))
    assert len(lent) == 1 and lent[0].stem.startswith("cat-")
    assert [p.prompt for p in webui.calls] == [[f"a cat <lora:{lent[0].stem}:{w}>"] for w in ("0.5", "1")]
    assert list(webui.lora_dir.iterdir()) == [] and webui.listed == 1 and path.is_file()


def test_refreshing_drops_the_cached_listing_that_would_hide_a_new_card(webui: Any, host: Any) -> None:
    host.refresh_loras()
    assert (webui.listed, webui.cards_dropped) == (1, 1)


@pytest.mark.parametrize("stem", ["a:b", "a,b", "a b", "a>b", "a=b"])
def test_a_stem_that_a_tag_cannot_hold_is_lent_under_another(webui: Any, host: Any, stem: str) -> None:
    path = lora_at(webui.lora_dir / f"{stem}.safetensors")
    host.generate(requests("cat"), SAMPLING, LoraUse(path, 1.0))
    assert webui.calls[0].prompt[0].startswith("cat <lora:a_b-")
    assert list(webui.lora_dir.rglob("*.safetensors")) == [path]


def test_two_files_of_one_stem_are_told_apart(webui: Any, host: Any) -> None:
    first = lora_at(webui.lora_dir / "x" / "cat.safetensors", b"first")
    second = lora_at(webui.lora_dir / "y" / "cat.safetensors", b"second")
    for path in (first, second):
        # FakeHost._check_applied compares the content of what was loaded with that of what was asked
        host.generate(requests("a cat"), SAMPLING, LoraUse(path, 1.0))
    tags = {p.prompt[0] for p in webui.calls}
    assert len(tags) == 2


def test_new_content_under_an_old_name_makes_the_host_forget_the_old(webui: Any, host: Any) -> None:
    path = lora_at(webui.lora_dir / "cat.safetensors")
    host.generate(requests("a cat"), SAMPLING, LoraUse(path, 1.0))
    host.generate(requests("a cat"), SAMPLING, LoraUse(path, 0.5))
    assert host.forgotten == 1
    lora_at(path, b"trained longer")
    host.generate(requests("a cat"), SAMPLING, LoraUse(path, 0.5))
    assert host.forgotten == 2


def test_a_missing_file_is_an_error_and_draws_nothing(webui: Any, host: Any) -> None:
    with pytest.raises(LoraFileError, match=r"gone\.safetensors is missing"):
        host.generate(requests("a cat"), SAMPLING, LoraUse(webui.lora_dir / "gone.safetensors", 1.0))
    assert webui.calls == []


def test_a_broken_file_is_an_error_and_draws_nothing(webui: Any, host: Any) -> None:
    path = lora_at(webui.lora_dir / "cat.safetensors", b"broken")
    with pytest.raises(LoraFileError, match="broken"):
        host.generate(requests("a cat"), SAMPLING, LoraUse(path, 1.0))
    assert webui.calls == []


def test_a_lora_that_the_host_did_not_load_stops_the_run(webui: Any, host: Any) -> None:
    path = lora_at(webui.lora_dir / "cat.safetensors")
    webui.on_draw = lambda call: webui.available.clear()
    with pytest.raises(HostError, match="LoRA cat was not loaded"):
        host.generate(requests("a cat"), SAMPLING, LoraUse(path, 1.0))


def test_a_lora_left_on_in_base_pictures_stops_the_run(webui: Any, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = webui.process_images

    def with_another(p: Any) -> Any:
        result = whole(p)
        webui.loaded.append(type("Net", (), {"name": "other"})())
        return result

    monkeypatch.setattr(sys.modules["modules.processing"], "process_images", with_another)
    with pytest.raises(HostError, match="LoRA other is on"):
        host.generate(requests("a cat"), SAMPLING)


def test_the_hosts_error_comments_stop_the_run(webui: Any, host: Any) -> None:
    webui.comments = "Networks with errors: cat (12)"
    with pytest.raises(HostError, match=r"Networks with errors: cat \(12\)"):
        host.generate(requests("a cat"), SAMPLING)


# -- the queue, progress, interrupt --------------------------------------------------------------------


def test_the_queue_is_free_between_batches_and_after_errors(webui: Any, host: Any) -> None:
    with host.job("sweep", 4) as job:
        host.generate(requests("a cat"), SAMPLING)
        assert not webui.lock.locked()
        job.advance()
        webui.error = ValueError("bad")
        with pytest.raises(HostError, match="could not draw: ValueError: bad"):
            host.generate(requests("a cat"), SAMPLING)
    assert not webui.lock.locked() and webui.state.job == ""


def test_a_user_s_picture_gets_its_turn_between_two_batches(webui: Any, host: Any) -> None:
    order: list[str] = []
    waiting, drawn = threading.Event(), threading.Event()

    def user() -> None:
        waiting.set()
        with webui.lock:
            order.append("user")
        drawn.set()

    def on_draw(call: int) -> None:
        order.append(f"batch {call}")
        if call == 1:
            threading.Thread(target=user).start()
            assert waiting.wait(LONG)

    webui.on_draw = on_draw
    host.generate(requests("a cat"), SAMPLING)
    assert drawn.wait(LONG)
    host.generate(requests("a cat"), SAMPLING)
    assert order == ["batch 1", "user", "batch 2"]


def test_progress_in_the_hosts_bar_counts_pictures_of_the_whole_job(webui: Any, host: Any) -> None:
    seen = []
    webui.on_draw = lambda call: seen.append((webui.state.job, webui.state.job_no, webui.state.job_count))
    with host.job("sweep", 6) as job:
        for _ in range(3):
            host.generate(requests("a cat", "a dog"), SAMPLING)
            job.advance(2)
    assert seen == [("sweep", 0, 6), ("sweep", 2, 6), ("sweep", 4, 6)]


def test_the_hosts_interrupt_throws_the_unfinished_pictures_away_and_stops_the_job(webui: Any, host: Any) -> None:
    webui.on_draw = lambda call: webui.state.interrupt()
    with host.job("sweep", 4) as job:
        with pytest.raises(Interrupted):
            host.generate(requests("a cat"), SAMPLING)
        assert job.interrupted
        with pytest.raises(Interrupted):
            job.check()
    assert not webui.state.interrupted, "left set, the next picture of anyone would be empty"


def test_stop_generating_counts_as_interrupt(webui: Any, host: Any) -> None:
    webui.on_draw = lambda call: setattr(webui.state, "stopping_generation", True)
    with pytest.raises(Interrupted):
        host.generate(requests("a cat"), SAMPLING)


def test_our_interrupt_stops_the_batch_that_is_being_drawn(webui: Any, host: Any) -> None:
    with host.job("sweep", 4) as job:
        webui.on_draw = lambda call: job.interrupt()
        with pytest.raises(Interrupted):
            host.generate(requests("a cat"), SAMPLING)


def test_a_user_s_interrupt_of_his_own_picture_leaves_the_job_alone(webui: Any, host: Any) -> None:
    with host.job("sweep", 4) as job:
        host.generate(requests("a cat"), SAMPLING)
        webui.state.interrupt()
        assert not job.interrupted
        host.generate(requests("a cat"), SAMPLING)


def test_skip_draws_the_batch_again(webui: Any, host: Any) -> None:
    def skip_first(call: int) -> None:
        webui.state.skipped = call == 1

    webui.on_draw = skip_first
    assert len(host.generate(requests("a cat"), SAMPLING)) == 1
    assert len(webui.calls) == 2


def test_reload_ui_interrupts_the_batch_and_it_is_drawn_again(webui: Any, host: Any) -> None:
    reload_watch.hook(webui.state)
    webui.on_draw = lambda call: webui.state.request_restart() if call == 1 else None
    with host.job("sweep", 4) as job:
        assert len(host.generate(requests("a cat"), SAMPLING)) == 1
        assert len(webui.calls) == 2 and not job.interrupted
        webui.on_draw = lambda call: webui.state.interrupt()
        with pytest.raises(Interrupted):
            host.generate(requests("a cat"), SAMPLING)


def test_reload_ui_while_nothing_of_ours_runs_swallows_no_later_interrupt(webui: Any, host: Any) -> None:
    reload_watch.hook(webui.state)
    webui.state.request_restart()
    webui.on_draw = lambda call: webui.state.interrupt()
    with pytest.raises(Interrupted):
        host.generate(requests("a cat"), SAMPLING)


def test_fewer_pictures_than_asked_is_an_error(webui: Any, host: Any) -> None:
    webui.lose = 1
    with pytest.raises(HostError, match="1 of 2 pictures"):
        host.generate(requests("a cat", "a dog"), SAMPLING)


@pytest.mark.parametrize(("count", "mend"), [(2, "lower the batch size"), (1, "draw smaller pictures")])
def test_out_of_memory_says_what_to_change(webui: Any, host: Any, count: int, mend: str) -> None:
    webui.error = RuntimeError("CUDA out of memory. Tried to allocate\n2 GiB")
    with pytest.raises(HostError, match=mend):
        host.generate(requests(*["a cat"] * count), SAMPLING)


def test_a_second_job_is_refused(host: Any) -> None:
    with (
        host.job("first", 1),
        pytest.raises(HostError, match="'second' cannot start while 'first' runs"),
        host.job("second", 1),
    ):
        pass


# -- the checkpoint ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the batch", "during the batch", "and the batch fails"])
def test_a_switched_checkpoint_pauses_the_job_and_says_what_to_load(webui: Any, host: Any, when: str) -> None:
    def switch(call: int = 0) -> None:
        webui.checkpoint = "models/b.safetensors"
        if when == "and the batch fails":
            webui.comments = "Networks with errors: cat"

    with host.job("sweep", 4) as job:
        host.generate(requests("a cat"), SAMPLING)
        if when == "before the batch":
            switch()
        else:
            webui.on_draw = switch
        with pytest.raises(Interrupted, match=r"switched to b.safetensors.*load a.safetensors and press Resume"):
            host.generate(requests("a cat"), SAMPLING)
        assert "switched to b.safetensors" in job.paused
        for late in (host.model, job.check, lambda: host.generate(requests("a cat"), SAMPLING)):
            with pytest.raises(Interrupted):
                late()
    assert len(webui.calls) == (1 if when == "before the batch" else 2)
    webui.on_draw, webui.comments = lambda call: None, ""
    with host.job("a new run", 4) as job:
        host.generate(requests("a cat"), SAMPLING)
        assert not job.paused


def test_another_vae_pauses_too(webui: Any, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with host.job("sweep", 4) as job:
        host.generate(requests("a cat"), SAMPLING)
        monkeypatch.setattr(host, "_identity", lambda: (webui.checkpoint, "another vae"))
        with pytest.raises(Interrupted, match=r"VAE or precision was switched.*press Resume"):
            host.generate(requests("a cat"), SAMPLING)
        assert job.paused


def test_a_switch_during_a_loan_is_noticed_at_the_next_step(webui: Any, host: Any) -> None:
    with host.job("training", 4) as job, host.borrow_model():
        job.check()
        webui.checkpoint = "models/b.safetensors"
        with pytest.raises(Interrupted, match=r"load a.safetensors"):
            job.check()
    assert "b.safetensors" in job.paused


def test_a_sweep_that_only_measures_any_more_needs_no_checkpoint(webui: Any, host: Any) -> None:
    with host.job("sweep", 4) as job:
        host.generate(requests("a cat"), SAMPLING)
        webui.checkpoint = "models/b.safetensors"
        job.check()
        assert not job.paused


def test_a_switch_stops_the_job_and_nobody_else_who_asks(webui: Any, host: Any) -> None:
    got: list[str] = []
    with host.job("sweep", 4):
        host.generate(requests("a cat"), SAMPLING)
        webui.checkpoint = "models/b.safetensors"
        page = threading.Thread(target=lambda: got.append(host.model().name))
        page.start()
        page.join(LONG)
    assert got == ["b"]


def test_a_person_s_interrupt_is_no_pause(webui: Any, host: Any) -> None:
    with host.job("sweep", 4) as job:
        host.generate(requests("a cat"), SAMPLING)
        job.interrupt()
        webui.checkpoint = "models/b.safetensors"
        with pytest.raises(Interrupted):
            job.check()
        assert not job.paused


def test_who_was_first_in_line_has_the_queue_before_the_next_batch(
    webui: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    asked = threading.Event()

    def user() -> None:
        webui.lock._pending_threads.append(object())
        asked.set()
        while webui.lock.locked():
            pass
        # as slow to wake up as a thread on a busy machine
        released.wait(LONG)
        with webui.lock:
            webui.lock._pending_threads.clear()
            order.append("user")
            taken.set()
            on.wait(LONG)

    released, taken, on = threading.Event(), threading.Event(), threading.Event()
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        released.set()
        taken.wait(LONG)

    monkeypatch.setattr("lora_eval.host.webui.queue.time.sleep", nap)
    thread = threading.Thread(target=user)

    def draw(call: int) -> None:
        if call == 1:
            thread.start()
            assert asked.wait(LONG)
        else:
            order.append("second batch")

    webui.on_draw = draw
    with host.job("sweep", 2):
        host.generate(requests("a cat"), SAMPLING)
        on.set()
        host.generate(requests("a dog"), SAMPLING)
    thread.join(LONG)
    assert order == ["user", "second batch"] and naps


def test_those_who_wait_for_the_running_job_are_counted(webui: Any, host: Any) -> None:
    webui.lock._pending_threads = [object(), object()]
    assert host.waiting() == 0, "nobody waits for us while the queue is not ours"
    with host.borrow_model():
        assert host.waiting() == 2


# -- the loan ------------------------------------------------------------------------------------------


def test_a_loan_holds_the_queue_draws_in_it_and_ends(webui: Any, host: Any) -> None:
    with host.borrow_model() as loan:
        assert webui.lock.locked() and torch.is_grad_enabled() and loan.layout == "ldm"
        assert len(loan.draw(requests("a cat", "a dog"), SAMPLING)) == 2
        loan.gradient_checkpointing(True)
    assert not webui.lock.locked()
    for late in (
        lambda: loan.draw(requests("a cat"), SAMPLING),
        lambda: loan.encode_images(torch.zeros(1, 3, 8, 8)),
        lambda: loan.gradient_checkpointing(True),
    ):
        with pytest.raises(HostError, match="the loan of the model has ended"):
            late()


def test_a_loan_ends_with_the_queue_free_however_it_is_left(webui: Any, host: Any) -> None:
    with pytest.raises(ZeroDivisionError), host.borrow_model() as loan:
        loan.gradient_checkpointing(True)
        raise ZeroDivisionError
    assert not webui.lock.locked()
    with pytest.raises(HostError, match="ended"):
        loan.encode_images(torch.zeros(1, 3, 8, 8))


def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_touched(webui: Any, host: Any) -> None:
    webui.checkpoint = "models/fp8.safetensors"
    with pytest.raises(HostError, match="FP8"), host.borrow_model():
        raise AssertionError("lent all the same")
    assert host.loans == [] and not webui.lock.locked()


@pytest.mark.parametrize(
    ("comments", "misfits", "error"),
    [
        ("Networks with errors: fox (1)", 1, False),
        ("Networks with errors: fox (2)", 1, True),
        ("Networks with errors: fox (1)", 0, True),
        ("some error\nNetworks with errors: fox (1)", 1, True),
        ("", 0, False),
        ("a word of advice", 0, False),
    ],
)
def test_only_layers_that_are_known_not_to_fit_may_be_reported(comments: str, misfits: int, error: bool) -> None:
    from lora_eval.host.webui.draw import _is_error

    assert _is_error(comments, misfits) is error
