"""Captions by a program, presets and settings from a file, in a browser."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

TAB = "#lora_eval_train"
# one red pixel
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def fold_out(page: Any, group: str, words: str) -> None:
    page.locator(f"{TAB}_{group}").get_by_text(words).click()


def message(page: Any, place: str, words: str) -> None:
    page.wait_for_function(
        "([id, words]) => (document.querySelector(id) || {}).innerText?.includes(words)", arg=[f"{TAB}_{place}", words]
    )


def test_settings_are_kept_under_a_name_and_come_from_files(
    serve: Callable[..., Any], open_page: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve()
    page = open_page(server)
    fold_out(page, "yaml_group", "Presets and settings as YAML")
    rank, batch = (page.locator(f"{TAB}_{name} input").first for name in ("lora_rank", "batch_size"))
    page.locator(f"{TAB}_group_0").get_by_text("LoRA network").click()
    page.locator(f"{TAB}_group_1").get_by_text("Steps and learning rate").click()
    rank.fill("6")
    rank.blur()
    page.fill(f"{TAB}_trigger textarea, {TAB}_trigger input", "zorp")
    name = page.locator(f"{TAB}_kept_preset input").first
    name.fill("my six")
    name.press("Enter")
    name.blur()
    page.click(f"{TAB}_kept_preset_save")
    message(page, "yaml_said", "Preset saved:")
    kept = (server.root / "lora-eval" / "presets" / "my six.yaml").read_text()
    assert "lora_rank: 6" in kept and "zorp" not in kept

    # kohya's file changes the controls and says what it could not take over
    toml = tmp_path / "kohya.toml"
    toml.write_text("network_dim = 32\ntrain_batch_size = 3\nbucket_reso_steps = 32\nnetwork_train_unet_only = true\n")
    page.locator(f"{TAB}_config_file input[type=file]").set_input_files(str(toml))
    message(page, "yaml_said", "bucket_reso_steps = 32 has no counterpart")
    assert (rank.input_value(), batch.input_value()) == ("32", "3")
    trigger = page.locator(f"{TAB}_trigger textarea, {TAB}_trigger input").first
    assert trigger.input_value() == "zorp", "what the file is silent about stays"

    page.click(f"{TAB}_kept_preset_load")
    message(page, "yaml_said", "Settings taken over.")
    page.wait_for_function("(id) => document.querySelector(id).value === '6'", arg=f"{TAB}_lora_rank input")
    assert trigger.input_value() == "zorp"


def test_captions_are_asked_for_and_what_came_of_it_is_said(
    serve: Callable[..., Any], open_page: Callable[..., Any]
) -> None:
    server = serve()
    folder = server.root / "captioned"
    folder.mkdir()
    (folder / "a.png").write_bytes(base64.b64decode(PICTURE))
    page = open_page(server)
    fold_out(page, "caption_group", "Make captions by a program")
    page.click(f"{TAB}_caption_start")
    message(page, "caption_refused", "no folder is chosen")
    page.fill(f"{TAB}_folder textarea, {TAB}_folder input", str(folder))
    page.click(f"{TAB}_caption_start")
    # the paper host has no jobs: what stopped the captioning stands in the tab
    message(page, "caption_shown", "this host cannot draw")
