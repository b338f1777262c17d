"""Every text that the tabs show has a Chinese translation, and the tabs show no text of their own.

Sentences of the scorecard, advice among them, are translated by the package: see ``tests/i18n/test_language.py``.
"""

from __future__ import annotations

import ast
import json
from dataclasses import fields
from pathlib import Path

from lora_eval.encoders.choices import CHOICES
from lora_eval.extension import callbacks
from lora_eval.training.config import TrainConfig
from lora_eval.ui import text

ROOT = Path(text.__file__).resolve().parents[2]
TRANSLATIONS = json.loads((ROOT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))


def test_every_text_of_the_tabs_is_translated() -> None:
    assert [words for words in text.all_strings() if not TRANSLATIONS.get(words, "").strip()] == []


def test_every_text_of_the_settings_is_translated() -> None:
    texts = []
    for node in ast.walk(ast.parse(Path(callbacks.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "OptionInfo":
                texts.append(ast.literal_eval(node.args[1]))
            elif node.func.attr == "info" and node.args:
                first = node.args[0]
                texts.append(CHOICES if isinstance(first, ast.Name) else ast.literal_eval(first))
    assert len(texts) >= 8
    assert [words for words in texts if words not in TRANSLATIONS] == []


def test_every_fixed_mend_of_the_dataset_check_is_translated() -> None:
    tree = ast.parse((ROOT / "lora_eval" / "dataset" / "check.py").read_text(encoding="utf-8"))
    mends = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
            mends += [node.args[4]]
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "mend":
            mends += [node.value]
    fixed = [node.value for node in mends if isinstance(node, ast.Constant)]
    assert len(fixed) > 10
    assert [words for words in fixed if words not in TRANSLATIONS] == []


def test_translations_keep_placeholders_and_are_not_the_english() -> None:
    technical = {"Alpha", "Dropout", "Betas", "Min-SNR gamma", "YAML"}
    for english, chinese in TRANSLATIONS.items():
        assert english in technical or english != chinese, english
        for mark in ("{trigger}", "{class_word}", "metadata.csv", ".txt", "cosine_with_restarts"):
            assert (mark in english) == (mark in chinese), english


def test_every_setting_of_the_training_config_has_a_control() -> None:
    from lora_eval.ui import form

    controls = {*form.ON_TOP, *form.NAMES}
    assert {setting.name for setting in fields(TrainConfig)} == controls


def test_labels_are_unique_in_each_tab() -> None:
    """The WebUI keeps values by label: two controls of one label would share theirs."""
    train = [label for group in text.GROUPS.values() for label, _ in group.values()]
    train += [words[0] for words in (text.FOLDER, text.NAME, text.TRIGGER, text.KIND, text.LOW_VRAM, text.CONFIG_BOX)]
    assert len(set(train)) == len(train)
