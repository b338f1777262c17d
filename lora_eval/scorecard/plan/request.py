"""What a scorecard run can be asked for: the one list from which every surface is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lora_eval.encoders.choices import CHOICES
from lora_eval.errors import ConfigError
from lora_eval.host.protocol import Sampling
from lora_eval.options.option import in_range, is_multiple, option
from lora_eval.scorecard.data import KINDS
from lora_eval.scorecard.plan.plan import AXES, check_axes
from lora_eval.scorecard.plan.presets import NAMES
from lora_eval.scorecard.plan.ranges import parse_count

_RANGE = "range as in the X/Y/Z plot, for example 0-1.2 [7], 0-1(+0.2) or 0.4, 0.6, 0.9; empty: the preset's"


@dataclass(frozen=True)
class ScoreRequest:
    """A scorecard run as requested. None means "chosen by the program", as the field's help sentence says.

    The metadata of a field (see :func:`lora_eval.options.option.option`) is all that the surfaces know about it: the
    options of ``lora-eval score``, the body of ``POST /score``, the controls of the tab, and the table in docs/api.md.
    A new field therefore appears in all of them. ``group`` is the part of the form: ``what`` is drawn or ``how``; a
    field without one has a place of its own at the top of the tab.

    Raises:
        ConfigError: a value outside its range; one line that names the field.
    """

    loras: Sequence[Path] = option(
        tuple, "LoRAs", "one LoRA, or several checkpoints of one run", flag="--lora", body="lora", path=True
    )
    data: Path | None = option(
        None, "Reference folder", "pictures of the concept; empty: those of its training", metavar="DIR", path=True
    )
    out: Path | None = option(
        None, "Run folder", "the same folder again continues the run; empty: a new one", body="run", metavar="DIR"
    )
    weights: str | Sequence[float] | None = option(None, "Weights", _RANGE, metavar="RANGE", group="what")
    seeds: int | Sequence[int] | None = option(
        None, "Seeds per prompt", "how many, or which: 1-5; empty: the preset's", least=0, metavar="N", group="what"
    )
    prompts: int | Sequence[int] | None = option(
        None, "Number of prompts", "how many, or which: 1-3, 7; empty: the preset's", least=1, metavar="N", group="what"
    )
    suite: str | None = option(
        None,
        "Prompt suite",
        "a shipped one, or the path of a YAML or CSV file",
        metavar="FILE",
        group="what",
        path="suite",
    )
    preset: str = option("standard", "Preset", "how much is drawn: more pictures, narrower intervals", choices=NAMES)
    kind: str | None = option(
        None,
        "What it should have learnt",
        "from the LoRA: what its training said",
        choices=KINDS,
    )
    trigger: str | None = option(None, "Trigger", "empty: from the LoRA", group="what")
    class_word: str | None = option(
        None, "Class word for CLIP", "what the trigger is; empty: from the LoRA", group="what"
    )
    encoder: str | None = option(
        None,
        "Image encoder",
        f"{CHOICES}; empty: as in Settings",
        group="how",
        path="encoder",
    )
    sampler: str | None = option(None, "Sampler", "empty: Euler", group="how")
    scheduler: str | None = option(None, "Schedule type", "empty: Automatic", group="how")
    steps: int | None = option(None, "Sampling steps", "empty: 20", within=(1, 1000), group="how")
    cfg_scale: float | None = option(
        None, "CFG scale", "empty: the model's own", within=(0, 100), flag="--cfg", group="how"
    )
    width: int | None = option(
        None,
        "Width",
        "empty: as in Settings, else the model's own",
        within=(32, 4096),
        multiple=8,
        flag=None,
        group="how",
    )
    height: int | None = option(
        None,
        "Height",
        "empty: as in Settings, else the model's own",
        within=(32, 4096),
        multiple=8,
        flag=None,
        group="how",
    )
    clip_skip: int | None = option(None, "Clip skip", "empty: 1", within=(1, 12), group="how")
    batch_size: int | None = option(
        None, "Pictures at once", "fewer need less memory; empty: as in Settings", within=(1, 512), group="how"
    )
    axes: tuple[str, str] | None = option(
        None,
        "Axes of the map",
        f"two of {', '.join(AXES)}, across and down; empty: weight, checkpoint",
        metavar="X,Y",
    )
    budget: int | None = option(
        None,
        "Budget",
        "the most that is drawn; it looks where it matters; empty: a third of the thorough grid",
        metavar="N",
    )
    minutes: float | None = option(
        None,
        "Budget in minutes",
        "the same as a time, by the speed of the latest run; empty: no limit",
        metavar="N",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "loras", [Path(path) for path in self.loras])
        for one in fields(self):
            check_number(one.name, getattr(self, one.name), one.metadata)
        if self.axes is not None:
            object.__setattr__(self, "axes", check_axes(self.axes))

    def sampling(self, default: Sampling) -> Sampling:
        """The sampler settings that were requested over ``default``."""
        names = [one.name for one in fields(Sampling)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(default, **given)


def check_number(name: str, value: Any, about: Mapping[str, Any]) -> None:
    """Raise ConfigError when a number is outside the range of its field.

    Args:
        name: the field's name, for the error line.
        value: anything; only numbers are checked.
        about: the field's metadata, see :func:`lora_eval.options.option.option`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if not in_range(value, about):
        raise ConfigError(f"{name} is {value:g}; write a number from {about['low']:g} to {about['high']:g}")
    if not is_multiple(value, about):
        raise ConfigError(f"{name} is {value:g}; write a multiple of {about['multiple']}")


def read_count(name: str, value: Any, shown: str | None = None) -> int | list[int] | None:
    """A number of seeds or prompts as a person writes it: ``3``, ``"1-5"`` or ``"1, 4"``; None stays None.

    Args:
        name: ``seeds`` or ``prompts``.
        shown: how the surface calls it, for the error line.

    Raises:
        ConfigError: no number and no range.
    """
    if value is None or isinstance(value, (int, list)):
        return value
    return parse_count(value, shown or name, SCORE_FIELDS[name].metadata["least"])


def parse_axes(text: str | None) -> tuple[str, str] | None:
    """``weight, checkpoint`` as two axes; None for nothing. Raises ConfigError."""
    if text is None or not text.strip():
        return None
    return check_axes([part.strip() for part in text.split(",")])


SCORE_FIELDS = {one.name: one for one in fields(ScoreRequest)}
"""Name of each field of a request -> the dataclass field with its metadata, in their order."""
