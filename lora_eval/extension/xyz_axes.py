"""Axes for the WebUI's own X/Y/Z plot: "LoRA checkpoint" and "LoRA weight".

Both work through the prompt's ``<lora:NAME:WEIGHT>`` tag, as a person would type it, so the infotext of every picture
says what was drawn and brings it back. Registering follows what extensions do: the script's module is found among the
loaded ones and ``AxisOption`` objects are added to its ``axis_options`` (``scripts/xyz_grid.py`` of AUTOMATIC1111 1.10
and Forge).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError, LoraEvalError
from lora_eval.files import make_folder
from lora_eval.service.library import publish

CHECKPOINT = "LoRA checkpoint"
WEIGHT = "LoRA weight"
NONE = "None"
"""The value that draws without the LoRA."""
SCRIPTS = ("xyz_grid.py", "scripts.xyz_grid")
# how dear a change is: both merge the LoRA anew, a checkpoint is also read from disk
_COSTS = {CHECKPOINT: 0.3, WEIGHT: 0.2}
_TAG = re.compile(r"<lora:([^:>]+)((?::[^:>]*)*)>")
_STEP = re.compile(r"-\d{6,}$")
_WEIGHT_MARK, _NAME_MARK = "lora_eval_axis_weight", "lora_eval_axis_name"
HASHES = "Lora hashes"
FOLDER = "lora-eval"


class Axes:
    """What the two axes do to a picture about to be drawn.

    Args:
        names: the LoRAs to choose from, in the order they are offered.
        provide: called with the names of a plot before it is drawn; makes each of them known to the WebUI and raises
            LoraEvalError for one that is not there.
        planned: labels of the axes of the plot that is drawn.
    """

    def __init__(
        self,
        names: Callable[[], list[str]],
        provide: Callable[[Sequence[str]], None],
        planned: Callable[[], Iterable[str]],
    ) -> None:
        self._names, self._provide, self._planned = names, provide, planned

    def choices(self) -> list[str]:
        """Every name, and first the one for no LoRA at all."""
        return [NONE, *self._names()]

    def confirm_checkpoints(self, p: Any, values: Sequence[str]) -> None:
        """Before the plot: every LoRA is there, and the WebUI knows it. Raises RuntimeError, which the WebUI shows."""
        try:
            self._provide([value for value in values if value != NONE])
        except LoraEvalError as error:
            raise RuntimeError(f"{CHECKPOINT}: {error}") from None

    def confirm_weights(self, p: Any, values: Sequence[float]) -> None:
        """Before the plot: weights that a LoRA can bear. Raises RuntimeError, which the WebUI shows."""
        for value in values:
            if not -10 <= value <= 10:
                raise RuntimeError(f"{WEIGHT}: {value:g} is out of range; write weights from -10 to 10")

    def apply_checkpoint(self, p: Any, value: str, values: Sequence[str]) -> None:
        """Draw with this LoRA in place of the others of the axis or of its run, at the weight that stood there."""
        _own_parameters(p)
        setattr(p, _NAME_MARK, value)
        weight = getattr(p, _WEIGHT_MARK, None)
        for field in _prompts(p):
            setattr(p, field, swap(getattr(p, field), value, values, weight, append=field == "prompt"))

    def apply_weight(self, p: Any, value: float, values: Sequence[float]) -> None:
        """Draw with the LoRA of the checkpoint axis, or else the prompt's only one, at this weight."""
        _own_parameters(p)
        setattr(p, _WEIGHT_MARK, value)
        name = getattr(p, _NAME_MARK, None)
        if name is None and CHECKPOINT in self._planned():
            # that axis comes after this one and takes the weight along
            return
        if name == NONE:
            return
        if name is None:
            found = list(dict.fromkeys(match[1] for match in _TAG.finditer(p.prompt)))
            if len(found) != 1:
                what = f"the prompt has {len(found)} LoRAs ({', '.join(found)})" if found else "the prompt has no LoRA"
                raise RuntimeError(f'{WEIGHT}: {what}; write one <lora:NAME:1>, or add the axis "{CHECKPOINT}"')
            name = found[0]
        for field in _prompts(p):
            setattr(p, field, weigh(getattr(p, field), name, value))

    def add_to(self, grid: Any) -> None:
        """Add both to the module of the X/Y/Z plot, once."""
        known = {option.label for option in grid.axis_options}
        options = (
            (CHECKPOINT, str, self.apply_checkpoint, self.confirm_checkpoints, grid.format_value, self.choices),
            (WEIGHT, float, self.apply_weight, self.confirm_weights, grid.format_value_add_label, None),
        )
        for label, kind, apply, confirm, shown, choices in options:
            if label not in known:
                made = grid.AxisOption(
                    label, kind, apply, format_value=shown, confirm=confirm, cost=_COSTS[label], choices=choices
                )
                grid.axis_options.append(made)


