"""Configs of kohya's scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_eval.errors import ConfigError
from lora_eval.training.config import make_config
from lora_eval.training.kohya import TOML_READERS, import_kohya

TYPICAL = """\
[model_arguments]
pretrained_model_name_or_path = "sd/v1-5-pruned.safetensors"
v2 = false

[dataset_arguments]
train_data_dir = "train/fox"
resolution = "512,768"
shuffle_caption = true
keep_tokens = 1
enable_bucket = true
bucket_reso_steps = 32

[training_arguments]
output_dir = "out"
output_name = "fox"
max_train_epochs = 12
max_train_steps = 1600
train_batch_size = 2
learning_rate = 1e-5
unet_lr = 1e-4
text_encoder_lr = 1e-5
lr_scheduler = "cosine_with_restarts"
lr_scheduler_num_cycles = 3
lr_warmup_steps = 50
optimizer_type = "AdamW8bit"
optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]
network_module = "networks.lora"
network_dim = 32
network_alpha = 16
network_args = ["conv_dim=4", "conv_alpha=1"]
network_train_unet_only = true
mixed_precision = "fp16"
save_precision = "bf16"
save_every_n_epochs = 1
min_snr_gamma = 5.0
seed = 1337
"""


def test_a_typical_config(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(TYPICAL)
    config, notes = import_kohya(tmp_path / "c.toml")
    assert config == make_config(
        {
            "base_model": "sd/v1-5-pruned.safetensors",
            "train_data_dir": "train/fox",
            "resolution": (512, 768),
            "shuffle_caption": True,
            "keep_tokens": 1,
            "output_dir": "out",
            "name": "fox",
            "epochs": 12,
            "batch_size": 2,
            "learning_rate": 1e-4,
            "lr_scheduler": "cosine_with_restarts",
            "lr_cycles": 3,
            "warmup_steps": 50,
            "optimizer": "adamw8bit",
            "weight_decay": 0.1,
            "betas": [0.9, 0.99],
            "lora_rank": 32,
            "lora_alpha": 16,
            "preset": "full",
            "conv_rank": 4,
            "mixed_precision": "fp16",
            "save_dtype": "bf16",
            "save_steps": 0,
            "min_snr_gamma": 5,
            "seed": 1337,
        }
    )
    assert [note.split(" ")[0] for note in notes] == ["bucket_reso_steps", "text_encoder_lr", "save_every_n_epochs"]


def test_what_is_left_unsaid_is_kohya_s_default(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('train_data_dir = "d"\nmax_train_steps = 800\n')
    config, notes = import_kohya(tmp_path / "c.toml")
    assert (config.lora_rank, config.alpha, config.preset, config.batch_size) == (4, 1, "transformer", 1)
    assert config.max_steps == 800 and config.epochs * 1 >= 800
    assert any("text encoder is not trained" in note for note in notes)


def test_sample_prompt_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("# test\na fox at noon --n blurry --w 512 --d 1\na fox at dusk --n blurry\n")
    (tmp_path / "c.toml").write_text(f'train_data_dir = "d"\nsample_prompts = "{(tmp_path / "p.txt").as_posix()}"\n')
    config, _ = import_kohya(tmp_path / "c.toml")
    assert config.sample_prompts == ["a fox at noon", "a fox at dusk"] and config.sample_negative == "blurry"


def test_optimisers_and_schedules_that_are_not_offered_are_said(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        'train_data_dir = "d"\noptimizer_type = "Adafactor"\nlr_scheduler = "polynomial"\n'
    )
    config, notes = import_kohya(tmp_path / "c.toml")
    assert (config.optimizer, config.lr_scheduler) == ("adamw", "constant")
    assert sum("is not offered" in note for note in notes) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [", r"cannot read .*c\.toml"),
        ("network_dim = -1", r"c\.toml: lora_rank is -1"),
        (None, "does not exist"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        import_kohya(tmp_path / "c.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", TOML_READERS)
def test_any_reader_gives_the_same_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str) -> None:
    pytest.importorskip(reader)
    (tmp_path / "c.toml").write_text(TYPICAL)
    expected = import_kohya(tmp_path / "c.toml")
    monkeypatch.setattr("lora_eval.training.kohya.TOML_READERS", (reader,))
    assert import_kohya(tmp_path / "c.toml") == expected
    (tmp_path / "c.toml").write_text("a = [")
    with pytest.raises(ConfigError, match="cannot read"):
        import_kohya(tmp_path / "c.toml")


def test_without_any_reader_the_mend_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.toml").write_text(TYPICAL)
    monkeypatch.setattr("lora_eval.training.kohya.TOML_READERS", ("no_such_module",))
    with pytest.raises(ConfigError, match="has no TOML reader; pip install tomli, or write it as YAML"):
        import_kohya(tmp_path / "c.toml")
