"""Every control changes the setting that it names; what is shown reads back as the same config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from lora_eval.errors import ConfigError
from lora_eval.host.protocol import Sampling
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.estimate import Estimate
from lora_eval.service.jobs import JobQueue, JobState
from lora_eval.training.config import TrainConfig, make_config, to_dict
from lora_eval.ui import form, render, score_view, text
from lora_eval.ui.controller import Controller
from lora_eval.ui.request import make_request

# what a person enters into a control -> what the config then has
ENTERED: dict[str, tuple[Any, Any]] = {
    "train_data_dir": ("/data/fox", "/data/fox"), "name": ("fox", "fox"), "trigger": (" sks ", "sks"),
    "kind": ("object", "object"), "metadata_path": ("m.csv", "m.csv"), "base_model": ("v1-5", "v1-5"),
    "output_dir": ("out/fox", "out/fox"), "class_word": ("dog", "dog"), "lora_rank": (16, 16),
    "lora_alpha": ("4", 4.0), "preset": ("full", "full"), "conv_rank": ("2", 2), "blocks": (["mid"], ["mid"]),
    "rank_stabilised": (True, True), "dropout": ("0.1", 0.1), "init_lora": ("a.safetensors", "a.safetensors"),
    "batch_size": (2, 2), "gradient_accumulation": (3, 3), "epochs": (7, 7), "max_steps": ("90", 90),
    "resolution": ("512x768", (512, 768)), "no_upscale": (True, True), "seed": (5, 5),
    "learning_rate": ("1e-4", 1e-4), "optimizer": ("lion", "lion"), "weight_decay": ("0.1", 0.1),
    "betas": ("0.8, 0.99", [0.8, 0.99]), "lr_scheduler": ("linear", "linear"), "lr_cycles": (3, 3),
    "warmup_steps": ("0.1", 0.1), "max_grad_norm": ("0.5", 0.5), "ema": ("0.999", 0.999),
    "min_snr_gamma": ("5", 5.0), "noise_offset": ("0.05", 0.05), "mixed_precision": ("bf16", "bf16"),
    "gradient_checkpointing": (True, True), "caption_dropout": ("0.2", 0.2), "tag_dropout": ("0.3", 0.3),
    "shuffle_caption": (True, True), "keep_tokens": (1, 1), "flip": (True, True), "random_crop": (True, True),
    "validation_fraction": ("0.2", 0.2), "validation_steps": ("25", 25), "early_stop": (4, 4),
    "save_steps": (150, 150), "save_epochs": (2, 2), "caption_extension": (".caption", ".caption"),
    "save_dtype": ("bf16", "bf16"), "sample_prompts": ("a\n\nb", ["a", "b"]),
    "sample_steps": (50, 50), "samples_per_prompt": (2, 2), "sample_seed": (9, 9),
    "sample_negative": ("blurry", "blurry"),
    "sampler": ("DPM++ 2M", "DPM++ 2M"), "sampler_steps": (30, 30), "sample_cfg": ("5", 5.0),
    "measure_samples": (True, True), "sample_early_stop": (3, 3),
    "cache_latents_to_disk": (False, False), "publish": (False, False), "reg_data_dir": ("/data/dogs", "/data/dogs"),
    "hard_negative_prompts": ("a dog\na cat", ["a dog", "a cat"]), "hard_negative_weight": ("0.5", 0.5),
    "hard_negative_start": ("0.6", 0.6), "prior_loss_weight": ("0.5", 0.5), "on_out_of_memory": ("stop", "stop"),
}  # fmt: skip


def test_every_setting_is_entered_below() -> None:
    assert set(ENTERED) == {*form.ON_TOP, *form.NAMES}


@pytest.mark.parametrize("name", ENTERED)
def test_a_control_changes_the_setting_that_it_names_and_no_other(name: str) -> None:
    entered, wanted = ENTERED[name]
    names = [*form.ON_TOP, *form.NAMES]
    shown = dict(zip(names, form.show_values(names, to_dict(TrainConfig())), strict=True))
    shown[name] = entered
    if name == "conv_rank":
        shown["preset"] = "full"
    config = make_config(form.read_values(list(shown), list(shown.values())))
    assert getattr(config, name) == wanted
    changed = {key for key in names if getattr(config, key) != getattr(TrainConfig(), key)}
    assert changed <= {name, "preset" if name == "conv_rank" else name}


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("kind", text.KINDS)
def test_a_template_shown_and_read_back_is_the_template(kind: str, low: bool) -> None:
    settings = Controller(lambda: None, JobQueue()).template(kind, low)  # type: ignore[arg-type, return-value]
    names = [*form.ON_TOP, *form.NAMES]
    again = make_config(form.read_values(names, form.show_values(names, settings)))
    assert to_dict(again) == settings


# -- the scorecard's order -----------------------------------------------------------------------------


def test_empty_controls_leave_everything_to_the_program() -> None:
    found = make_request(
        {"loras": ["fox"], "kind": text.FROM_LORA, "suite": text.SUITE_AUTO, "preset": "quick"}, {"fox": Path("f")}
    )
    assert found == ScoreRequest([Path("f")], preset="quick")


def test_filled_controls_become_the_request(tmp_path: Path) -> None:
    values = {
        "loras": ["b", "a"], "kind": "style", "data": str(tmp_path), "preset": "thorough", "weights": "0-1 [6]",
        "seeds": "3", "prompts": "4", "suite": "style", "trigger": "sks", "class_word": "painting", "batch_size": "2",
        "encoder": "auto", "sampler": "Euler a", "scheduler": "Karras", "steps": "12", "cfg_scale": "5.5",
        "width": "512", "height": "768", "clip_skip": "2",
    }  # fmt: skip
    found = make_request(values, {"a": Path("a"), "b": Path("b")})
    assert found.loras == [Path("b"), Path("a")]
    assert (found.data, found.kind, found.preset, found.weights) == (tmp_path, "style", "thorough", "0-1 [6]")
    assert (found.seeds, found.prompts, found.suite, found.trigger) == (3, 4, "style", "sks")
    assert (found.class_word, found.batch_size, found.encoder) == ("painting", 2, "auto")
    assert found.sampling(Sampling()) == Sampling("Euler a", "Karras", 12, 5.5, 512, 768, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seeds", "many"),
        ("seeds", "0"),
        ("seeds", "2.5"),
        ("width", "500.5"),
        ("width", "513"),
        ("cfg_scale", "nan"),
        ("data", "/nowhere/at/all"),
        ("steps", "-1"),
    ],
)
def test_a_value_that_cannot_be_names_its_control(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name if name != "data" else "folder"):
        make_request({"loras": ["a"], name: value}, {"a": Path("a")})


def test_a_lora_that_is_gone_is_named() -> None:
    with pytest.raises(ConfigError, match="fox is not there"):
        make_request({"loras": ["fox"]}, {})


# -- what is shown -------------------------------------------------------------------------------------


def test_names_and_errors_are_escaped() -> None:
    bad = '<img src=x onerror="alert(1)">'
    state = JobState("1", "train", bad, "failed", error=bad, done=1, total=2)
    for page in (render.job(state, Path(bad), ""), render.message(bad), render.queue([state], "score")):
        assert "<img" not in page and "&lt;img" in page


def test_a_dimension_that_was_not_measured_has_no_number() -> None:
    card = {"verdict": "v", "recommended": {}, "dimensions": {"curve": {"score": None, "reason": "no history"}}}
    page = score_view.verdict(card)
    assert "no history" in page and text.WORDS["not_measured"] in page and "0.00" not in page


def test_only_the_running_job_shows_the_time_left() -> None:
    running = JobState("1", "train", "fox", "running", 10, 40, "step 10", eta=90.0)
    assert "1:30" in render.job(running, None, "") and 'aria-valuenow="25"' in render.job(running, None, "")
    waiting = JobState("2", "train", "fox", "queued", position=3)
    assert "<b>3</b>" in render.job(waiting, None, "")


# -- no text of its own --------------------------------------------------------------------------------


class Nowhere:
    """A host without LoRAs."""

    lora_folder = output_folder = Path("/nowhere")

    def samplers(self) -> list[str]:
        return ["Euler"]

    def interrogators(self) -> dict[str, Any]:
        return {"BLIP": str, "DeepBooru": str}


def shown_texts(blocks: Any) -> list[str]:
    found = []
    for component in (
        blocks.config["components"] if hasattr(blocks, "config") else blocks.get_config_file()["components"]
    ):
        props = component["props"]
        if "lora-eval-hidden" in (props.get("elem_classes") or []):
            continue
        found += [props.get(name) for name in ("label", "info", "placeholder")]
        if component["type"] == "button":
            found.append(props.get("value"))
        if component["type"] in ("radio", "checkboxgroup") and "blocks" not in props["elem_id"]:
            found += [choice[0] if isinstance(choice, (list, tuple)) else choice for choice in props["choices"]]
    return [words for words in found if isinstance(words, str) and words]


def test_every_text_of_the_built_tabs_is_in_one_place_and_every_control_has_an_id() -> None:
    from lora_eval.ui.tabs import tabs

    known = set(text.all_strings())
    for blocks, title, element in tabs(Controller(Nowhere, JobQueue())):  # type: ignore[arg-type]
        assert title in known
        texts = shown_texts(blocks)
        assert len(texts) > 20
        assert [words for words in texts if words not in known] == []
        for component in blocks.get_config_file()["components"]:
            if component["type"] in ("textbox", "number", "dropdown", "checkbox", "radio", "button", "file", "html"):
                id = component["props"].get("elem_id")
                heading = component["type"] == "html" and "lora-eval-heading" in str(component["props"].get("value"))
                assert heading or str(id).startswith(element), component


# -- axes and budget -----------------------------------------------------------------------------------


def entered_order(**values: Any) -> ScoreRequest:
    loras = {name: Path(f"{name}.safetensors") for name in ("fox-000100", "fox-000200", "fox-000300")}
    return make_request({"loras": list(loras), **values}, loras)


def test_what_is_entered_at_an_axis_wins_over_the_control_of_that_name() -> None:
    values = {"weights": "0-1 [3]", "seeds": "4", "prompts": "5"}
    plain = entered_order(**values)
    assert (plain.axes, plain.weights, plain.seeds, plain.prompts) == (None, "0-1 [3]", 4, 5)
    found = entered_order(x_axis="seed", x_values="3-5, 9", y_axis="prompt", y_values="2, 1", **values)
    assert (found.axes, found.weights, found.seeds, found.prompts) == (
        ("seed", "prompt"),
        "0-1 [3]",
        [3, 4, 5, 9],
        [2, 1],
    )
    found = entered_order(x_axis="weight", x_values="0-0.8(+0.4)", y_axis="seed", **values)
    assert (found.axes, found.weights, found.seeds) == (("weight", "seed"), "0-0.8(+0.4)", 4)


def test_checkpoints_at_an_axis_are_picked_by_their_steps() -> None:
    found = entered_order(y_axis="checkpoint", y_values="300, 100-200(+100)")
    assert [path.stem for path in found.loras] == ["fox-000300", "fox-000100", "fox-000200"]
    with pytest.raises(ConfigError, match=r"checkpoint 400.*100, 200, 300"):
        entered_order(y_axis="checkpoint", y_values="100-400(+100)")


@pytest.mark.parametrize(
    "values",
    [
        {"x_axis": "seed", "y_axis": "seed"},
        {"x_axis": "seed", "x_values": "1.5"},
        {"x_axis": "prompt", "x_values": "0-3"},
        {"x_axis": "weight", "x_values": "a lot"},
        {"preset": "adaptive", "budget": "few"},
        {"preset": "adaptive", "budget": "0"},
    ],
)
def test_axes_and_budgets_that_cannot_be_are_one_line(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        entered_order(**values)
    assert "\n" not in str(caught.value)


def test_the_budget_counts_for_adaptive_alone() -> None:
    assert entered_order(preset="adaptive", budget="90").budget == 90
    assert entered_order(preset="adaptive", budget="2.5", budget_unit=text.MINUTES).minutes == 2.5
    assert entered_order(preset="quick", budget="90").budget is None
    assert entered_order(preset="adaptive").budget is None


def test_presets_are_shown_with_pictures_and_minutes_and_the_chosen_one_marked() -> None:
    found = {"quick": Estimate(120, 36.0), "adaptive": Estimate(400, 3600.0, 1200)}
    page = score_view.presets(found, "adaptive")
    rows = re.findall(r"<tr[^>]*>.*?</tr>", page)[1:]
    assert "<b>120</b>" in rows[0] and "<b>0.6</b>" in rows[0] and "chosen" not in rows[0]
    assert "<b>400</b>" in rows[1] and "1,200" in rows[1] and "<b>60</b>" in rows[1] and "chosen" in rows[1]
    unknown = score_view.presets({"quick": Estimate(120, None)}, "quick")
    assert text.WORDS["minutes_unknown"] in unknown and "–" in unknown


def test_the_page_of_our_own_speaks_the_language_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_eval.host.current import Settings
    from lora_eval.ui import standalone

    assert standalone._localisation() == ""
    monkeypatch.setattr(standalone, "current_settings", lambda: Settings(language="zh_CN"))
    script = standalone._localisation()
    assert '"Run": "运行"' in script and "LORA_EVAL_WORDS" not in script and "</" not in script


def test_handlers_speak_the_language_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_eval.host.current import Settings
    from lora_eval.i18n import language
    from lora_eval.ui import compat

    asked = compat._spoken(lambda words: language.said(words))
    assert asked("usable from 0.4 to 1") == "usable from 0.4 to 1"
    monkeypatch.setattr(compat, "current_settings", lambda: Settings(language="zh_CN"))
    assert asked("usable from 0.4 to 1") == "可用权重为 0.4 至 1"
    # a language of the WebUI that we do not speak is English
    monkeypatch.setattr(compat, "current_settings", lambda: Settings(language="fr_FR"))
    assert asked("usable from 0.4 to 1") == "usable from 0.4 to 1"


def test_no_two_controls_share_an_id() -> None:
    from lora_eval.ui.tabs import tabs

    for blocks, _, _ in tabs(Controller(Nowhere, JobQueue())):  # type: ignore[arg-type]
        ids = [one["props"].get("elem_id") for one in blocks.get_config_file()["components"]]
        named = [id for id in ids if id]
        assert sorted(named) == sorted(set(named))
