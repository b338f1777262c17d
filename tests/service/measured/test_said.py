"""``measure`` believes the pictures: they fill a table, stand alone without one, and contradict a wrong one.

Threads: Comfy-Org/ComfyUI#1513 and ShiftHackZ/Stable-Diffusion-KMP#569 (seeds above 2**53), AUTOMATIC1111#10651, #14876
and #270 (settings only in the picture), jags111/efficiency-nodes-comfyui#159 (weights only in the workflow),
RupertAvery/DiffusionToolkit#72 (a folder of ComfyUI's), AlUlkesh/sd_grid_add_image_number#3 (a plot as one picture).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_eval.errors import RunError
from lora_eval.service.measured import MeasureRequest, measure_again, measure_table
from lora_eval.service.measured.rows import list_pictures
from lora_eval.service.measured.said import complete
from tests.fakes_scorecard import FakeEncoder

SIZE = 32
BIG = 2**64 - 3


def pixels(number: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8))


def text(prompt: str, seed: int, tag: str = "", **more: str) -> str:
    settings = {"Steps": "20", "Sampler": "Euler a", "CFG scale": "7", "Seed": str(seed), "Size": f"{SIZE}x{SIZE}"}
    return f"{prompt}{tag}\nNegative prompt: blurry\n" + ", ".join(f"{k}: {v}" for k, v in {**settings, **more}.items())


def save(path: Path, said: str, image: Image.Image | None = None, number: int = 0) -> Path:
    info = PngInfo()
    if said:
        info.add_text("parameters", said)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or pixels(number)).save(path, pnginfo=info)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A WebUI's folder: two prompts, two seeds of 64 bits, weights 0, .5 and 1."""
    number = 0
    for prompt in ("a red fox", "a blue fox"):
        for seed in (BIG, BIG + 1):
            for weight in ("0", "0.5", "1"):
                tag = "" if weight == "0" else f" <lora:fox:{weight}>"
                save(
                    tmp_path / "out" / "2026-11-27" / f"{number:05d}-{seed}.png", text(prompt, seed, tag), None, number
                )
                number += 1
    return tmp_path / "out"


def table(folder: Path, rows: list[dict[str, str]], mark: str = ",", name: str = "mine.csv") -> Path:
    path = folder / name
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows(rows)
    return path


def images(folder: Path) -> list[dict[str, str]]:
    return [{"image": path.relative_to(folder).as_posix()} for path in sorted(folder.rglob("*.png"))]


def known(source: Path, **settings) -> list[dict[str, str]]:  # type: ignore[no-untyped-def]
    return [row.values for row in complete(list_pictures([source]), **settings).rows]


class TestAFolder:
    def test_prompt_seed_weight_and_settings_come_from_the_pictures(self, folder: Path, tmp_path: Path) -> None:
        card = measure_table(folder, tmp_path / "card", encoder=FakeEncoder(), resamples=50)
        assert card.verdict
        with open(tmp_path / "card" / "cells.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 12 and {row["prompt"] for row in rows} == {"a red fox", "a blue fox"}
        assert {row["seed"] for row in rows} == {str(BIG), str(BIG + 1)}
        assert [float(row["weight"]) for row in rows] == [0, 0.5, 1] * 4
        assert {row["checkpoint"] for row in rows} == {"", "fox"}
        assert {(row["sampler"], row["negative_prompt"]) for row in rows} == {("Euler a", "blurry")}
        told = json.loads((tmp_path / "card" / "scorecard.json").read_text(encoding="utf-8"))
        assert "read from the pictures themselves (WebUI)" in json.dumps(told)

    def test_measured_again_from_its_settings(self, folder: Path, tmp_path: Path) -> None:
        measure_table(folder, tmp_path / "card", encoder=FakeEncoder(), resamples=50)
        before = (tmp_path / "card" / "cells.csv").read_bytes()
        measure_again(tmp_path / "card", FakeEncoder(), 50)
        assert (tmp_path / "card" / "cells.csv").read_bytes() == before

    def test_a_list_and_the_files_themselves_are_the_same(self, folder: Path) -> None:
        (folder / "list.txt").write_text("\n".join(row["image"] for row in images(folder)), encoding="utf-8")
        files = [folder / row["image"] for row in images(folder)]
        alone = [row.values for row in complete(list_pictures(files)).rows]
        assert known(folder / "list.txt") == known(folder) == alone

    def test_a_folder_of_nothing_and_a_run_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="holds no pictures"):
            list_pictures([tmp_path])
        (tmp_path / "plan.json").write_text("{}")
        with pytest.raises(RunError, match="lora-eval report"):
            list_pictures([tmp_path])

    def test_pictures_that_say_nothing_are_asked_for_by_name(self, folder: Path) -> None:
        save(folder / "0.png", "")
        with pytest.raises(RunError, match=r"0\.png: no prompt and seed and weight \(its picture does not say it\)"):
            known(folder)


