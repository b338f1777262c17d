"""Errors and lines of progress in the reader's language: whole, with their names and numbers, or as they are."""

from __future__ import annotations

import ast
import html
import json
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.dataset import check
from lora_eval.errors import LoraEvalError
from lora_eval.i18n import language
from lora_eval.i18n.language import FOLDER, localized, speak
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.jobs import JobQueue, JobState
from lora_eval.ui import request, text
from lora_eval.ui.controller import Controller
from tests.fakes_scorecard import FakeHost, make_references
from tests.report.templates import ERRORS, NOTES, ROOT, in_errors, in_sentences

LANGUAGES = [name for name in language.names() if name != language.ENGLISH]

# put together from other templates in the source; the catalogue has them as they come out
ERRORS_TOGETHER = {
    "{0} is {1}; {2}": ["{0} is {1}; write a whole number from {2} to {3}",
                        "{0} is {1}; write a number above {2} to {3}",
                        "{0} is {1}; write one of {2}", "{0} is {1}; write true or false",
                        "{0} is {1}; write a text, in quotation marks where YAML takes it for something else"],
    "{0} is empty; {1}": ["{0} is empty; write a whole number from {1} to {2}", "{0} is empty; write one of {1}"],
    " (did you mean ": [" (did you mean {0}?)"],
    "{0}, {1} of the start": ["step {0}/{1}, loss {2}, {3} of the start", "step {0}/{1}, loss {2}"],
    " of the start": [],
    "this is not YAML{0}; write `key: value` lines": ["this is not YAML; write `key: value` lines",
                                                      "this is not YAML in line {0}; write `key: value` lines"],
    "{0}{1}: {2}; correct the YAML": ["{0}: {1}; correct the YAML", "{0} line {1}: {2}; correct the YAML"],
    "{0}{1}: not valid YAML ({2})": ["{0}: not valid YAML ({1})"],
    "{0} holds another run: {1}{2}; choose another folder or ask for the same":
        ["{0} holds another run: {1}; choose another folder or ask for the same",
         "{0} holds another run: {1} (and {2} more); choose another folder or ask for the same"],
    "no layer for LoRA preset {0}{1} in {2}: looked for {3}; is this the UNet of SD1, SD2 or SDXL?":
        ["no layer for LoRA preset {0} in {1}: looked for {2}; is this the UNet of SD1, SD2 or SDXL?",
         "no layer for LoRA preset {0} in blocks {1} in {2}: looked for {3}; is this the UNet of SD1, SD2 or SDXL?"],
    "no chosen LoRA is checkpoint {0}; there are {1}":
        ["no chosen LoRA is checkpoint {0}; there are {1}",
         "no chosen LoRA is checkpoint {0}; there are none with a number"],
    "{0} takes {1} latent channels ({2}); choose an ordinary checkpoint":
        ["{0} takes {1} latent channels (inpainting, depth or edit model); choose an ordinary checkpoint"],
    "{0}: {1}: no LoRA keys among {2} (first: {3}); expected keys such as lora_unet_...lora_down.weight":
        [f"{{0}}: {what}: no LoRA keys among {{1}} (first: {{2}}); expected keys such as lora_unet_...lora_down.weight"
         for what in ("a full checkpoint, not a LoRA", "not a LoRA")],
    "{0}: a LoRA for {1} ({2}), the model is {3}; use a model of its own family":
        ["{0}: a LoRA for {1} (its context width is {2}), the model is {3}; use a model of its own family",
         "{0}: a LoRA for {1} (its metadata says so), the model is {2}; use a model of its own family"],
    "the {0} is {1} at step {2}": ["the loss is {0} at step {1}", "the gradient is {0} at step {1}"],
}  # fmt: skip


