"""Two or more LoRAs or runs, side by side: paired by prompt and seed, with intervals, ties declared.

Every picture of one side meets the picture of the other side for the same prompt and seed, so that
what prompt and seed bring cancels out of the difference. Intervals are the paired cluster bootstrap of
:mod:`lora_eval.scorecard.statistics`, p-values its sign-flip test with Holm's correction over every row
that could be significant at all (Tarone, Biometrics 46, 1990: four pairs never reach 0.05, and a
hypothesis that cannot be rejected needs no share of the error). An interval that holds 0 is a tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import lora_eval
from lora_eval.errors import RunError
from lora_eval.files import make_folder, write_json, write_text
from lora_eval.report.card import plain
from lora_eval.report.tables import to_csv
from lora_eval.scorecard.compare_runs import Key, Side, choose, number, read_run, require_alike, same_references
from lora_eval.scorecard.compare_values import Values, agreement, column, distortion, diversity, leak, response
from lora_eval.scorecard.compare_verdict import CERTAIN, Row, verdict
from lora_eval.scorecard.grid import CHALLENGE_ROLES, CORE_ROLES, TRIGGERED_ROLES
from lora_eval.scorecard.measures.context import number as rounded
from lora_eval.scorecard.statistics import holm, resample, sign_flip_test

SCHEMA = 1
ALIGNMENT_ROLES = ("plain", "fidelity", "challenge", "composition")
OTHER_REFERENCES = "the runs were measured with other reference pictures; score one again with the other's --data"


@dataclass
class Comparison:
    """All of it. ``notes``: what weakens the comparison; ``keys``: pairs that every side has."""

    verdict: str
    sides: list[Side]
    rows: list[Row]
    keys: list[Key]
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pair:
    """Two sides and the keys both have; ``alike`` whether likeness may be compared."""

    first: Side
    second: Side
    keys: list[Key]
    alike: bool

    def of(self, roles: Sequence[str]) -> list[Key]:
        """Keys whose prompt has one of the roles in the first run."""
        prompts = self.first.run.prompts
        return [key for key in self.keys if prompts[key.prompt, key.negative].role in roles]

    def core(self) -> list[Key]:
        """Prompts that show the concept as trained, as :meth:`Grid.core` has them."""
        return self.of(CORE_ROLES) or self.of(TRIGGERED_ROLES)


def compare(runs: Sequence[Path | str], at: Sequence[str] = (), resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare runs at their recommended checkpoint and weight, or where ``at`` says.

    Args:
        runs: two or more run folders; a folder may be named twice with two ``at``.
        at: ``NAME:WEIGHT``, see :func:`lora_eval.scorecard.compare_runs.choose`.

    Raises:
        RunError: a folder cannot be read, or the runs cannot be compared; one line with the mend.
    """
    if len(runs) < 2:
        raise RunError("compare needs two run folders; name a second one (the same one may be named twice with --at)")
    read = {Path(root): read_run(root) for root in runs}
    found = [read[Path(root)] for root in runs]
    require_alike(found)
    sides = choose(found, at)
    rows: list[Row] = []
    for first, second in combinations(sides, 2):
        keys = sorted(set(first.pictures) & set(second.pictures))
        if not keys:
            raise RunError(
                f"{first.run.folder.root} and {second.run.folder.root} share no prompt with the same seed; "
                "draw both with the same --suite and --seeds"
            )
        alike = first.run is second.run or same_references(first.run, second.run)
        rows += _rows(_Pair(first, second, keys, alike), resamples, seed)
    family = [row for row in rows if row.p is not None and row.p_best is not None and row.p_best <= CERTAIN]
    for row, p in zip(family, holm([float(row.p or 0.0) for row in family]), strict=True):
        row.p_holm = rounded(p)
    shared = sorted(set.intersection(*(set(side.pictures) for side in sides)))
    notes = list(_notes(sides, rows, shared))
    return Comparison(
        verdict([side.label for side in sides], rows), sides, rows, shared, notes, _provenance(sides, shared)
    )


def write_comparison(out: Path | str, comparison: Comparison) -> Path:
    """Write ``compare.csv``, ``compare.json`` and ``compare.html``; returns the page. Raises RunError."""
    from lora_eval.report.compare_page import write_page

    folder = make_folder(Path(out))
    columns = list(Row.__dataclass_fields__)
    table = to_csv(columns, ([getattr(row, name) for name in columns] for row in comparison.rows))
    write_text(folder / "compare.csv", table)
    write_json(folder / "compare.json", to_json(comparison))
    write_page(folder / "compare.html", comparison)
    return folder / "compare.html"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """``{"schema", "verdict", "sides", "rows", "notes", "provenance"}``, JSON-safe."""
    sides = [
        {"label": s.label, "run": s.run.plan.run, "folder": s.run.name, "checkpoint": s.checkpoint, "step": s.step,
         "weight": s.weight, "sha256": s.sha256, "pictures": len(s.pictures)}
        for s in comparison.sides
    ]  # fmt: skip
    rows = [asdict(row) for row in comparison.rows]
    whole = {"schema": SCHEMA, "verdict": comparison.verdict, "sides": sides, "rows": rows}
    return dict(plain({**whole, "notes": comparison.notes, "provenance": comparison.provenance}))


