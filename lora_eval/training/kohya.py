"""Settings of kohya-ss/sd-scripts (``--config_file``, TOML) and of lora-scripts as a config of ours.

Names and defaults as in sd-scripts' ``train_network.py`` and ``library/train_util.py``. What can change the LoRA is
applied, named in the notes, or refused; what cannot is listed in :data:`lora_eval.training.kohya_keys.SILENT`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError
from lora_eval.reading.text import read_text
from lora_eval.training.config import TrainConfig, make_config
from lora_eval.training.kohya_dataset import one_folder, split_datasets
from lora_eval.training.kohya_keys import ALIASES, NEUTRAL, SAME, SAMPLERS, SILENT

_OPTIMIZERS = {"adamw": "adamw", "adamw8bit": "adamw8bit", "lion": "lion", "prodigy": "prodigy"}
_SCHEDULERS = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts",
}
_PRECISIONS = {"float": "fp32", "fp16": "fp16", "bf16": "bf16"}
# Python 3.10 has none of its own, and nothing may be installed: Forge brings tomlkit, and pip itself carries one. The
# package toml is left out: it reads broken files ("a = [") without a word.
TOML_READERS = ("tomllib", "tomli", "tomlkit", "pip._vendor.tomli")
# sd-scripts' defaults where ours differ
_DEFAULTS: dict[str, Any] = {
    "preset": "transformer",
    "lora_rank": 4,
    "lora_alpha": 1,
    "batch_size": 1,
    "save_steps": 0,
    "learning_rate": 2e-6,
    "mixed_precision": "no",
    "save_dtype": "fp32",
}
DEFAULT_STEPS = 1600
_ENDLESS = 100_000


def import_kohya(path: Path | str) -> tuple[TrainConfig, list[str]]:
    """Read a TOML of sd-scripts or lora-scripts: a config, a dataset config, or both in one file.

    Returns:
        The config and notes: what could not be taken over, and what then happens instead.

    Raises:
        ConfigError: the file is missing or not TOML, a value is out of range (named), or it trains something that
            is not trained here (another kind of model, the text encoder alone, several folders).
    """
    path = Path(path)
    try:
        flat = _settings(path)
        values, notes = _translate(flat)
        return make_config(values), notes
    except ConfigError as error:
        line = str(error)
        raise ConfigError(line if str(path) in line else f"{path}: {line}") from None


def _settings(path: Path) -> dict[str, Any]:
    """The file's settings, those of its dataset config among them."""
    flat, subsets = split_datasets(_read_toml(path))
    beside = flat.pop("dataset_config", None)
    if beside:
        wanted = Path(str(beside).replace("\\", "/"))
        # sd-scripts takes it from where it is started; beside the config is what is usually meant
        there = wanted if wanted.is_file() or wanted.is_absolute() else path.parent / wanted
        more, of_datasets = split_datasets(_read_toml(there))
        subsets += of_datasets
        flat |= more
    if subsets:
        flat |= one_folder(subsets)
    flat = {ALIASES.get(key, key): value for key, value in flat.items()}
    if str(flat.get("model_train_type", "sd-lora")) not in ("sd-lora", "sdxl-lora"):
        raise ConfigError(f"model_train_type is {flat['model_train_type']}; SD1, SD2 and SDXL LoRAs are trained here")
    if flat.get("network_train_text_encoder_only") is True:
        raise ConfigError("network_train_text_encoder_only is on; the text encoder is not trained here, remove it")
    return flat


