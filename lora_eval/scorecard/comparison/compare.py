"""Two or more LoRAs or runs, side by side: paired by prompt and seed, with intervals, ties declared.

Every picture of one side meets the picture of the other side for the same prompt and seed, so that
what prompt and seed bring cancels out of the difference. Pictures drawn elsewhere (a folder measured from a table)
are paired as far as they have prompts and seeds of the other side, see
:mod:`lora_eval.scorecard.comparison.pairs`. Intervals are the paired cluster bootstrap of
:mod:`lora_eval.statistics.bootstrap`, p-values its sign-flip test with Holm's correction over every row
that could be significant at all (Tarone, Biometrics 46, 1990: four pairs never reach 0.05, and a
hypothesis that cannot be rejected needs no share of the error). An interval that holds 0 is a tie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import lora_eval
from lora_eval.errors import RunError
from lora_eval.scorecard.comparison.comparable import Drawing, doubts, drawing_of, require_alike, same_references
from lora_eval.scorecard.comparison.pairs import Pair, Resampling, Roles, tested
from lora_eval.scorecard.comparison.runs import Key, Side, number, read_run
from lora_eval.scorecard.comparison.sides import choose
from lora_eval.scorecard.comparison.values import Values, agreement, column, distortion, diversity, leak, response
from lora_eval.scorecard.comparison.verdict import BY_PROMPT, CERTAIN, OPEN, PAIRED, Row, verdict
from lora_eval.scorecard.dimensions.context import number as rounded
from lora_eval.scorecard.grid import CHALLENGE_ROLES, CORE_ROLES, OPEN_ROLES, TRIGGERED_ROLES
from lora_eval.statistics.significance import holm

SCHEMA = 1
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


def compare(runs: Sequence[Path | str], at: Sequence[str] = (), resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare runs at their recommended checkpoint and weight, or where ``at`` says.

    Args:
        runs: two or more run folders, drawn or measured; a folder may be named twice with two ``at``.
        at: ``NAME:WEIGHT``, see :func:`lora_eval.scorecard.comparison.sides.choose`.

    Raises:
        RunError: a folder cannot be read, or the runs cannot be compared; one line with the mend.
    """
    if len(runs) < 2:
        raise RunError("compare needs two run folders; name a second one (the same one may be named twice with --at)")
    read = {Path(root): read_run(root) for root in runs}
    triggers = list(dict.fromkeys(run.trigger for run in read.values() if run.trigger.strip()))
    for root, run in read.items():
        if run.plan is None and not run.trigger.strip() and triggers:
            read[root] = read_run(root, triggers)
    sides = choose([read[Path(root)] for root in runs], at)
    drawings = [drawing_of(side) for side in sides]
    require_alike(sides, drawings)
    rows: list[Row] = []
    for first, second in combinations(sides, 2):
        keys = sorted(set(first.pictures) & set(second.pictures))
        alike = first.run is second.run or same_references(first.run, second.run)
        pair = Pair(first, second, keys, alike)
        if not keys and not pair.free:
            raise RunError(
                f"{first.run.folder.root} and {second.run.folder.root} share no prompt with the same seed; "
                "draw both with the same --suite and --seeds"
            )
        rows += _rows(pair, resamples, seed)
    family = [row for row in rows if row.p is not None and row.p_best is not None and row.p_best <= CERTAIN]
    for row, p in zip(family, holm([float(row.p or 0.0) for row in family]), strict=True):
        row.p_holm = rounded(p)
    shared = sorted(set.intersection(*(set(side.pictures) for side in sides)))
    notes = [*doubts(sides, drawings), *_notes(sides, rows, shared)]
    return Comparison(
        verdict([side.label for side in sides], rows), sides, rows, shared, notes, _provenance(sides, drawings, shared)
    )


# -- what is compared ----------------------------------------------------------------------------