# -- what is compared ----------------------------------------------------------------------------


def _rows(pair: _Pair, resamples: int, seed: int) -> list[Row]:
    """All measures of one pair of sides, in the order of the dimensions."""
    found: list[Row] = []

    def add(
        dimension: str, measure: str, better: str, keys: list[Key], values: Values, missing: str, refused: str = ""
    ) -> None:
        row = Row(pair.first.label, pair.second.label, dimension, measure, better)
        found.append(row)
        if refused or not keys:
            row.note = f"not measured: {refused or missing}"
            return
        _test(row, keys, values(pair.first, keys), values(pair.second, keys), missing, resamples, seed)

    core, challenge, unrelated = pair.core(), pair.of(CHALLENGE_ROLES), pair.of(("unrelated",))
    listening, triggered = pair.of(ALIGNMENT_ROLES) or core, pair.of(TRIGGERED_ROLES)
    references = "no likeness was measured; score with --data, a folder of reference pictures"
    other = "" if pair.alike else OTHER_REFERENCES
    challenges = "no challenge prompt in common; use a suite that has some"
    words = _other_words(pair)
    add("consistency", "agreement of the change between seeds", "higher", core, agreement,
        "fewer than two seeds of a prompt; score with --seeds 4 or more")  # fmt: skip
    add("fidelity", "likeness to the references (CLIP-I)", "higher", core, column("clip_i"), references, other)
    add("generalisation", "likeness on challenge prompts (CLIP-I)", "higher", challenge, column("clip_i"),
        references if challenge else challenges, other)  # fmt: skip
    add("generalisation", "fit to challenge prompts (CLIP-T)", "higher", challenge, column("clip_t"), challenges, words)
    add("generalisation", "diversity of draws (Vendi, up to that of weight 0)", "higher", triggered, diversity,
        "fewer than two seeds of a prompt, or features.npz is gone; run report on both runs")  # fmt: skip
    add("generalisation", "copies of training pictures (share)", "lower", triggered, column("copy"),
        "the training pictures were not known; score with --data")  # fmt: skip
    if pair.first.run.plan.kind != "style":
        add("generalisation", "change of pictures without the trigger", "lower", unrelated, leak,
            "features.npz or weight 0 is gone; run score on both runs" if unrelated
            else "no prompt without the trigger in common; use a suite that has some")  # fmt: skip
    found.append(_curve(pair))
    steps = _common_weights(pair)
    order = "fewer than three weights in common; score both with the same --weights"
    add("strength", "order of the response over the weight (Spearman)", "higher", core, response(steps),
        references, other or ("" if len(steps) > 2 else order))  # fmt: skip
    add("strength", "distortion beyond weight 0's spread (robust deviations)", "lower", triggered, distortion,
        "no pixel statistics; run report on both runs")  # fmt: skip
    add("alignment", "fit to the prompt (CLIP-T)", "higher", listening, column("clip_t"),
        "the prompts were not encoded; run report on both runs", words)  # fmt: skip
    return found


def _test(
    row: Row,
    keys: list[Key],
    first: dict[Key, float],
    second: dict[Key, float],
    missing: str,
    resamples: int,
    seed: int,
) -> None:
    """Fill in values, difference, interval, p and who is ahead."""
    prompts = sorted({key[:2] for key in keys})
    nested = [sorted(key for key in keys if key[:2] == prompt) for prompt in prompts]
    values = np.full((2, len(prompts), max(map(len, nested))), np.nan)
    for p, of_prompt in enumerate(nested):
        for m, key in enumerate(of_prompt):
            values[:, p, m] = first.get(key, math.nan), second.get(key, math.nan)
    values[:, ~np.isfinite(values).all(axis=0)] = np.nan
    if not np.isfinite(values).any():
        row.note = f"not measured: {missing}"
        return
    difference = values[0] - values[1]
    draws = resample(np.concatenate([values, difference[None]]), resamples, seed)
    low, high = (float(edge[2]) for edge in draws.interval())
    row.first_value, row.second_value, row.difference = (rounded(value) for value in draws.estimate)
    row.ci_low, row.ci_high, row.n, row.scope = rounded(low), rounded(high), int(draws.n[2]), draws.scope
    row.prompts = int(np.isfinite(difference).any(axis=1).sum())
    row.p = rounded(sign_flip_test(difference, resamples, seed))
    row.p_best = rounded(_attainable(difference, resamples, seed))
    if not (math.isfinite(low) and math.isfinite(high)):
        row.note = "one picture of each prompt: no interval; add seeds or prompts"
    elif low <= 0 <= high:
        row.ahead = "tie"
    else:
        row.ahead = row.first if (low > 0) == (row.better == "higher") else row.second


