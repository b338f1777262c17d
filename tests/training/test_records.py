"""What a LoRA says of its training, in the words of kohya's scripts (``train_network.py``)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from lora_eval.training.config import make_config
from lora_eval.training.loop import TrainResult, train
from tests.fakes import FakeHost, drawing, write_dataset


def published_model_hash(path: Path) -> str:
    """``train_util.model_hash`` as published: 0x10000 bytes at 0x100000, SHA-256, eight digits."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, Path]:
    root = tmp_path_factory.mktemp("records")
    data = write_dataset(root / "data", 6, trigger="zorp")
    regular = root / "regular" / "2_fox"
    regular.mkdir(parents=True)
    for number in range(3):
        drawing(50 + number).save(regular / f"{number}.png")
    checkpoint = root / "v1-5.safetensors"
    checkpoint.write_bytes(os.urandom(0x100000 + 0x18000))
    host = FakeHost(root)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    host._info = replace(host._info, name="v1-5", sha256=digest, path=checkpoint)
    values: dict[str, Any] = {
        "train_data_dir": str(data), "reg_data_dir": str(root / "regular"), "name": "toy", "epochs": 2,
        "batch_size": 2, "gradient_accumulation": 2, "validation_fraction": 0, "trigger": "zorp", "class_word": "fox",
        "flip": True, "keep_tokens": 1, "shuffle_caption": True, "tag_dropout": 0.25, "noise_offset": 0.0375,
        "prior_loss_weight": 0.5, "learning_rate": 1e-4,
    }  # fmt: skip
    return train(host, make_config(values)), checkpoint


def metadata(result: TrainResult) -> dict[str, str]:
    with safe_open(str(result.lora), "pt") as file:
        return dict(file.metadata())


def test_the_base_model_is_named_by_both_hashes(run: tuple[TrainResult, Path]) -> None:
    result, checkpoint = run
    about = metadata(result)
    assert about["ss_sd_model_name"] == "v1-5.safetensors"
    assert about["ss_sd_model_hash"] == published_model_hash(checkpoint)
    assert about["ss_new_sd_model_hash"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def test_counts_and_settings_have_kohyas_names_and_meaning(run: tuple[TrainResult, Path]) -> None:
    about = metadata(run[0])
    assert (
        about
        | {
            "ss_num_train_images": "6",
            "ss_num_reg_images": "6",
            "ss_num_validation_images": "0",
            "ss_batch_size_per_device": "2",
            "ss_gradient_accumulation_steps": "2",
            "ss_total_batch_size": "4",
            "ss_num_batches_per_epoch": "6",
            "ss_num_epochs": "2",
            "ss_max_train_steps": "6",
            "ss_steps": "6",
            "ss_learning_rate": "0.0001",
            "ss_unet_lr": "0.0001",
            "ss_flip_aug": "True",
            "ss_random_crop": "False",
            "ss_shuffle_caption": "True",
            "ss_keep_tokens": "1",
            "ss_caption_tag_dropout_rate": "0.25",
            "ss_noise_offset": "0.0375",
            "ss_prior_loss_weight": "0.5",
            "ss_enable_bucket": "True",
            "ss_bucket_no_upscale": "False",
            "ss_v2": "False",
        }
        == about
    )
    assert json.loads(about["ss_dataset_dirs"]) == {"data": {"n_repeats": 1, "img_count": 6}}
    reg = json.loads(about["ss_reg_dataset_dirs"])
    assert {name: entry["img_count"] for name, entry in reg.items()} == {"2_fox": 3}
    assert all(isinstance(value, str) for value in about.values())


def test_a_model_without_a_file_has_no_hash_of_one(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 4)
    config = make_config({"train_data_dir": str(data), "name": "toy", "max_steps": 1})
    assert "ss_sd_model_hash" not in metadata(train(FakeHost(tmp_path), config))
