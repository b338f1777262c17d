"""Settings kept under a name, and settings from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lora_eval.errors import ConfigError
from lora_eval.training.config import TrainConfig, load_config, make_config, to_dict
from lora_eval.training.presets import OF_A_DATASET, load_preset, preset_names, read_settings, save_preset


def test_a_preset_holds_how_is_trained_and_not_what(tmp_path: Path) -> None:
    own = {
        "train_data_dir": "a", "metadata_path": "b", "reg_data_dir": "c", "output_dir": "d", "name": "e",
        "trigger": "f", "class_word": "g", "init_lora": "h",
    }  # fmt: skip
    config = make_config({**own, "lora_rank": 16, "betas": [0.8, 0.99], "resolution": "512x768", "flip": True})
    path = save_preset(tmp_path / "presets", " My style ", config)
    assert path == tmp_path / "presets" / "My style.yaml" and preset_names(path.parent) == ["My style"]
    assert not set(own) & set(yaml.safe_load(path.read_text(encoding="utf-8")))
    found = load_preset(path.parent, "My style")
    assert found == {key: value for key, value in to_dict(config).items() if key not in OF_A_DATASET}
    # a preset is a config: the command line trains with it
    assert load_config(path, ["train_data_dir=x"]).lora_rank == 16


def test_saving_again_replaces_it(tmp_path: Path) -> None:
    for rank in (4, 8):
        save_preset(tmp_path, "one", TrainConfig(lora_rank=rank))
    assert preset_names(tmp_path) == ["one"] and load_preset(tmp_path, "one")["lora_rank"] == 8


@pytest.mark.parametrize("name", ["", "../one", "a/b", "x" * 101])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="a preset cannot be called"):
        save_preset(tmp_path / "presets", name, TrainConfig())
    assert not list(tmp_path.rglob("*.yaml"))


def test_an_unknown_preset_names_the_nearest(tmp_path: Path) -> None:
    assert preset_names(tmp_path / "none") == []
    with pytest.raises(ConfigError, match="there are none yet"):
        load_preset(tmp_path, "one")
    save_preset(tmp_path, "portrait", TrainConfig())
    with pytest.raises(ConfigError, match="did you mean portrait"):
        load_preset(tmp_path, "portraits")


def test_a_preset_that_was_edited_by_hand_is_checked(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("lora_rank: -1\n")
    with pytest.raises(ConfigError, match="lora_rank is -1"):
        load_preset(tmp_path, "one")


KOHYA = """\
[model_arguments]
pretrained_model_name_or_path = "sd/v1-5.safetensors"
[training_arguments]
output_name = "fox"
network_dim = 32
network_train_unet_only = true
enable_bucket = true
bucket_reso_steps = 32
"""


def test_yaml_and_kohyas_toml_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "c.TOML").write_text(KOHYA)
    values, notes = read_settings(tmp_path / "c.TOML")
    assert values["lora_rank"] == 32 and values["name"] == "fox"
    assert sum("bucket_reso_steps" in note for note in notes) == 1
    assert "gradient_accumulation" not in values, "what the file is silent about and kohya has alike"
    (tmp_path / "c.yaml").write_text("lora_rank: 4\n")
    assert read_settings(tmp_path / "c.yaml") == ({"lora_rank": 4}, [])
    with pytest.raises(ConfigError, match="does not exist"):
        read_settings(tmp_path / "d.yaml")
