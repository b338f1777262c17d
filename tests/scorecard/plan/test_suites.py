"""Prompt suites: shipped ones, the user's own, and what is refused."""

from __future__ import annotations

import pytest

from lora_eval.errors import ConfigError
from lora_eval.scorecard.data import KINDS, ROLES
from lora_eval.scorecard.plan.suites import load_suite, read_suite, suite_names

ARTICLE = {
    "portrait": "a smiling portrait of zorp, full body, studio lighting",
    "steampunk-moon": "a steampunk version of zorp drinking tea on the moon",
    "mars-bicycle": "zorp riding a bicycle on Mars, sunset, cinematic lighting",
}


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_begin_with_every_role(name):
    prompts = load_suite(name, "zorp", "cat")
    assert {prompt.role for prompt in prompts[:6]} == set(ROLES)
    assert len({prompt.id for prompt in prompts}) == len(prompts) >= 12


@pytest.mark.parametrize("name", suite_names())
def test_each_negative_prompt_has_a_twin_without_it_earlier_in_the_suite(name):
    prompts = load_suite(name, "zorp", "cat")
    for at, prompt in enumerate(prompts):
        if prompt.role == "negative":
            assert prompt.negative and prompt.negative_concept
            assert any(twin.text == prompt.text and not twin.negative for twin in prompts[:at])


@pytest.mark.parametrize("name", suite_names())
def test_the_trigger_is_drawn_and_never_shown_to_clip(name):
    for prompt in load_suite(name, "zorp", "cat"):
        assert ("zorp" in prompt.text) == (prompt.role != "unrelated")
        assert not any("zorp" in text or "[" in text for text in prompt.texts())
        if prompt.role != "unrelated":
            assert "cat" in prompt.class_text


@pytest.mark.parametrize("name", suite_names())
def test_foils_differ_from_the_text_in_the_element_alone(name):
    for prompt in load_suite(name, "zorp", "cat"):
        for element in prompt.elements:
            assert element.text == prompt.class_text
            assert len(set(element.foils)) == len(element.foils) >= 1
            assert element.text not in element.foils


def test_the_articles_own_prompts_are_in_the_character_suite():
    texts = {prompt.id: prompt.text for prompt in load_suite("character", "zorp")}
    assert {key: texts[key] for key in ARTICLE} == ARTICLE


def test_every_kind_has_a_suite():
    assert {read_suite(name).kind for name in KINDS} == set(KINDS)


def test_the_tiny_suites_say_only_what_the_tiny_model_knows():
    drawings = pytest.importorskip("tools.tiny_world.drawings")
    known = {"a", "on", "the", "in", "background", "zorp", "shape", "drawing", "plain"}
    for words in (drawings.SHAPES, drawings.COLOURS, drawings.BACKGROUNDS, drawings.TEXTURES, drawings.POSITIONS):
        known |= set(words)
    for name in ("tiny", "tiny-style"):
        for prompt in load_suite(name, "zorp"):
            for text in (prompt.text, prompt.negative, *prompt.texts()):
                assert set(text.replace(",", "").split()) <= known, text
                # 16 positions less two marks; the four letters of the trigger are a token each
                assert len(text.replace(",", " ,").split()) + 3 * ("zorp" in text) <= 14, text


def test_a_lora_without_trigger_is_asked_for_by_its_class():
    assert load_suite("character", "", "woman")[0].text == "a smiling portrait of woman, full body, studio lighting"


def test_a_style_without_trigger_is_drawn_as_if_nothing_stood_there():
    prompt = load_suite("style")[0]
    assert (prompt.text, prompt.class_text) == ("a garden with a pond", "artwork, a garden with a pond")


def test_count_takes_the_first():
    assert [p.id for p in load_suite("tiny", "zorp", count=2)] == [p.id for p in load_suite("tiny", "zorp")][:2]
    with pytest.raises(ConfigError, match="at least 1"):
        load_suite("tiny", count=0)


def test_own_csv(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "id,role,text,negative,element,swap,foils\n"
        'one,plain,"a photo of [trigger], red",,,,\n'
        "two,composition,zorp on Mars,,place,Mars,a beach|a farm\n",
        encoding="utf-8",
    )
    one, two = load_suite(path, "zorp", "cat")
    assert (one.text, one.class_text) == ("a photo of zorp, red", "a photo of cat, red")
    assert two.class_text == "cat on Mars"
    assert (two.elements[0].name, two.elements[0].foils) == ("place", ("cat on a beach", "cat on a farm"))


def test_own_csv_may_call_the_text_prompt_and_leave_out_the_rest(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt\na [subject]\nthe [class] again\n", encoding="utf-8-sig")
    assert [(p.id, p.role, p.text) for p in load_suite(path, "zorp", "cat")] == [
        ("p01", "plain", "a zorp"),
        ("p02", "plain", "the cat again"),
    ]


def test_own_yaml_may_be_a_bare_list(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("- a [trigger]\n- {text: a [class], id: b}\n", encoding="utf-8")
    path.write_text('- a [trigger]\n- {text: "a [class]", id: b}\n', encoding="utf-8")
    assert [p.text for p in load_suite(path, "zorp", "cat")] == ["a zorp", "a cat"]


def test_trigger_before_its_class_word_is_not_doubled(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text('- "photo of [trigger] [class] outside"\n', encoding="utf-8")
    prompt = load_suite(path, "sks", "dog")[0]
    assert (prompt.text, prompt.class_text) == ("photo of sks dog outside", "photo of dog outside")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompts: []", "no prompts"),
        ("prompts: [", "not valid YAML"),
        ("nothing: 1", "no list of prompts"),
        ("prompts: [{text: a, role: silly}]", 'role "silly"'),
        ("prompts: [{role: plain}]", "no text"),
        ("prompts: [{text: a, colour: b}]", 'unknown key "colour"'),
        ("prompts: [{text: a, id: b}, {text: a, id: b}]", "unique"),
        ("prompts: [{text: a, id: '../x'}]", "file names"),
        ("prompts: [{text: 'a [trigger]', role: unrelated}]", "must not name"),
        ("prompts: [{text: 'a [animal]'}]", r"\[animal\]"),
        ("prompts: [{text: 'a <lora:x:1>'}]", "tag"),
        ("prompts: [{text: a, role: negative}]", 'needs "negative"'),
        ("prompts: [{text: a hundred, elements: [{swap: red, foils: [blue]}]}]", "exactly once"),
        ("prompts: [{text: red, elements: [{swap: red, foils: [red]}]}]", "equal to the text"),
        ("prompts: [{text: red, elements: [{swap: red}]}]", 'needs "foils"'),
        ("kind: animal\nprompts: [a]", 'kind "animal"'),
        ("prompts: [3]", "not a prompt"),
    ],
)
def test_a_bad_suite_is_named_in_one_line(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as error:
        load_suite(path, "zorp", "cat")
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_no_such_suite_names_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="character, object, style, tiny"):
        load_suite(tmp_path / "none.yaml")


def test_not_utf8_and_no_text_column(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\nd\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        load_suite(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("id,role\na,plain\n", encoding="utf-8")
    with pytest.raises(ConfigError, match='no column "text"'):
        load_suite(tmp_path / "b.csv")
