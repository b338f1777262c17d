"""Finished run folders as ``compare`` reads them, and whether their pictures may be set side by side."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lora_eval.errors import RunError
from lora_eval.files import read_json
from lora_eval.report.tables import read_text
from lora_eval.scorecard.data import Prompt
from lora_eval.scorecard.plan import Plan
from lora_eval.scorecard.ranges import format_number
from lora_eval.scorecard.store import RunFolder, content_hash

TRIGGER = "{trigger}"
SETTINGS = ("sampler", "scheduler", "steps", "cfg_scale", "width", "height", "clip_skip")
# the metric columns that are compared; a table with none of them was drawn but never measured
METRICS = ("carlos", "clip_i", "clip_i_gain", "clip_t", "distortion_z", "effect", "copy")


class Key(NamedTuple):
    """What two pictures share: the prompt with the trigger's place kept open, negative prompt, seed."""

    prompt: str
    negative: str
    seed: int


@dataclass(frozen=True)
class Run:
    """One run folder, read whole.

    Attributes:
        rows: (checkpoint or "" for weight 0, weight) -> pairing key -> row of ``cells.csv`` as text.
        prompts: pairing key without the seed -> prompt of the suite.
    """

    folder: RunFolder
    plan: Plan
    card: dict[str, Any]
    summary: list[dict[str, str]]
    rows: dict[tuple[str, float], dict[Key, dict[str, str]]]
    prompts: dict[tuple[str, str], Prompt]

    @property
    def name(self) -> str:
        """The folder's name, as shown to a person."""
        return self.folder.root.resolve().name

    @property
    def encoder(self) -> str:
        """Identity of the encoder that measured the run."""
        return str(self.card.get("provenance", {}).get("encoder") or "")

    @property
    def weights(self) -> list[float]:
        """Weights above or below 0 that were drawn, ascending."""
        return sorted({weight for _, weight in self.rows if weight != 0})

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints in the order of drawing."""
        return list(dict.fromkeys(name for name, weight in self.rows if weight != 0))

    @cached_property
    def features(self) -> dict[str, np.ndarray]:
        """Content hash -> (D,) unit feature; empty where ``features.npz`` is gone."""
        arrays = self.folder.read_features()
        table = f"image|{self.encoder.replace('|', '_')}"
        keys, values = arrays.get(f"{table}|key"), arrays.get(f"{table}|feature")
        if keys is None or values is None or len(keys) != len(values):
            return {}
        return dict(zip(map(str, keys), values, strict=True))

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {}

    def hash_of(self, row: Mapping[str, str]) -> str:
        """Content hash of a row's picture; "" when it is gone."""
        image = row["image"]
        if image not in self._hashes:
            try:
                self._hashes[image] = content_hash(self.folder.root / image)
            except RunError:
                self._hashes[image] = ""
        return self._hashes[image]


@dataclass(frozen=True)
class Side:
    """What is compared: one checkpoint of a run at one weight. ``label`` is unique among the sides."""

    run: Run
    checkpoint: str
    weight: float
    label: str = ""

    @property
    def step(self) -> int | None:
        """Training steps of the checkpoint."""
        return next((lora.step for lora in self.run.plan.loras if lora.name == self.checkpoint), None)

    @property
    def sha256(self) -> str:
        """Hash of the LoRA's file when it was drawn."""
        return next((lora.sha256 for lora in self.run.plan.loras if lora.name == self.checkpoint), "")

    @property
    def pictures(self) -> dict[Key, dict[str, str]]:
        """Rows of this checkpoint and weight by pairing key."""
        return self.run.rows[self.checkpoint, self.weight]

    @property
    def base(self) -> dict[Key, dict[str, str]]:
        """Rows of weight 0 by pairing key."""
        return self.run.rows.get(("", 0.0), {})


