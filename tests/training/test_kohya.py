"""Configs of kohya's scripts."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from lora_eval.dataset.folder import scan
from lora_eval.errors import ConfigError
from lora_eval.training.config import TrainConfig, make_config
from lora_eval.training.kohya import _HANDLERS, TOML_READERS, import_kohya
from lora_eval.training.kohya_keys import SAME, SILENT
from lora_eval.training.loop import train
from lora_eval.training.order import Order
from tests.fakes import FakeHost, drawing, write_dataset

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
            "save_epochs": 1,
            "min_snr_gamma": 5,
            "seed": 1337,
        }
    )
    assert [note.split(" ")[0] for note in notes] == [
        "bucket_reso_steps", "text_encoder_lr", "conv_alpha:", "caption_extension", "from",
    ]  # fmt: skip


def test_what_is_left_unsaid_is_kohya_s_default(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('train_data_dir = "d"\nmax_train_steps = 800\n')
    config, notes = import_kohya(tmp_path / "c.toml")
    assert (config.lora_rank, config.alpha, config.preset, config.batch_size) == (4, 1, "transformer", 1)
    assert config.max_steps == 800 and config.epochs * 1 >= 800
    assert (config.learning_rate, config.mixed_precision, config.save_dtype) == (2e-6, "no", "fp32")
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


# -- nothing is dropped without a word ---------------------------------------------------------------------

# as lora-scripts writes its own default (config/default.toml)
LORA_SCRIPTS = """\
[model]
v2 = false
v_parameterization = false
[dataset]
train_data_dir = "d"
reg_data_dir = ""
cache_latents = true
shuffle_caption = true
enable_bucket = true
[additional_network]
network_dim = 32
network_alpha = 16
network_train_unet_only = false
network_module = "networks.lora"
network_args = []
[optimizer]
unet_lr = 1e-4
text_encoder_lr = 1e-5
optimizer_type = "AdamW8bit"
lr_scheduler = "cosine_with_restarts"
[training]
resolution = "512,512"
max_train_epochs = 10
clip_skip = 2
lowram = false
[sample_prompt]
sample_sampler = "euler_a"
sample_every_n_epochs = 1
[saving]
output_name = "fox"
save_every_n_epochs = 1
save_last_n_epochs = 499
save_state = false
logging_dir = "./logs"
[others]
caption_extension = ".txt"
max_token_length = 225
"""


def read(tmp_path: Path, text: str) -> tuple[TrainConfig, list[str]]:
    (tmp_path / "c.toml").write_text(text)
    return import_kohya(tmp_path / "c.toml")


def test_lora_scripts_default_is_taken_over_whole_or_said(tmp_path: Path) -> None:
    config, notes = read(tmp_path, LORA_SCRIPTS)
    assert (config.save_epochs, config.epochs, config.sampler, config.caption_extension) == (1, 10, "Euler a", ".txt")
    named = [note.split(" ")[0] for note in notes]
    assert {"clip_skip", "max_token_length", "sample_every_n_epochs", "text_encoder_lr"} <= set(named)
    assert "save_last_n_epochs" not in named and "v2" not in named and "logging_dir" not in named


@pytest.mark.parametrize("extension", [".caption", "caption", ".txt"])
def test_the_ending_of_captions_is_followed(tmp_path: Path, extension: str) -> None:
    """bmaltais/kohya_ss#927, #1370, #988; also #1936 and kijai/ComfyUI-FluxTrainer#72 (trained on the other files)."""
    config, notes = read(tmp_path, f'train_data_dir = "d"\ncaption_extension = "{extension}"\n')
    assert config.caption_extension == extension and not any("caption_extension" in note for note in notes)
    drawing(1).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("tags")
    (tmp_path / "a.caption").write_text("a sentence")
    dataset = scan(tmp_path, extension=config.caption_extension)
    assert dataset.items[0].caption == ("tags" if extension == ".txt" else "a sentence")


