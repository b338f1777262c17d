"""Tables of captions: strict about shape, lenient about spelling. Read right, or refused by the row's number."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.dataset.caption_edit import changes, write_changes
from lora_eval.dataset.folder import Dataset, scan
from lora_eval.errors import DatasetError
from lora_eval.reading.table import records
from tests.fakes import drawing

NAMES = [f"img{i}.png" for i in range(4)]
CAPTIONS = ["mave, a red fox", "mave, a blue cat, night", "mave, a dog", "mave, a hen"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        drawing(number).save(tmp_path / name)
    return tmp_path


def read(folder: Path, text: str, name: str = "metadata.csv") -> Dataset:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return scan(folder, folder / name)


def rows(form: str, head: str, end: str = "\n") -> str:
    return head + end + "".join(form.format(n, c) + end for n, c in zip(NAMES, CAPTIONS, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        rows('{}, "{}"', "image, caption"),  # huggingface/diffusers#12038
        rows('"{}" , "{}" ', '"file_name" , "text"', "\r\n"),
        rows("{};{}", "file_name;prompt"),  # a spreadsheet of a country with decimal commas
        rows("{};{}", "sep=;\nfile_name;prompt"),
        rows("{}\t{}", "file_name\tprompt"),
        rows('{}|"{}"', "file_name|prompt", "\r"),
        rows('{},"{}",,', "file_name,prompt"),
        rows('"{1}",x,{0}', "prompt,source,file_name").replace("{1}", "{}"),
        rows("{},{}", "file_name,prompt"),  # without quotation marks, in a table of two columns
        rows('{},"{}",7', "File_Name,Prompt,score"),
    ],
)
def test_spellings_of_one_table(folder: Path, text: str) -> None:
    dataset = read(folder, text)
    assert [item.caption for item in dataset.items] == CAPTIONS and not dataset.problems


@pytest.mark.parametrize(
    ("cell", "caption"),
    [
        ('"a ""red"" fox, x"', 'a "red" fox, x'),
        ('"a \\"red\\" fox, x"', 'a "red" fox, x'),
        ('"a sign \\"STOP\\", red"', 'a sign "STOP", red'),
        ('"a path C:\\"', "a path C:\\"),
        ('a 6" fox', 'a 6" fox'),
        ('"line one\nline two"', "line one line two"),
        ('"\tfox"', "fox"),
        ('""', ""),
    ],
)
def test_quotation_marks_inside_captions(folder: Path, cell: str, caption: str) -> None:
    """iejMac/video2dataset#117, mindspore-lab/mindone#133."""
    assert read(folder, f"file_name,prompt\nimg0.png,{cell}\n").items[0].caption == caption


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # modelscope/DiffSynth-Studio#1190, jina-ai/finetuner#655: captions cut at their first comma
        ("file_name,prompt,source\nimg0.png,mave, a fox,me\n", "row 2: 4 cells, the header has 3"),
        ("prompt,file_name\nmave, a fox,img0.png\n", "row 2: 3 cells, the header has 2"),
        # isseu/emotion-recognition-neural-networks#19: "expected 3 fields, saw 6"
        ('file_name,prompt\nimg0.png,"mave", a fox\n', "row 2: 3 cells, the header has 2"),
        ("file_name,prompt,source\nimg0.png,fox\n", r"row 2: 2 cell\(s\), the header has 3"),
        ("file_name,prompt\nimg0.png,a\nimg1.png\n", r"row 3: 1 cell\(s\), the header has 2"),
        ('file_name,prompt\nimg0.png,"mave, a fox\nimg1.png,mave\n', "row 2: a quotation mark is not closed"),
        ('file_name,prompt\nimg0.png,"fox\nimg1.png,"cat"\n', "row 2: text follows a closing quotation mark"),
        ('file_name,prompt\nimg0.png,"fox\nimg1.png,cat"\n', "row 2: its caption holds the name of another|a further"),
        ("file_name,prompt\nimg0.png,fox img1.png,cat\nimg1.png,x\n", "row 2: its caption holds the name of another"),
        ('file_name,prompt\nimg0.png,"a \\",b\nimg1.png,"x"\n', "row 2: "),
        ("file_name,prompt,prompt\nimg0.png,a,b\n", "two columns 'prompt'"),
        ("file_name,prompt,repeats\nimg0.png,a,-1\n", "row 2: repeats is '-1'"),
    ],
)
def test_a_row_of_another_shape_is_refused_by_its_number(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read(folder, text).require()
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9), min_size=2, max_size=3),
             min_size=1, max_size=4),
    st.sampled_from(",;\t|"),
)  # fmt: skip
def test_what_a_csv_writer_wrote_is_read_back(table: list[list[str]], delimiter: str) -> None:
    if any("\\" in cell for row in table for cell in row):
        return
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(table)
    wanted = [[cell.strip() for cell in row] for row in table]
    assert [list(row.cells) for row in records(out.getvalue(), delimiter)] == [row for row in wanted if any(row)]


