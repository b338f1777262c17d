"""Every text that the tabs show. ``localizations/zh_CN.json`` has a translation for each; a test keeps it so.

The WebUI translates whole text nodes, so a text here is never glued to a number: each stands in an element of its own.
"""

from __future__ import annotations

from dataclasses import fields

from lora_eval.report.words import COMPARED as _COMPARED
from lora_eval.report.words import QUESTIONS as _QUESTIONS
from lora_eval.report.words import TITLES as _TITLES
from lora_eval.scorecard.plan.presets import NAMES
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.training.config import TrainConfig

TRAIN_TITLE = "LoRA Train"
SCORE_TITLE = "LoRA Scorecard"

# title of a group of settings -> the settings in the order of the tab; those that no group names come last
_ORDER: dict[str, tuple[str, ...]] = {
    "LoRA network": (
        "lora_rank",
        "lora_alpha",
        "preset",
        "conv_rank",
        "blocks",
        "rank_stabilised",
        "dropout",
        "init_lora",
    ),
    "Steps and learning rate": (
        "epochs",
        "max_steps",
        "batch_size",
        "gradient_accumulation",
        "learning_rate",
        "optimizer",
        "lr_scheduler",
        "lr_cycles",
        "warmup_steps",
        "weight_decay",
        "betas",
        "max_grad_norm",
        "ema",
        "seed",
    ),
    "Noise and precision": (
        "min_snr_gamma",
        "noise_offset",
        "mixed_precision",
        "on_out_of_memory",
        "gradient_checkpointing",
    ),
    "Captions and pictures": (
        "class_word",
        "caption_dropout",
        "tag_dropout",
        "shuffle_caption",
        "keep_tokens",
        "flip",
        "random_crop",
        "reg_data_dir",
        "prior_loss_weight",
        "resolution",
        "no_upscale",
    ),
    "Hard negatives": (
        "hard_negative_prompts",
        "hard_negative_weight",
        "hard_negative_start",
    ),
    "Validation and early stop": (
        "validation_fraction",
        "validation_steps",
        "early_stop",
    ),
    "Checkpoints and test pictures": (
        "save_steps",
        "save_epochs",
        "save_dtype",
        "sample_prompts",
        "sample_negative",
        "sample_steps",
        "samples_per_prompt",
        "sample_seed",
        "sampler",
        "sampler_steps",
        "sample_cfg",
        "measure_samples",
        "sample_early_stop",
    ),
    "Files and folders": (
        "metadata_path",
        "caption_extension",
        "output_dir",
        "base_model",
        "cache_latents_to_disk",
        "publish",
    ),
}
_ON_TOP = ("train_data_dir", "name", "trigger", "kind")


def _groups() -> dict[str, dict[str, tuple[str, str]]]:
    """Title of each group -> name of a setting -> its label and help sentence, as ``TrainConfig`` has them."""
    texts = {one.name: (one.metadata["label"], one.metadata["help"]) for one in fields(TrainConfig)}
    named = {name for group in _ORDER.values() for name in group}
    found = {title: {name: texts[name] for name in names} for title, names in _ORDER.items()}
    more = {name: text for name, text in texts.items() if name not in named and name not in _ON_TOP}
    return {**found, "More settings": more} if more else found


GROUPS = _groups()


def _label(owner: type, name: str) -> tuple[str, str]:
    """Label and help sentence of a field of ``TrainConfig`` or ``ScoreRequest``."""
    about = next(one.metadata for one in fields(owner) if one.name == name)
    return about["label"], about["help"]


# -- LoRA Train --------------------------------------------------------------------------------------
STEP_FOLDER = "1 · Pictures"
STEP_NAME = "2 · Name and trigger"
STEP_TEMPLATE = "3 · Template"
FOLDER = _label(TrainConfig, "train_data_dir")
FOLDER_HINT = "for example /data/my_style"
CHECK = "Check pictures"
SAVE_CAPTIONS = "Save captions"
ADD_TRIGGER = "Put the trigger in front"
NAME = _label(TrainConfig, "name")
TRIGGER = _label(TrainConfig, "trigger")
KIND = _label(TrainConfig, "kind")
LOW_VRAM = ("Little memory", "12 GB or less: rank 4, one picture at a time")
KINDS = ("style", "character", "object")
TRAIN = "Train"
RESUME = "Resume"
INTERRUPT = "Interrupt"
CAPTION_GROUP = "Make captions by a program"
CAPTION_BY = (
    "Captions by",
    "BLIP: a sentence; DeepBooru: tags; CLIP terms: words from a list; correct them afterwards",
)
CAPTION_ANEW = ("Replace captions that are there", "else only pictures without a caption get one")
CAPTION_MAKE = "Make captions"
CONFIG = "Presets and settings as YAML"
PRESET_NAME = ("Preset", "choose one to load, or write a name to save the settings of this tab under")
PRESET_LOAD = "Load"
PRESET_SAVE = "Save"
SETTINGS_FILE = "Settings from a file: YAML, or a TOML of kohya's scripts"
CONFIG_SHOW = "Show settings"
CONFIG_USE = "Use these settings"
CONFIG_BOX = ("YAML", "copy it to keep it, or paste a training config here")
SCORE_RUN = "Score its checkpoints"
TRAIN_EMPTY = "Nothing trained yet. Choose a folder, a name and a template, then press Train."
TRAIN_WAITS = "While it trains, Generate waits; it gets its turn when the training ends or is interrupted."
GENERATE_WAITS = "Generate was pressed and waits for this training. Interrupt lets it go first, then Resume goes on."

