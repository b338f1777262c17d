"""What the tab and the report say can be said in every language, sentence by sentence."""

from __future__ import annotations

import html
import json
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lora_eval
from lora_eval.errors import ConfigError
from lora_eval.i18n import language
from lora_eval.i18n.language import FOLDER, said, speak, t
from lora_eval.report import words
from lora_eval.report.cells import SCRIPT_WORDS
from lora_eval.report.page import render
from lora_eval.scorecard.decision.decide import decide
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.dimensions.registry import NAMES as DIMENSIONS
from tests.report.templates import PAGES, ROOT, SENTENCES, in_sentences, translated_calls
from tests.scorecard.synthetic_run import make_run

LANGUAGES = [name for name in language.names() if name != language.ENGLISH]
WORDS = {
    *DIMENSIONS, "good", "weak", "poor", "not measured", "converged", "still falling", "flat", "oscillating",
    "diverged", "overfit", "too short", "copies", "collapse", "distortion", "monotony", "smoothness", "unbroken",
    "room", "movement", "higher is better", "lower is better", "recommended", "tie",
}  # fmt: skip
# put together from other templates in the source; the catalogue has them as they come out
TOGETHER = {
    "{0} {1} at weight {2}": ["Use {0} at weight {1}",
                              "Not surely better than no LoRA; the best guess is {0} at weight {1}"],
    "Not surely better than no LoRA; the best guess is": [],
    "{0} ({1} to {2})": ["({0} to {1})"],
    "not measured: ": ["not measured: {0}"],
    "{0} at weight {1}, which another dimension forbids; here {2}":
        [" at weight {0}, which another dimension forbids; here "],
    "at weight {0}, where the concept shows: {1}": ["at weight {0}, where the concept shows: "],
    "weakest part: {0} {1}": ["weakest part: "],
    "{0} {1}: ahead of {2}, behind in nothing{3}{4}.": ["Take {0}: ahead of {1}, behind in nothing",
                                                        "Likely {0}: ahead of {1}, behind in nothing",
                                                        "Take {0}: ahead of {1} in {2}, behind in nothing",
                                                        "Likely {0}: ahead of {1} in {2}, behind in nothing"],
    "{0} at {1}": ["drawing {0} at {1}: {2}, seed {3}"],
    "No clear winner{0}{1}{2}.": ["No clear winner: ", "No clear winner."],
    "{0} lead{1} in {2}": ["{0} lead in {1}", "{0} leads in {1}"],
    "{0}, and the training loss rises with it": [", and the training loss rises with it"],
    "{0}; in the pictures {1} fell as well": ["; in the pictures {0} fell as well"],
    "{0}, but the pictures have not become worse: past the minimum, still usable":
        [", but the pictures have not become worse: past the minimum, still usable"],
    "not measured: no reference pictures": ["not measured: {0}"],
}  # fmt: skip
# names of programs and files, which are the same everywhere
NAMES = {"lora-eval {0}", "{0} {1} on {2}", "{0} on {1}", "{0}, line {1}", "row {0}", "LoRA scorecard",
         "Model hash", "Schedule type", "CFG scale", "Clip skip"}  # fmt: skip


def catalogue(name: str) -> dict[str, str]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def needed() -> dict[str, str]:
    """Template -> the file that says it."""
    found: dict[str, str] = dict.fromkeys(WORDS, "words")
    for module in SENTENCES:
        for template in in_sentences(ROOT / module):
            for one in TOGETHER.get(template, [template]):
                found.setdefault(one, module)
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            for template in translated_calls(path):
                found.setdefault(template, path.name)
    tables = (words.TITLES, words.QUESTIONS, words.COMPARED, words.AXIS_TITLES, words.ROLE_WORDS, SCRIPT_WORDS)
    for table in tables:
        found.update(dict.fromkeys(table.values(), "report/words.py"))
    found.update(dict.fromkeys(words.ROLE_WORDS, "report/words.py"))
    for label, _, about in words.CELL_FACTS.values():
        found.update({label: "report/words.py", about: "report/words.py"})
    return {template: where for template, where in found.items() if template and template not in NAMES}


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_sentence_of_the_scorecard_and_its_pages_has_a_translation(name: str) -> None:
    known = catalogue(name)
    gaps = [f"{where}: {template!r}" for template, where in needed().items() if not known.get(template, "").strip()]
    assert gaps == [], f"add to assets/languages/{name}.json"


def test_the_templates_are_found() -> None:
    """A guard for the guard: sentences of every kind are among what is looked for."""
    found = needed()
    assert len(found) > 350
    for template in ("usable from {0} to {1}", "; CLIP-T {0} against weight 0", "Which checkpoint?", "copies",
                     "the {0} still falls: {1} from the middle to the last third, of {2} in all"):  # fmt: skip
        assert template in found


@pytest.mark.parametrize("name", LANGUAGES)
def test_translations_have_the_same_holes_and_are_not_the_english(name: str) -> None:
    for english, other in catalogue(name).items():
        holes = [sorted(set(re.findall(r"\{\d\}", one))) for one in (english, other)]
        assert holes[0] == holes[1], english
        assert english != other or english.isupper() or not re.search("[a-z]{3}", english), english


