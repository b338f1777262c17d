"""Settings of kohya-ss/sd-scripts (``--config_file``, TOML) as a config of ours.

Names and defaults as in sd-scripts' ``train_network.py`` and ``library/train_util.py``. What has no counterpart is
named in the notes, so that nothing is dropped without a word.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError
from lora_eval.training.config import TrainConfig, make_config

_SAME = {
    "pretrained_model_name_or_path": "base_model",
    "train_data_dir": "train_data_dir",
    "reg_data_dir": "reg_data_dir",
    "prior_loss_weight": "prior_loss_weight",
    "output_dir": "output_dir",
    "output_name": "name",
    "network_dim": "lora_rank",
    "network_alpha": "lora_alpha",
    "network_dropout": "dropout",
    "network_weights": "init_lora",
    "train_batch_size": "batch_size",
    "max_train_epochs": "epochs",
    "max_train_steps": "max_steps",
    "learning_rate": "learning_rate",
    "unet_lr": "learning_rate",
    "lr_warmup_steps": "warmup_steps",
    "lr_scheduler_num_cycles": "lr_cycles",
    "resolution": "resolution",
    "bucket_no_upscale": "no_upscale",
    "seed": "seed",
    "mixed_precision": "mixed_precision",
    "save_every_n_steps": "save_steps",
    "gradient_accumulation_steps": "gradient_accumulation",
    "gradient_checkpointing": "gradient_checkpointing",
    "max_grad_norm": "max_grad_norm",
    "min_snr_gamma": "min_snr_gamma",
    "noise_offset": "noise_offset",
    "caption_dropout_rate": "caption_dropout",
    "caption_tag_dropout_rate": "tag_dropout",
    "shuffle_caption": "shuffle_caption",
    "keep_tokens": "keep_tokens",
    "flip_aug": "flip",
    "random_crop": "random_crop",
    "validation_split": "validation_fraction",
    "validate_every_n_steps": "validation_steps",
    "sample_every_n_steps": "sample_steps",
    "cache_latents_to_disk": "cache_latents_to_disk",
}
_OPTIMIZERS = {"adamw": "adamw", "adamw8bit": "adamw8bit", "lion": "lion", "prodigy": "prodigy"}
_SCHEDULERS = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts",
}
_PRECISIONS = {"float": "fp32", "fp16": "fp16", "bf16": "bf16"}
# Python 3.10 has none of its own, and nothing may be installed: Forge brings tomlkit, and pip itself carries one
TOML_READERS = ("tomllib", "tomli", "tomlkit", "toml", "pip._vendor.tomli")
# what only says how kohya runs, or what is always so here
_SILENT = frozenset(
    {
        "cache_latents",
        "cache_text_encoder_outputs",
        "caption_extension",
        "enable_bucket",
        "logging_dir",
        "log_with",
        "max_data_loader_n_workers",
        "network_module",
        "network_train_unet_only",
        "persistent_data_loader_workers",
        "save_model_as",
        "save_precision",
        "sdpa",
        "xformers",
        "mem_eff_attn",
        "v2",
        "v_parameterization",
    }
)


def import_kohya(path: Path | str) -> tuple[TrainConfig, list[str]]:
    """Read a TOML of sd-scripts.

    Returns:
        The config and notes: what could not be taken over, and what then happens instead.

    Raises:
        ConfigError: the file is missing or not TOML, or a value is out of range (named).
    """
    path = Path(path)
    flat, notes = _flatten(_read_toml(path)), []
    # sd-scripts' defaults where ours differ: alpha 1 makes the scale 1 / rank
    values: dict[str, Any] = {
        "preset": "transformer",
        "lora_rank": 4,
        "lora_alpha": 1,
        "batch_size": 1,
        "save_steps": 0,
    }
    for key in sorted(flat, key=lambda key: key == "unet_lr"):
        value = flat[key]
        if key in _SAME:
            if value not in (None, ""):
                values[_SAME[key]] = value
        elif key not in _HANDLERS and key not in _SILENT:
            notes.append(f"{key} = {value!r} has no counterpart and is left out")
    for key, handle in _HANDLERS.items():
        if key in flat:
            handle(flat[key], values, notes)
    if "max_train_epochs" in flat:
        values.pop("max_steps", None)
    elif "max_train_steps" in flat:
        values["epochs"] = 100_000
    if "save_precision" in flat:
        values["save_dtype"] = _PRECISIONS.get(str(flat["save_precision"]), "fp16")
    if flat.get("network_train_unet_only") is not True:
        notes.append("the text encoder is not trained here; set network_train_unet_only to compare like with like")
    if not flat.get("enable_bucket", False):
        notes.append("pictures keep their aspect ratio in buckets (enable_bucket is always on)")
    try:
        return make_config(values), notes
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    parser = None
    for name in TOML_READERS:
        try:
            parser = importlib.import_module(name)
            break
        except ImportError:
            continue
    if parser is None:
        raise ConfigError(f"cannot read {path}: this Python has no TOML reader; pip install tomli, or write it as YAML")
    try:
        found = parser.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give the path of a kohya config") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({' '.join(str(error).split())}); correct the TOML") from None
    # tomlkit gives values that remember how they were written
    return dict(found.unwrap() if hasattr(found, "unwrap") else found)


def _flatten(found: Mapping[str, Any]) -> dict[str, Any]:
    """sd-scripts ignores the names of sections."""
    flat: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value))
        else:
            flat[key] = value
    return flat


def _optimizer(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    name = _OPTIMIZERS.get(str(value).lower())
    if name is None:
        notes.append(f"optimizer_type {value} is not offered; adamw is used, check learning_rate")
    values["optimizer"] = name or "adamw"


def _scheduler(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    name = _SCHEDULERS.get(str(value).lower())
    if name is None:
        notes.append(f"lr_scheduler {value} is not offered; constant is used")
    values["lr_scheduler"] = name or "constant"


def _network_args(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    for pair in value if isinstance(value, list) else []:
        name, _, text = str(pair).partition("=")
        if name == "conv_dim":
            values |= {"preset": "full", "conv_rank": text}
        elif name != "conv_alpha":
            notes.append(f"network_args {pair} has no counterpart and is left out")


def _optimizer_args(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    for pair in value if isinstance(value, list) else []:
        name, _, text = str(pair).partition("=")
        if name == "weight_decay":
            values["weight_decay"] = text
        elif name == "betas":
            values["betas"] = [part.strip(" ()[]") for part in text.split(",")]
        else:
            notes.append(f"optimizer_args {pair} has no counterpart and is left out")


def _sample_prompts(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    path = Path(str(value))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        notes.append(f"sample_prompts {value} cannot be read; no test pictures are drawn")
        return
    prompts, negatives = [], []
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            prompt, *options = line.split(" --")
            prompts.append(prompt.strip())
            negatives += [option[2:].strip() for option in options if option.startswith("n ")]
    values["sample_prompts"] = prompts
    if negatives:
        values["sample_negative"] = negatives[0]
        if len(set(negatives)) > 1:
            notes.append("sample_prompts has several negative prompts; the first is used for all")


def _epochs_only(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    notes.append(f"save_every_n_epochs = {value}: set save_steps instead (steps = pictures x repeats / batch a epoch)")


_HANDLERS: dict[str, Callable[[Any, dict[str, Any], list[str]], None]] = {
    "optimizer_type": _optimizer,
    "lr_scheduler": _scheduler,
    "network_args": _network_args,
    "optimizer_args": _optimizer_args,
    "sample_prompts": _sample_prompts,
    "save_every_n_epochs": _epochs_only,
}
