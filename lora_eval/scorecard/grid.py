"""The tidy table of cells as a cube: checkpoint x weight, prompt, seed.

Everything is compared with weight 0 of the same prompt and seed, so measuring needs every picture's
twin at hand. Seeds are nested in prompts: the m-th seed of one prompt need not be that of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_eval.errors import RunError
from lora_eval.scorecard.data import RunData

if TYPE_CHECKING:
    import pandas as pd

CORE_ROLES = ("plain", "fidelity")
CHALLENGE_ROLES = ("challenge", "composition")
# with the trigger and nothing forbidden; a negative prompt takes away what its twin shows
OPEN_ROLES = (*CORE_ROLES, *CHALLENGE_ROLES)
TRIGGERED_ROLES = (*OPEN_ROLES, "negative")


@dataclass(frozen=True)
class Condition:
    """One checkpoint at one weight."""

    checkpoint: str
    step: int | None
    weight: float

    @property
    def key(self) -> str:
        """Short name for evidence tables, for example ``zorp-000300 @ 0.8``."""
        return f"{self.checkpoint} @ {self.weight:g}"


@dataclass(frozen=True)
class Grid:
    """Where each picture of a run sits.

    Attributes:
        conditions: C conditions of weight other than 0, by step, checkpoint, weight.
        prompts: P prompt ids, sorted; ``roles`` in the same order.
        seeds: per prompt its seeds, ascending.
        rows: (C, P, M) row number in the cells table, -1 where there is no picture.
        base: (P, M) the same for weight 0.
    """

    conditions: list[Condition]
    prompts: list[str]
    roles: list[str]
    seeds: list[list[int]]
    rows: np.ndarray
    base: np.ndarray

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints in order of their steps."""
        return list(dict.fromkeys(condition.checkpoint for condition in self.conditions))

    def of(self, checkpoint: str) -> list[int]:
        """Indices of the conditions of a checkpoint, by ascending weight."""
        return [i for i, condition in enumerate(self.conditions) if condition.checkpoint == checkpoint]

    def prompts_of(self, roles: Iterable[str]) -> list[int]:
        """Indices of the prompts with one of the roles."""
        wanted = set(roles)
        return [i for i, role in enumerate(self.roles) if role in wanted]

    def core(self) -> list[int]:
        """Prompts that show the concept as trained: plain and fidelity, or all with trigger where a suite has none."""
        return self.prompts_of(CORE_ROLES) or self.prompts_of(TRIGGERED_ROLES)

    def cube(self, values: np.ndarray) -> np.ndarray:
        """(N,) per picture -> (C, P, M) float64, NaN where there is no picture."""
        return _take(values, self.rows)

    def base_plane(self, values: np.ndarray) -> np.ndarray:
        """(N,) per picture -> (P, M) at weight 0, NaN where there is no picture."""
        return _take(values, self.base)

    def twins(self) -> np.ndarray:
        """(C, P, M) row of the weight-0 twin, -1 where picture or twin is missing."""
        return np.where(self.rows >= 0, np.broadcast_to(self.base, self.rows.shape), -1)


