"""Which pictures and captions a folder is understood to hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.dataset.captions import write_table
from lora_eval.dataset.folder import Item, scan, split_repeats
from lora_eval.errors import DatasetError
from tests.fakes import drawing


def folder_with(root: Path, files: list[str], **texts: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing(len(name)).save(path)
    for name, text in texts.items():
        (root / name.replace("__", ".")).write_bytes(text.encode("utf-8"))
    return root


@pytest.mark.parametrize("file", ["file_name", "file", "image", "filename", "File_Name"])
@pytest.mark.parametrize("caption", ["prompt", "text", "caption"])
def test_table_columns_by_any_of_their_names(tmp_path: Path, file: str, caption: str) -> None:
    folder_with(tmp_path, ["a.png"], metadata__csv=f"{caption},{file}\nred fox,a.png\n")
    assert scan(tmp_path).items == [Item(tmp_path / "a.png", "red fox")]


@pytest.mark.parametrize(
    "text",
    [
        'file_name,prompt\na.png,"red, quick fox"\n',
        '\ufefffile_name,prompt\r\na.png,"red, quick fox"\r\n',
        'a.png,"red, quick fox"\n',
        "a.png,red, quick fox\n",
        "file_name,prompt\na.png,red, quick fox\n",
        "file_name;prompt\na.png;red, quick fox\n".replace("red, quick", "red, quick"),
        "prompt\tfile_name\nred, quick fox\ta.png\n",
        'file_name,prompt\n\na.png,"red,\nquick   fox"\n',
    ],
    ids=["quoted", "BOM and CRLF", "no header", "no header, unquoted", "unquoted", "semicolon", "tab", "line break"],
)
def test_table_spellings(tmp_path: Path, text: str) -> None:
    folder_with(tmp_path, ["a.png"], metadata__csv=text)
    assert [item.caption for item in scan(tmp_path).items] == ["red, quick fox"]


def test_table_elsewhere_names_files_of_the_folder(tmp_path: Path) -> None:
    folder_with(tmp_path / "data", ["sub/a.png"])
    table = tmp_path / "captions.csv"
    table.write_text("image,text\nsub\\a.png,fox\n")
    assert scan(tmp_path / "data", table).items == [Item(tmp_path / "data/sub/a.png", "fox")]


def test_rows_that_name_no_file_or_name_it_twice_are_problems_with_their_row(tmp_path: Path) -> None:
    folder_with(tmp_path, ["a.png"], metadata__csv="file_name,prompt\na.png,fox\nb.png,owl\na.png,fox again\n")
    dataset = scan(tmp_path)
    assert [(p.code, p.picture) for p in dataset.problems] == [("missing file", "b.png"), ("doubled row", "a.png")]
    with pytest.raises(DatasetError, match=r"metadata.csv row 3: 'b.png' is not in .*; correct .* \(and 1 more"):
        dataset.require()


def test_pictures_beside_the_table_are_reported_and_left_out(tmp_path: Path) -> None:
    folder_with(tmp_path, ["a.png", "b.png"], metadata__csv="file_name,prompt\na.png,fox\n")
    dataset = scan(tmp_path)
    assert [item.path.name for item in dataset.items] == ["a.png"]
    assert dataset.unlisted == [tmp_path / "b.png"]


def test_json_lines_of_the_hugging_face_image_folder(tmp_path: Path) -> None:
    folder_with(tmp_path, ["a.png"], metadata__jsonl=json.dumps({"file_name": "a.png", "text": "fox"}) + "\n")
    assert scan(tmp_path).items == [Item(tmp_path / "a.png", "fox")]


def test_sidecars_txt_before_caption(tmp_path: Path) -> None:
    folder_with(
        tmp_path, ["a.png", "b.jpg", "c.webp"], a__txt="\ufeffred fox\n", a__caption="other", b__caption=" owl "
    )
    assert [item.caption for item in scan(tmp_path).items] == ["red fox", "owl", ""]


def test_kohya_folders_give_repeats_and_their_name_where_no_caption_is(tmp_path: Path) -> None:
    folder_with(tmp_path, ["10_red fox/a.png", "10_red fox/b.png", "2_owl/c.png", "backup/d.png"])
    (tmp_path / "10_red fox" / "a.txt").write_text("a red fox, sleeping")
    dataset = scan(tmp_path)
    assert [(i.path.name, i.caption, i.repeats) for i in dataset.items] == [
        ("a.png", "a red fox, sleeping", 10),
        ("b.png", "red fox", 10),
        ("c.png", "owl", 2),
    ]
    assert dataset.ignored == [tmp_path / "backup"]


def test_pointing_at_the_numbered_folder_itself_shows_each_picture_once(tmp_path: Path) -> None:
    """kohya's scripts read repeats of subfolders alone; people point at either level: bmaltais/kohya_ss#216, #986."""
    folder_with(tmp_path / "5_owl", ["a.png"])
    dataset = scan(tmp_path / "5_owl")
    assert dataset.items == [Item(tmp_path / "5_owl" / "a.png", "owl", 1)]
    assert "5 times" in next(one.mend for one in dataset.left_out if one.code == "folder name")


