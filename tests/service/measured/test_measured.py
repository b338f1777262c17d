"""Scoring pictures that were drawn elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from lora_eval.errors import ConfigError, RunError
from lora_eval.service.measured import MeasureRequest
from lora_eval.service.scoring import measure_table, report
from tests.fakes_scorecard import FakeEncoder, small_score, tree_hashes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    small_score(root, root / "run")
    return root


def measure(table: Path, out: Path, **settings):
    return measure_table(
        table,
        out,
        MeasureRequest(**{"trigger": "zorp", "class_word": "shape", **settings}),
        encoder=FakeEncoder(),
        resamples=50,
    )


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def bare(drawn: Path, tmp_path: Path) -> list[dict[str, str]]:
    """The pictures of a run, without a word in them, as a plain table: image, prompt, seed, weight, checkpoint."""
    (tmp_path / "pictures").mkdir(exist_ok=True)
    for path in (drawn / "run" / "images").iterdir():
        Image.open(path).convert("RGB").save(tmp_path / "pictures" / path.name)
    keep = ("role", "prompt", "negative_prompt", "seed", "weight", "checkpoint", "step")
    return [
        {"image": f"pictures/{Path(row['image']).name}", **{key: row[key] for key in keep}}
        for row in rows(drawn / "run" / "cells.csv")
    ]


def test_a_plain_table_gives_the_numbers_of_the_run_it_came_from(drawn, tmp_path):
    table = write(tmp_path / "mine.csv", bare(drawn, tmp_path))
    card = measure(table, tmp_path / "out", data=drawn / "data")
    cell = lambda row: tuple(row[name] for name in ("checkpoint", "weight", "prompt", "negative_prompt", "seed"))  # noqa: E731
    there = {cell(row): row for row in rows(drawn / "run" / "cells.csv")}
    here = rows(tmp_path / "out" / "cells.csv")
    assert len(here) == 30 and card.verdict
    for row in here:
        other = there[cell(row)]
        assert row["clip_i"] == other["clip_i"] and row["effect"] == other["effect"]
        assert (tmp_path / "out" / row["image"]).is_file()


def test_our_own_cells_csv_is_a_table_too(drawn, tmp_path):
    measure(drawn / "run" / "cells.csv", tmp_path / "out", data=drawn / "data")
    one, other = rows(drawn / "run" / "cells.csv"), rows(tmp_path / "out" / "cells.csv")
    assert [row["clip_i_gain"] for row in one] == [row["clip_i_gain"] for row in other]
    assert [row["prompt_id"] for row in one] == [row["prompt_id"] for row in other]


def test_the_least_table_has_four_columns(drawn, tmp_path):
    least = [
        {key: row[key] for key in ("image", "prompt", "seed", "weight")}
        for row in bare(drawn, tmp_path)
        if row["checkpoint"] != "zorp-000100" and not row["negative_prompt"]
    ]
    least[-1]["prompt"] = least[-1]["prompt"] + ", <lora:zorp:1>"
    card = measure(write(tmp_path / "least.csv", least), tmp_path / "out")
    found = rows(tmp_path / "out" / "cells.csv")
    assert {row["checkpoint"] for row in found} == {"", "LoRA"}
    assert {row["role"] for row in found} == {"plain"}
    assert not any("<lora" in row["prompt"] for row in found)
    assert card.dimensions["fidelity"].score is None


def test_report_measures_a_table_again_to_the_same_bytes(drawn, tmp_path):
    table = write(tmp_path / "mine.csv", bare(drawn, tmp_path))
    measure(table, tmp_path / "out", data=drawn / "data")
    before = tree_hashes(tmp_path / "out")
    report(tmp_path / "out", FakeEncoder(), resamples=50)
    assert tree_hashes(tmp_path / "out") == before


def test_prompts_without_the_trigger_are_unrelated(drawn, tmp_path):
    table = bare(drawn, tmp_path)
    for row in table:
        row["prompt"] = row["prompt"].replace("a red zorp", "a red star")
        row["role"] = ""
    measure(write(tmp_path / "mine.csv", table), tmp_path / "out")
    roles = {row["prompt"]: row["role"] for row in rows(tmp_path / "out" / "cells.csv")}
    assert roles["a red star, gray background"] == "unrelated"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": "strong"}, 'line 2: weight "strong" is not a number'),
        ({"weight": "nan"}, "line 2: weight"),
        ({"seed": ""}, "line 2: no seed"),
        ({"seed": "0.5"}, 'line 2: seed "0.5" is not a whole number'),
        ({"image": ""}, "line 2: no image"),
        ({"image": "pictures/none.png"}, "line 2: pictures/none.png is not there"),
        ({"image": "broken.png"}, "line 2: .*broken.png is not a picture"),
        ({"prompt": "<lora:x:1>"}, "line 2: no prompt"),
        ({"step": "many"}, "line 2: step"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_in_one_line(drawn, tmp_path, change, says):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    table = sorted(bare(drawn, tmp_path), key=lambda row: row["weight"] == "0")
    table[0].update(change)
    with pytest.raises(RunError, match=says) as error:
        measure(write(tmp_path / "mine.csv", table), tmp_path / "out")
    assert "\n" not in str(error.value) and "mine.csv" in str(error.value)
    assert not (tmp_path / "out" / "cells.csv").exists()


def test_a_bad_table_is_named_in_one_line(drawn, tmp_path):
    with pytest.raises(RunError, match=r"none\.csv is missing"):
        measure(tmp_path / "none.csv", tmp_path / "out")
    (tmp_path / "a.csv").write_text("image,prompt,seed\n", encoding="utf-8")
    with pytest.raises(RunError, match="has no rows"):
        measure(tmp_path / "a.csv", tmp_path / "out")
    (tmp_path / "a.csv").write_text("picture,prompt\na.png,fox\n", encoding="utf-8")
    with pytest.raises(RunError, match='no column "image"'):
        measure(tmp_path / "a.csv", tmp_path / "out")
    (tmp_path / "a.csv").write_text("image,prompt,seed\na.png,fox\n", encoding="utf-8")
    with pytest.raises(RunError, match="line 2: 2 cells, the first line has 3"):
        measure(tmp_path / "a.csv", tmp_path / "out")
    (tmp_path / "a.csv").write_bytes(b"image,prompt,seed,weight\n\xff,\xfe,1,1\n")
    with pytest.raises(RunError, match="UTF-8"):
        measure(tmp_path / "a.csv", tmp_path / "out")
    with pytest.raises(ConfigError, match="kind"):
        measure(tmp_path / "a.csv", tmp_path / "out", kind="animal")


def test_one_prompt_id_for_two_prompts_is_refused(drawn, tmp_path):
    table = [{**row, "prompt_id": "same"} for row in bare(drawn, tmp_path)]
    with pytest.raises(RunError, match='prompt_id "same" had another prompt'):
        measure(write(tmp_path / "mine.csv", table), tmp_path / "out")


def test_a_run_that_was_drawn_is_not_written_over(drawn):
    with pytest.raises(RunError, match="choose another folder"):
        measure(drawn / "run" / "cells.csv", drawn / "run")
