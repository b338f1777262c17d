"""The settings of a training run: a dataclass with a YAML form, checked before anything is loaded."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from lora_eval.errors import ConfigError
from lora_eval.files import write_text

PRESETS = ("attention", "transformer", "full")
OPTIMIZERS = ("adamw", "adamw8bit", "lion", "prodigy")
SCHEDULERS = ("constant", "linear", "cosine", "cosine_with_restarts")
KINDS = ("style", "character", "object")
DTYPES = ("fp16", "bf16", "fp32")
PRECISIONS = ("auto", "no", "fp16", "bf16")


def _rules(
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    open_low: bool = False,
    open_high: bool = False,
) -> dict[str, Any]:
    """Allowed range of a setting; ``open_*`` leave that end itself out."""
    return {"low": low, "high": high, "choices": choices, "open_low": open_low, "open_high": open_high}


def _key(default: Any, low: float = -math.inf, high: float = math.inf, **rules: Any) -> Any:
    """A setting with its default and allowed range."""
    return field(default=default, metadata=_rules(low, high, **rules))


@dataclass
class TrainConfig:
    """Everything that decides what a run gives. None means "chosen by the program", as said at each key.

    Attributes:
        train_data_dir: folder of the pictures. metadata_path: table of captions (default: the folder's own).
        base_model: checkpoint to train on; WebUI hosts train on the model in memory and check its name.
        output_dir: run folder's place; None: the host's output folder. name: name of the LoRA; None: taken from
            output_dir or train_data_dir.
        lora_rank: inner dimension. lora_alpha: None = rank, so that the scale is 1. preset: which layers.
            conv_rank: rank of 3x3 convolutions (preset full). blocks: only layers of these blocks (in, mid, out).
        rank_stabilised: scale alpha / sqrt(rank). dropout: of the LoRA's inputs.
        init_lora: LoRA file to go on from (any rank).
        epochs: passes over the pictures, repeats counted. max_steps: stop after so many steps all the same.
        batch_size: pictures in one pass. gradient_accumulation: passes a step.
        resolution: side, [width, height], or None for the model's own. no_upscale: see dataset.buckets.
        optimizer, learning_rate, weight_decay, betas, max_grad_norm (0 = no clipping).
        lr_scheduler, lr_cycles (restarts), warmup_steps: number of steps, or a fraction below 1 of all of them.
        min_snr_gamma: None = off; 5 is the paper's. noise_offset: 0 = off. ema: decay, None = off.
        mixed_precision: auto = as the host computes. gradient_checkpointing: trade time for memory.
        caption_dropout, tag_dropout, shuffle_caption, keep_tokens: variations of captions.
        flip, random_crop: variations of pictures.
        validation_fraction: share held out; None = 0.1 from 20 pictures up, else 0. validation_steps: validate
            every so many steps; None = about twenty times a run.
        early_stop: stop after so many validations without a new best loss; 0 = never.
        save_steps: checkpoint every so many steps; 0 = only at the end. save_dtype: of the files.
        sample_prompts, sample_steps (every so many steps), sample_seed, sample_negative, sampler, sampler_steps,
            sample_cfg: test pictures by the host's own sampler.
        trigger, class_word, kind: what is learnt; goes into the LoRA's card and the scorecard.
        cache_latents_to_disk: keep encodings between runs. publish: put the finished LoRA into the LoRA folder.
        seed: of everything random.
    """

    train_data_dir: str = ""
    metadata_path: str | None = None
    base_model: str | None = None
    output_dir: str | None = None
    name: str | None = None
    kind: str = _key("style", choices=KINDS)
    trigger: str = ""
    class_word: str = ""

    lora_rank: int = _key(8, 1, 1024)
    lora_alpha: float | None = _key(None, 0, 4096, open_low=True)
    preset: str = _key("attention", choices=PRESETS)
    conv_rank: int | None = _key(None, 1, 1024)
    blocks: list[str] = field(default_factory=list, metadata=_rules(choices=("in", "mid", "out")))
    rank_stabilised: bool = False
    dropout: float = _key(0.0, 0, 1, open_high=True)
    init_lora: str | None = None

    batch_size: int = _key(4, 1, 512)
    gradient_accumulation: int = _key(1, 1, 1024)
    epochs: int = _key(10, 1, 100_000)
    max_steps: int | None = _key(None, 1, 10_000_000)
    resolution: Any = None
    no_upscale: bool = False
    seed: int = _key(0, 0, 2**32 - 1)

    learning_rate: float = _key(2e-4, 0, 10, open_low=True)
    optimizer: str = _key("adamw", choices=OPTIMIZERS)
    weight_decay: float = _key(0.01, 0, 10)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999], metadata=_rules(0, 1, open_high=True))
    lr_scheduler: str = _key("constant", choices=SCHEDULERS)
    lr_cycles: int = _key(1, 1, 1000)
    warmup_steps: float = _key(0, 0, 10_000_000)
    max_grad_norm: float = _key(1.0, 0, 1e6)
    ema: float | None = _key(None, 0, 1, open_low=True, open_high=True)

    min_snr_gamma: float | None = _key(None, 0, 1000, open_low=True)
    noise_offset: float = _key(0.0, 0, 1)
    mixed_precision: str = _key("auto", choices=PRECISIONS)
    gradient_checkpointing: bool = False

    caption_dropout: float = _key(0.0, 0, 1)
    tag_dropout: float = _key(0.0, 0, 1)
    shuffle_caption: bool = False
    keep_tokens: int = _key(0, 0, 100)
    flip: bool = False
    random_crop: bool = False

    validation_fraction: float | None = _key(None, 0, 0.5)
    validation_steps: int | None = _key(None, 1, 10_000_000)
    early_stop: int = _key(0, 0, 10_000)

    save_steps: int = _key(100, 0, 10_000_000)
    save_dtype: str = _key("fp16", choices=DTYPES)
    sample_prompts: list[str] = field(default_factory=list)
    sample_steps: int = _key(100, 1, 10_000_000)
    sample_seed: int = _key(0, 0, 2**32 - 1)
    sample_negative: str = ""
    sampler: str = "Euler"
    sampler_steps: int = _key(20, 1, 1000)
    sample_cfg: float = _key(7.0, 0, 100)
    cache_latents_to_disk: bool = True
    publish: bool = True

    def __post_init__(self) -> None:
        for setting in fields(self):
            setattr(self, setting.name, _checked(setting, getattr(self, setting.name)))
        self.resolution = _resolution(self.resolution)
        if len(self.betas) != 2:
            raise ConfigError(f"betas is {self.betas!r}; write two numbers, for example [0.9, 0.999]")
        if self.conv_rank is not None and self.preset != "full":
            raise ConfigError(
                f"conv_rank is {self.conv_rank} but preset is {self.preset}; set preset: full or remove it"
            )
        if self.name is not None and (bad := _bad_name(self.name)):
            raise ConfigError(f"name is {self.name!r}: {bad}; use letters, digits, blank, - and _")

    @property
    def alpha(self) -> float:
        """The LoRA's alpha: lora_alpha, or the rank."""
        return float(self.lora_rank if self.lora_alpha is None else self.lora_alpha)

    def warmup(self, total: int) -> int:
        """Steps of warm-up in a run of ``total`` steps; at most all of them."""
        steps = self.warmup_steps * total if 0 < self.warmup_steps < 1 else self.warmup_steps
        return min(math.ceil(steps), total)

    def run_name(self) -> str:
        """The LoRA's name: ``name``, or the last part of output_dir or train_data_dir made fit for a file name."""
        for source in (self.name, self.output_dir, self.train_data_dir):
            if source:
                stem = "".join(c if c.isalnum() or c in " -_." else "_" for c in Path(source).resolve().name)
                stem = stem.strip(" .") if source is not self.name else source
                if stem:
                    return stem[:100]
        return "lora"

    def require(self) -> None:
        """Raise ConfigError when a key without which nothing can be trained is missing."""
        if not self.train_data_dir:
            raise ConfigError("train_data_dir is missing; set it to the folder with the training pictures")


def _bad_name(name: str) -> str:
    if not name.strip() or name.strip(". ") != name:
        return "it is empty or starts or ends with a blank or dot"
    if any(c in '<>:"/\\|?*,' or ord(c) < 32 for c in name):
        # a colon or bracket would break the WebUI's <lora:name:weight>
        return "it has a sign that file names or the WebUI's prompt tag cannot hold"
    return "it is longer than 100 characters" if len(name) > 100 else ""


# -- checking --------------------------------------------------------------------------------------

_HINTS = typing.get_type_hints


def _kinds(setting: Field[Any]) -> tuple[type, bool]:
    """The plain type of a setting (list for lists) and whether None is allowed."""
    hint = _HINTS(TrainConfig)[setting.name]
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return parts[0], True
    return (typing.get_origin(hint) or hint), False


def _checked(setting: Field[Any], value: Any) -> Any:
    kind, optional = _kinds(setting)
    name, rules = setting.name, setting.metadata
    if kind is Any:
        return value
    if value is None or (value == "" and optional and kind is not str):
        if optional:
            return None
        raise ConfigError(f"{name} is empty; {_wanted(kind, rules)}")
    if kind is list:
        if isinstance(value, str):
            value = [line for line in (part.strip() for part in value.splitlines()) if line]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{name} is {value!r}; write a list")
        inner = typing.get_args(_HINTS(TrainConfig)[name])[0]
        return [_scalar(f"{name}[{i}]", inner, rules, one) for i, one in enumerate(value)]
    if optional and kind is str and not str(value).strip():
        return None
    return _scalar(name, kind, rules, value)


def _scalar(name: str, kind: type, rules: Mapping[str, Any], value: Any) -> Any:
    wrong = ConfigError(f"{name} is {value!r}; {_wanted(kind, rules)}")
    if kind is bool:
        if isinstance(value, str) and value.strip().lower() in ("true", "false", "yes", "no", "on", "off"):
            return value.strip().lower() in ("true", "yes", "on")
        if not isinstance(value, bool):
            raise wrong
        return value
    if kind is str:
        # YAML reads `name: 2024` as a number and `mixed_precision: no` as False
        if rules.get("choices") and value is False and "no" in rules["choices"]:
            value = "no"
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise wrong
        text = str(value)
        choices = rules.get("choices")
        if choices and text not in choices:
            near = difflib.get_close_matches(text, choices, 1)
            raise ConfigError(str(wrong) + (f" (did you mean {near[0]}?)" if near else ""))
        return text
    if isinstance(value, str):
        # YAML 1.1 takes 2e-4 (no dot) for a string
        try:
            value = float(value)
        except ValueError:
            raise wrong from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise wrong
    if kind is int and value != int(value):
        raise wrong
    low, high = rules.get("low", -math.inf), rules.get("high", math.inf)
    if (
        not low <= value <= high
        or (rules.get("open_low") and value == low)
        or (rules.get("open_high") and value == high)
    ):
        raise wrong
    return kind(value)


def _wanted(kind: type, rules: Mapping[str, Any]) -> str:
    if rules.get("choices"):
        return "write one of " + ", ".join(rules["choices"])
    if kind is bool:
        return "write true or false"
    if kind is str:
        return "write a text"
    noun = "a whole number" if kind is int else "a number"
    low, high = rules.get("low", -math.inf), rules.get("high", math.inf)
    if math.isinf(low) and math.isinf(high):
        return f"write {noun}"
    start = f"above {low:g}" if rules.get("open_low") else f"from {low:.12g}"
    end = f"below {high:.12g}" if rules.get("open_high") else f"to {high:.12g}"
    return f"write {noun} {start} {end}"


def _resolution(value: Any) -> tuple[int, int] | None:
    if value is None or value == "":
        return None
    wrong = ConfigError(f"resolution is {value!r}; write one side or [width, height], each from 32 to 4096")
    if isinstance(value, str):
        value = value.replace("x", ",").replace("[", "").replace("]", "").split(",")
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    try:
        numbers = [float(side) for side in sides if not isinstance(side, bool)]
    except (TypeError, ValueError):
        raise wrong from None
    if len(numbers) != len(sides) or len(numbers) not in (1, 2):
        raise wrong
    if any(number != int(number) or not 32 <= number <= 4096 for number in numbers):
        raise wrong
    return int(numbers[0]), int(numbers[-1])


# -- YAML ------------------------------------------------------------------------------------------


def make_config(values: Mapping[str, Any]) -> TrainConfig:
    """A config from names and values. Raises ConfigError for unknown names (with the nearest) and bad values."""
    known = [setting.name for setting in fields(TrainConfig)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else "remove it; `docs/training.md` lists the keys"
            raise ConfigError(f"unknown setting {name!r}; {hint}")
    return TrainConfig(**{str(name): value for name, value in values.items()})


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``["epochs=5", "flip=true"]`` -> values as YAML reads them. Raises ConfigError for a pair without ``=``."""
    values = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"{pair!r} is not a setting; write key=value, for example epochs=5")
        try:
            values[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[name.strip()] = text
    return values


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError naming file and line."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give the path of a training config") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it again as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not valid YAML"
        raise ConfigError(f"{path}{where}: {reason}; correct the YAML") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a list of `key: value` lines; see the templates")
    return values


def load_config(path: Path | str, overrides: Iterable[str] | Mapping[str, Any] = ()) -> TrainConfig:
    """Read a YAML config; ``overrides`` (``key=value`` texts or a mapping) win over it.

    Raises:
        ConfigError: one line naming file or key, value and allowed range.
    """
    values = read_yaml(path)
    values.update(overrides if isinstance(overrides, Mapping) else parse_overrides(overrides))
    return make_config(values)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The config as plain YAML values, every key included."""
    values = asdict(config)
    if config.resolution is not None:
        values["resolution"] = list(config.resolution)
    return values


def dump_config(config: TrainConfig) -> str:
    """The config as YAML text, keys in the order of the dataclass."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=1000)


def save_config(config: TrainConfig, path: Path | str) -> None:
    """Write the config as YAML, atomically. Raises RunError."""
    write_text(Path(path), dump_config(config))
