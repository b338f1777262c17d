"""How each trainer names its losses: one table of TensorBoard tags, CSV columns, JSON keys and progress-bar names.

To add a trainer: add its names here in lower case, in the order of preference (loss, validation, learning
rate, and the counter in ``STEP_COLUMNS`` where the log is a table or JSON lines), then one test in
``tests/training/test_trainers.py`` that writes what the trainer writes. Keys of nested JSON are joined by ``/``.

The rule of choice: the first name of the table that the log holds. Among training losses, the loss of
single steps comes before a running average, because only it shows the step noise; in progress bars the
average comes first, because a bar is redrawn at irregular times and misses steps. Among validation
losses, an average over the validation pictures comes before the loss of one batch, and one counted in
steps before one counted in epochs.
"""

from __future__ import annotations

from collections.abc import Iterable

TRAIN_NAMES = (
    "loss/debiased",  # ours
    "loss/current",  # kohya sd-scripts, lora-scripts
    "loss/train_step",  # OneTrainer
    "loss/step",
    "loss/loss",  # ai-toolkit
    "loss/train",
    "train/loss",
    "train_loss",  # diffusers' scripts, SimpleTuner
    "step_loss",  # diffusers' scripts
    "loss",  # ours, TrainTrain
    "smooth_loss/train_step",  # OneTrainer's running average
    "loss/average",  # kohya sd-scripts' running average
    "loss/epoch",
    "loss/epoch_average",  # kohya sd-scripts, counted in epochs
)
VALIDATION_NAMES = (
    "loss/validation/step_average",  # kohya sd-scripts
    "loss/validation/epoch_average",
    "loss/validation_step/total_average",  # OneTrainer, with several validation concepts
    "loss/validation/step_current",
    "loss/validation/epoch_current",
    "loss/validation",
    "loss/val",
    "val/loss",  # ai-toolkit
    "val_loss",  # ours
    "validation_loss",
    "validation/loss",
    "eval/loss",  # transformers' Trainer, accelerate
    "eval_loss",
    "test/loss",
    "test_loss",
    "holdout/loss",
)
# one tag a validation concept; their mean is taken where there is no total
VALIDATION_FAMILY = "loss/validation_step/"
RATE_NAMES = ("lr/unet", "lr/group0", "lr/textencoder", "lr", "learning_rate", "learning rate 1", "train/lr")
BAR_AVERAGES = ("avr_loss", "avg_loss", "smooth loss")  # kohya sd-scripts (both), OneTrainer
BAR_LOSSES = ("loss", "train_loss", "step_loss")  # ai-toolkit, OneTrainer, diffusers' scripts
STEP_COLUMNS = ("step", "global_step", "train/global_step", "trainer/global_step", "_step", "it", "epoch")
# what the name of a loss holds where it is not the training's
VALIDATION_WORDS = ("val", "eval", "test", "holdout", "held_out")
_AVERAGES = ("average", "smooth", "avr_", "avg_")


def is_average(name: str) -> bool:
    """Whether a tag names a running average, whose noise says nothing of the noise of a step."""
    return any(word in name.lower() for word in _AVERAGES)


def is_validation(name: str) -> bool:
    """Whether the name is that of a loss on pictures that are not trained on."""
    return any(word in name.lower() for word in VALIDATION_WORDS)


def is_loss(name: str) -> bool:
    """Whether a tag names a loss at all, by the table or by the word; a difference of two losses is none."""
    low = name.lower()
    return low in TRAIN_NAMES or low in VALIDATION_NAMES or ("loss" in low and "diverg" not in low)


def train_name(names: Iterable[str]) -> str | None:
    """The name of the training loss by the table; else the first other loss by name, averages last."""
    names = list(names)
    known = {name.lower(): name for name in names}
    for wanted in TRAIN_NAMES:
        if wanted in known:
            return known[wanted]
    others = [name for name in names if is_loss(name) and not is_validation(name)]
    return min(others, key=lambda name: (is_average(name), name), default=None)


def validation_name(names: Iterable[str]) -> str | None:
    """The name of the validation loss by the table, or the family's common start, or None."""
    known = {name.lower(): name for name in names}
    for wanted in VALIDATION_NAMES:
        if wanted in known:
            return known[wanted]
    return VALIDATION_FAMILY if any(name.startswith(VALIDATION_FAMILY) for name in known) else None


def rate_name(names: Iterable[str]) -> str | None:
    """The name of the learning rate by the table, or None."""
    known = {name.lower(): name for name in names}
    return next((known[wanted] for wanted in RATE_NAMES if wanted in known), None)