def read_run(root: Path | str) -> Run:
    """Read a scored run folder.

    Raises:
        RunError: it is no run folder, or it was not measured to the end; says which command mends it.
    """
    folder = RunFolder(root)
    if not folder.root.is_dir():
        raise RunError(f"{folder.root} does not exist; give the folder of a scorecard run")
    if not folder.plan_file.exists():
        raise RunError(f"{folder.root} holds no run drawn by this program (plan.json is missing); give one that does")
    plan = folder.read_plan()
    for path in (folder.cells_file, folder.card_file, folder.summary_file):
        if not path.exists():
            raise RunError(f"{folder.root} was not measured to its end ({path.name} is missing); run score on it again")
    card = read_json(folder.card_file)
    if not isinstance(card, dict) or not isinstance(card.get("provenance"), dict):
        raise RunError(f"{folder.card_file} is not a scorecard; run `report {folder.root}`")
    prompts: dict[tuple[str, str], Prompt] = {}
    keys: dict[str, tuple[str, str]] = {}
    for prompt in plan.prompts:
        keys[prompt.id] = (_open(prompt.text, plan.trigger), prompt.negative.strip())
        prompts.setdefault(keys[prompt.id], prompt)
    rows: dict[tuple[str, float], dict[Key, dict[str, str]]] = {}
    table = _read_csv(folder.cells_file)
    for number, row in enumerate(table, 2):
        try:
            weight, key = float(row["weight"]), Key(*keys[row["prompt_id"]], int(row["seed"]))
            where = ("" if weight == 0 else row["checkpoint"], weight)
        except (KeyError, ValueError):
            raise RunError(
                f"{folder.cells_file}, line {number} does not fit plan.json; run `report {folder.root}`"
            ) from None
        rows.setdefault(where, {}).setdefault(key, row)
    if not table or not any(name in table[0] for name in METRICS):
        raise RunError(f"{folder.cells_file} has no measured columns; run `report {folder.root}`")
    return Run(folder, plan, card, _read_csv(folder.summary_file), rows, prompts)