class TestATable:
    @pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
    def test_one_column_is_enough_with_every_delimiter(self, folder: Path, mark: str) -> None:
        rows = [{**row, "role": "plain"} for row in images(folder)]
        found = known(table(folder, rows, mark))
        assert [row["weight"] for row in found] == ["0", "0.5", "1"] * 4
        assert {row["seed"] for row in found} == {str(BIG), str(BIG + 1)}

    @pytest.mark.parametrize(
        ("column", "wrong", "says"),
        [
            ("seed", "7", f'says seed "7", the picture itself \\(WebUI\\) "{BIG}"'),
            ("weight", "0.8", 'says weight "0.8"'),
            ("prompt", "a green fox", 'says prompt "a green fox"'),
            ("negative_prompt", "ugly", 'says negative prompt "ugly"'),
            ("steps", "30", 'says steps "30"'),
            ("cfg", "3", 'says cfg "3"'),
        ],
    )
    def test_a_row_that_its_picture_contradicts_is_named(
        self, folder: Path, column: str, wrong: str, says: str
    ) -> None:
        rows = [{**row, column: ""} for row in images(folder)]
        rows[0][column] = wrong
        with pytest.raises(RunError, match=rf"mine\.csv, line 2: the table {says}"):
            known(table(folder, rows))

    def test_spelling_is_no_contradiction(self, folder: Path) -> None:
        rows = [{**row, "prompt": "", "weight": "", "seed": "-1", "sampler": "euler_a"} for row in images(folder)]
        rows[1].update(prompt=" a  red fox <lora:fox:0.5>,", weight="0.500")
        found = known(table(folder, rows))
        assert found[0]["sampler"] == "euler_a" and found[0]["seed"] == str(BIG)

    def test_the_table_alone_where_that_is_asked_for(self, folder: Path) -> None:
        rows = [{**row, "prompt": "x", "seed": str(at), "weight": "1"} for at, row in enumerate(images(folder))]
        found = known(table(folder, rows), believe_table=True)
        assert {row["prompt"] for row in found} == {"x"}

    def test_one_file_in_two_rows_is_refused(self, folder: Path) -> None:
        rows = images(folder)
        again = {"image": f"./2026-11-27/../{rows[0]['image']}"}
        with pytest.raises(RunError, match=r"line 14: .* is the picture of .*line 2 too"):
            known(table(folder, [*rows, again]))

    def test_seeds_keep_their_last_digit_without_the_pictures_word(self, tmp_path: Path) -> None:
        rows = []
        for at, seed in enumerate((BIG, BIG + 1, BIG, BIG + 1)):
            save(tmp_path / f"{at}.png", "", None, at)
            rows.append({"image": f"{at}.png", "prompt": "a fox", "seed": str(seed), "weight": str(at // 2)})
        measure_table(table(tmp_path, rows), tmp_path / "card", encoder=FakeEncoder(), resamples=50)
        with open(tmp_path / "card" / "cells.csv", encoding="utf-8", newline="") as file:
            assert [row["seed"] for row in csv.DictReader(file)] == [row["seed"] for row in rows]


class TestSeveralLoras:
    def fill(self, root: Path, tags: list[str]) -> Path:
        for at, tag in enumerate(tags):
            save(root / f"{at}.png", text("a fox", at % 2, tag), None, at)
        return root

    def test_checkpoints_of_one_training_are_several_names(self, tmp_path: Path) -> None:
        tags = ["", "", " <lora:fox-000002:1>", " <lora:fox-000002:1>", " <lora:fox:1>", " <lora:fox:1>"]
        found = known(self.fill(tmp_path, tags))
        assert [row.get("checkpoint", "") for row in found] == ["", "", "fox-000002", "fox-000002", "fox", "fox"]

    def test_one_that_is_in_every_picture_is_no_subject(self, tmp_path: Path) -> None:
        detail = " <lora:detail:0.4>"
        root = self.fill(tmp_path, [detail, detail, f"{detail} <lora:fox:1>", f"{detail} <lora:fox:1>"])
        done = complete(list_pictures([root]))
        assert [row.values["weight"] for row in done.rows] == ["0", "0", "1", "1"]
        assert done.notes["companions"] == "every picture was drawn with detail as well"

    def test_two_that_both_vary_are_asked_about(self, tmp_path: Path) -> None:
        root = self.fill(tmp_path, ["", " <lora:a:1>", " <lora:b:1>", " <lora:a:1> <lora:b:1>"])
        with pytest.raises(RunError, match="drawn with a, b; name the one that is judged with --lora"):
            known(root)
        assert [row["weight"] for row in known(root, lora="a")] == ["0", "1", "0", "1"]
        with pytest.raises(RunError, match="no picture was drawn with the LoRA c; drawn with a, b"):
            known(root, lora="c")

    def test_no_lora_at_all_is_no_scorecard(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no picture says that it was drawn with a LoRA"):
            known(self.fill(tmp_path, ["", ""]))

    def test_different_base_models_are_noted(self, tmp_path: Path) -> None:
        for at, tag in enumerate(["", " <lora:fox:1>"]):
            save(tmp_path / f"{at}.png", text("a fox", 1, tag, Model=f"base{at}"), None, at)
        assert "2 values of base_model (base0, base1)" in complete(list_pictures([tmp_path])).notes["base_model"]


class TestGrids:
    def plot(self, path: Path) -> Path:
        cells = [pixels(at) for at in range(6)]
        page = Image.new("RGB", (SIZE * 3 // 4 + 3 * SIZE, 20 + 2 * SIZE), "white")
        for at, cell in enumerate(cells):
            page.paste(cell, (SIZE * 3 // 4 + at % 3 * SIZE, 20 + at // 3 * SIZE))
        more = {"X Type": "Prompt S/R", "X Values": '"fox:0>,fox:0.5>,fox:1>"', "Y Type": "Seed", "Y Values": '"1,2"'}
        return save(path, text("a red fox", 1, " <lora:fox:0>", **more), page)

    def test_a_plot_is_cut_and_measured(self, tmp_path: Path) -> None:
        self.plot(tmp_path / "w" / "xyz_grid-0000.png")
        measure_table(tmp_path / "w", tmp_path / "card", encoder=FakeEncoder(), resamples=50)
        with open(tmp_path / "card" / "cells.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(float(row["weight"]), row["seed"]) for row in rows] == [
            (0, "1"), (0.5, "1"), (1, "1"), (0, "2"), (0.5, "2"), (1, "2"),
        ]  # fmt: skip
        for at, row in enumerate(rows):
            inside = Image.open(tmp_path / "card" / row["image"])
            assert np.array_equal(np.asarray(inside), np.asarray(pixels(at)))

    def test_a_grid_of_a_batch_is_left_out_of_a_folder_and_refused_by_name(self, folder: Path) -> None:
        page = Image.new("RGB", (2 * SIZE, SIZE))
        for at in (0, 1):
            page.paste(pixels(at, (4, 4)).resize((SIZE, SIZE), Image.BICUBIC), (at * SIZE, 0))
        save(folder / "grid-0000.png", text("a red fox", BIG), page)
        done = complete(list_pictures([folder]))
        assert len(done.rows) == 12 and done.notes["grids_left_out"].startswith("1 grids were left out: grid-0000.png")
        with pytest.raises(RunError, match="is a grid of pictures"):
            complete(list_pictures([folder / "grid-0000.png"]))

    def test_an_enlarged_picture_is_no_grid(self, tmp_path: Path) -> None:
        smooth = Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8) * 2)
        wavy = pixels(1, (8, 8)).resize((64, 64), Image.BICUBIC)
        for at, image in enumerate((smooth, wavy)):
            save(tmp_path / f"{at}.png", text("a fox", 1, f" <lora:fox:{at}>"), image.convert("RGB"))
        assert len(known(tmp_path)) == 2


def test_request_is_kept_for_the_next_time(folder: Path, tmp_path: Path) -> None:
    request = MeasureRequest(lora="fox", believe_table=False)
    measure_table(folder, tmp_path / "card", request, encoder=FakeEncoder(), resamples=50)
    kept = json.loads((tmp_path / "card" / "table.json").read_text(encoding="utf-8"))
    assert kept["lora"] == "fox" and kept["table"] == [str(folder.resolve())]