CHANGES = {
    "v2": "true", "v_parameterization": "true", "clip_skip": "2", "color_aug": "true", "weighted_captions": "true",
    "loss_type": '"huber"', "multires_noise_iterations": "6", "scale_weight_norms": "1.0", "zero_terminal_snr": "true",
    "debiased_estimation_loss": "true", "min_timestep": "200", "max_timestep": "900", "keep_tokens_separator": '"|||"',
    "caption_prefix": '"by fox"', "caption_dropout_every_n_epochs": "2", "full_bf16": "true", "vae": '"x.pt"',
    "sample_every_n_epochs": "1", "validate_every_n_epochs": "1", "resume": '"state"', "base_weights": '["a"]',
    "dim_from_weights": "true", "text_encoder_lr": "1e-5", "min_bucket_reso": "320", "bucket_reso_steps": "32",
    "lr_scheduler_power": "2.0", "ip_noise_gamma": "0.1", "fp8_base": "true", "alpha_mask": "true",
    "face_crop_aug_range": '"1.0,2.0"', "max_token_length": "225", "huber_c": "0.2", "a_key_of_tomorrow": "3",
}  # fmt: skip


@pytest.mark.parametrize("key", CHANGES)
def test_what_can_change_the_lora_and_is_not_applied_is_named(tmp_path: Path, key: str) -> None:
    _, notes = read(tmp_path, f'train_data_dir = "d"\n{key} = {CHANGES[key]}\n')
    assert sum(note.startswith(f"{key} = ") for note in notes) == 1
    _, notes = read(tmp_path, f'train_data_dir = "d"\n{key} = false\n')
    assert not any(note.startswith(f"{key} = ") for note in notes)


def test_no_key_is_in_two_tables() -> None:
    assert not set(SAME) & SILENT and not set(SAME) & set(_HANDLERS) and not SILENT & set(_HANDLERS)
    assert not SILENT & set(CHANGES)
    known = {setting.name for setting in fields(TrainConfig)}
    assert set(SAME.values()) <= known


def test_length_and_rate_where_none_is_named_are_sd_scripts_own(tmp_path: Path) -> None:
    config, notes = read(tmp_path, 'train_data_dir = "d"\n')
    assert config.max_steps == 1600 and sum("default of" in note for note in notes) == 2


@pytest.mark.parametrize(("scheduler", "steps"), [("constant", 0), ("constant_with_warmup", 50), ("cosine", 50)])
def test_warm_up_as_sd_scripts_does_it(tmp_path: Path, scheduler: str, steps: int) -> None:
    config, notes = read(tmp_path, f'train_data_dir = "d"\nlr_scheduler = "{scheduler}"\nlr_warmup_steps = 50\n')
    assert config.warmup_steps == steps and any("no warm-up" in note for note in notes) == (steps == 0)


DATASET = """\
[general]
shuffle_caption = true
caption_extension = ".txt"
[[datasets]]
resolution = [512, 768]
batch_size = 3
[[datasets.subsets]]
image_dir = "{one}"
num_repeats = {repeats}
keep_tokens = 2
flip_aug = true
caption_prefix = "by fox, "
"""


@pytest.mark.parametrize("inside", [True, False])
def test_a_dataset_config_is_followed(tmp_path: Path, inside: bool) -> None:
    """kohya-ss/sd-scripts#877, #227 (docs/config_README): the inner table wins. Repeats become epochs."""
    dataset = DATASET.format(one="pictures", repeats=4)
    text = "max_train_epochs = 5\nsave_every_n_epochs = 2\n"
    if not inside:
        (tmp_path / "data.toml").write_text(dataset)
    config, notes = read(tmp_path, text + (dataset if inside else 'dataset_config = "data.toml"\n'))
    assert (config.train_data_dir, config.batch_size, config.resolution) == ("pictures", 3, (512, 768))
    assert (config.epochs, config.save_epochs, config.keep_tokens) == (20, 8, 2)
    assert config.flip and config.shuffle_caption and config.caption_extension == ".txt"
    assert sum(note.startswith("caption_prefix = ") for note in notes) == 1
    assert sum(note.startswith("num_repeats = 4") for note in notes) == 1