def _open(text: str, trigger: str) -> str:
    """The prompt with a placeholder for the run's own trigger, so that LoRAs of two triggers can be paired."""
    text = " ".join(text.split())
    if not trigger.strip():
        return text
    return re.sub(rf"(?<!\w){re.escape(trigger.strip())}(?!\w)", TRIGGER, text, flags=re.IGNORECASE)


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        return [{k: read_text(v) for k, v in row.items() if isinstance(v, str)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"cannot read {path} ({error}); run `report {path.parent}`") from None


def number(row: Mapping[str, str] | None, column: str) -> float:
    """A metric of a row; NaN where it was not measured. Truth values become 0 and 1."""
    text = "" if row is None else row.get(column, "")
    if text in ("true", "false"):
        return float(text == "true")
    try:
        return float(text)
    except ValueError:
        return math.nan


# -- which checkpoint and weight -----------------------------------------------------------------


def choose(runs: Sequence[Run], at: Sequence[str] = ()) -> list[Side]:
    """The sides of a comparison: each run at its recommendation, or as ``NAME:WEIGHT`` says.

    As many ``at`` as runs go to the runs in order; fewer go to the run that has the checkpoint.

    Raises:
        RunError: a run recommends nothing and none was named, unknown or ambiguous names, the same twice.
    """
    asked: dict[int, tuple[str, float]] = {}
    for position, text in enumerate(at):
        name, weight = _parse(text)
        owners = [i for i, run in enumerate(runs) if name in run.checkpoints]
        if len(at) == len(runs):
            owners = [position]
        if not owners:
            known = ", ".join(dict.fromkeys(name for run in runs for name in run.checkpoints))
            raise RunError(f"--at {text}: no run has the checkpoint {name}; there are {known}")
        if len(owners) > 1 or owners[0] in asked:
            raise RunError(f"--at {text} fits several runs; give one --at for each of the {len(runs)} runs, in order")
        asked[owners[0]] = (name, weight)
    sides = [_side(run, asked.get(index)) for index, run in enumerate(runs)]
    seen: dict[tuple[Path, str, float], Side] = {}
    for side in sides:
        key = (side.run.folder.root.resolve(), side.checkpoint, side.weight)
        if key in seen:
            raise RunError(
                f"{side.run.folder.root} is named twice with {side.checkpoint} at {side.weight:g}; "
                "name another run, or another checkpoint or weight with --at"
            )
        seen[key] = side
    return _labelled(sides)


def _parse(text: str) -> tuple[str, float]:
    name, separator, weight = text.rpartition(":")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not separator or not name or not math.isfinite(value):
        raise RunError(f"--at {text} is not NAME:WEIGHT; write for example --at zorp-000300:0.8")
    return name, value


def _side(run: Run, asked: tuple[str, float] | None) -> Side:
    root = run.folder.root
    if asked is None:
        chosen = run.card.get("recommended") or {}
        name, weight = chosen.get("checkpoint"), chosen.get("weight")
        if name is None or weight is None:
            raise RunError(f"{root} recommends no checkpoint and weight; name one with --at NAME:WEIGHT")
    else:
        name, weight = asked
    if name not in run.checkpoints:
        raise RunError(f"{root} has no checkpoint {name}; it has {', '.join(run.checkpoints)}")
    drawn = sorted(w for other, w in run.rows if other == name and w != 0)
    found = next((w for w in drawn if abs(w - float(weight)) < 1e-6), None)
    if found is None:
        shown = ", ".join(format_number(w) for w in drawn)
        raise RunError(f"{root} has no pictures of {name} at {float(weight):g}; drawn were {shown}")
    return Side(run, str(name), found)


def _labelled(sides: Sequence[Side]) -> list[Side]:
    """Shortest labels that tell the sides apart: checkpoint and weight, then the folder, then a number."""
    labels = [f"{side.checkpoint} at {side.weight:g}" for side in sides]
    for more in ([f"{s.run.name}: " for s in sides], [f"{i}. " for i in range(1, len(sides) + 1)]):
        doubled = {label for label in labels if labels.count(label) > 1}
        labels = [f"{add}{label}" if label in doubled else label for add, label in zip(more, labels, strict=True)]
    return [Side(s.run, s.checkpoint, s.weight, label) for s, label in zip(sides, labels, strict=True)]


# -- may they be compared ------------------------------------------------------------------------


def require_alike(runs: Sequence[Run]) -> None:
    """Raise RunError naming the first thing that two runs do not share and how to mend it."""
    first = runs[0]
    for other in runs[1:]:
        here, there = first.folder.root, other.folder.root

        def differ(what: str, mine: Any, theirs: Any, mend: str, here: Path = here, there: Path = there) -> None:
            if mine != theirs:
                raise RunError(f"cannot compare: {what} is {mine} in {here} and {theirs} in {there}; {mend}")

        mend = "score one of them again with the other's model"
        differ("the model", first.plan.model.get("name"), other.plan.model.get("name"), mend)
        mine, theirs = (str(run.plan.model.get("sha256"))[:10] for run in (first, other))
        differ(f"the hash of model {first.plan.model.get('name')}", mine, theirs, mend)
        for name in SETTINGS:
            values = getattr(first.plan.sampling, name), getattr(other.plan.sampling, name)
            differ(name, *values, f"score one of them again with the other's {name}")
        differ("the encoder", first.encoder, other.encoder, "score one of them again with the other's --encoder")


def same_references(first: Run, second: Run) -> bool:
    """Whether both runs measured likeness to the same reference pictures.

    A picture that both drew (weight 0 of a prompt without trigger, say) has the same CLIP-I in both
    only when the references are the same; where no picture is shared, their file names must be.
    """
    shared = sorted(set(first.rows.get(("", 0.0), {})) & set(second.rows.get(("", 0.0), {})))
    compared = 0
    for key in shared:
        rows = first.rows["", 0.0][key], second.rows["", 0.0][key]
        values = [number(row, "clip_i") for row in rows]
        hashes = [run.hash_of(row) for run, row in zip((first, second), rows, strict=True)]
        if hashes[0] and hashes[0] == hashes[1] and np.isfinite(values).all():
            compared += 1
            # six digits are kept in the table
            if abs(values[0] - values[1]) > 2e-6:
                return False
    if compared:
        return True
    names = [sorted(Path(p).name for p in run.plan.references.get("pictures", ())) for run in (first, second)]
    return bool(names[0]) and names[0] == names[1]