# -- LoRA Scorecard ----------------------------------------------------------------------------------
LORAS = _label(ScoreRequest, "loras")
REFRESH = "Refresh"
RUN_PICK = ("All checkpoints of a run", "fills in the list above")
SCORE_KIND = _label(ScoreRequest, "kind")
FROM_LORA = "from the LoRA"
DATA = _label(ScoreRequest, "data")
PRESET = _label(ScoreRequest, "preset")
PRESETS = NAMES
X_AXIS = ("X axis", "what stands side by side in the map of the pictures")
Y_AXIS = ("Y axis", "what stands one below the other")
X_VALUES = ("X values", "range as in the X/Y/Z plot, for example 0-1.2 [7], 100-500(+100) or 1-5; empty: the preset's")
Y_VALUES = ("Y values", "checkpoints by their steps, prompts by their place in the suite; empty: all")
AXES = ("weight", "checkpoint", "prompt", "seed")
BUDGET = _label(ScoreRequest, "budget")
BUDGET_UNIT = "Budget in"
PICTURES = "pictures"
MINUTES = "minutes"
RUN = "Run"
WHAT = "What is drawn"
# field of a request -> label and help sentence of its control, of those that have a control of their own name
SCORE_OPTIONS = {one.name: _label(ScoreRequest, one.name) for one in fields(ScoreRequest) if "group" in one.metadata}
SUITE = _label(ScoreRequest, "suite")
SUITE_AUTO = "by kind"
SAMPLING = "How it is drawn"
HISTORY = ("History", "runs on disk, the latest first")
USE_WEIGHT = "Use this weight"
USE_LORA = ("LoRA to use", "the recommended checkpoint")
USE_VALUE = ("Weight to use", "becomes the card's preferred weight")
USE = "Use the result"
DOWNLOADS = "Downloads"
ALL_RUNS = "All runs"
COMPARE = "Compare runs"
COMPARE_RUNS = ("Runs to compare", "two or more finished runs, paired by prompt and seed")
COMPARE_AT = ("At", "checkpoint:weight in place of a run's recommendation, for example fox-000200:0.8; empty: that")
COMPARE_START = "Compare"
COMPARE_FILES = "Files of the comparison"
SCORE_EMPTY = "Nothing scored yet. Choose a LoRA and press Run."
NO_LORA = "Choose a LoRA first"

# -- pieces of what is shown while it works -----------------------------------------------------------
STATUS = {
    "queued": "waiting in line",
    "running": "running",
    "finished": "finished",
    "failed": "failed",
    "interrupted": "interrupted",
    "paused": "paused",
}
SEVERITY = {"error": "error", "warning": "warning", "info": "note"}
STATES = {
    "converged": "converged",
    "still falling": "still falling",
    "flat": "flat",
    "oscillating": "oscillating",
    "diverged": "diverged",
    "overfit": "overfit",
    "too short": "too short to tell",
}
WORDS = {
    "on_disk": "last run",
    "left": "time left",
    "used": "time used",
    "ahead": "jobs ahead:",
    "queue": "Queue",
    "cancel": "take out",
    "loss": "Loss",
    "loss_keys": "thin: each step · thick: smoothed · squares: held-out pictures",
    "previews": "Test pictures by step",
    "step": "step",
    "pictures": "pictures",
    "minutes": "minutes",
    "minutes_unknown": "time unknown until a first run on this machine",
    "no_findings": "No problems found.",
    "drawn": "Drawn last",
    "recommended": "Recommended",
    "not_measured": "not measured",
    "full_report": "Full report",
    "copy": "Copy",
    "send": "Send to txt2img",
    "advice": "What to change next time",
    "saved": "Saved to the LoRA's card:",
    "submitted": "In line.",
    "stopping": "Stopping at the next step; what is done is kept.",
    "nothing_runs": "Nothing is running.",
    "captions_saved": "Captions changed:",
    "settings_taken": "Settings taken over.",
    "preset_saved": "Preset saved:",
    "look_again": "Press Check pictures to see and correct them.",
    "no_caption": "no caption",
    "edit": "Captions can be changed here.",
    "set_aside": "set aside",
    "aside_done": "Moved to:",
    "more": "more pictures not shown:",
    "more_findings": "more findings not shown:",
    "filled": "Filled in from the run:",
    "preset": "Preset",
    "fills": "Filling in:",
    "own_page": "Open on its own",
    "comparison": "Comparison",
    "unfinished": "not finished",
    "run": "Run folder",
    "when": "When",
    "weight": "weight",
    "said": "What was said",
}

VERDICTS = ("good", "weak", "poor")


def all_strings() -> list[str]:
    """Each text once, in the order of this file."""
    found: dict[str, None] = {}

    def add(value: object) -> None:
        if isinstance(value, str):
            found[value] = None
        elif isinstance(value, dict):
            for key, one in value.items():
                if value is GROUPS:
                    add(key)
                add(one)
        elif isinstance(value, (tuple, list)):
            for one in value:
                add(one)

    for name, value in globals().items():
        if name.isupper() and not name.startswith("_"):
            add(value)
    for words in (_TITLES, _QUESTIONS, _COMPARED):
        add(words)
    return list(found)
