"""Pictures and minutes before a run, against what the plan then draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.errors import ConfigError
from lora_eval.scorecard.decision.adaptive import with_budget
from lora_eval.scorecard.plan.make import make_plan
from lora_eval.scorecard.plan.plan import AXES
from lora_eval.scorecard.plan.presets import ADAPTIVE, NAMES
from lora_eval.scorecard.plan.request import ScoreRequest, parse_axes
from lora_eval.service.estimate import estimate, settled
from tests.fakes_scorecard import FakeHost, make_lora


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeHost, list[Path]]:
    root = tmp_path_factory.mktemp("loras")
    metadata = {"lora_eval_kind": "character"}
    return FakeHost(root), [make_lora(root / f"fox-step{n}00.safetensors", n / 3, metadata=metadata) for n in (1, 2, 3)]


def plan_of(made: tuple[FakeHost, list[Path]], order: ScoreRequest) -> Any:
    host, _ = made
    asked = settled(order, None)
    plan = make_plan(host, asked)
    return plan if asked.budget is None else with_budget(plan, asked.budget)


@pytest.mark.parametrize("preset", [name for name in NAMES if name != ADAPTIVE])
@pytest.mark.parametrize(
    "changes",
    [
        {}, {"weights": "0.4, 0.6, 0.9"}, {"weights": "0"}, {"seeds": 2}, {"seeds": [7, 9, 9]}, {"prompts": 3},
        {"prompts": [1, 5, 2]}, {"prompts": 1000}, {"suite": "style"},
    ],
)  # fmt: skip
def test_the_estimate_is_the_number_of_pictures_of_the_plan(made: Any, preset: str, changes: dict[str, Any]) -> None:
    order = ScoreRequest(made[1], preset=preset, **changes)
    if changes.get("weights") == "0":
        with pytest.raises(ConfigError):
            plan_of(made, order)
        return
    assert estimate(order, None).images == len(plan_of(made, order))
    assert estimate(order, 0.5).seconds == 0.5 * len(plan_of(made, order))


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 20), st.integers(1, 5000))
def test_an_adaptive_run_stays_within_its_budget_and_the_grid(loras: int, seeds: int, prompts: int, most: int) -> None:
    order = ScoreRequest([Path(f"{n}.safetensors") for n in range(loras)], seeds=seeds, prompts=prompts,
                       preset=ADAPTIVE, suite="character", budget=most)  # fmt: skip
    whole = estimate(replace(order, preset="thorough", budget=None), None).images
    try:
        found = estimate(order, None)
    except ConfigError as error:
        assert "first round needs" in str(error) and "\n" not in str(error)
        return
    assert found.images == min(most, whole) and found.of == whole


def test_without_a_budget_adaptive_takes_a_third_of_the_thorough_grid(made: Any) -> None:
    order = ScoreRequest(made[1], preset=ADAPTIVE)
    thorough = estimate(replace(order, preset="thorough"), None).images
    assert estimate(order, None).images == settled(order, None).budget == thorough // 3
    assert settled(order, None).preset == "thorough"
    assert plan_of(made, order).budget == thorough // 3


def test_the_smallest_budget_that_is_taken_is_the_first_round_of_the_plan(made: Any) -> None:
    order = ScoreRequest(made[1], preset=ADAPTIVE)
    prompts, loras = len(plan_of(made, order).prompts), len(made[1])
    # weight 0 and three weights of every LoRA, with one seed
    first = prompts * (1 + 3 * loras)
    assert len(plan_of(made, replace(order, budget=first))) == first
    assert estimate(replace(order, budget=first), None).images == first
    with pytest.raises(ConfigError, match=f"needs {first}"):
        estimate(replace(order, budget=first - 1), None)


def test_minutes_become_pictures_by_the_speed_of_the_machine(made: Any) -> None:
    order = ScoreRequest(made[1], preset=ADAPTIVE, minutes=30)
    assert settled(order, 2.0).budget == 900 and settled(order, 2.0).minutes is None
    with pytest.raises(ConfigError, match="first run"):
        estimate(order, None)


@pytest.mark.parametrize("changes", [{"budget": 0}, {"minutes": 0}, {"minutes": -1.0}, {"budget": 900, "minutes": 5.0}])
def test_a_budget_that_cannot_be_kept_is_one_line(made: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="budget") as caught:
        estimate(ScoreRequest(made[1], preset=ADAPTIVE, **changes), 1.0)
    assert "\n" not in str(caught.value)


def test_axes_are_two_different_ones() -> None:
    assert parse_axes(None) is None and parse_axes(" ") is None
    for x in AXES:
        for y in AXES:
            if x != y:
                assert parse_axes(f"{x} , {y}") == (x, y)
    for wrong in ("weight", "weight,weight", "weight,sampler", "weight,seed,prompt"):
        with pytest.raises(ConfigError, match="axes"):
            parse_axes(wrong)


def test_axes_change_nothing_that_is_drawn(made: Any) -> None:
    order = ScoreRequest(made[1], preset="quick")
    plans = [plan_of(made, replace(order, axes=axes)) for axes in (None, ("seed", "prompt"))]
    assert plans[0].fingerprint == plans[1].fingerprint and plans[0].differences(plans[1]) == []
    assert [plan.axes for plan in plans] == [("weight", "checkpoint"), ("seed", "prompt")]
    stored = type(plans[1]).from_json(plans[1].to_json())
    assert stored.axes == ("seed", "prompt")
    earlier = plans[1].to_json()
    del earlier["axes"]
    assert type(plans[1]).from_json(earlier).axes == ("weight", "checkpoint")
