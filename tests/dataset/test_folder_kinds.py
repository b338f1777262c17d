"""A folder with every kind of oddity: nothing that it should not is taken, and what is left out is named once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lora_eval.cli.main import main
from lora_eval.dataset import kinds
from lora_eval.dataset.captions import write_sidecar
from lora_eval.dataset.check import check
from lora_eval.dataset.folder import scan
from lora_eval.errors import DatasetError
from lora_eval.training.config import make_config
from lora_eval.training.prepare import read_items
from tests.fakes import drawing

HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 64


@pytest.fixture(autouse=True)
def _without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "readable", lambda ending: ending in kinds.ALWAYS)


def picture(path: Path, number: int = 1, caption: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing(number, (96, 96)).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def codes(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in scan(folder).left_out:
        found.setdefault(one.code, []).append(f"{one.name}: {one.message}; {one.mend}")
    return found


def test_pictures_of_kinds_that_are_not_read_are_named_with_their_package(tmp_path: Path) -> None:
    """bmaltais/kohya_ss#1600, #3233, #2993; kohya-ss/sd-scripts#2087, #786; also Linaqruf/kohya-trainer#174."""
    picture(tmp_path / "a.png", caption="fox")
    for name in ("b.HEIC", "c.heic", "d.jxl", "e.avif", "f.psd", "g.mp4", "photo"):
        (tmp_path / name).write_bytes(HEIC)
    (line,) = codes(tmp_path)["unread kind"]
    assert "7 picture(s) of a kind that is not read: .heic 2" in line
    assert "pip install pillow-heif pillow-jxl-plugin pillow-avif-plugin" in line


def test_a_folder_of_such_pictures_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC)
    picture(tmp_path / "old" / "b.png")
    with pytest.raises(DatasetError, match=r"holds no pictures to train on: old: its 1 picture.*\.heic 1"):
        scan(tmp_path)


@pytest.mark.parametrize(
    "name", ["a.TXT", "a.Txt", "a.png.txt", "a.png.TXT", "a.caption", "a.CAPTION", "a.png.caption"]
)
def test_captions_under_other_spellings_are_read_and_rewritten_in_place(tmp_path: Path, name: str) -> None:
    """bmaltais/kohya_ss#664; also bmaltais/kohya_ss#1936 and starik222/BooruDatasetTagManager#91 (.caption)."""
    path = picture(tmp_path / "a.png")
    (tmp_path / name).write_text("fox")
    assert scan(tmp_path).items[0].caption == "fox"
    assert write_sidecar(path, "owl") == tmp_path / name and scan(tmp_path).items[0].caption == "owl"


@pytest.mark.parametrize(
    "name", ["a.tags", "a.json", "a.png.json", "a.cap", "metadata.json1", "captions.csv", "prompts.xlsx"]
)
def test_files_that_look_like_captions_are_named(tmp_path: Path, name: str) -> None:
    """huggingface/diffusers#2099 (metadata.json1)."""
    picture(tmp_path / "a.png")
    (tmp_path / name).write_text("fox")
    assert codes(tmp_path)["unread caption"] == [
        f"{name}: it looks like captions, but is not read; "
        "write metadata.csv, metadata.jsonl or a .txt beside each picture"
    ]