def _take(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        return np.full(rows.shape, np.nan)
    return np.where(rows >= 0, values[np.maximum(rows, 0)], np.nan)


def grid_of(data: RunData) -> Grid:
    """The grid of a run; a prompt's role is the suite's, else the table's, else ``plain``. Raises RunError."""
    roles = {name: prompt.role for name, prompt in data.prompts.items()}
    if {"role", "prompt_id"} <= set(data.cells.columns):
        for name, role in zip(data.cells["prompt_id"], data.cells["role"], strict=True):
            if isinstance(role, str) and role:
                roles.setdefault(str(name), role)
    return build_grid(data.cells, roles)


def build_grid(cells: pd.DataFrame, roles: dict[str, str]) -> Grid:
    """Arrange the cells; the order of the rows does not matter.

    Args:
        cells: columns ``checkpoint, step, weight, prompt_id, seed`` and, where there are several
            LoRAs, ``lora``.
        roles: prompt id -> role; prompts not listed count as ``plain``.

    Raises:
        RunError: a column is missing, a weight is not a number, no picture has a weight other than
            0, or two pictures claim the same cell.
    """
    import pandas as pd

    missing = [name for name in ("weight", "prompt_id", "seed") if name not in cells.columns]
    if missing:
        raise RunError(f"the cells table lacks the column {missing[0]!r}; the table needs weight, prompt_id and seed")
    if not len(cells):
        raise RunError("the cells table has no row; draw the pictures first")
    weight = pd.to_numeric(cells["weight"], errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(weight).all():
        row = int(np.flatnonzero(~np.isfinite(weight))[0])
        raise RunError(f"row {row + 1} of the cells table has no number as weight; write 0 for pictures without LoRA")
    labels = _labels(cells)
    prompt = [str(value) for value in cells["prompt_id"]]
    seed = [int(value) for value in cells["seed"]]
    steps = _steps(cells)
    is_base = weight == 0.0
    if is_base.all():
        raise RunError("every picture has weight 0; add pictures with the LoRA at a weight above 0")

    step_of: dict[str, int | None] = {}
    for label, step, base in zip(labels, steps, is_base, strict=True):
        if not base and step_of.get(label) is None:
            step_of[label] = step
    keys = sorted(
        {(labels[i], float(weight[i])) for i in np.flatnonzero(~is_base)},
        key=lambda key: (math.inf if step_of[key[0]] is None else step_of[key[0]], key[0], key[1]),
    )
    conditions = [Condition(label, step_of[label], value) for label, value in keys]
    prompts = sorted(set(prompt))
    seed_sets: dict[str, set[int]] = {name: set() for name in prompts}
    for name, value in zip(prompt, seed, strict=True):
        seed_sets[name].add(value)
    seeds = [sorted(seed_sets[name]) for name in prompts]
    width = max(len(found) for found in seeds)
    if len(conditions) * len(prompts) * width > 20 * len(cells) + 100_000:
        raise RunError("the prompts have too uneven numbers of seeds; draw about the same number for every prompt")

    condition_at = {key: i for i, key in enumerate(keys)}
    prompt_at = {name: i for i, name in enumerate(prompts)}
    seed_at = [{value: i for i, value in enumerate(found)} for found in seeds]
    rows = np.full((len(conditions), len(prompts), width), -1, dtype=np.intp)
    base_rows = np.full((len(prompts), width), -1, dtype=np.intp)
    # weight 0 may be listed once for each checkpoint; the first by name is kept so that row order is nothing
    images = _text(cells, "image")
    for row in sorted((int(i) for i in np.flatnonzero(is_base)), key=lambda i: (labels[i], images[i])):
        p = prompt_at[prompt[row]]
        m = seed_at[p][seed[row]]
        if base_rows[p, m] < 0:
            base_rows[p, m] = row
    for row in (int(i) for i in np.flatnonzero(~is_base)):
        c, p = condition_at[(labels[row], float(weight[row]))], prompt_at[prompt[row]]
        m = seed_at[p][seed[row]]
        if rows[c, p, m] >= 0:
            raise RunError(
                f"two pictures of checkpoint {labels[row]!r}, weight {weight[row]:g}, prompt {prompt[row]!r}, "
                f"seed {seed[row]}; remove one row from the cells table"
            )
        rows[c, p, m] = row
    return Grid(conditions, prompts, [roles.get(name, "plain") for name in prompts], seeds, rows, base_rows)


def _text(cells: pd.DataFrame, column: str) -> list[str]:
    import pandas as pd

    if column not in cells.columns:
        return [""] * len(cells)
    return ["" if pd.isna(value) else str(value) for value in cells[column]]


def _labels(cells: pd.DataFrame) -> list[str]:
    """A name per checkpoint, prefixed with the LoRA's where two LoRAs share a checkpoint name."""
    lora, checkpoint = _text(cells, "lora"), _text(cells, "checkpoint")
    owners: dict[str, set[str]] = {}
    for owner, name in zip(lora, checkpoint, strict=True):
        owners.setdefault(name, set()).add(owner)
    labels = []
    for owner, name in zip(lora, checkpoint, strict=True):
        shared = len(owners[name]) > 1 and name and owner
        labels.append(f"{owner}/{name}" if shared else name or owner)
    return labels


def _steps(cells: pd.DataFrame) -> list[int | None]:
    import pandas as pd

    if "step" not in cells.columns:
        return [None] * len(cells)
    values = pd.to_numeric(cells["step"], errors="coerce")
    return [None if pd.isna(value) else int(value) for value in values]