def _attainable(difference: np.ndarray, resamples: int, seed: int) -> float:
    """The smallest p that the sign-flip test could have given: that of differences of one sign."""
    valid = np.isfinite(difference)
    if valid.any(axis=1).sum() >= 6:
        # the test flips whole prompts then
        units = np.where(valid, difference, 0.0).sum(axis=1)
        difference = np.where(valid.any(axis=1), units, np.nan)[:, None]
    return sign_flip_test(np.abs(difference), resamples, seed)


def _common_weights(pair: _Pair) -> list[float]:
    mine, theirs = (
        {weight for name, weight in side.run.rows if name == side.checkpoint} for side in (pair.first, pair.second)
    )
    return [0.0, *sorted(weight for weight in mine & theirs if weight > 0)]


def _other_words(pair: _Pair) -> str:
    """Why fit to the prompt cannot be compared: CLIP was asked two different sentences."""
    for prompt in sorted({key[:2] for key in pair.keys}):
        asked = [side.run.prompts[prompt].class_text for side in (pair.first, pair.second)]
        if asked[0] != asked[1]:
            return f'CLIP was asked "{asked[0]}" and "{asked[1]}"; score one again with the other\'s --class-word'
    return ""


def _curve(pair: _Pair) -> Row:
    """The states of the two loss curves; one curve a run cannot be tested."""
    row = Row(pair.first.label, pair.second.label, "curve", "state of the loss curve", "higher")
    states = []
    for side, name in ((pair.first, "first_value"), (pair.second, "second_value")):
        found = next(
            (r for r in side.run.summary
             if (r["checkpoint"], r["dimension"], r["measure"]) == (side.checkpoint, "curve", "state")), {}
        )  # fmt: skip
        setattr(row, name, rounded(number(found, "value")))
        states.append(found.get("verdict") or "not measured")
    row.note = f"{states[0]} and {states[1]}; not tested, a run has one curve"
    if row.first_value is not None and row.second_value is not None:
        row.difference = rounded(row.first_value - row.second_value)
    return row


# -- around it ---------------------------------------------------------------------------------


def _notes(sides: Sequence[Side], rows: Sequence[Row], shared: Sequence[Key]) -> Iterator[str]:
    runs = {id(side.run): side.run for side in sides}.values()
    for run in runs:
        gates = [str(gate) for gate in run.card.get("gates", [])]
        for side in sides:
            ruled = [gate for gate in gates if side.run is run and side.checkpoint in gate]
            if ruled and (run.card.get("recommended") or {}).get("checkpoint") != side.checkpoint:
                yield f"{side.label}: its own scorecard ruled out {'; '.join(ruled[:3])}"
    triggers = list(dict.fromkeys(run.plan.trigger for run in runs if run.plan.trigger))
    if len(triggers) > 1:
        yield f"the triggers differ ({', '.join(triggers)}): prompts are paired with the trigger in its place"
    hosts = list(dict.fromkeys(f"{run.plan.host.name} on {run.plan.host.device}" for run in runs))
    if len(hosts) > 1:
        yield f"drawn by {' and '.join(hosts)}: one seed need not start from the same noise there, so pairs help less"
    for side in sides:
        if left := len(side.pictures) - len(shared):
            yield f"{side.label}: {left} of {len(side.pictures)} pictures have no partner in every run and are left out"
    if any(row.scope == "seeds" for row in rows):
        yield "fewer than four prompts of a role: those intervals speak of these prompts only"


def _provenance(sides: Sequence[Side], shared: Sequence[Key]) -> dict[str, Any]:
    plan, run = sides[0].run.plan, sides[0].run
    return {
        "program": f"lora-eval {lora_eval.__version__}",
        "model": {name: plan.model.get(name) for name in ("name", "sha256")},
        "sampling": asdict(plan.sampling),
        "encoder": run.encoder,
        "runs": [side.run.plan.run for side in sides],
        "prompts in common": len({key[:2] for key in shared}),
        "pairs in common": len(shared),
    }