def find_grid(scripts_data: Iterable[Any]) -> Any | None:
    """The loaded module of the X/Y/Z plot among the WebUI's scripts; None where there is none."""
    for data in scripts_data:
        if getattr(data.script_class, "__module__", "") in SCRIPTS and hasattr(data.module, "axis_options"):
            return data.module
    return None


# -- prompts -----------------------------------------------------------------------------------------


def family(name: str) -> str:
    """The run that a checkpoint belongs to: its name without the step.

    >>> family("fox-000300")
    'fox'
    """
    return _STEP.sub("", name)


def swap(prompt: str, name: str, others: Sequence[str], weight: float | None = None, append: bool = True) -> str:
    """Put ``<lora:name:weight>`` where a LoRA of ``others`` or of the same run stands; else at the end.

    Args:
        prompt: with or without tags.
        name: the LoRA; ``NONE`` takes the tag out.
        others: the axis' values.
        weight: None keeps that of the tag that was there, 1 where none was.
        append: without a tag to replace add one; False leaves the prompt as it is.
    """
    run = {family(one) for one in (*others, name) if one != NONE}
    found = [match for match in _TAG.finditer(prompt) if match[1] in others or family(match[1]) in run]
    rest = found[0][2] if found else ""
    arguments = rest if weight is None else _weighted(rest, weight)
    tag = "" if name == NONE else f"<lora:{name}{arguments or ':1'}>"
    if not found:
        return f"{prompt} {tag}".strip() if append and tag else prompt
    for number, match in reversed(list(enumerate(found))):
        before, after = prompt[: match.start()], prompt[match.end() :]
        prompt = before + tag + after if number == 0 else before.rstrip(" ") + after
    return prompt if tag else re.sub(r" {2,}", " ", prompt).strip()


def weigh(prompt: str, name: str, weight: float) -> str:
    """The prompt with every tag of that LoRA at ``weight``."""

    def change(match: re.Match[str]) -> str:
        return f"<lora:{name}{_weighted(match[2], weight)}>" if match[1] == name else match[0]

    return _TAG.sub(change, prompt)


def _weighted(arguments: str, weight: float) -> str:
    """A tag's arguments at another weight, for UNet and text encoder alike; named ones of other meaning stay."""
    named = [one for one in arguments.split(":")[1:] if "=" in one and one.split("=")[0].strip() not in ("te", "unet")]
    return ":" + ":".join([f"{round(weight, 4):g}", *named])


def _prompts(p: Any) -> list[str]:
    """The prompts of a picture that tags can stand in: its own, and that of the second pass where it has one."""
    return ["prompt", *(["hr_prompt"] if isinstance(getattr(p, "hr_prompt", None), str) and p.hr_prompt else [])]


def _own_parameters(p: Any) -> None:
    """The plot copies pictures shallowly: one cell's LoRA hashes would stand in the next cell's infotext."""
    kept = {key: value for key, value in (p.extra_generation_params or {}).items() if key != HASHES}
    p.extra_generation_params = kept


# -- names -------------------------------------------------------------------------------------------


def ordered_names(runs: Sequence[Sequence[Path]], host: Iterable[str]) -> list[str]:
    """Names to offer: the checkpoints of each training run by step, the latest run first, then the WebUI's others."""
    own = [path.stem for run in runs for path in run]
    rest = sorted(set(host) - set(own), key=str.casefold)
    return [name for name in dict.fromkeys([*own, *rest]) if not re.search(r"[:<>]", name)]


def link_into(lora_folder: Path, path: Path) -> Path:
    """The checkpoint under its own name in ``<LoRA folder>/lora-eval``, so that its pictures' infotext goes on working.

    A hard link where the disk allows, else a copy. Raises LoraFileError when another LoRA of its name lies there.
    """
    folder = make_folder(lora_folder / FOLDER)
    with suppress(OSError):
        os.link(path, folder / path.name)
    # a copy where there is no link, and the check where there was a file
    return publish(path, folder)


def provide_all(
    wanted: Sequence[str],
    known: Callable[[], Iterable[str]],
    files: Iterable[Path],
    link: Callable[[Path], Path],
    refresh: Callable[[], None],
) -> None:
    """Make checkpoints of our runs known to the WebUI under their own names.

    Args:
        wanted: names on the axis. known: the WebUI's names.
        files: checkpoints of our runs.
        link: puts a file into the LoRA folder.
        refresh: makes the WebUI look at that folder again.

    Raises:
        ConfigError: a name is neither known nor a checkpoint's.
        LoraFileError: another LoRA of its name lies in the LoRA folder.
    """
    missing = [name for name in dict.fromkeys(wanted) if name not in set(known())]
    if not missing:
        return
    ours: dict[str, Path] = {}
    for path in files:
        ours.setdefault(path.stem, path)
    unknown = [name for name in missing if name not in ours]
    if not unknown:
        for name in missing:
            link(ours[name])
    refresh()
    lost = [name for name in missing if name not in set(known())]
    if lost:
        raise ConfigError(f"{lost[0]} is not there; choose from the list beside the field")
