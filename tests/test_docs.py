"""The documentation says what the code does: links lead somewhere, commands, keys, routes and measures exist."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from lora_eval.cli.main import build_parser
from lora_eval.dataset.check import Finding
from lora_eval.report.card import card_json
from lora_eval.scorecard.data import Measure, Measurement, Scorecard
from lora_eval.scorecard.dimensions.curve import GRADES
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.dimensions.registry import CHECKS, NAMES
from lora_eval.scorecard.dimensions.registry import DIMENSIONS as SPECS
from lora_eval.service.jobs import JobState
from lora_eval.training.config import TrainConfig, make_config
from lora_eval.training.curve import STATES
from lora_eval.training.result import TrainResult
from lora_eval.training.templates import load_template
from tests.scorecard.synthetic_run import make_run

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# a table's cells; a bar inside a cell is written \|
CELL = re.compile(r"(?<!\\)\|")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    """Code blocks of the languages; "" are those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def anchor(title: str) -> str:
    """A heading's anchor as GitHub makes it."""
    plain = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).strip().lower())
    return plain.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(title) for title in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


def section(page: Path, title: str) -> str:
    """A section's text up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text_of(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {title}"
    return found[1]


def table(text: str) -> list[list[str]]:
    """Rows of all tables in a text, heads and rules left out."""
    rows: list[list[str]] = []
    lines = text.splitlines()
    for above, line, below in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        rule = re.fullmatch(r"\|[-| ]+\|", line)
        if line.startswith("|") and not rule and not re.fullmatch(r"\|[-| ]+\|", below):
            assert above.startswith("|"), f"no table begins with {line}"
            rows.append([cell.strip() for cell in CELL.split(line)[1:-1]])
    return rows


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# -- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, name = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.name} links to {target}, which is not there"
        if name:
            assert name in anchors(file), f"{page.name} links to {target}: no such heading"


def test_no_page_names_a_place_on_somebody_s_disk() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(?:work|tmp|home|root|Users)/", text_of(page)), page.name


# -- commands ------------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    found = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def command_rows(page: Path) -> list[str]:
    head = "Command line" if page.name == "README.md" else "命令行"
    return [row[0].strip("`") for row in table(section(page, head))]


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_table_of_commands_is_that_of_the_parser(page: Path) -> None:
    rows = command_rows(page)
    assert [row.split()[0] for row in rows] == list(commands())
    for row in rows:
        parser = commands()[row.split()[0]]
        for option in re.findall(r"--[a-z-]+", row):
            assert option in parser._option_string_actions, f"{row.split()[0]} has no {option}"


def example_commands(page: Path) -> list[list[str]]:
    """Arguments of our own commands in a page's examples."""
    lines = [line for block in blocks(page, "sh", "") for line in block.replace("\\\n", " ").splitlines()]
    found = [re.match(r"(?:python -m lora_eval|lora-eval) (.*)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in found if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_examples_parse(page: Path) -> None:
    for arguments in example_commands(page):
        build_parser().parse_args(arguments)


def test_both_readmes_have_the_same_examples() -> None:
    english, chinese = READMES
    assert len(example_commands(english)) >= 6
    assert example_commands(english) == example_commands(chinese)
    for language in ("yaml", "python"):
        assert blocks(english, language) == blocks(chinese, language)
    targets = [set(LINK.findall(prose(page))) - {"README.md", "README.zh-CN.md"} for page in READMES]
    assert targets[0] == targets[1]
    assert [row.split()[1:] for row in command_rows(english)] == [row.split()[1:] for row in command_rows(chinese)]


# -- training keys -------------------------------------------------------------------------------

CONFIG = {item.name for item in fields(TrainConfig)}


def documented_keys() -> list[str]:
    page = ROOT / "docs" / "training.md"
    return [name for row in table(prose(page)) for name in code(row[0])]


def test_every_documented_training_key_exists_and_every_key_is_documented_once() -> None:
    keys = documented_keys()
    assert [key for key in keys if key not in CONFIG] == []
    assert sorted(key for key in CONFIG if keys.count(key) != 1) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_training_configs_in_examples_are_accepted(page: Path) -> None:
    for block in blocks(page, "yaml"):
        values = yaml.safe_load(block)
        if "train_data_dir" in values:
            make_config(values).require()


# -- the API -------------------------------------------------------------------------------------


def test_the_table_of_routes_is_that_of_the_program() -> None:
    fastapi = pytest.importorskip("fastapi")
    from lora_eval.api.routes import PREFIX, create_routes
    from lora_eval.service.jobs import JobQueue

    app = fastapi.FastAPI()
    before = set(app.openapi()["paths"])
    app.openapi_schema = None
    create_routes(app, lambda: pytest.fail("no host is needed to list routes"), JobQueue())
    found = {
        (method.upper(), path.removeprefix(PREFIX))
        for path, methods in app.openapi()["paths"].items()
        if path not in before
        for method in methods
    }
    rows = {tuple(row[0].strip("`").split()) for row in table(section(API, "REST"))}
    assert {(method, path.replace("{file}", "{name}")) for method, path in rows} == found


def test_the_keys_of_a_score_request_are_those_of_the_program() -> None:
    pytest.importorskip("fastapi")
    from lora_eval.api.bodies import ScoreBody

    rows = table(section(API, "`POST /score`"))
    documented = [name for row in rows for name in code(row[0])]
    known = ScoreBody.model_fields if hasattr(ScoreBody, "model_fields") else ScoreBody.__fields__
    assert sorted(documented) == sorted(known)


API = ROOT / "docs" / "api.md"


def test_the_example_requests_are_accepted() -> None:
    pytest.importorskip("fastapi")
    from lora_eval.api.bodies import ScoreBody, TrainBody

    bodies = {"train": TrainBody, "score": ScoreBody}
    found = re.findall(r"/lora-eval/v1/(\w+) .*?-d '(.*?)'", "".join(blocks(API, "sh")), re.DOTALL)
    assert [verb for verb, _ in found] == ["train", "score"]
    for verb, body in found:
        values = bodies[verb](**json.loads(body)).given()
        if verb == "train":
            load_template(values.pop("template"), values).require()


def test_the_example_answers_have_the_keys_of_the_program() -> None:
    answers = [json.loads(block) for block in blocks(API, "json")]
    job = next(answer for answer in answers if "status" in answer and "kind" in answer)
    assert list(job) == [item.name for item in fields(JobState)]
    found = next(answer for answer in answers if "findings" in answer)
    assert list(found["findings"][0]) == [item.name for item in fields(Finding)]
    keys = [row[0].strip("`") for row in table(section(API, "Runs"))]
    assert keys == list(card_json(Scorecard("", None, None, [], {}, [], [])))
    results = next(row for row in table(section(API, "Jobs")) if row[0] == "`result`")[1].split("of `score`")[0]
    assert {item.name for item in fields(TrainResult)} <= set(code(results))


# -- what is measured ----------------------------------------------------------------------------

MEASURES = ROOT / "docs" / "measures.md"
# the heading of each dimension's section: its title, but for these
TITLES = {spec.name: spec.title for spec in SPECS} | {
    "strength": "Strength controllability",
    "alignment": "Text-image alignment",
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    """A run with everything that can be measured: held-out references, histories, second encoders, every role."""
    history = tmp_path_factory.mktemp("training") / "history.csv"
    rows = [f"{step},{0.5 + math.exp(-step / 40) + 0.05 * math.sin(7.3 * step):.6f}" for step in range(1, 401)]
    history.write_text("\n".join(["step,loss", *rows]) + "\n")
    run = make_run(kind="character", histories={"zorp-300": history})
    assert run.references is not None
    run.references.held_out = True
    for name in ("dino", "face"):
        run.extra[name] = run.features.copy()
        run.extra[name][::7] = np.nan
        run.extra_references[name] = run.references.features.copy()
    return measure(run, resamples=50)


def documented(title: str) -> set[str]:
    """Names in the first column of a section's tables."""
    return {name for row in table(section(MEASURES, title)) for name in code(row[0])}


@pytest.mark.parametrize("dimension", NAMES)
def test_every_measure_of_a_dimension_is_in_its_table(measured: Measurement, dimension: str) -> None:
    names = {row.measure for row in measured.summary if row.dimension == dimension and row.value is not None}
    assert len(names) >= 3
    assert names - documented(TITLES[dimension]) == set()


def test_every_name_in_the_tables_is_measured(measured: Measurement) -> None:
    names = {row.measure for row in measured.summary} | set(measured.cell_metrics.columns)
    # said only where there is no element to judge
    names.add("elements_kept")
    states = set(STATES)
    for title in TITLES.values():
        assert documented(title) - names - states == set(), title


def test_every_metric_column_is_in_a_table(measured: Measurement) -> None:
    known = set().union(*map(documented, TITLES.values()))
    assert set(measured.cell_metrics.columns) - known == set()


def test_the_grades_of_the_curve_are_those_of_the_program() -> None:
    rows = {row[0].strip("`"): float(row[2]) for row in table(section(MEASURES, "Training curve")) if len(row) == 3}
    assert rows == GRADES


def test_the_columns_of_both_tables_are_named() -> None:
    from lora_eval.scorecard.tables import CELL_COLUMNS

    common = section(MEASURES, "The tables")
    assert f"`{', '.join(CELL_COLUMNS)}`" in " ".join(common.split())
    documented = [name for row in table(common) for name in code(row[0])]
    assert documented == [item.name for item in fields(Measure)]


def test_the_limits_are_those_of_the_program() -> None:
    rows = {row[0].strip("`"): (float(row[3]), float(row[4])) for row in table(section(MEASURES, "Good, weak, poor"))}
    assert rows == {spec.name: spec.limits for spec in SPECS}


def test_the_gates_are_those_of_the_program() -> None:
    gates = [check.name for _, check in CHECKS]
    assert [row[0].strip("`") for row in table(section(MEASURES, "Gates"))] == gates


def test_the_advice_table_is_that_of_the_program() -> None:
    rows = [tuple(row) for row in table(section(MEASURES, "Advice"))]
    assert rows == [
        (spec.name, remedy.what + (" *" if remedy.otherwise else ""), remedy.change)
        for spec in SPECS
        for remedy in spec.remedies
    ]


def test_the_columns_of_a_comparison_are_those_of_the_program() -> None:
    from lora_eval.scorecard.comparison.verdict import Row

    rows = table(section(MEASURES, "Comparing runs"))
    assert sorted(name for row in rows for name in code(row[0])) == sorted(Row.__dataclass_fields__)


# -- architecture --------------------------------------------------------------------------------


def test_every_module_in_the_architecture_exists() -> None:
    page = ROOT / "docs" / "architecture.md"
    inside = prose(page).split("## Modules")[1].split("## Around")[0]
    names = [name for row in table(inside) for name in code(row[0])]
    assert len(names) > 100
    assert [name for name in names if not (ROOT / "lora_eval" / name).exists()] == []


def test_every_file_that_the_guide_to_additions_names_exists() -> None:
    guide = (
        prose(ROOT / "docs" / "architecture.md")
        .split("## To add a ...")[1]
        .split("## What happens")[0]
        .split("## Modules")[0]
    )
    roots = (ROOT / "lora_eval", ROOT, ROOT / "lora_eval" / "scorecard" / "dimensions" / "generalisation",
             ROOT / "lora_eval" / "scorecard" / "dimensions" / "consistency",
             ROOT / "lora_eval" / "scorecard" / "dimensions")  # fmt: skip
    named = [name for name in re.findall(r"`([\w./-]+(?:\.py|\.json|\.md|/))`", guide)]
    assert len(named) > 30
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_every_trainers_names_are_as_the_log_is_searched_and_the_page_names_real_ones() -> None:
    from lora_eval.training import trainers

    known = {*trainers.TRAIN_NAMES, *trainers.VALIDATION_NAMES, *trainers.BAR_AVERAGES, *trainers.BAR_LOSSES}
    known |= {*trainers.STEP_COLUMNS, *trainers.RATE_NAMES}
    assert {name for name in known if name != name.lower()} == set()
    logs = prose(ROOT / "docs" / "what-it-reads.md").split("## Training logs")[1].split("## LoRAs")[0]
    said = {name for row in table(logs)[1:] for cell in row[1:] for name in code(cell)}
    assert said - known - {"history.csv", "/"} == set()


def test_every_encoder_that_can_be_named_is_in_the_help() -> None:
    from lora_eval.encoders.choices import CHOICES
    from lora_eval.encoders.registry import NAMED

    assert [name for name in NAMED if name not in CHOICES] == []