def subset(folder: str, repeats: int, more: str = "") -> str:
    return f'[[datasets.subsets]]\nimage_dir = "{folder}"\nnum_repeats = {repeats}\n{more}'


def test_several_folders_are_one_where_their_names_say_so_else_an_error(tmp_path: Path) -> None:
    config, _ = read(tmp_path, "[[datasets]]\n" + subset("d/2_fox", 2) + subset("d/3_owl", 3))
    assert config.train_data_dir == "d"
    config, _ = read(tmp_path, "[[datasets]]\n" + subset("d/fox", 1) + subset("d/reg", 1, "is_reg = true\n"))
    assert (config.train_data_dir, config.reg_data_dir) == ("d/fox", "d/reg")
    with pytest.raises(ConfigError, match=r"c\.toml: it has 2 folders of pictures \(a, b\)"):
        read(tmp_path, "[[datasets]]\n" + subset("a", 2) + subset("b", 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model_train_type = "flux-lora"', "model_train_type is flux-lora"),
        ("network_train_text_encoder_only = true", "the text encoder is not trained here"),
        ('dataset_config = "gone.toml"', r"gone\.toml does not exist"),
        ("[[datasets]]\nresolution = 512", "have no"),
        ("num_repeats = 0", "num_repeats is 0"),
    ],
)
def test_what_is_not_trained_here_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text + "\n")


def test_prompts_and_their_options(tmp_path: Path) -> None:
    line = "a fox, dusk --n lowres, bad  --w 512  --h 768  --l 5  --s 30  --d 1337"
    config, notes = read(tmp_path, f'train_data_dir = "d"\nsample_prompts = "{line}"\n')
    assert config.sample_prompts == ["a fox, dusk"] and config.sample_negative == "lowres, bad"
    assert (config.sample_cfg, config.sampler_steps, config.sample_seed) == (5.0, 30, 1337)
    assert sum("has no counterpart" in note and "sample_prompts' --" in note for note in notes) == 2
    config, _ = read(tmp_path, 'positive_prompts = "a fox"\nnegative_prompts = "bad"\nsample_steps = 24\n')
    assert (config.sample_prompts, config.sample_negative, config.sampler_steps) == (["a fox"], "bad", 24)


def test_checkpoints_at_the_end_of_epochs(tmp_path: Path) -> None:
    """Without them a default lora-scripts config ended with a single file: nothing to choose from."""
    order = Order([(64, 64)] * 5, [1] * 5, 2, 0)
    assert [step for step in range(1, 13) if order.ends_epoch(step, 1, 2)] == [6, 12]
    assert [step for step in range(1, 10) if order.ends_epoch(step, 2, 1)] == [2, 3, 5, 6, 8, 9]
    data = write_dataset(tmp_path / "data", 4)
    values = {"train_data_dir": str(data), "epochs": 3, "batch_size": 2, "save_steps": 0, "save_epochs": 1}
    result = train(FakeHost(tmp_path), make_config({**values, "validation_fraction": 0}))
    assert [step for step, _ in result.checkpoints][:2] == [2, 4]


def test_an_alpha_of_0_is_the_rank(tmp_path: Path) -> None:
    """kohya-ss/sd-scripts, networks/lora.py: ``alpha = self.lora_dim if alpha is None or alpha == 0 else alpha``."""
    (tmp_path / "c.toml").write_text(TYPICAL.replace("network_alpha = 16", "network_alpha = 0"))
    config, notes = import_kohya(tmp_path / "c.toml")
    assert config.alpha == config.lora_rank == 32
    assert "network_alpha 0 means the rank there, so the scale is 1" in notes