def test_what_the_webui_translates_too_is_translated_alike() -> None:
    webui = json.loads((ROOT.parent / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
    ours = catalogue("zh_CN")
    assert {key: (webui[key], ours[key]) for key in webui if key in ours and webui[key] != ours[key]} == {}


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            "Use zorp-000300 at weight 0.8: likeness 0.95 (95 % interval 0.89 to 1.02) between the base model (0) and "
            "your own pictures (1); weakest: strength (weak).",
            "使用 zorp-000300,权重 0.8:相似度 0.95(95 % 区间 0.89 至 1.02),基础模型为 0,你自己的图片为 1"
            ";最弱:强度(弱)。",
        ),
        (
            "not measured: one seed; draw at least 4 seeds of every prompt",
            "未测量:只有一个种子;每个提示词至少画 4 个种子",
        ),
        (
            "usable from 0.4 to 1, distorted from 1.2 on; weakest part smoothness 0.41 (0.16 to 0.70): "
            "it rises in a jump",
            "可用权重为 0.4 至 1,从 1.2 起失真;最弱的部分是平滑度 0.41 (0.16 至 0.70): 响应突然跃升",
        ),
        ("distortion: fox-000100 at weight 1, 1.2", "失真:fox-000100,权重 1, 1.2"),
        ("the validation loss fell by 71.8% and is level from step 50 on", "验证损失下降了 71.8%,从第 50 步起持平"),
        ("weakest part: 0.31 (0.12 to 0.55) of the variety between seeds is kept; not judged: copies, leak",
         "最弱的部分:0.31 (0.12 至 0.55) 的种子间多样性得以保持;未评判:复制、泄漏"),
        (
            "Take a: ahead of b in fidelity and alignment, behind in nothing.",
            "选 a:在保真度 与 对齐上领先于 b,没有落后之处。",
        ),
    ],
)  # fmt: skip
def test_sentences_put_together_from_templates(english: str, chinese: str) -> None:
    with speak("zh_CN"):
        assert said(english) == chinese
    assert said(english) == english


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red zorp, gray background",
        "a fox at night",
        "one of two in a wood",
        "fox-v2.1_final",
        "0.95",
        "C:\\pictures\\1.png",
    ],
)
def test_what_is_not_ours_stays_as_it_is(text: str) -> None:
    with speak("zh_CN"):
        assert said(text) == text


@given(st.text(alphabet=string.ascii_letters + string.digits + " .,;:(){}<>\"'%-", max_size=80))
def test_any_text_can_be_said(text: str) -> None:
    with speak("zh_CN"):
        assert isinstance(said(text), str)
    assert said(text) == text


@given(st.from_regex(r"[a-z]{3}[a-z0-9_-]{0,12}", fullmatch=True), st.floats(0, 2))
def test_names_and_numbers_come_through_unchanged(name: str, weight: float) -> None:
    """Whatever a LoRA is called; single words of our own are what a hole may say too."""
    if name in catalogue("zh_CN"):
        return
    with speak("zh_CN"):
        assert said(f"Use {name} at weight {weight:.3f}.") == f"使用 {name},权重 {weight:.3f}。"


NOT_WORDS = re.compile(
    "|".join(
        (
            r"<lora:[^>]*>|[\w-]+(\.\w+)*\.(png|csv|json|html)|\bthumbs\b|prompt \d+|foil \d+|[a-z]+-\d{3}",
            r"(plain|fidelity|challenge|composition|negative|unrelated)-\d+",
            r"LoRA|CLIP-[IT]|CLIP|SSIM|Holm|DINOv2|lora-eval|--data|TensorBoard|NaN|alpha|dino",
        )
    )
)
FAULTS = ("good", "collapse", "copies", "leak", "narrow", "misaligned", "fried", "no effect", "wrong concept",
          "undertrained", "mixed", "inconsistent", "drift")  # fmt: skip
SMALLER = ({}, {"references": 0, "training": 0}, {"seeds": 1}, {"weights": (0.0, 1.0)}, {"roles": ("plain",)},
           {"checkpoints": {"fox-100": (100, 0.5), "fox-200": (200, 1.0), "fox-300": (300, 1.0)}})  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_report_in_another_language_leaves_no_english_behind(fault: str, tmp_path: Path) -> None:
    """Runs with every fault and everything missing that can be: what is left are names, files and abbreviations."""
    left = set()
    for changes in SMALLER:
        if fault == "copies" and "training" in changes:
            continue
        data = make_run(fault, **changes)  # type: ignore[arg-type]
        texts = [data.prompts[name].text for name in data.cells["prompt_id"]]
        data.cells = data.cells.assign(prompt=texts, negative_prompt="", width=64)
        measurement = measure(data, resamples=50)
        card = decide(data, measurement)
        with speak("zh_CN"):
            page = render(data, measurement, card, tmp_path)
        assert '<html lang="zh-CN">' in page
        page = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
        for text in re.findall(r'>([^<>]+)<|(?:title|aria-label|alt)="([^"]*)"', page):
            shown = html.unescape("".join(text))
            if re.search(r"[A-Za-z]{2,}", NOT_WORDS.sub("", shown)):
                left.add(shown)
    assert left == set()


def test_an_unknown_language_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="en, zh_CN"):
        language.require("tlh")
    assert language.require("zh_CN") == "zh_CN"


def test_speaking_ends_with_its_block_and_reaches_no_other_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with speak("zh_CN"):
        assert t("Six dimensions") == "六个维度" and language.html_code() == "zh-CN"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(t, "Six dimensions").result() == "Six dimensions"
    assert t("Six dimensions") == "Six dimensions" and language.html_code() == "en"


def test_catalogues_are_files_of_the_package() -> None:
    assert FOLDER.is_relative_to(Path(lora_eval.__file__).parent) and (FOLDER / "zh_CN.json").is_file()
