"""The settings of a training run: a dataclass with a YAML form, checked before anything is loaded."""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from lora_eval.errors import ConfigError
from lora_eval.files import write_text
from lora_eval.options.option import bad_name, checked, option, resolution
from lora_eval.reading.text import NotText, read_text
from lora_eval.reading.yaml_text import YamlError, parse

PRESETS = ("attention", "transformer", "full")
OPTIMIZERS = ("adamw", "adamw8bit", "lion", "prodigy")
SCHEDULERS = ("constant", "linear", "cosine", "cosine_with_restarts")
KINDS = ("style", "character", "object")
DTYPES = ("fp16", "bf16", "fp32")
PRECISIONS = ("auto", "no", "fp16", "bf16")
PATHS = ("train_data_dir", "metadata_path", "reg_data_dir", "base_model", "output_dir", "init_lora")


@dataclass
class TrainConfig:
    """Everything that decides what a run gives. None means "chosen by the program", as said at each key.

    Attributes:
        train_data_dir: folder of the pictures. metadata_path: table of captions (default: the folder's own).
            caption_extension: read only captions beside the pictures that have this ending, and no table.
        reg_data_dir: regularisation pictures (the class without the concept), shown as often as the others in all;
            prior_loss_weight: weight of their loss.
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
        hard_negative_weight: of the pull of prompts without the trigger to the base model, 0 = off.
            hard_negative_start: share of the run before it begins. hard_negative_prompts: empty = captions without
            their trigger.
        caption_dropout, tag_dropout, shuffle_caption, keep_tokens: variations of captions.
        flip, random_crop: variations of pictures.
        validation_fraction: share held out; None = 0.1 from 20 pictures up, else 0. validation_steps: validate
            every so many steps; None = about twenty times a run.
        early_stop: stop after so many validations without a new best loss; 0 = never.
        on_out_of_memory: smaller = go on with the next smaller settings of the same effective batch; stop = an error.
        save_steps: checkpoint every so many steps; 0 = only at the end. save_epochs: also at the end of every so
            many epochs. save_dtype: of the files.
        sample_prompts, sample_steps (every so many steps), samples_per_prompt, sample_seed, sample_negative, sampler,
            sampler_steps, sample_cfg: test pictures by the host's own sampler.
        measure_samples: measure them (fidelity, diversity, alignment). sample_early_stop: stop after so many measured
            steps in a row that an earlier step beats; 0 = advise only.
        trigger, class_word, kind: what is learnt; goes into the LoRA's card and the scorecard.
        cache_latents_to_disk: keep encodings between runs. publish: put the finished LoRA into the LoRA folder.
        seed: of everything random.
    """

    train_data_dir: str = option(
        "",
        "Folder of pictures",
        "50 to 200 clean, sharp pictures; a caption for each in metadata.csv or a .txt beside it",
    )
    metadata_path: str | None = option(
        None,
        "Caption table",
        "metadata.csv with file name and prompt; empty: the folder's own, else .txt beside each picture",
    )
    caption_extension: str = option(
        "", "Caption ending", "read only caption files with this ending; empty: .txt, then .caption"
    )
    reg_data_dir: str | None = option(
        None, "Regularisation pictures", "folder with the class without the concept; empty: none"
    )
    prior_loss_weight: float = option(1.0, "Weight of regularisation", "how much their loss counts", within=(0, 100))
    base_model: str | None = option(None, "Base model", "empty: the one in memory; a name here is checked against it")
    output_dir: str | None = option(None, "Output folder", "empty: the WebUI's outputs")
    name: str | None = option(None, "LoRA name", "file name and <lora:NAME:1>; empty: the folder's name")
    kind: str = option(
        "style", "What it should learn", "fills in the settings below with the advised ones", choices=KINDS
    )
    trigger: str = option("", "Trigger word", "a rare word that calls the concept; it should stand in every caption")
    class_word: str = option("", "Class word", "what the trigger is, for example woman, dog or painting")
    lora_rank: int = option(8, "Rank", "8 first; 4 when memory is short, 16 when 8 learns too little", within=(1, 1024))
    lora_alpha: float | None = option(
        None, "Alpha", "empty: the same as the rank, so that the scale is 1", within=(0, 4096), open_ends="low"
    )
    preset: str = option(
        "attention",
        "Layers",
        "attention: Q, K, V and output; transformer: what kohya trains; full: with 3x3 convolutions",
        choices=PRESETS,
    )
    conv_rank: int | None = option(
        None, "Rank of convolutions", "only for the full preset; empty: the rank", within=(1, 1024)
    )
    blocks: list[str] = option(
        list, "Blocks", "train only these parts of the UNet; none ticked: all", choices=("in", "mid", "out")
    )
    rank_stabilised: bool = option(False, "Rank-stabilised scale", "alpha over the square root of the rank (rsLoRA)")
    dropout: float = option(
        0.0, "Dropout", "share of the LoRA's inputs set to zero; 0: off", within=(0, 1), open_ends="high"
    )
    init_lora: str | None = option(
        None, "Start from LoRA", "path of a LoRA to go on from, of any rank; empty: start anew"
    )
    batch_size: int = option(
        4, "Batch size", "pictures in one pass; 4 to 6 on 24 GB, 1 or 2 when memory is short", within=(1, 512)
    )
    gradient_accumulation: int = option(
        1, "Gradient accumulation", "passes in one step; acts like a larger batch without its memory", within=(1, 1024)
    )
    epochs: int = option(10, "Epochs", "passes over the pictures; 10 to 15 are advised", within=(1, 100_000))
    max_steps: int | None = option(
        None, "Step limit", "stop after so many steps all the same; empty: no limit", within=(1, 10_000_000)
    )
    resolution: Any = option(
        None, "Resolution", "side or WIDTHxHEIGHT in pixels; empty: as in Settings, else the model's own"
    )
    no_upscale: bool = option(False, "Do not enlarge", "small pictures keep their size")
    seed: int = option(0, "Training seed", "the same seed and settings give the same LoRA", within=(0, 2**32 - 1))
    learning_rate: float = option(
        2e-4, "Learning rate", "2e-4 for a style, 1e-4 for a character or an object", within=(0, 10), open_ends="low"
    )
    optimizer: str = option("adamw", "Optimiser", "adamw8bit, lion and prodigy need their package", choices=OPTIMIZERS)
    weight_decay: float = option(0.01, "Weight decay", "pulls the LoRA towards zero", within=(0, 10))
    betas: list[float] = option(
        lambda: [0.9, 0.999], "Betas", "two numbers of the optimiser", within=(0, 1), open_ends="high"
    )
    lr_scheduler: str = option(
        "constant", "Learning rate schedule", "how the learning rate changes over the run", choices=SCHEDULERS
    )
    lr_cycles: int = option(1, "Restarts", "cycles of cosine_with_restarts", within=(1, 1000))
    warmup_steps: float = option(
        0, "Warm-up", "number of steps, or a share of all steps below 1", within=(0, 10_000_000)
    )
    max_grad_norm: float = option(
        1.0, "Gradient clipping", "largest norm of the gradient; 0: no clipping", within=(0, 1000000)
    )
    ema: float | None = option(
        None, "Average of weights (EMA)", "decay such as 0.999; empty: off", within=(0, 1), open_ends="low high"
    )
    min_snr_gamma: float | None = option(
        None, "Min-SNR gamma", "5 evens out the timesteps; empty: off", within=(0, 1000), open_ends="low"
    )
    noise_offset: float = option(0.0, "Noise offset", "helps very dark and very bright pictures; 0: off", within=(0, 1))
    mixed_precision: str = option("auto", "Mixed precision", "auto: as the WebUI computes", choices=PRECISIONS)
    gradient_checkpointing: bool = option(False, "Gradient checkpointing", "less memory, about a third slower")
    on_out_of_memory: str = option(
        "smaller",
        "When memory runs out",
        "smaller: go on with smaller settings of the same effect; stop: an error",
        choices=("smaller", "stop"),
    )
    hard_negative_weight: float = option(
        0.0, "Weight of hard negatives", "how much they count; 0.3 is usual; 0: off", within=(0, 1000)
    )
    hard_negative_start: float = option(
        0.5, "Hard negatives from", "share of the run after which they begin", within=(0, 1), open_ends="high"
    )
    hard_negative_prompts: list[str] = option(
        list,
        "Prompts to leave alone",
        "one a line, kept as the base model draws them; empty: the captions without the trigger",
    )
    caption_dropout: float = option(0.0, "Caption dropout", "share of pictures shown without caption", within=(0, 1))
    tag_dropout: float = option(0.0, "Tag dropout", "share of tags left out", within=(0, 1))
    shuffle_caption: bool = option(False, "Shuffle tags", "tags in another order each time")
    keep_tokens: int = option(0, "Keep first tags", "so many tags stay in front", within=(0, 100))
    flip: bool = option(False, "Flip", "mirror half of the pictures; not for faces with a side or for lettering")
    random_crop: bool = option(False, "Random crop", "cut another part each time instead of the middle")
    validation_fraction: float | None = option(
        None,
        "Held-out share",
        "pictures kept aside to measure with; empty: a tenth from 20 pictures up",
        within=(0, 0.5),
    )
    validation_steps: int | None = option(
        None, "Validate every", "steps; empty: about twenty times a run", within=(1, 10_000_000)
    )
    early_stop: int = option(
        0, "Patience", "stop after so many validations without a better loss; 0: never", within=(0, 10000)
    )
    save_steps: int = option(
        100,
        "Checkpoint every",
        "steps; 100 to 200 are advised, so that the best can be gone back to",
        within=(0, 10_000_000),
    )
    save_epochs: int = option(
        0, "Checkpoint every (epochs)", "also at the end of so many epochs; 0: by steps alone", within=(0, 100_000)
    )
    save_dtype: str = option("fp16", "Precision of files", "fp16 is what the WebUIs expect", choices=DTYPES)
    sample_prompts: list[str] = option(
        list, "Prompts of test pictures", "one a line; {trigger} and {class_word} are filled in"
    )
    sample_steps: int = option(100, "Test pictures every", "steps", within=(1, 10_000_000))
    samples_per_prompt: int = option(1, "Pictures per prompt", "each with a seed of its own", within=(1, 16))
    sample_seed: int = option(
        0, "Seed of test pictures", "the same over the whole run, so that only the LoRA differs", within=(0, 2**32 - 1)
    )
    sample_negative: str = option("", "Negative prompt of test pictures", "what should not be in them")
    sampler: str = option("Euler", "Sampler of test pictures", "a name of the WebUI's list")
    sampler_steps: int = option(20, "Sampling steps of test pictures", "more is finer and slower", within=(1, 1000))
    sample_cfg: float = option(
        7.0, "CFG scale of test pictures", "how strictly the prompt is followed", within=(0, 100)
    )
    measure_samples: bool = option(
        False,
        "Measure test pictures",
        "fidelity, diversity and alignment at each step; needs prompts above and the image encoder",
    )
    sample_early_stop: int = option(
        0,
        "Patience with test pictures",
        "stop after so many steps in a row whose pictures an earlier step beats; 0: advise only",
        within=(0, 10000),
    )
    cache_latents_to_disk: bool = option(True, "Keep encodings", "a second run on the same pictures starts faster")
    publish: bool = option(True, "Put into the LoRA folder", "the finished LoRA can be used at once")

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(TrainConfig)
        for setting in fields(self):
            setattr(self, setting.name, checked(setting, hints[setting.name], getattr(self, setting.name)))
        self.resolution = resolution(self.resolution)
        for name in PATHS:
            if any(ord(sign) < 32 for sign in getattr(self, name) or ""):
                # "data\new" in YAML's double quotes holds a line break
                raise ConfigError(f"{name} is {getattr(self, name)!r}, no path; write it in single quotes")
        if len(self.betas) != 2:
            raise ConfigError(f"betas is {self.betas!r}; write two numbers, for example [0.9, 0.999]")
        if self.conv_rank is not None and self.preset != "full":
            raise ConfigError(
                f"conv_rank is {self.conv_rank} but preset is {self.preset}; set preset: full or remove it"
            )
        if self.name is not None and (bad := bad_name(self.name)):
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
        if self.measure_samples and not self.sample_prompts:
            raise ConfigError("measure_samples needs test pictures; write at least one prompt into sample_prompts")
        if self.sample_early_stop and not self.measure_samples:
            raise ConfigError("sample_early_stop goes by measured test pictures; set measure_samples: true")


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
    """``["epochs=5", "flip=true"]`` -> values as a config file has them; a text is taken as it is typed.

    Raises:
        ConfigError: a pair without ``=``, or a setting that is given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"{pair!r} is not a setting; write key=value, for example epochs=5")
        if name.strip() in values:
            raise ConfigError(f"{name.strip()} is given twice; remove one of the two")
        values[name.strip()] = _override(name.strip(), text)
    return values


def _override(name: str, text: str) -> Any:
    """The value of ``name=text``: a text setting verbatim, so that ``trigger=#1`` and ``name=007`` stay as typed."""
    hint = typing.get_type_hints(TrainConfig).get(name)
    plain = text.strip()
    quoted = len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "'\""
    if hint in (str, str | None) and not quoted and plain not in ("null", "~"):
        return plain
    if hint == list[str] and not quoted and not plain.startswith("["):
        return plain
    try:
        return parse(text)
    except YamlError:
        return text


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file, read by :mod:`lora_eval.reading.yaml_text`. Raises ConfigError with file and line."""
    path = Path(path)
    try:
        values = parse(read_text(path))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give the path of a training config") from None
    except NotText:
        raise ConfigError(f"{path} is not UTF-8 text; save it again as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except YamlError as error:
        where = f" line {error.line}" if error.line else ""
        raise ConfigError(f"{path}{where}: {error.problem}; correct the YAML") from None
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


def to_yaml(values: Mapping[str, Any]) -> str:
    """Settings as YAML text, in their order."""
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1000))


def dump_config(config: TrainConfig) -> str:
    """The config as YAML text, keys in the order of the dataclass."""
    return to_yaml(to_dict(config))


def save_config(config: TrainConfig, path: Path | str) -> None:
    """Write the config as YAML, atomically. Raises RunError."""
    write_text(Path(path), dump_config(config))