def test_columns_that_are_not_read_are_named_once(folder: Path) -> None:
    found = read(folder, "file_name,prompt,score,source\nimg0.png,a,1,me\n").left_out
    assert [one.message for one in found if one.code == "unread column"] == [
        "column(s) of metadata.csv that are not read: score, source"
    ]


@pytest.mark.parametrize("caption", ['"text": "fox"', '"caption": "fox", "score": 3'])
def test_json_lines(folder: Path, caption: str) -> None:
    dataset = read(folder, f'{{"file_name": "img0.png", {caption}}}\n', "metadata.jsonl")
    assert dataset.items[0].caption == "fox" and not dataset.problems


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "img0.png", "words": "fox"}', "row 1: no caption"),
        ('{"file_name": "img0.png", "text": ["fox", "cat"]}', "row 1: no caption"),
        ('{"file_name": "img0.png", "text": "a", "text": "b"}', "line 1 is not JSON .'text' stands twice"),
        ('{"file_name": "img0.png", "text": "a"} {"file_name": "img1.png", "text": "b"}', "line 1 is not JSON"),
        ('[{"file_name": "img0.png"}]', "line 1 is not an object"),
    ],
)
def test_json_lines_without_one_caption_are_refused(folder: Path, line: str, message: str) -> None:
    """Georgefwt/AquaLoRA#8, huggingface/datasets#4311: a picture and its row that are not linked."""
    with pytest.raises(DatasetError, match=message):
        read(folder, line + "\n", "metadata.jsonl").require()


def test_kohya_s_metadata_is_read_where_no_caption_lies_beside(folder: Path) -> None:
    """bmaltais/kohya_ss#2207; kohya-ss/sd-scripts#2388 (tags without a caption were dropped there)."""
    meta = {name[:-4]: {"caption": caption, "tags": "x, y"} for name, caption in zip(NAMES, CAPTIONS, strict=True)}
    meta["img0"] = {"caption": "mave, x", "tags": "mave, x"}
    (folder / "meta_cap.json").write_text(json.dumps(meta))
    dataset = scan(folder)
    assert [item.caption for item in dataset.items] == ["mave, x", *(f"{c}, x, y" for c in CAPTIONS[1:])]
    (folder / "meta_lat.json").write_text(json.dumps({f"D:\\set\\{n}": {"tags": "z"} for n in NAMES}))
    dataset = scan(folder)
    assert {item.caption for item in dataset.items} == {"z"} and len(dataset.items) == 4
    assert [one.name for one in dataset.left_out if one.code == "other table"] == ["meta_cap.json"]
    (folder / "img0.txt").write_text("beside")
    dataset = scan(folder)
    assert dataset.items[0].caption == "beside"
    assert "meta_lat.json" in next(one.message for one in dataset.left_out if one.code == "other table")


def test_rewritten_tables_keep_delimiter_and_columns(folder: Path) -> None:
    dataset = read(folder, 'image; "prompt" ;n\nimg0.png; "a; ""b""" ;1\nimg1.png;c;2\n')
    after = {dataset.items[1].path: "new; text"}
    write_changes(dataset, changes(dataset, after))
    again = scan(folder)
    assert [item.caption for item in again.items] == ['a; "b"', "new; text"]
    assert (folder / "metadata.csv").read_text().splitlines()[0] == "image;prompt;n"
