"""A field of a request is written once: every surface is made from it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from lora_eval.options.option import option
from lora_eval.options.table import markdown_table
from lora_eval.scorecard.plan.request import SCORE_FIELDS, ScoreRequest
from lora_eval.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]

# run in a process of its own: the surfaces are made at import, from the class as it is then
WITH_A_NEW_FIELD = """
from dataclasses import dataclass, fields
from lora_eval.options.option import option
from lora_eval.scorecard.plan import request

@dataclass(frozen=True)
class ScoreRequest(request.ScoreRequest):
    hires_steps: int | None = option(
        None, "Hires steps", "steps of the second pass; empty: 0", within=(0, 150), group="how"
    )

request.ScoreRequest = ScoreRequest
request.SCORE_FIELDS = {one.name: one for one in fields(ScoreRequest)}

from lora_eval.cli.main import build_parser
parsed = build_parser().parse_args(["score", "--lora", "a", "--out", "b", "--hires-steps", "7"])
from lora_eval.cli.options import read_request
assert read_request(parsed).hires_steps == 7

from lora_eval.options.table import markdown_table
assert "| `hires_steps` | 0 | 0 to 150 | Hires steps: steps of the second pass |" in markdown_table(
    ScoreRequest, [one.name for one in fields(ScoreRequest)]
)
"""
IN_THE_BODY = """
from lora_eval.api.bodies import ScoreBody
assert ScoreBody(lora="a", hires_steps=7).hires_steps == 7
from lora_eval.api.routes import _request
assert _request(ScoreBody(lora=["a"], hires_steps=7).given()).hires_steps == 7
"""
IN_THE_FORM = """
from lora_eval.errors import HostError
from lora_eval.service.jobs import JobQueue
from lora_eval.ui.controller import Controller
from lora_eval.ui.tabs import tabs
from lora_eval.ui.request import make_request
def nowhere():
    raise HostError("no host")
made = [blocks.get_config_file()["components"] for blocks, _, _ in tabs(Controller(nowhere, JobQueue()))]
ids = {component["props"].get("elem_id") for components in made for component in components}
assert "lora_eval_score_hires_steps" in ids
assert make_request({"hires_steps": "7"}, {}).hires_steps == 7
"""


@pytest.mark.parametrize(
    ("surface", "needs"), [("", None), (IN_THE_BODY, "fastapi"), (IN_THE_FORM, "gradio")], ids=["cli", "rest", "form"]
)
def test_a_new_field_of_a_score_request_appears_everywhere(surface, needs):
    if needs:
        pytest.importorskip(needs)
    done = subprocess.run(
        [sys.executable, "-c", WITH_A_NEW_FIELD + surface], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_new_training_setting_appears_in_the_table_the_body_and_the_form():
    @dataclass
    class Longer(TrainConfig):
        cooldown: int = option(0, "Cool-down", "steps at the end with a falling rate", within=(0, 100))

    assert "| `cooldown` | `0` | 0 to 100 | Cool-down: steps at the end with a falling rate |" in markdown_table(
        Longer, ["cooldown"]
    )


@pytest.mark.parametrize("owner", [TrainConfig, ScoreRequest])
def test_every_field_has_a_label_and_a_sentence(owner):
    assert [one.name for one in fields(owner) if not one.metadata.get("label") or not one.metadata.get("help")] == []


def test_the_tables_of_the_documentation_are_up_to_date():
    from tools.option_tables import main

    assert main(["--check"]) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("steps", 1001), ("width", 4104), ("height", 513), ("clip_skip", 13)]
)
def test_a_request_refuses_what_is_out_of_range(name, value):
    from lora_eval.errors import ConfigError

    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        ScoreRequest([], **{name: value})


def test_a_request_knows_its_fields():
    assert list(SCORE_FIELDS) == [one.name for one in fields(ScoreRequest)]
