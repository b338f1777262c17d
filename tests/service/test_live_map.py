"""The map of a run while it is drawn: each place knows how many of its pictures are there."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from lora_eval.files import read_json, write_json
from lora_eval.scorecard.plan.plan import AXES, Plan
from lora_eval.service.live_map import live_map
from tests.fakes_scorecard import small_score


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    small_score(root, root / "run")
    return root / "run"


@pytest.mark.parametrize("axes", list(itertools.permutations(AXES, 2)))
def test_every_picture_is_in_its_place(run: Path, axes: tuple[str, str]) -> None:
    plan = replace(Plan.from_json(read_json(run / "plan.json")), axes=axes)
    write_json(run / "plan.json", plan.to_json())
    found = live_map(run)
    assert found is not None and (found.x, found.y) == axes and found.done == found.total == len(plan)
    sizes = {"weight": 3, "checkpoint": 2, "prompt": 3, "seed": 2}
    assert (len(found.columns), len(found.rows)) == (sizes[axes[0]], sizes[axes[1]])
    assert all(place.done == place.total > 0 and place.picture is not None for place in found.places.values())
    # weight 0 is everybody's: where the checkpoint is an axis its pictures stand in each of both
    twice = 6 if "checkpoint" in axes else 0
    assert sum(place.total for place in found.places.values()) == len(plan) + twice


def test_it_fills_in_as_pictures_come(run: Path, tmp_path: Path) -> None:
    plan = replace(Plan.from_json(read_json(run / "plan.json")), axes=("weight", "checkpoint"))
    half = tmp_path / "half"
    (half / "images").mkdir(parents=True)
    write_json(half / "plan.json", plan.to_json())
    before = live_map(half)
    assert before is not None and before.done == 0 and before.total == len(plan)
    assert all(place.picture is None for place in before.places.values())
    for number, cell in enumerate(plan.cells(), 1):
        (half / cell.image).write_bytes(b"drawn")
        now = live_map(half)
        assert now is not None and now.done == number
    # a place keeps the picture that it showed first
    assert now.places == live_map(half).places  # type: ignore[union-attr]


def test_a_folder_without_a_plan_has_no_map(tmp_path: Path) -> None:
    assert live_map(tmp_path) is None
    (tmp_path / "plan.json").write_text('{"loras": []}')
    assert live_map(tmp_path) is None