def _rows(pair: Pair, resamples: int, seed: int) -> list[Row]:
    """All measures of one pair of sides, in the order of the dimensions."""
    found: list[Row] = []

    def add(
        what: tuple[str, str, str], roles: Roles, values: Values, missing: str, refused: str = "",
        gains: Values | None = None, even: bool = False,
    ) -> None:  # fmt: skip
        row = Row(pair.first.label, pair.second.label, *what)
        if refused:
            found.append(replace(row, note=f"not measured: {refused}"))
            return
        found.append(tested(row, pair, roles, values, gains, missing, Resampling(resamples, seed, even)))

    core, challenge, unrelated = (CORE_ROLES, TRIGGERED_ROLES), (CHALLENGE_ROLES,), (("unrelated",),)
    listening, triggered = (OPEN_ROLES, *core), (TRIGGERED_ROLES,)
    references = "no likeness was measured; score with --data, a folder of reference pictures"
    other = "" if pair.alike else OTHER_REFERENCES
    challenges = "no challenge prompt in common; use a suite that has some"
    words = _other_words(pair)
    likeness, fit = column("clip_i"), column("clip_t")
    gained, nearer = column("clip_i_gain"), column("clip_t_delta")
    add(("consistency", "agreement of the change between seeds", "higher"), core, agreement,
        "fewer than two seeds of a prompt; score with --seeds 4 or more")  # fmt: skip
    add(("fidelity", "likeness to the references (CLIP-I)", "higher"), core, likeness, references, other, gained)
    add(("generalisation", "likeness on challenge prompts (CLIP-I)", "higher"), challenge, likeness,
        references if pair.any(challenge) else challenges, other, gained)  # fmt: skip
    add(("generalisation", "fit to challenge prompts (CLIP-T)", "higher"), challenge, fit, challenges, words, nearer)
    add(("generalisation", "diversity of draws (Vendi, up to that of weight 0)", "higher"), triggered, diversity,
        "fewer than two seeds of a prompt, or features.npz is gone; run report on both runs", even=True)  # fmt: skip
    add(("generalisation", "copies of training pictures (share)", "lower"), triggered, column("copy"),
        "the training pictures were not known; score with --data")  # fmt: skip
    if "style" not in (pair.first.run.kind, pair.second.run.kind):
        add(("generalisation", "change of pictures without the trigger", "lower"), unrelated, leak,
            "features.npz or weight 0 is gone; run score on both runs" if pair.any(unrelated)
            else "no prompt without the trigger in common; use a suite that has some")  # fmt: skip
    found.append(_curve(pair))
    steps = _common_weights(pair)
    order = "fewer than three weights in common; score both with the same --weights"
    add(("strength", "order of the response over the weight (Spearman)", "higher"), core, response(steps),
        references, other or ("" if len(steps) > 2 else order))  # fmt: skip
    add(("strength", "distortion beyond weight 0's spread (robust deviations)", "lower"), triggered, distortion,
        "no pixel statistics; run report on both runs")  # fmt: skip
    add(("alignment", "fit to the prompt (CLIP-T)", "higher"), listening, fit,
        "the prompts were not encoded; run report on both runs, or score both with an encoder that knows texts",
        words, nearer)  # fmt: skip
    return found


def _common_weights(pair: Pair) -> list[float]:
    mine, theirs = (
        {weight for name, weight in side.run.rows if name == side.checkpoint} for side in (pair.first, pair.second)
    )
    return [0.0, *sorted(weight for weight in mine & theirs if weight > 0)]


def _other_words(pair: Pair) -> str:
    """Why fit to the prompt cannot be compared: CLIP was asked two different sentences."""
    runs = pair.first.run, pair.second.run
    shared = sorted(runs[0].prompts.keys() & runs[1].prompts.keys())
    for prompt in shared:
        asked = [run.prompts[prompt].class_text for run in runs]
        if asked[0] != asked[1]:
            return f'CLIP was asked "{asked[0]}" and "{asked[1]}"; {_WORDS}'
    if not shared and runs[0].class_word != runs[1].class_word:
        words = [run.class_word or "subject" for run in runs]
        return f'CLIP was asked for "{words[0]}" and "{words[1]}"; {_WORDS}'
    return ""


_WORDS = "score one again with the other's --class-word, measure a table with --trigger and --class-word"


def _curve(pair: Pair) -> Row:
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
    triggers = list(dict.fromkeys(run.trigger for run in runs if run.trigger))
    if len(triggers) > 1:
        yield f"the triggers differ ({', '.join(triggers)}): prompts are paired with the trigger in its place"
    plans = [run.plan for run in runs if run.plan is not None]
    hosts = list(dict.fromkeys(f"{plan.host.name} on {plan.host.device}" for plan in plans))
    if len(hosts) > 1:
        yield f"drawn by {' and '.join(hosts)}: one seed need not start from the same noise there, so pairs help less"
    for first, second in combinations(sides, 2):
        mine = [row for row in rows if (row.first, row.second) == (first.label, second.label)]
        counts = [sum(row.pairing == name for row in mine) for name in (PAIRED, BY_PROMPT, OPEN)]
        if any(counts[1:]):
            yield (
                f"{first.label} less {second.label}: measures paired by prompt and seed {counts[0]}, "
                f"by prompt alone {counts[1]}, unpaired {counts[2]}; intervals without pairs are wider"
            )
    loose = {label for row in rows if row.pairing in (BY_PROMPT, OPEN) for label in (row.first, row.second)}
    for side in sides:
        if (left := len(side.pictures) - len(shared)) and side.label not in loose:
            yield f"{side.label}: {left} of {len(side.pictures)} pictures have no partner in every run and are left out"
    for run in runs:
        if run.doubled:
            yield f"{run.name}: {run.doubled} pictures repeat a prompt, seed, checkpoint and weight and are left out"
    if any(row.scope == "seeds" for row in rows):
        yield "fewer than four prompts of a role: those intervals speak of these prompts only"


def _provenance(sides: Sequence[Side], drawings: Sequence[Drawing], shared: Sequence[Key]) -> dict[str, Any]:
    plan = next((side.run.plan for side in sides if side.run.plan is not None), None)
    known = next((drawing for drawing in drawings if drawing.model), drawings[0])
    return {
        "program": f"lora-eval {lora_eval.__version__}",
        "model": {"name": known.model or "not known", "sha256": known.sha256},
        "sampling": dict(known.settings) if plan is None else asdict(plan.sampling),
        "encoder": sides[0].run.encoder,
        "runs": [side.run.id for side in sides],
        "prompts in common": len({key[:2] for key in shared}),
        "pairs in common": len(shared),
    }