def catalogue(name: str) -> dict[str, str]:
    """Sentences of the scorecard."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def errors(name: str) -> dict[str, str]:
    return catalogue(f"{language.ERRORS}/{name}")


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_error_that_a_user_of_the_tabs_meets_has_a_translation(name: str) -> None:
    known = {**catalogue(name), **errors(name)}
    said_by = {template: module for module in ERRORS for template in in_errors(ROOT / module)}
    assert (
        len(said_by) > 280
        and "{0}: no prompts; add at least one" in said_by
        and "encoding picture {0} of {1}" in said_by
    )
    wanted = {one: module for template, module in said_by.items() for one in ERRORS_TOGETHER.get(template, [template])}
    assert [f"{where}: {one!r}" for one, where in wanted.items() if not known.get(one, "").strip()] == []


FINDINGS_TOGETHER = {
    "{0} is in {1} of the captions: {2} the concept": [f"{{0}} is in {{1}} of the captions: {word} the concept"
                                                       for _, _, word in check.FUSED],
    "its caption has {0}{1} tokens, {2} fit into one pass of the encoder":
        ["its caption has about {0} tokens, {1} fit into one pass of the encoder"],
}  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_finding_and_note_has_a_translation_in_one_of_the_catalogues(name: str) -> None:
    webui = json.loads((ROOT.parent / "localizations" / f"{name}.json").read_text(encoding="utf-8"))
    known = {*catalogue(name), *errors(name), *webui}
    codes = {node.args[1].value for node in ast.walk(ast.parse((ROOT / "dataset/check.py").read_text(encoding="utf-8")))
             if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding"
             and isinstance(node.args[1], ast.Constant)}  # fmt: skip
    codes |= {word for _, _, word in check.FUSED} | {"near duplicate", "the table", "out of memory"}
    said_by = {template: module for module in NOTES for template in in_sentences(ROOT / module)}
    wanted = {
        one: module for template, module in said_by.items() for one in FINDINGS_TOGETHER.get(template, [template])
    }
    assert len(wanted) > 60
    assert [f"{where}: {one!r}" for one, where in wanted.items() if one not in known | codes] == []


@pytest.mark.parametrize("name", LANGUAGES)
def test_translated_errors_have_the_same_holes_and_stand_in_one_catalogue(name: str) -> None:
    assert not set(errors(name)) & set(catalogue(name))
    for english, other in errors(name).items():
        holes = [sorted(re.findall(r"\{\d\}", one)) for one in (english, other)]
        assert sorted(set(holes[0])) == sorted(set(holes[1])), english
        # two holes side by side could be cut anywhere
        assert "}{" not in english and english != other, english


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("step 120/400, loss 0.1234", "第 120/400 步,损失 0.1234"),
        ("step 120/400, loss 0.1234, 0.912 of the start", "第 120/400 步,损失 0.1234,为起始的 0.912 倍"),
        ("encoding picture 3 of 20", "正在编码第 3 张图片,共 20 张"),
        ("lora_rank is '0'; write a whole number from 1 to 1024", "lora_rank 是 '0';请写不小于 1 且不大于 1024 的整数"),
        ("epochs is empty; write a whole number from 1 to 100", "epochs 为空;请写不小于 1 且不大于 100 的整数"),
        ("preset is 'ful'; write one of attention, full (did you mean full?)",
         "preset 是 'ful';请写 attention, full 之一(是否指 full?)"),
        ("unknown setting 'rank'; did you mean lora_rank?", "未知的设置 'rank';是否指 lora_rank?"),
        ("/home/me/my pictures does not exist; give the folder with the training pictures",
         "/home/me/my pictures 不存在;请给出存放训练图片的文件夹"),
        ("a budget of 3 pictures is too small: the first round needs 24; raise it, or take fewer checkpoints or "
         "prompts",
         "3 张图片的预算太小:第一轮就需要 24 张;请提高预算,或减少检查点或提示词"),
        ('kind "weak" is none of style, character, object', "类型“weak”不是 style, character, object 之一"),
        ("LoRA training cannot start while LoRA scorecard runs; wait for it or interrupt it",
         "LoRA scorecard 运行时无法开始 LoRA training;请等待它结束或中断它"),
        ("tiny is loaded, but this run began with v1-5; load v1-5 and press Resume",
         "已加载 tiny,但这次运行是以 v1-5 开始的;请加载 v1-5 后按“继续”"),
        ("training diverged: the loss is nan at step 3; nothing was saved before, lower learning_rate (a tenth is a "
         "good start) or add warmup_steps",
         "训练发散:损失在第 3 步是 nan;此前没有保存任何内容,"
         "请降低 learning_rate(从十分之一开始较好)或增加 warmup_steps"),
        ("cannot compare: the model is a in /x/one and b in /x/two; score one of them again with the other's model",
         "无法比较:模型在 /x/one 中是 a,在 /x/two 中是 b;请用另一次的 model 重新评分其中一次"),
        ("/loras/fox.safetensors: a LoRA for sdxl (its metadata says so), the model is sd1; use a model of its own "
         "family", "/loras/fox.safetensors:这是 sdxl 的 LoRA(依据其元数据),而模型是 sd1;请使用同系列的模型"),
        ("/loras/fox.safetensors: a LoRA for sd2 (its context width is 1024), the model is sd1; use a model of its own "
         "family", "/loras/fox.safetensors:这是 sd2 的 LoRA(其上下文宽度为 1024),而模型是 sd1;请使用同系列的模型"),
        ("/d/x.safetensors: a full checkpoint, not a LoRA: no LoRA keys among 300 (first: 'a.b'); expected keys such "
         "as lora_unet_...lora_down.weight",
         "/d/x.safetensors:是完整模型,不是 LoRA:300 个键中没有 LoRA 键(第一个:'a.b');"
         "应有 lora_unet_...lora_down.weight 之类的键"),
        ("no chosen LoRA is checkpoint 7; there are none with a number", "所选的 LoRA 中没有检查点 7;它们都没有编号"),
        ("metadata.csv row 3: 'cat.png' is not in /data; correct the name or delete the row (and 2 more, see `check`)",
         "metadata.csv 第 3 行:'cat.png' 不在 /data 中;请更正名称或删除该行(还有 2 处,见 `check`)"),
    ],
)  # fmt: skip
def test_errors_and_progress_are_told_with_their_names_and_numbers(english: str, chinese: str) -> None:
    with speak("zh_CN"):
        assert localized(english) == chinese
    assert localized(english) == english


def _fillings(template: str, number: int) -> tuple[str, list[str]]:
    """The template with a name, a path and numbers in its holes."""
    values = ["fox-000100", "/data/my_set/1.png", "24", "0.75", "'x'", "plain.csv"]
    chosen = [values[(number + at) % len(values)] for at in range(10)]
    return re.sub(r"\{(\d)\}", lambda hole: chosen[int(hole[1])], template), chosen


@pytest.mark.parametrize("name", LANGUAGES)
def test_names_paths_and_numbers_come_through_every_error(name: str) -> None:
    for number, template in enumerate(errors(name)):
        line, values = _fillings(template, number)
        with speak(name):
            found = localized(line)
        assert found != line, line
        for hole in set(re.findall(r"\{(\d)\}", template)):
            assert values[int(hole)] in found, (line, found)


@pytest.mark.parametrize(
    "line",
    ["", "CUDA error: device-side assert triggered", "ValueError: expected 3 values, got 2", "一行中文",
     "the hamster sits on the wheel; feed it", "no LoRA is chosen by the hamster"],
)  # fmt: skip
def test_an_unknown_error_is_shown_as_it_is(line: str) -> None:
    with speak("zh_CN"):
        assert localized(line) == line


@given(st.text(alphabet=string.ascii_letters + string.digits + " .,;:(){}<>\"'%-\n", max_size=120))
def test_any_line_can_be_told(line: str) -> None:
    with speak("zh_CN"):
        assert isinstance(localized(line), str)
    assert localized(line) == line


# -- as they are met in the tabs -------------------------------------------------------------------------

GOOD = {"train_data_dir": "pictures", "name": "fox"}
MISTAKES: dict[str, Callable[[Controller, Path], Any]] = {
    "no folder": lambda controller, at: controller.check("", None, "", None),
    "folder gone": lambda controller, at: controller.check(str(at / "gone"), None, "", 64),
    "a file": lambda controller, at: controller.check(str(at / "file.txt"), None, "", 64),
    "empty folder": lambda controller, at: controller.check(str(at / "empty"), None, "", 64),
    "table gone": lambda controller, at: controller.check(str(at), str(at / "gone.csv"), "", 64),
    "resolution": lambda controller, at: controller.check(str(at), None, "", "huge"),
    "no trigger": lambda controller, at: controller.add_trigger(str(at), None, " "),
    "train nothing": lambda controller, at: controller.train({}),
    "train folder gone": lambda controller, at: controller.train({**GOOD, "train_data_dir": str(at / "gone")}),
    "rank": lambda controller, at: controller.train({**GOOD, "lora_rank": 0}),
    "rank text": lambda controller, at: controller.train({**GOOD, "lora_rank": "many"}),
    "learning rate": lambda controller, at: controller.train({**GOOD, "learning_rate": -1}),
    "epochs empty": lambda controller, at: controller.train({**GOOD, "epochs": ""}),
    "preset": lambda controller, at: controller.train({**GOOD, "preset": "ful"}),
    "truth value": lambda controller, at: controller.train({**GOOD, "publish": "perhaps"}),
    "name": lambda controller, at: controller.train({**GOOD, "name": "a/b"}),
    "betas": lambda controller, at: controller.train({**GOOD, "betas": [1]}),
    "unknown setting": lambda controller, at: controller.train({**GOOD, "rank": 4}),
    "no such setting": lambda controller, at: controller.train({**GOOD, "qqqqq": 4}),
    "stop without measuring": lambda controller, at: controller.train({**GOOD, "sample_early_stop": 2}),
    "yaml": lambda controller, at: controller.from_yaml("a: [1"),
    "yaml list": lambda controller, at: controller.from_yaml("- 1"),
    "preset gone": lambda controller, at: controller.load_preset("none"),
    "preset name": lambda controller, at: controller.save_preset("a:b", {}),
    "settings gone": lambda controller, at: controller.from_file(at / "gone.yaml"),
    "no checkpoint": lambda controller, at: controller.propose(at),
    "no LoRA": lambda controller, at: controller.score(ScoreRequest([])),
    "weights": lambda controller, at: controller.score(ScoreRequest([at / "a"], weights="0-")),
    "weights empty": lambda controller, at: controller.score(ScoreRequest([at / "a"], weights=" ")),
    "budget": lambda controller, at: controller.score(ScoreRequest([at / "a"], preset="adaptive", budget=2)),
    "no budget": lambda controller, at: controller.score(ScoreRequest([at / "a"], preset="adaptive", budget=0)),
    "both budgets": lambda controller, at: controller.score(
        ScoreRequest([at / "a"], preset="adaptive", budget=90, minutes=9)
    ),
    "minutes": lambda controller, at: controller.score(ScoreRequest([at / "a"], preset="adaptive", minutes=9)),
    "suite": lambda controller, at: controller.score(ScoreRequest([at / "a"], suite="none")),
    "axes": lambda controller, at: request.make_request({"x_axis": "seed", "y_axis": "seed"}, {}),
    "steps": lambda controller, at: request.make_request({"steps": "0"}, {}),
    "width": lambda controller, at: request.make_request({"width": "65"}, {}),
    "cfg": lambda controller, at: request.make_request({"cfg_scale": "-1"}, {}),
    "LoRA gone": lambda controller, at: request.make_request({"loras": ["gone"]}, {}),
    "one run": lambda controller, at: controller.compare([at]),
    "no run": lambda controller, at: controller.compare([at, at / "empty"]),
    "at": lambda controller, at: controller.use_weight(at, "fox", "much"),
    "run without plan": lambda controller, at: controller.use_weight(at, "fox", "1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_tab_is_told_in_the_readers_language(mistake: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    controller = Controller(lambda: FakeHost(tmp_path), JobQueue())
    with pytest.raises(LoraEvalError) as caught:
        MISTAKES[mistake](controller, tmp_path)
    line = str(caught.value)
    with speak("zh_CN"):
        found = localized(line)
    assert found != line and re.search("[\u4e00-\u9fff]", found), line
    for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", line):
        assert number in found, (line, found)


def test_the_page_tells_progress_errors_and_pauses() -> None:
    pytest.importorskip("gradio")
    from lora_eval.ui import render

    running = JobState("1", "train", "fox", "running", 3, 400, "step 3/400, loss 0.1234", 60.0)
    failed = JobState("1", "train", "fox", "failed", error="no LoRA is chosen; name at least one")
    with speak("zh_CN"):
        assert "第 3/400 步,损失 0.1234" in html.unescape(render.job(running, None, ""))
        assert "没有选择 LoRA;请至少选一个" in html.unescape(render.job(failed, None, ""))
        assert "CUDA error: &lt;x&gt;" in render.message("CUDA error: <x>")
    assert "step 3/400, loss 0.1234" in render.job(running, None, "")


def test_findings_of_the_dataset_are_told_and_name_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from lora_eval.ui import render

    make_references(tmp_path, 3)
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "metadata.csv").write_text("file_name,prompt\n0.png,a fox\n1.png,a fox\n3.png,a fox\n4.png,no\n")
    found = Controller(lambda: FakeHost(tmp_path), JobQueue()).check(str(tmp_path), None, "zorp", 512)
    with speak("zh_CN"):
        page = html.unescape(render.checked(found))
    for words in ("只有 2 张图片", "64 x 64 被放大 8.00 倍到 512 x 512", "没有任何标注含有触发词 'zorp'",
                  "是空文件(0 字节)", "metadata.csv 中没有列出,因此不参与训练",
                  "metadata.csv 第 5 行:'4.png' 不在"):  # fmt: skip
        assert words in page, words
    assert "2.png" in page and "3.png" in page


def test_texts_of_the_tabs_are_left_to_the_webuis_own_script() -> None:
    """It looks them up whole, so none may be changed on the way."""
    ours = json.loads((ROOT.parent / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
    lines = [value for value in vars(text).values() if isinstance(value, str)] + list(text.WORDS.values())
    with speak("zh_CN"):
        assert [line for line in lines if localized(line) not in (line, ours.get(line))] == []
