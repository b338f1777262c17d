"""Editing captions: what changes, what stays letter by letter, and the files it is written to."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_eval.dataset.caption_edit import (
    Edit,
    captioned,
    changes,
    diff,
    edit_captions,
    form_of,
    remove_term,
    set_trigger,
    write_changes,
)
from lora_eval.dataset.folder import scan
from lora_eval.errors import DatasetError, RunError

PARTS = st.sampled_from(["zorp", "a zorp", "red fox", "snow", "zorps", "", " fog "])
WORDS = st.lists(PARTS, max_size=6).map(", ".join)


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (32, 32), "red").save(folder / name)
    return folder


class TestTrigger:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("", "zorp"),
            ("red fox, snow", "zorp, red fox, snow"),
            ("zorp, red fox", "zorp, red fox"),
            ("red fox, zorp", "zorp, red fox"),
            ("red fox, ZORP, snow", "ZORP, red fox, snow"),
            ("zorp, red fox, zorp", "zorp, red fox"),
            ("a photo of zorp, snow", "a photo of zorp, snow"),
            ("zorps in snow", "zorp, zorps in snow"),
        ],
    )
    def test_in_front_and_never_twice(self, before: str, after: str) -> None:
        assert set_trigger(before, "zorp") == after

    def test_class_word_follows_a_trigger_that_is_put_in(self) -> None:
        assert set_trigger("red", "zorp", "toy") == "zorp toy, red"
        assert set_trigger("zorp toy, red", "zorp", "toy") == "zorp toy, red"
        assert set_trigger("red, zorp toy", "zorp", "toy") == "zorp toy, red"

    def test_no_trigger_changes_nothing(self) -> None:
        assert set_trigger("a  b,, c", " ") == "a  b,, c"

    @given(WORDS)
    def test_twice_is_once(self, caption: str) -> None:
        once = set_trigger(caption, "zorp")
        assert set_trigger(once, "zorp") == once
        assert [tag.strip().lower() for tag in once.split(",")].count("zorp") <= 1


class TestEdits:
    def test_plain_and_regular_expressions(self) -> None:
        assert edit_captions(["a (b)", "c"], Edit(replace=(("(b)", "d"),))) == ["a d", "c"]
        assert edit_captions(["fox 12"], Edit(replace=((r"(\w+) \d+", r"red \1"),), regex=True)) == ["red fox"]

    def test_several_in_order(self) -> None:
        edit = Edit(replace=(("a", "b"), ("b", "c")), remove=("x",), prepend="front", append="back", trigger="zorp")
        assert edit_captions(["a, x, y"], edit) == ["zorp, front, c, y, back"]

    def test_remove_takes_whole_words_only(self) -> None:
        assert remove_term("red fox, infrared, Red", "red") == "fox, infrared"
        assert remove_term("a, b", "c") == "a, b"

    def test_what_nothing_touches_stays_letter_by_letter(self) -> None:
        odd = "two  blanks,,and , commas"
        assert edit_captions([odd], Edit(replace=(("x", "y"),), remove=("z",))) == [odd]

    @given(WORDS, st.sampled_from(["fog", "red fox"]))
    def test_prepend_and_append_twice_is_once(self, caption: str, term: str) -> None:
        for edit in (Edit(prepend=term), Edit(append=term)):
            once = edit_captions([caption], edit)
            assert edit_captions(once, edit) == once

    @pytest.mark.parametrize(
        "edit", [Edit(replace=(("(", ""),), regex=True), Edit(replace=(("", "x"),)), Edit(remove=(" ",))]
    )
    def test_an_edit_that_means_nothing_is_one_line(self, edit: Edit) -> None:
        with pytest.raises(DatasetError) as info:
            edit_captions(["a"], edit)
        assert "\n" not in str(info.value)


class TestFiles:
    def test_a_table_keeps_its_columns_rows_order_and_delimiter(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.png", "b.png", "c.png")
        table = tmp_path / "metadata.csv"
        lines = "file_name;author;prompt", "b.png;me;old, b", "gone.png;you;lost", "a.png;;old a"
        table.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
        data = scan(tmp_path)
        after = {item.path: item.caption.replace("old", "new") for item in data.items}
        assert write_changes(data, changes(data, after)) == [table]
        rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines(), delimiter=";"))
        assert rows == [
            ["file_name", "author", "prompt"], ["b.png", "me", "new, b"],
            ["gone.png", "you", "lost"], ["a.png", "", "new a"],
        ]  # fmt: skip

    def test_a_table_without_header_and_an_unquoted_caption(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.png", "b.png")
        (tmp_path / "metadata.csv").write_text("a.png,red, fox\nb.png,\n")
        data = scan(tmp_path)
        after = {data.items[0].path: "blue, fox", data.items[1].path: "new"}
        write_changes(data, changes(data, after))
        assert [item.caption for item in scan(tmp_path).items] == ["blue, fox", "new"]

    def test_windows_separators_and_subfolders(self, tmp_path: Path) -> None:
        pictures(tmp_path / "sub", "a.png")
        (tmp_path / "metadata.csv").write_text("file_name,prompt\nsub\\a.png,old\n")
        data = scan(tmp_path)
        write_changes(data, changes(data, {data.items[0].path: "new"}))
        assert (tmp_path / "metadata.csv").read_text() == "file_name,prompt\nsub\\a.png,new\n"

    def test_json_lines_keep_their_other_fields(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.png", "b.png")
        lines = [{"file_name": "a.png", "text": "old", "n": 1}, {"file_name": "b.png", "text": "stays"}]
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        data = scan(tmp_path)
        write_changes(data, changes(data, {data.items[0].path: "néw"}))
        found = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
        assert found == [{"file_name": "a.png", "text": "néw", "n": 1}, lines[1]]

    def test_sidecars_keep_their_names_and_others_stay_untouched(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.png", "b.png")
        (tmp_path / "a.caption").write_text("old")
        (tmp_path / "b.txt").write_text("stays")
        os.utime(tmp_path / "b.txt", (1, 1))
        data = scan(tmp_path)
        assert form_of(data) == "txt"
        after = {item.path: item.caption.replace("old", "new") for item in data.items}
        assert write_changes(data, changes(data, after)) == [tmp_path / "a.caption"]
        assert (tmp_path / "a.caption").read_text() == "new\n"
        assert (tmp_path / "b.txt").stat().st_mtime == 1

    def test_a_new_table_names_every_picture(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.png", "b.png")
        data = scan(tmp_path)
        assert form_of(data) == "csv"
        write_changes(data, changes(data, {data.items[0].path: "one, two"}))
        assert (tmp_path / "metadata.csv").read_text() == 'file_name,prompt\na.png,"one, two"\nb.png,\n'

    def test_from_table_to_sidecars_takes_all_captions_along(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.png", "b.png")
        (tmp_path / "metadata.csv").write_text("file_name,prompt\na.png,one\nb.png,two\n")
        data = scan(tmp_path)
        write_changes(data, changes(data, {data.items[0].path: "new"}), "txt")
        assert [(tmp_path / name).read_text() for name in ("a.txt", "b.txt")] == ["new\n", "two\n"]

    def test_a_kohya_folder_s_name_is_no_caption(self, tmp_path: Path) -> None:
        pictures(tmp_path / "10_red fox", "a.png")
        data = scan(tmp_path)
        assert data.items[0].caption == "red fox" and not captioned(data, data.items[0])
        assert form_of(data) == "txt"

    def test_nothing_changed_writes_nothing(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.png")
        (tmp_path / "metadata.csv").write_text("file_name,prompt\na.png,one")
        data = scan(tmp_path)
        assert write_changes(data, changes(data, {data.items[0].path: "one"})) == []
        assert (tmp_path / "metadata.csv").read_text() == "file_name,prompt\na.png,one"

    def test_a_failed_write_leaves_the_old_table(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pictures(tmp_path, "a.png")
        table = tmp_path / "metadata.csv"
        table.write_text("file_name,prompt\na.png,one\n")
        data = scan(tmp_path)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(RunError, match="disk is full"):
            write_changes(data, changes(data, {data.items[0].path: "new"}))
        assert table.read_text() == "file_name,prompt\na.png,one\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "metadata.csv"]

    def test_a_row_that_went_away_meanwhile(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.png")
        table = tmp_path / "metadata.csv"
        table.write_text("file_name,prompt\na.png,one\n")
        data = scan(tmp_path)
        table.write_text("file_name,prompt\n")
        with pytest.raises(DatasetError, match=r"no row for a\.png any more"):
            write_changes(data, changes(data, {data.items[0].path: "new"}))

    def test_diff_shows_old_and_new_by_file(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.png", "b.png")
        (tmp_path / "a.txt").write_text("old")
        data = scan(tmp_path)
        shown = diff(changes(data, {data.items[0].path: "new", data.items[1].path: "first"}))
        assert shown.splitlines() == ["--- a.png", "+++ a.png", "-old", "+new", "--- b.png", "+++ b.png", "+first"]
