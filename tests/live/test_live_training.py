"""Training in a running WebUI: it starts, shows, stops, and leaves the model as it was."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

STAGES = [("encode_images", 5), ("encode_text", 6), ("denoise", 0), ("draw", 1)]
KEPT = ("tensors", "flags", "hooks", "forwards", "random", "loras", "object")


def kept(webui: Any, before: dict[str, Any]) -> None:
    """The process is as it was."""
    after = webui.inside()
    assert {name: after[name] for name in KEPT} == {name: before[name] for name in KEPT}


def test_the_loss_falls_and_the_lora_is_listed_without_a_restart(webui: Any) -> None:
    name = f"live-published-{int(time.time())}"
    state = webui.over(webui.train(name=name, publish=True, max_steps=12, validation_fraction=0.2))
    assert state["status"] == "finished", state["error"]
    assert (state["done"], state["total"]) == (12, 12)
    assert name in [lora["name"] for lora in webui.call("/sdapi/v1/loras")]
    rows = webui.call(f"/lora-eval/v1/runs/{name}/history.csv").splitlines()
    column = rows[0].split(",").index("train_loss_fixed")
    losses = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert losses[-1] < losses[0]
    assert np.any(webui.txt2img("zorp") != webui.txt2img(f"zorp <lora:{name}:1>"))
    (webui.data / "models" / "Lora" / f"{name}.safetensors").unlink()


def test_the_file_draws_what_the_live_preview_drew(webui: Any) -> None:
    from PIL import Image

    name = f"live-preview-{int(time.time())}"
    sample = {"sample_prompts": ["zorp"], "sample_steps": 6, "sampler_steps": 3, "sample_cfg": 5, "sample_seed": 7}
    state = webui.over(webui.train(name=name, publish=True, save_dtype="fp32", learning_rate=1e-2, **sample))
    assert state["status"] == "finished", state["error"]
    folder = webui.data / "outputs" / "lora-eval" / name / "samples"
    with Image.open(sorted(folder.glob("*.png"))[-1]) as image:
        preview = np.asarray(image.convert("RGB")).astype(int)
    drawn = webui.txt2img(f"zorp <lora:{name}:1>").astype(int)
    (webui.data / "models" / "Lora" / f"{name}.safetensors").unlink()
    assert np.abs(preview - webui.txt2img("zorp").astype(int)).max() > 8, "the LoRA does too little to compare"
    assert np.abs(preview - drawn).max() <= 1


def test_progress_is_seen_in_ours_and_in_the_hosts_bar(webui: Any) -> None:
    id = webui.train(max_steps=40)
    webui.until(id, lambda state: state["done"] >= 2)
    bar = webui.call("/sdapi/v1/progress?skip_current_image=true")
    state = webui.job(id)
    webui.call(f"/lora-eval/v1/jobs/{id}/interrupt", {})
    assert bar["state"]["job_count"] == 40 and bar["state"]["job_no"] >= 2
    assert "step" in state["text"] and state["eta"] > 0
    assert webui.over(id)["status"] == "interrupted"


@pytest.mark.parametrize("by", ["ours", "the host's"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_interrupt_keeps_the_work_and_the_model(webui: Any, other_lora: str, by: str, steps: int) -> None:
    base, with_other = webui.txt2img("a cat"), webui.txt2img(f"a cat <lora:{other_lora}:1>")
    before = webui.inside()
    id = webui.train(max_steps=40)
    webui.until(id, lambda state: state["total"] == 40 and state["done"] >= steps)
    webui.call(f"/lora-eval/v1/jobs/{id}/interrupt" if by == "ours" else "/sdapi/v1/interrupt", {})
    state = webui.over(id)
    assert state["status"] == "interrupted", state["error"]
    kept(webui, before)
    if state["done"]:
        assert webui.data.joinpath(state["result"]["lora"]).is_file()
    assert np.array_equal(webui.txt2img("a cat"), base)
    assert np.array_equal(webui.txt2img(f"a cat <lora:{other_lora}:1>"), with_other)


@pytest.mark.parametrize("drawn_before", ["base", "with a LoRA"])
def test_the_end_leaves_pictures_tensors_and_flags(webui: Any, other_lora: str, drawn_before: str) -> None:
    base, with_other = webui.txt2img("a cat"), webui.txt2img(f"a cat <lora:{other_lora}:1>")
    if drawn_before == "base":
        webui.txt2img("a cat")
    before = webui.inside()
    sample = {"sample_prompts": ["zorp"], "sample_steps": 3, "sampler_steps": 2, "gradient_checkpointing": True}
    state = webui.over(webui.train(**sample))
    assert state["status"] == "finished", state["error"]
    kept(webui, before)
    assert np.array_equal(webui.txt2img(f"a cat <lora:{other_lora}:1>"), with_other)
    assert np.array_equal(webui.txt2img("a cat"), base)


@pytest.mark.parametrize(("stage", "after"), STAGES)
def test_an_exception_at_any_stage_leaves_the_model(webui: Any, stage: str, after: int) -> None:
    base = webui.txt2img("a cat")
    before = webui.inside()
    webui.call(f"/lora-eval-probe/break/{stage}/{after}", {})
    sample = {"sample_prompts": ["zorp"], "sample_steps": 2, "sampler_steps": 2}
    state = webui.over(webui.train(cache_latents_to_disk=False, **sample))
    assert state["status"] == "failed" and f"broken on purpose in {stage}" in state["error"]
    kept(webui, before)
    assert np.array_equal(webui.txt2img("a cat"), base)


def test_an_exception_in_a_training_step_leaves_the_model(webui: Any) -> None:
    base = webui.txt2img("a cat")
    before = webui.inside()
    id = webui.train(max_steps=40, gradient_checkpointing=True)
    webui.until(id, lambda state: state["done"] >= 2)
    webui.call("/lora-eval-probe/break/denoise/0", {})
    state = webui.over(id)
    assert state["status"] == "failed" and "broken on purpose in denoise" in state["error"]
    kept(webui, before)
    assert np.array_equal(webui.txt2img("a cat"), base)


def test_a_picture_asked_for_during_training_waits_and_is_the_same(webui: Any) -> None:
    base, got = webui.txt2img("a cat"), []
    id = webui.train(max_steps=8)
    webui.until(id, lambda state: state["done"] >= 2)
    user = threading.Thread(target=lambda: got.append((webui.txt2img("a cat"), webui.job(id)["status"])))
    user.start()
    webui.over(id)
    user.join()
    assert np.array_equal(got[0][0], base) and got[0][1] == "finished"


def test_a_switched_checkpoint_pauses_the_training_and_resume_ends_as_if_nothing_had_happened(
    webui: Any, other_checkpoint: str
) -> None:
    own, base = webui.checkpoint(), webui.txt2img("a cat")
    name = f"live-switch-{time.time_ns()}"
    whole = webui.over(webui.train(name=f"{name}-whole", max_steps=60))
    assert whole["status"] == "finished", whole["error"]
    id = webui.train(name=name, max_steps=60)
    webui.until(id, lambda state: state["total"] == 60 and state["done"] >= 2)
    # the WebUI loads the other one as soon as the training lets go
    user = threading.Thread(target=webui.choose, args=(other_checkpoint,))
    user.start()
    state = webui.over(id)
    user.join()
    assert (state["status"], state["resumable"]) == ("paused", True), state["error"]
    for word in (Path(own.split(" ")[0]).stem, Path(other_checkpoint).stem, "press Resume"):
        assert word in state["error"]
    assert 2 <= state["done"] < 60 and webui.data.joinpath(state["result"]["lora"]).is_file()
    assert np.any(webui.txt2img("a cat") != base), "the user's own choice draws"
    webui.call(f"/lora-eval/v1/jobs/{id}/resume", {})
    early = webui.over(id)
    assert (early["status"], early["resumable"]) == ("paused", True) and "press Resume" in early["error"]
    webui.choose(own)
    webui.call(f"/lora-eval/v1/jobs/{id}/resume", {})
    again = webui.over(id)
    assert (again["status"], again["done"]) == ("finished", 60), again["error"]
    assert np.array_equal(webui.txt2img("a cat"), base)
    first, second = (load_file(webui.data / one["result"]["lora"]) for one in (whole, again))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_memory_grows_by_the_lora_its_optimiser_and_the_activations(webui: Any) -> None:
    webui.inside()
    before = webui.call("/lora-eval-probe/memory")
    webui.call("/lora-eval-probe/watch/3", {})
    state = webui.over(webui.train(save_dtype="fp32", mixed_precision="no"))
    seen = webui.call("/lora-eval-probe/seen")
    assert state["status"] == "finished", state["error"]
    print(before, seen)
    tensors = load_file(webui.data / state["result"]["lora"])
    numbers = sum(tensor.numel() for key, tensor in tensors.items() if "alpha" not in key)
    assert seen["model"] == before["model"] and seen["model_gradients"] == 0
    assert seen["lora"] == 4 * numbers
    # two moments in fp32, and the count of updates of each parameter
    assert seen["optimiser"] == 8 * numbers + 4 * seen["lora_tensors"]
    # twenty pictures encoded: latents of 8x8 and a text each
    assert seen["rest"] - before["rest"] < 21 * (77 * 2048 + 4 * 8 * 8 + 2816) * 4 + (1 << 20)
    # what is saved of the batch itself was there before
    assert 0 < seen["activations"] <= seen["peak"] + (1 << 18)
    assert seen["peak"] < 2 * seen["activations"] + 4 * seen["lora"] < seen["model"]
    after = webui.call("/lora-eval-probe/memory")
    assert (after["model"], after["lora"], after["optimiser"]) == (before["model"], 0, 0)


def test_gradients_with_checkpointing_are_those_of_the_plain_run(webui: Any) -> None:
    before = webui.inside()
    found = webui.call("/lora-eval-probe/gradients")
    print(found)
    # the worst single parameter is only printed: one whose gradient is next to nothing is all rounding
    assert found["parameters"] > 0 and found["apart"] <= 1e-5
    assert found["runs"] == [1, 2], "with checkpointing a block runs again in the backward pass"
    kept(webui, before)


def test_bad_requests_start_nothing(webui: Any) -> None:
    count = len(webui.call("/lora-eval/v1/jobs"))
    assert webui.status("/lora-eval/v1/train", {"train_data_dir": "/etc"}) == 403
    assert webui.status("/lora-eval/v1/train", {"train_data_dir": "lora-eval-live", "epochz": 3}) == 422
    assert webui.status("/lora-eval/v1/jobs/nothing") == 404
    assert len(webui.call("/lora-eval/v1/jobs")) == count


def test_an_empty_folder_fails_in_one_line(webui: Any) -> None:
    (webui.data / "lora-eval-live-empty").mkdir(exist_ok=True)
    state = webui.over(webui.train(train_data_dir="lora-eval-live-empty"))
    assert state["status"] == "failed" and "lora-eval-live-empty" in state["error"] and "\n" not in state["error"]