def _translate(flat: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """kohya's settings as ours, and notes."""
    values, notes = dict(_DEFAULTS), list[str]()
    # a later one of two wins: the UNet's own rate
    for key in sorted(flat, key=lambda key: key == "unet_lr"):
        value = flat[key]
        if key in SAME:
            if value not in (None, ""):
                values[SAME[key]] = value
        elif key not in _HANDLERS and key not in SILENT and key != "model_train_type":
            off = value in (None, False, "", 0, [], {}) or value in NEUTRAL.get(key, ())
            if not off:
                notes.append(f"{key} = {value!r} has no counterpart and is left out")
    for key, handle in _HANDLERS.items():
        if key in flat and flat[key] not in (None, "", False, []):
            handle(flat[key], values, notes)
    if values.get("lora_alpha") == 0:
        # its LoRAModule takes the rank for an alpha of 0 (kohya-ss/sd-scripts, networks/lora.py)
        values["lora_alpha"] = None
        notes.append("network_alpha 0 means the rank there, so the scale is 1")
    _form_prompts(flat, values)
    _length(flat, values, notes)
    constant = values.get("lr_scheduler", "constant") == "constant"
    constant = constant and flat.get("lr_scheduler") != "constant_with_warmup"
    if values.get("warmup_steps") and constant:
        notes.append("lr_scheduler constant has no warm-up there, so lr_warmup_steps is left out")
        values["warmup_steps"] = 0
    if flat.get("learning_rate") in (None, "") and flat.get("unet_lr") in (None, ""):
        notes.append("no learning_rate is named: sd-scripts' default of 2e-6 is taken")
    if flat.get("caption_extension") in (None, ""):
        notes.append("caption_extension is not named: .txt is read before .caption; sd-scripts reads .caption alone")
    if flat.get("network_train_unet_only") is not True and flat.get("text_encoder_lr") != 0:
        notes.append("the text encoder is not trained here; set network_train_unet_only to compare like with like")
    if not flat.get("enable_bucket", False):
        notes.append("pictures keep their aspect ratio in buckets (enable_bucket is always on)")
    if "validation_split" not in flat:
        notes.append(
            "from 20 pictures up a tenth is held out; set validation_fraction: 0 to train on all, as sd-scripts"
        )
    return values, notes


def _length(flat: dict[str, Any], values: dict[str, Any], notes: list[str]) -> None:
    """Epochs and steps; ``num_repeats`` of the one folder as that many times the epochs."""
    if flat.get("max_train_epochs"):
        values.pop("max_steps", None)
    else:
        values["epochs"] = _ENDLESS
        if not flat.get("max_train_steps"):
            values["max_steps"] = DEFAULT_STEPS
            notes.append(f"neither steps nor epochs are named: sd-scripts' default of {DEFAULT_STEPS} steps is taken")
    ratio, repeats = flat.get("save_n_epoch_ratio"), flat.get("num_repeats", 1)
    if ratio and flat.get("max_train_epochs") and not values.get("save_epochs"):
        values["save_epochs"] = max(1, int(values["epochs"]) // int(ratio))
    if repeats == 1:
        return
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ConfigError(f"num_repeats is {repeats!r}; write a whole number from 1")
    for key in ("epochs", "save_epochs"):
        if values.get(key) and values[key] != _ENDLESS:
            values[key] = int(values[key]) * repeats
    notes.append(
        f"num_repeats = {repeats}: an epoch shows each picture once here, so there are {repeats} times as many"
    )


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
        found = parser.loads(read_text(path))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give the path of a kohya config") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({' '.join(str(error).split())}); correct the TOML") from None
    # tomlkit gives values that remember how they were written
    return dict(found.unwrap() if hasattr(found, "unwrap") else found)


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


def _network_module(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    if value != "networks.lora":
        notes.append(f"network_module {value} is not offered; an ordinary LoRA is trained")


def _network_args(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    conv: dict[str, str] = {}
    for pair in value if isinstance(value, list) else str(value).split():
        name, _, text = str(pair).partition("=")
        if name in ("conv_dim", "conv_alpha"):
            conv[name] = text
        else:
            notes.append(f"network_args {pair} has no counterpart and is left out")
    if "conv_dim" not in conv:
        return
    values |= {"preset": "full", "conv_rank": conv["conv_dim"]}
    try:
        there = float(conv.get("conv_alpha", "1")) / float(conv["conv_dim"])
        here = float(values["lora_alpha"] or values["lora_rank"]) / float(values["lora_rank"])
    except (TypeError, ValueError, ZeroDivisionError):
        return
    if abs(there - here) > 1e-6:
        notes.append(f"conv_alpha: convolutions are scaled by {here:g} as all layers, not by {there:g}")


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
    """A file of prompts, or (in lora-scripts) the prompts themselves, with sd-scripts' options behind ``--``."""
    path = Path(str(value))
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError):
        if path.suffix.lower() in (".txt", ".toml", ".json") or " " not in str(value):
            notes.append(f"sample_prompts {value} cannot be read; no test pictures are drawn")
            return
        lines = str(value).splitlines()
    if path.suffix.lower() in (".toml", ".json"):
        notes.append(f"sample_prompts {value} cannot be read; no test pictures are drawn")
        return
    prompts: list[str] = []
    options: dict[str, list[str]] = {}
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            prompt, *more = re.split(r"\s--(?=[a-z]+ )", line)
            prompts.append(prompt.strip())
            for option in more:
                name, _, text = option.partition(" ")
                options.setdefault(name, []).append(text.strip())
    values["sample_prompts"] = prompts
    for name, found in options.items():
        if name not in _PROMPT_OPTIONS:
            notes.append(f"sample_prompts' --{name} has no counterpart and is left out")
            continue
        values[_PROMPT_OPTIONS[name]] = found[0]
        if len(set(found)) > 1 or (len(found) < len(prompts) and name != "n"):
            if name == "n":
                notes.append("sample_prompts has several negative prompts; the first is used for all")
            else:
                notes.append(f"sample_prompts' --{name} differs by prompt; {found[0]} is used for all")


def _form_prompts(flat: dict[str, Any], values: dict[str, Any]) -> None:
    """lora-scripts' form keeps prompts in fields of its own."""
    if values.get("sample_prompts") or flat.get("enable_preview") is False:
        return
    if flat.get("positive_prompts"):
        values["sample_prompts"] = [str(flat["positive_prompts"])]
        values["sample_negative"] = str(flat.get("negative_prompts") or "")


def _sampler(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    name = SAMPLERS.get(str(value).lower())
    if name is None:
        notes.append(f"sample_sampler {value} is not offered; Euler is used")
    values["sampler"] = name or "Euler"


def _save_precision(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    if str(value) not in _PRECISIONS:
        notes.append(f"save_precision {value} is not offered; fp32 is used")
    values["save_dtype"] = _PRECISIONS.get(str(value), "fp32")


def _eight_bit(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    values["optimizer"] = "adamw8bit"


def _lion(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    values["optimizer"] = "lion"


def _class_tokens(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    values["trigger"] = str(value)


def _handled_elsewhere(value: Any, values: dict[str, Any], notes: list[str]) -> None:
    """Read by :func:`_length`."""


# what --d 7 and the like behind a prompt become; widths and heights are those of the training
_PROMPT_OPTIONS = {"n": "sample_negative", "d": "sample_seed", "l": "sample_cfg", "s": "sampler_steps"}
_HANDLERS: dict[str, Callable[[Any, dict[str, Any], list[str]], None]] = {
    "use_8bit_adam": _eight_bit,
    "use_lion_optimizer": _lion,
    "optimizer_type": _optimizer,
    "lr_scheduler": _scheduler,
    "network_module": _network_module,
    "network_args": _network_args,
    "optimizer_args": _optimizer_args,
    "sample_prompts": _sample_prompts,
    "sample_sampler": _sampler,
    "save_precision": _save_precision,
    "class_tokens": _class_tokens,
    "num_repeats": _handled_elsewhere,
    "save_n_epoch_ratio": _handled_elsewhere,
}
