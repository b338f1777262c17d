"""Do 95 % intervals hold the truth? A pool of pictures is the truth, and scorecards are drawn from it.

One scorecard a LoRA would say little: its intervals fail or hold together. So many fresh prompts and seeds of a LoRA
are drawn once, and samples of them, as many prompts of each role and as many seeds as the scorecard had, are measured
as if each were a scorecard. The truth of a measure is what the whole pool says; where its definition depends on how
many seeds there are (the variety among 12 pictures is not the variety among 4) it is the mean over the samples.

Samples are drawn without replacement, which makes them agree a little more than samples of all possible prompts: with
8 of 48 prompts and 4 of 12 seeds the error of a mean is .91 of theirs when prompts alone matter and .82 when seeds do.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._validity_truth import fresh_suite
from lora_eval.files import write_text
from lora_eval.host.standalone import StandaloneHost
from lora_eval.scorecard.data import RunData
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.grid import OPEN_ROLES
from lora_eval.scorecard.plan.plan import Plan
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.scoring import load_run, score

FIRST_SEED = 1001
SAMPLES, RESAMPLES = 100, 400
DEPENDS_ON_SEEDS = ("diversity_vendi", "vendi_ratio")
# the rank depends on how many prompts a suite has; the others, and the score that has leak among its parts, speak of
# the one prompt without the trigger that was drawn (see statistics.py)
NOT_COMPARABLE = (
    ("alignment", "retrieval_rank"),
    ("generalisation", "diversity_kept"),
    ("generalisation", "leak"),
    ("generalisation", "unrelated_drift"),
    ("generalisation", "score"),
)


def draw_pool(
    host: StandaloneHost, lora: Path, history: Path, case_folder: Path, seed: int, prompts: int, seeds: int
) -> None:
    """Draw ``prompts`` fresh prompts with ``seeds`` seeds at weight 0 and at the scorecard's weight nearest 1."""
    suite = case_folder / "pool.yaml"
    write_text(suite, fresh_suite(seed, prompts))
    score(
        host,
        ScoreRequest(
            [lora],
            data=case_folder / "references",
            weights=[weight_nearest_1(RunFolder(case_folder / "score").read_plan())],
            suite=str(suite),
            kind="object",
            seeds=list(range(FIRST_SEED, FIRST_SEED + seeds)),
            preset="quick",
            batch_size=8,
        ),
        case_folder / "pool",
        histories={lora.stem: str(history)},
        resamples=100,
    )


def weight_nearest_1(plan: Plan) -> float:
    """The weight at which LoRAs are compared."""
    return min((w for w in plan.weights if w > 0), key=lambda w: (abs(w - 1.0), w))


def covered(case_folder: Path, seed: int, samples: int = SAMPLES) -> list[dict[str, Any]]:
    """How often the intervals of scorecards drawn from the pool hold what they say on average.

    Returns:
        Entries ``dimension, measure, truth, held, samples``, one for every measure that has an interval.
    """
    plan = RunFolder(case_folder / "score").read_plan()
    roles = [p.role for p in plan.prompts if p.role in (*OPEN_ROLES, "unrelated")]
    _, pool = load_run(case_folder / "pool")
    rng = np.random.default_rng([40_000, seed])
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for k in range(samples):
        part = sample(pool, roles, len(plan.seeds), rng)
        for row in measure(part, resamples=RESAMPLES, seed=k).summary:
            key = (row.dimension, row.measure)
            if key in NOT_COMPARABLE or row.value is None or row.ci_low is None or row.ci_high is None:
                continue
            found[key].append((row.value, row.ci_low, row.ci_high))
    whole = {(row.dimension, row.measure): row.value for row in measure(pool, resamples=1).summary}
    result = []
    for (dimension, name), seen in sorted(found.items()):
        value, low, high = np.array(seen).T
        said = whole.get((dimension, name))
        truth = float(value.mean()) if said is None or name in DEPENDS_ON_SEEDS else said
        held = int(((low <= truth + 1e-9) & (truth <= high + 1e-9)).sum())
        result.append({"dimension": dimension, "measure": name, "truth": truth, "held": held, "samples": len(seen)})
    return result


def sample(pool: RunData, roles: list[str], seeds: int, rng: np.random.Generator) -> RunData:
    """Pictures of as many prompts of each role as ``roles`` names, and of ``seeds`` seeds, drawn from the pool."""
    ids: list[str] = []
    for role in dict.fromkeys(roles):
        mine = sorted(name for name, prompt in pool.prompts.items() if prompt.role == role)
        ids += rng.choice(mine, size=roles.count(role), replace=False).tolist()
    chosen = rng.choice(np.unique(pool.cells["seed"]), size=seeds, replace=False)
    keep = (pool.cells["prompt_id"].isin(ids) & pool.cells["seed"].isin(chosen)).to_numpy()
    return subset(pool, keep)


def subset(data: RunData, keep: np.ndarray) -> RunData:
    """The run with the cells that the (N,) mask keeps, and the prompts that they have."""
    cells = data.cells[keep].reset_index(drop=True)
    left = set(cells["prompt_id"])
    return replace(
        data,
        cells=cells,
        prompts={name: prompt for name, prompt in data.prompts.items() if name in left},
        features=data.features[keep], thumbs=data.thumbs[keep], styles=data.styles[keep], pixels=data.pixels[keep],
        extra={name: features[keep] for name, features in data.extra.items()},
    )  # fmt: skip
