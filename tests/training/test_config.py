"""The settings: what is accepted, and the one line for what is not."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.errors import ConfigError
from lora_eval.training.config import (
    TrainConfig,
    dump_config,
    load_config,
    make_config,
    parse_overrides,
    save_config,
    to_dict,
)
from lora_eval.training.templates import load_template, template_names, template_path
from tests.article import ARTICLE


def test_the_article_s_config_runs_word_for_word(tmp_path: Path) -> None:
    path = tmp_path / "my_lora.yaml"
    path.write_text(ARTICLE)
    config = load_config(path)
    assert isinstance(yaml.safe_load(ARTICLE)["learning_rate"], str), "YAML 1.1 reads 2e-4 as a text"
    assert config.learning_rate == 2e-4
    assert (config.lora_rank, config.batch_size, config.epochs, config.save_steps) == (8, 4, 10, 100)
    assert config.alpha == 8
    assert config.run_name() == "my_style_lora"


@pytest.mark.parametrize("text", ["2e-4", "2.0e-4", "0.0002", '"2e-4"', " 2E-4"])
def test_every_spelling_of_a_learning_rate(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"learning_rate: {text}\n")
    assert load_config(tmp_path / "a.yaml").learning_rate == 2e-4


def test_saved_configs_load_as_they_were(tmp_path: Path) -> None:
    config = make_config(
        {"train_data_dir": "数据", "resolution": [512, 768], "sample_prompts": "a\nb", "warmup_steps": 0.1, "ema": 0.99}
    )
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config
    assert config.sample_prompts == ["a", "b"]


def test_overrides_win_and_are_typed() -> None:
    values = parse_overrides(
        ["epochs=5", "flip=true", "name=my lora", "learning_rate=1e-3", "max_steps=", "betas=[0.8, 0.9]"]
    )
    config = make_config(values)
    assert (config.epochs, config.flip, config.name, config.max_steps) == (5, True, "my lora", None)
    assert config.learning_rate == 1e-3 and config.betas == [0.8, 0.9]


@pytest.mark.parametrize(
    ("name", "near"),
    [("lora_ranks", "lora_rank"), ("epoch", "epochs"), ("learningrate", "learning_rate"), ("batchsize", "batch_size")],
)
def test_unknown_keys_name_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting '{name}'; did you mean {near}"):
        make_config({name: 1})


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("lora_rank", 0, "a whole number from 1 to 1024"),
        ("lora_rank", 2.5, "a whole number from 1"),
        ("lora_rank", True, "a whole number from 1"),
        ("lora_rank", "eight", "a whole number from 1"),
        ("lora_rank", [8], "a whole number from 1"),
        ("lora_rank", None, "lora_rank is empty"),
        ("learning_rate", 0, "a number above 0 to 10"),
        ("learning_rate", float("nan"), "a number above 0"),
        ("learning_rate", "inf", "a number above 0"),
        ("dropout", 1.0, "from 0 to below 1|from 0 below 1"),
        ("epochs", -1, "from 1 to 100000"),
        ("optimizer", "adam", r"one of adamw, .* \(did you mean adamw\?\)"),
        ("lr_scheduler", "cosin", "did you mean cosine"),
        ("preset", "attn", "one of attention, transformer, full"),
        ("flip", 1, "true or false"),
        ("resolution", 5000, "from 32 to 4096"),
        ("resolution", [1, 2, 3], "from 32 to 4096"),
        ("betas", [0.9], "two numbers"),
        ("betas", [0.9, 1.0], r"betas\[1\] is 1.0"),
        ("validation_fraction", 0.9, "from 0 to 0.5"),
        ("name", "a:b", "file names or the WebUI"),
        ("name", "../x", "file names or the WebUI|starts or ends"),
        ("conv_rank", 4, "preset: full"),
        ("blocks", ["inn"], "one of in, mid, out"),
    ],
)
def test_bad_values_name_key_value_and_range(key: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted) as caught:
        make_config({key: value})
    assert key.split("[")[0] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [1", "line "),
        ("- a\n- b\n", "not a list of `key: value` lines"),
        ("epochs: 3\n\tflip: true\n", "line 2"),
    ],
)
def test_broken_yaml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"bad\.yaml.*{message}") as caught:
        load_config(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_missing_files_and_missing_data() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_config("nowhere.yaml")
    with pytest.raises(ConfigError, match="train_data_dir is missing"):
        make_config({}).require()


def test_every_default_is_within_its_own_range() -> None:
    assert make_config(to_dict(TrainConfig())) == TrainConfig()
    assert list(yaml.safe_load(dump_config(TrainConfig()))) == [setting.name for setting in fields(TrainConfig)]


@given(st.floats(0, 0.999), st.integers(1, 5000))
def test_fractional_warmup_is_a_share_of_the_run(fraction: float, total: int) -> None:
    steps = make_config({"warmup_steps": fraction}).warmup(total)
    assert fraction * total <= steps <= min(fraction * total + 1, total)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"name": "fox"}, "fox"),
        ({"output_dir": "./out/my fox/", "train_data_dir": "d"}, "my fox"),
        ({"train_data_dir": "pictures/a:b<c>"}, "a_b_c_"),
        ({}, "lora"),
    ],
)
def test_names_come_from_the_nearest_source(values: dict[str, str], name: str) -> None:
    assert make_config(values).run_name() == name


def test_templates_set_the_article_s_advice() -> None:
    kinds = ("character", "object", "style")
    assert template_names() == sorted([*kinds, *(f"{kind}_low_vram" for kind in kinds)])
    for kind in kinds:
        plain, low = load_template(kind), load_template(f"{kind}_low_vram", {"trigger": "zorp"})
        assert plain.kind == low.kind == kind
        assert (plain.lora_rank, plain.batch_size) == (8, 4)
        assert (low.lora_rank, low.batch_size, low.gradient_checkpointing) == (4, 1, True)
        assert low.gradient_accumulation * low.batch_size == plain.batch_size
        for config in (plain, low):
            assert 10 <= config.epochs <= 15 and 100 <= config.save_steps <= 200
        assert low.trigger == "zorp"
    with pytest.raises(ConfigError, match="did you mean character"):
        template_path("charcter")


def test_every_key_is_in_the_manual() -> None:
    manual = Path(__file__).resolve().parents[2] / "docs" / "training.md"
    text = manual.read_text(encoding="utf-8")
    assert [setting.name for setting in fields(TrainConfig) if f"`{setting.name}`" not in text] == []


def test_the_demo_s_config_is_valid() -> None:
    import lora_eval

    path = Path(lora_eval.__file__).parent / "assets" / "demo.yaml"
    assert load_config(path).learning_rate > 0
