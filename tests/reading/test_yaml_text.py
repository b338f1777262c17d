"""YAML in which a text keeps its spelling, and that contradicts itself nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.dataset.autocaption import load_terms
from lora_eval.errors import ConfigError
from lora_eval.reading.yaml_text import YamlError, parse
from lora_eval.scorecard.plan.suites import load_suite
from lora_eval.training.config import dump_config, load_config, make_config, parse_overrides

# each is something else in YAML 1.1. Reported: aaubry/YamlDotNet#447 (0008), canonical/cloud-init#6127 and
# openvpi/DiffSinger#291 (no), hiyouga/LlamaFactory#4014, huggingface/trl#1450 (2e-4), Noble-Lab/casanovo#64
SPELLINGS = ["007", "0008", "010", "0123", "1.10", "1_000", "0x10", "0o17", "0b1", "12:30", "1:2:3", "2024-01-01",
             "2024-01-01 10:00:00", "yes", "no", "No", "on", "OFF", "y", "N", "True", "FALSE", "Null", "NULL", "none",
             ".5", "1.", "1e3", "2e-4", "+5", ".inf", ".NaN", "=", "-0"]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_text_without_quotation_marks_keeps_its_spelling(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "a.yaml").write_text(f"trigger: {spelling}\nsample_prompts:\n- {spelling}\n")
    config = load_config(tmp_path / "a.yaml")
    assert config.trigger == spelling and config.sample_prompts == [spelling]
    assert make_config(parse_overrides([f"trigger={spelling}"])).trigger == spelling


@pytest.mark.parametrize("text", ["true", "null"])
def test_what_has_no_other_spelling_asks_for_quotation_marks(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"trigger: {text}\n")
    with pytest.raises(ConfigError, match=r"trigger is .*; write a text, in quotation marks"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(f"trigger: '{text}'\n")
    assert load_config(tmp_path / "a.yaml").trigger == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("2e-4", 2e-4), ("2.0E-4", 2e-4), ("0.0002", 2e-4), ("1e-05", 1e-5), (".5", 0.5), ("1_0.5", 10.5), ("1", 1.0)],
)
def test_numbers_keep_their_value(tmp_path: Path, text: str, value: float) -> None:
    (tmp_path / "a.yaml").write_text(f"learning_rate: {text}\nepochs: 1_000\nflip: yes\nshuffle_caption: True\n")
    if value <= 10:
        assert load_config(tmp_path / "a.yaml").learning_rate == value
        config = make_config(parse_overrides([f"learning_rate={text}", "flip=on", "max_steps="]))
        assert (config.learning_rate, config.flip, config.max_steps) == (value, True, None)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (r'"C:\train\new"', r"C:\train\new"),
        (r'"C:\\train\\new"', r"C:\train\new"),
        (r"'C:\train\new'", r"C:\train\new"),
        (r"C:\train\new", r"C:\train\new"),
        (r'"C:\Users\x"', r"C:\Users\x"),
        (r'"C:\Users\x\"', "C:\\Users\\x\\"),
        (r'"\\server\share\new"', r"\\server\share\new"),
        (r'"\\\\server\\share"', r"\\server\share"),
    ],
)
def test_windows_paths_in_any_quotation_marks(tmp_path: Path, text: str, path: str) -> None:
    (tmp_path / "a.yaml").write_text(f"train_data_dir: {text}\n")
    assert load_config(tmp_path / "a.yaml").train_data_dir == path


def test_a_relative_path_that_became_control_characters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('train_data_dir: "data\\new"\n')
    with pytest.raises(ConfigError, match=r"train_data_dir is 'data\\new', no path; write it in single quotes"):
        load_config(tmp_path / "a.yaml")


def test_texts_on_the_command_line_are_taken_as_typed() -> None:
    values = parse_overrides([r"train_data_dir=C:\new\train", "trigger=#1 fox: red", "name='007'", "base_model=null"])
    assert values == {"train_data_dir": r"C:\new\train", "trigger": "#1 fox: red", "name": "007", "base_model": None}
    with pytest.raises(ConfigError, match="trigger is given twice"):
        parse_overrides(["trigger=a", "trigger=b"])


def test_a_key_that_stands_twice_is_an_error_that_names_both_lines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("trigger: fox\nepochs: 3\ntrigger: owl\n")
    with pytest.raises(ConfigError, match=r"a\.yaml line 3: 'trigger' is set a second time \(first in line 1\)"):
        load_config(tmp_path / "a.yaml")
    with pytest.raises(YamlError, match="line 1: 'b' is set"):
        parse("a: {b: 1, b: 2}")
    assert parse("on: 1\n007: 2\n") == {"on": 1, "007": 2}
    assert parse("x: {b: 1}\ny: {b: 3}")["y"] == {"b": 3}


@pytest.mark.parametrize(
    "text", ["x: &q {b: 1}\ny: *q", "x: &q [1]", "- &a a\n- *a", "a: *b", "a: &a [&b [1, 1], *b, *b, *b]\nc: [*a, *a]"]
)
def test_anchors_and_aliases_are_refused_by_their_line(text: str) -> None:
    """A few lines of them stand for billions of values; nokogiri and PyYAML alike expand them (yaml/pyyaml#235)."""
    with pytest.raises(YamlError, match=r"line \d: anchors .* are not read; write the value out"):
        parse(text)


def test_suites_and_terms_keep_their_texts(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "class_word: 007\nprompts:\n- id: 0123\n  text: a [class] says yes\n"
        "  elements: [{swap: yes, foils: [no, 1.10, on]}]\n"
    )
    (prompt,) = load_suite(tmp_path / "s.yaml")
    assert (prompt.id, prompt.text) == ("0123", "a 007 says yes")
    assert prompt.elements[0].foils == ("a 007 says no", "a 007 says 1.10", "a 007 says on")
    (tmp_path / "t.yaml").write_text('sign: {prompt: "a sign with {}", terms: ["", yes, 1.10, 007]}\n')
    assert load_terms(tmp_path / "t.yaml")[0].terms == ("", "yes", "1.10", "007")
    (tmp_path / "t.yaml").write_text("sign: {prompt: a, terms: [a, null]}\n")
    with pytest.raises(ConfigError, match="is no list of caption terms"):
        load_terms(tmp_path / "t.yaml")
    (tmp_path / "t.yaml").write_text("sign: {prompt: a, terms: [a]}\nsign: {prompt: b, terms: [b]}\n")
    with pytest.raises(ConfigError, match="line 2: 'sign' is set a second time"):
        load_terms(tmp_path / "t.yaml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_configs_in_marked_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "a.yaml").write_bytes((mark + "trigger: 红狐\n").encode(encoding))
    assert load_config(tmp_path / "a.yaml").trigger == "红狐"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20))
def test_any_text_that_is_written_is_read_back(text: str) -> None:
    config = make_config({"trigger": text, "sample_negative": text})
    again = make_config(parse(dump_config(config)))
    assert again == config


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda v: st.lists(v, max_size=3)))
def test_what_pyyaml_writes_means_the_same(value: object) -> None:
    def plain(found: object) -> object:
        return [plain(one) for one in found] if isinstance(found, list) else found

    assert plain(parse(yaml.safe_dump(value, allow_unicode=True))) == value