def test_two_captions_of_one_picture_are_named_where_they_differ(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", caption="fox")
    (tmp_path / "a.caption").write_text("fox\n")
    assert "other caption" not in codes(tmp_path)
    (tmp_path / "a.caption").write_text("owl")
    assert scan(tmp_path).items[0].caption == "fox" and "a.caption" in codes(tmp_path)["other caption"][0]
    found = scan(tmp_path, extension=".caption")
    assert found.items[0].caption == "owl" and [one.name for one in found.left_out] == ["a.txt"]
    (tmp_path / "metadata.csv").write_text("file_name,prompt\na.png,hen\n")
    assert "2 files (a.txt, a.caption)" in codes(tmp_path)["other caption"][0]


def test_folders_that_are_not_looked_into(tmp_path: Path) -> None:
    """bmaltais/kohya_ss#547, #2148 (plain names); bghira/SimpleTuner#3198 (mask/ beside the pictures)."""
    picture(tmp_path / "2_fox" / "a.png", caption="fox")
    picture(tmp_path / "2_fox" / "more" / "b.png")
    picture(tmp_path / "plain" / "c.png")
    picture(tmp_path / "plain" / "deep" / "d.png")
    picture(tmp_path / "0_off" / "e.png")
    picture(tmp_path / "masks" / "a.png")
    picture(tmp_path / "conditioning" / "a.png")
    picture(tmp_path / ".cache" / "f.png")
    found = codes(tmp_path)
    assert [item.path.name for item in scan(tmp_path).items] == ["a.png"]
    assert [line.split(":")[0] for line in found["ignored folder"]] == ["0_off", "plain", "2_fox/more", "plain/deep"]
    assert sorted(line.split(":")[0] for line in found["masks"]) == ["conditioning", "masks"]


def test_masks_beside_pictures_are_not_trained_on(tmp_path: Path) -> None:
    for name in ("a", "b", "gas_mask"):
        picture(tmp_path / f"{name}.png", caption=name)
    picture(tmp_path / "a-masklabel.png")
    picture(tmp_path / "b_mask.png")
    picture(tmp_path / "b-condlabel.png")
    picture(tmp_path / "c-masklabel.jpg")
    dataset = scan(tmp_path)
    assert [item.path.name for item in dataset.items] == ["a.png", "b.png", "gas_mask.png"]
    assert dataset.items[0].mask == tmp_path / "a-masklabel.png"
    (line,) = codes(tmp_path)["masks"]
    assert "3 files (b-condlabel.png, b_mask.png, c-masklabel.jpg)" in line
    (tmp_path / "metadata.csv").write_text("file_name,prompt\nb_mask.png,a mask\n")
    assert [item.path.name for item in scan(tmp_path).items] == ["b_mask.png"]


def test_years_and_dates_are_no_repeats_or_are_said(tmp_path: Path) -> None:
    """bmaltais/kohya_ss#216, #986; also #1725 (the numbered folder itself is named)."""
    picture(tmp_path / "2024_summer" / "a.png", caption="fox")
    assert scan(tmp_path / "2024_summer").items[0].repeats == 1
    assert scan(tmp_path).items[0].repeats == 2024
    assert "is shown 2024 times an epoch" in codes(tmp_path)["repeats"][0]
    (tmp_path / "2024_summer" / "metadata.csv").write_text("file_name,prompt\na.png,fox\n")
    assert scan(tmp_path / "2024_summer").items[0].repeats == 1
    picture(tmp_path / "20240131_party" / "a.png", caption="fox")
    with pytest.raises(DatasetError, match="20240131_party: 20240131 repeats are more than 10000"):
        scan(tmp_path).require()


def test_the_whole_inventory_names_each_thing_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        picture(tmp_path / f"p{number}.png", number, f"zorp number {number}")
    (tmp_path / "p1.caption").write_text("another")
    picture(tmp_path / "p2_mask.png")
    for name in ("x.heic", "y.jxl"):
        (tmp_path / name).write_bytes(HEIC)
    (tmp_path / "x.txt").write_text("zorp, not read for its picture")
    (tmp_path / "readme.txt").write_text("about")
    (tmp_path / "p3.tags").write_text("tags")
    (tmp_path / "meta_cap.json").write_text("{}")
    (tmp_path / "p0.npz").write_bytes(b"x")
    (tmp_path / "notes.doc").write_bytes(b"x")
    picture(tmp_path / "old" / "q.png")
    picture(tmp_path / "masks" / "p0.png")
    picture(tmp_path / "2024_trip" / "r.png", 9, "zorp far away")
    (tmp_path / "p4.txt").write_bytes("红狐".encode("gbk"))
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    dataset = scan(tmp_path)
    lines = [one.line() for one in check(dataset, "zorp", 64)]
    assert main(["check", str(tmp_path), "--trigger", "zorp", "--resolution", "64", "--quiet"]) == 1
    assert capsys.readouterr().out.splitlines()[:-1] == lines
    text = "\n".join(lines)
    once = ["p1.caption", "p2_mask.png", ".heic", ".jxl", "readme.txt", "p3.tags", "meta_cap.json", ".npz", ".doc",
            "old:", "masks:", "2024_trip:", "p4.txt"]  # fmt: skip
    assert {name: text.count(name) for name in once} == dict.fromkeys(once, 1)
    assert "Thumbs.db" not in text and "x.txt" not in text
    assert max(Counter(one.code for one in dataset.left_out if one.code != "ignored folder").values()) <= 2
    (tmp_path / "p4.txt").write_text("zorp again")
    notes = read_items(make_config({"train_data_dir": str(tmp_path)}))[2]
    for name in ("p1.caption", ".heic", "p3.tags", "meta_cap.json", "old", "2024_trip"):
        assert sum(name in note for note in notes) == 1, name
