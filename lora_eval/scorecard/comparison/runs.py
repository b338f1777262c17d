"""Finished run folders as ``compare`` reads them: drawn by this program, or measured from a table of pictures.

A drawn run's plan says how each picture came about. Of a measured folder only its table and the infotexts of its
pictures tell, so model and settings may be unknown there, and prompts and seeds need not be those of another run.
"""

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
from lora_eval.scorecard.data import Prompt
from lora_eval.scorecard.draw.store import TABLE_FILE, RunFolder, content_hash
from lora_eval.scorecard.plan.plan import Plan
from lora_eval.scorecard.plan.suites import clip_text
from lora_eval.scorecard.tables import read_text

TRIGGER = "{trigger}"
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
        id: the run's own name.
        plan: what was drawn; None where the pictures were drawn elsewhere and measured from a table.
        loras: checkpoint -> (training steps, hash of its file), as far as known.
        references: file names of the pictures that likeness was measured to.
        rows: (checkpoint or "" for weight 0, weight) -> pairing key -> row of ``cells.csv`` as text.
        prompts: pairing key without the seed -> prompt.
        doubled: pictures left out because another one has their prompt, seed, checkpoint and weight.
    """

    folder: RunFolder
    id: str
    plan: Plan | None
    kind: str
    trigger: str
    class_word: str
    loras: dict[str, tuple[int | None, str]]
    references: list[str]
    card: dict[str, Any]
    summary: list[dict[str, str]]
    rows: dict[tuple[str, float], dict[Key, dict[str, str]]]
    prompts: dict[tuple[str, str], Prompt]
    doubled: int = 0

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
        return self.run.loras.get(self.checkpoint, (None, ""))[0]

    @property
    def sha256(self) -> str:
        """Hash of the LoRA's file when it was drawn; "" where that is not known."""
        return self.run.loras.get(self.checkpoint, (None, ""))[1]

    @property
    def pictures(self) -> dict[Key, dict[str, str]]:
        """Rows of this checkpoint and weight by pairing key."""
        return self.run.rows[self.checkpoint, self.weight]

    @property
    def base(self) -> dict[Key, dict[str, str]]:
        """Rows of weight 0 by pairing key."""
        return self.run.rows.get(("", 0.0), {})


def read_run(root: Path | str, triggers: Sequence[str] = ()) -> Run:
    """Read a scored run folder, drawn here or measured from a table.

    Args:
        triggers: of the runs it is compared with; they mark the trigger's place where the table was measured
            without one.

    Raises:
        RunError: it is no run folder, or it was not measured to the end; says which command mends it.
    """
    folder = RunFolder(root)
    if not folder.root.is_dir():
        raise RunError(f"{folder.root} does not exist; give the folder of a scorecard run")
    if folder.plan_file.exists():
        return _read_drawn(folder)
    if (folder.root / TABLE_FILE).exists():
        return _read_measured(folder, triggers)
    raise RunError(
        f"{folder.root} holds no run of this program (neither plan.json nor {TABLE_FILE}); "
        "give one that score or measure made"
    )


def _read_drawn(folder: RunFolder) -> Run:
    plan = folder.read_plan()
    card = _read_card(folder, "run score on it again")
    prompts: dict[tuple[str, str], Prompt] = {}
    keys: dict[str, tuple[str, str]] = {}
    for prompt in plan.prompts:
        keys[prompt.id] = (_open(prompt.text, plan.trigger), prompt.negative.strip())
        prompts.setdefault(keys[prompt.id], prompt)
    rows: dict[tuple[str, float], dict[Key, dict[str, str]]] = {}
    for line, row in enumerate(_read_cells(folder), 2):
        try:
            weight, key = float(row["weight"]), Key(*keys[row["prompt_id"]], int(row["seed"]))
            where = ("" if weight == 0 else row["checkpoint"], weight)
        except (KeyError, ValueError):
            raise RunError(
                f"{folder.cells_file}, line {line} does not fit plan.json; run `report {folder.root}`"
            ) from None
        rows.setdefault(where, {}).setdefault(key, row)
    return Run(
        folder, plan.run, plan, plan.kind, plan.trigger, plan.class_word,
        {lora.name: (lora.step, lora.sha256) for lora in plan.loras},
        [Path(path).name for path in plan.references.get("pictures", ())],
        card, _read_csv(folder.summary_file), rows, prompts,
    )  # fmt: skip


def _read_measured(folder: RunFolder, triggers: Sequence[str]) -> Run:
    raw = read_json(folder.root / TABLE_FILE)
    if not isinstance(raw, dict):
        raise RunError(f"{folder.root / TABLE_FILE} is incomplete; measure the table again into a new folder")
    card = _read_card(folder, "run measure on it again")
    kind, trigger, word = (str(raw.get(name) or "") for name in ("kind", "trigger", "class_word"))
    marks = [trigger] if trigger.strip() else triggers
    table = _read_cells(folder)
    owners: dict[str, set[str]] = {}
    for row in table:
        owners.setdefault(row.get("checkpoint", ""), set()).add(row.get("lora", ""))
    prompts: dict[tuple[str, str], Prompt] = {}
    rows: dict[tuple[str, float], dict[Key, dict[str, str]]] = {}
    loras: dict[str, tuple[int | None, str]] = {}
    doubled = 0
    for line, row in enumerate(table, 2):
        try:
            weight, text, negative = float(row["weight"]), row["prompt"], row["negative_prompt"]
            opened = text
            for mark in marks:
                opened = _open(opened, mark)
            key = Key(_open(opened, ""), negative.strip(), int(row["seed"]))
            # as the scorecard names them, see ``grid.build_grid``
            name = row["checkpoint"] if len(owners[row["checkpoint"]]) < 2 else f"{row['lora']}/{row['checkpoint']}"
            step = int(row["step"]) if row["step"] else None
            found = Prompt(row["prompt_id"], row["role"], text, clip_text(text, trigger, word), negative)
        except (KeyError, ValueError):
            raise RunError(f"{folder.cells_file}, line {line} cannot be used; run `report {folder.root}`") from None
        prompts.setdefault(key[:2], found)
        place = rows.setdefault(("" if weight == 0 else name, weight), {})
        doubled += key in place
        place.setdefault(key, row)
        if weight != 0:
            loras.setdefault(name, (step, ""))
    run = str(card["provenance"].get("run") or folder.root.resolve().name)
    return Run(
        folder, run, None, kind, trigger, word, loras, [str(name) for name in raw.get("references") or ()],
        card, _read_csv(folder.summary_file), rows, prompts, doubled,
    )  # fmt: skip


def _read_card(folder: RunFolder, mend: str) -> dict[str, Any]:
    for path in (folder.cells_file, folder.card_file, folder.summary_file):
        if not path.exists():
            raise RunError(f"{folder.root} was not measured to its end ({path.name} is missing); {mend}")
    card = read_json(folder.card_file)
    if not isinstance(card, dict) or not isinstance(card.get("provenance"), dict):
        raise RunError(f"{folder.card_file} is not a scorecard; run `report {folder.root}`")
    return card


def _read_cells(folder: RunFolder) -> list[dict[str, str]]:
    table = _read_csv(folder.cells_file)
    if not table or not any(name in table[0] for name in METRICS):
        raise RunError(f"{folder.cells_file} has no measured columns; run `report {folder.root}`")
    return table


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