@given(st.integers(1, 9999), st.text(st.characters(codec="ascii", exclude_characters="\n\r"), max_size=20))
def test_repeats_are_read_back_from_any_name(repeats: int, name: str) -> None:
    assert split_repeats(f"{repeats}_{name}") == (repeats, name.strip())


@pytest.mark.parametrize("name", ["fox", "fox_10", "_fox", "ten_fox", "-3_fox"])
def test_other_names_are_not_repeats(name: str) -> None:
    assert split_repeats(name) is None


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30), min_size=1, max_size=4))
def test_written_tables_read_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    root = folder_with(tmp_path_factory.mktemp("t"), [f"{i}.png" for i in range(len(texts))])
    captions = [" ".join(text.split()) for text in texts]
    items = [Item(root / f"{i}.png", caption, 1 + i) for i, caption in enumerate(captions)]
    write_table(scan(root), items)
    assert scan(root).items == items


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "nowhere does not exist"),
        (lambda p: p, "holds no pictures"),
        (lambda p: folder_with(p, ["a.png"]) / "a.png", "is a file, not a folder"),
        (lambda p: folder_with(p, ["a.png"], metadata__csv="name,words\na.png,fox\n"), "no file name column"),
        (lambda p: folder_with(p, ["a.png"], metadata__csv="file_name,words\na.png,fox\n"), "no caption column"),
        (lambda p: folder_with(p, [], metadata__csv="file_name,prompt\na.png,fox\n"), "'a.png' is not in"),
        (lambda p: folder_with(p, [], metadata__csv="file_name,prompt\n"), "lists no pictures"),
        (lambda p: folder_with(p, [], metadata__jsonl="{"), "line 1 is not JSON"),
    ],
    ids=["missing", "empty", "file", "no file column", "no caption column", "no file", "no rows", "bad json"],
)
def test_unusable_folders_are_one_line(tmp_path: Path, make: object, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        scan(make(tmp_path))  # type: ignore[operator]
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def test_captions_in_another_encoding_are_all_named(tmp_path: Path) -> None:
    """Akegarasu/lora-scripts#218, #219, #440; kohya-ss/sd-scripts#513."""
    folder_with(tmp_path, ["a.png", "b.png", "c.png"], c__txt="fox")
    (tmp_path / "a.txt").write_bytes("红狐".encode("gb18030"))
    (tmp_path / "b.txt").write_bytes(b"f\0o\0x\0")
    dataset = scan(tmp_path)
    assert [(p.code, p.picture) for p in dataset.problems] == [("unreadable caption", n) for n in ("a.png", "b.png")]
    with pytest.raises(DatasetError, match=r"a\.txt is not UTF-8 .*; save it again as UTF-8 \(and 1 more"):
        dataset.require()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_captions_whose_file_names_its_encoding_are_read(tmp_path: Path, encoding: str) -> None:
    folder_with(tmp_path, ["a.png"])
    (tmp_path / "a.txt").write_bytes("一只狐狸".encode(encoding))
    assert scan(tmp_path).items[0].caption == "一只狐狸" and not scan(tmp_path).problems
