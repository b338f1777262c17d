"""The axes of the WebUI's X/Y/Z plot: what they do to the prompt, and what they need to be there."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.errors import ConfigError, LoraFileError
from lora_eval.extension.xyz_axes import (
    CHECKPOINT,
    NONE,
    WEIGHT,
    Axes,
    find_grid,
    link_into,
    ordered_names,
    provide_all,
    swap,
    weigh,
)

RUN = ["fox-000100", "fox-000200", "fox"]


# -- prompts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "name", "weight", "wanted"),
    [
        # appended where there is none, as a person would
        ("a pond", "fox", None, "a pond <lora:fox:1>"),
        ("a pond", "fox", 0.4, "a pond <lora:fox:0.4>"),
        ("", "fox", 0.4, "<lora:fox:0.4>"),
        # in place of one of the axis or of the same run, at its weight
        ("a <lora:fox:0.8> pond", "fox-000100", None, "a <lora:fox-000100:0.8> pond"),
        ("a <lora:fox-000999:0.8> pond", "fox-000100", None, "a <lora:fox-000100:0.8> pond"),
        ("a <lora:fox:0.8:0.6> pond", "fox-000100", None, "a <lora:fox-000100:0.8:0.6> pond"),
        ("a <lora:fox:0.8:0.6> pond", "fox-000100", 0.5, "a <lora:fox-000100:0.5> pond"),
        # other LoRAs stay as they are
        ("a <lora:ink:0.3> pond <lora:fox:1>", "fox-000200", 0.7, "a <lora:ink:0.3> pond <lora:fox-000200:0.7>"),
        ("<lora:foxes:0.3>", "fox", None, "<lora:foxes:0.3> <lora:fox:1>"),
        # two of the run become one
        ("<lora:fox:1> a pond <lora:fox-000100:0.2>", "fox-000200", None, "<lora:fox-000200:1> a pond"),
        # no LoRA: the tag goes
        ("a <lora:fox:0.8> pond", NONE, None, "a pond"),
        ("a pond", NONE, 0.5, "a pond"),
    ],
)
def test_a_checkpoint_takes_its_place_in_the_prompt(prompt: str, name: str, weight: float | None, wanted: str) -> None:
    assert swap(prompt, name, RUN, weight) == wanted


def test_weights_are_those_of_unet_and_text_encoder_alike_and_other_arguments_stay() -> None:
    assert weigh("<lora:fox:0.8:0.6> <lora:ink:0.3>", "fox", 0.1) == "<lora:fox:0.1> <lora:ink:0.3>"
    assert weigh("<lora:fox:te=0.8:unet=0.6:dyn=4>", "fox", 0.30000000000000004) == "<lora:fox:0.3:dyn=4>"


@given(
    st.text("abc ,<>:()", max_size=30),
    st.sampled_from(RUN),
    st.floats(0, 2).map(lambda value: round(value, 3)),
)
def test_after_a_cell_the_prompt_has_its_lora_once_at_its_weight(prompt: str, name: str, weight: float) -> None:
    swapped = swap(prompt, name, RUN, weight)
    assert swapped.count(f"<lora:{name}:{weight:g}>") == 1
    # a second cell from the same prompt differs by its tag alone
    other = swap(prompt, "fox", RUN, weight)
    assert swapped.replace(f"<lora:{name}:", "<lora:fox:") == other


# -- cells ---------------------------------------------------------------------------------------------


class Option:
    """``AxisOption`` of ``scripts/xyz_grid.py``."""

    def __init__(
        self, label: str, type: Any, apply: Any, format_value: Any = None, confirm: Any = None, cost: float = 0.0,
        choices: Any = None, prepare: Any = None,
    ) -> None:  # fmt: skip
        self.label, self.type, self.apply, self.confirm = label, type, apply, confirm
        self.format_value, self.cost, self.choices = format_value, cost, choices


@pytest.fixture
def grid() -> Any:
    module = ModuleType("xyz_grid.py")
    module.__dict__.update(
        AxisOption=Option,
        axis_options=[Option("Nothing", str, None), Option("Seed", int, None)],
        format_value=lambda p, opt, x: x,
        format_value_add_label=lambda p, opt, x: f"{opt.label}: {x}",
    )
    return module


@pytest.fixture
def axes(grid: Any) -> Any:
    planned: list[str] = []
    made = Axes(lambda: RUN, lambda names: None, lambda: planned)
    made.add_to(grid)
    made.add_to(grid)  # Reload UI
    options = {option.label: option for option in grid.axis_options}
    assert len(options) == len(grid.axis_options) == 4
    return SimpleNamespace(planned=planned, checkpoint=options[CHECKPOINT], weight=options[WEIGHT])


def picture(prompt: str, **more: Any) -> Any:
    return SimpleNamespace(prompt=prompt, extra_generation_params={"Lora hashes": "ink: 123", "VAE": "x"}, **more)


@pytest.mark.parametrize("weight_first", [False, True])
def test_both_axes_meet_in_a_cell_whichever_comes_first(axes: Any, weight_first: bool) -> None:
    axes.planned[:] = [CHECKPOINT, WEIGHT, "Nothing"]
    base = picture("a <lora:ink:0.3> pond")
    prompts = []
    for name in RUN:
        for weight in (0.0, 0.5):
            cell = copy(base)
            steps = [(axes.checkpoint, name), (axes.weight, weight)]
            for option, value in reversed(steps) if weight_first else steps:
                option.apply(cell, value, [])
            prompts.append(cell.prompt)
    assert prompts == [f"a <lora:ink:0.3> pond <lora:{name}:{weight:g}>" for name in RUN for weight in (0.0, 0.5)]
    assert base.prompt == "a <lora:ink:0.3> pond"


def test_the_weight_alone_is_that_of_the_only_lora(axes: Any) -> None:
    axes.planned[:] = [WEIGHT]
    cell = picture("a <lora:ink:0.3> pond")
    axes.weight.apply(cell, 0.6, [0.6])
    assert cell.prompt == "a <lora:ink:0.6> pond"
    for prompt, said in (("a pond", "has no LoRA"), ("<lora:a:1> <lora:b:1>", "2 LoRAs (a, b)")):
        with pytest.raises(RuntimeError, match="LoRA checkpoint") as error:
            axes.weight.apply(picture(prompt), 0.6, [0.6])
        assert said in str(error.value)


def test_a_cell_without_lora_has_no_weight_and_no_hash_of_another_cell(axes: Any) -> None:
    axes.planned[:] = [CHECKPOINT, WEIGHT]
    base = picture("a pond")
    cell = copy(base)
    axes.checkpoint.apply(cell, NONE, [NONE, "fox"])
    axes.weight.apply(cell, 0.6, [0.6])
    assert cell.prompt == "a pond"
    # the plot's copies share this dictionary; the WebUI writes the hashes of each cell into it
    assert cell.extra_generation_params == {"VAE": "x"}
    assert base.extra_generation_params == {"Lora hashes": "ink: 123", "VAE": "x"}


def test_the_second_pass_follows_where_it_has_a_tag_of_its_own(axes: Any) -> None:
    axes.planned[:] = [CHECKPOINT]
    cell = picture("a pond", hr_prompt="a sharp pond <lora:fox:0.2>")
    axes.checkpoint.apply(cell, "fox-000100", RUN)
    assert cell.prompt == "a pond <lora:fox-000100:1>"
    assert cell.hr_prompt == "a sharp pond <lora:fox-000100:0.2>"
    plain = picture("a pond", hr_prompt="")
    axes.checkpoint.apply(plain, "fox", RUN)
    assert plain.hr_prompt == ""


def test_values_are_checked_before_anything_is_drawn(grid: Any) -> None:
    def provide(names: Any) -> None:
        assert names == ["owl"]
        raise ConfigError("owl is not there")

    axes = Axes(lambda: RUN, provide, lambda: [])
    with pytest.raises(RuntimeError, match="LoRA checkpoint: owl is not there"):
        axes.confirm_checkpoints(None, [NONE, "owl"])
    axes.confirm_weights(None, [-1.0, 0.0, 2.0])
    for wrong in (11.0, float("nan")):
        with pytest.raises(RuntimeError, match="out of range"):
            axes.confirm_weights(None, [wrong])


def test_dearer_changes_are_made_less_often(axes: Any) -> None:
    assert axes.checkpoint.cost > axes.weight.cost > 0
    assert axes.checkpoint.choices() == [NONE, *RUN]
    assert axes.weight.choices is None and axes.weight.type is float


# -- finding, listing, lending -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["xyz_grid.py", "scripts.xyz_grid"])
def test_the_script_is_found_as_either_webui_loads_it(grid: Any, name: str) -> None:
    script = type("Script", (), {"__module__": name})
    others = SimpleNamespace(script_class=type("Script", (), {"__module__": "loopback.py"}), module=ModuleType("x"))
    assert find_grid([others, SimpleNamespace(script_class=script, module=grid)]) is grid
    assert find_grid([others]) is None


def test_checkpoints_of_runs_come_by_step_before_the_other_loras() -> None:
    runs = [[Path("b-000100.safetensors"), Path("b.safetensors")], [Path("a.safetensors")]]
    assert ordered_names(runs, ["zoo", "Ink", "b", "a:b"]) == ["b-000100", "b", "a", "Ink", "zoo"]


def test_a_checkpoint_is_linked_under_its_own_name(tmp_path: Path) -> None:
    loras, run = tmp_path / "Lora", tmp_path / "run"
    loras.mkdir(), run.mkdir()
    files = [run / "fox-000100.safetensors", run / "fox-000200.safetensors"]
    for path in files:
        path.write_bytes(path.name.encode())
    known = {"ink": 1}

    def refresh() -> None:
        known.update({path.stem: 1 for path in loras.rglob("*.safetensors")})

    provide_all(["fox-000200", "ink"], lambda: known, files, lambda path: link_into(loras, path), refresh)
    assert [path.name for path in loras.rglob("*")] == ["lora-eval", "fox-000200.safetensors"]
    assert (loras / "lora-eval" / "fox-000200.safetensors").samefile(files[1])
    # once more does no harm; another content under that name is not drawn in its place
    assert link_into(loras, files[1]).is_file()
    with pytest.raises(ConfigError, match="owl is not there"):
        provide_all(["owl"], lambda: known, files, lambda path: link_into(loras, path), refresh)
    other = tmp_path / "other" / "fox-000200.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"other")
    with pytest.raises(LoraFileError, match="another LoRA of that name"):
        link_into(loras, other)
