"""What other sweeps than the grid advise: one of more pictures, and adaptive ones of a third of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._validity_advice import WEIGHT_OFF
from benchmarks._validity_coverage import subset
from benchmarks._validity_truth import BATCH
from lora_eval.errors import ConfigError
from lora_eval.host.protocol import Drawn, ImageRequest, LoraUse, Sampling
from lora_eval.host.standalone import StandaloneHost
from lora_eval.scorecard.data import RunData, Scorecard
from lora_eval.scorecard.decision.adaptive import Stop, next_round, with_budget
from lora_eval.scorecard.decision.standing import Standing, standing
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.plan.plan import Plan
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.scoring import load_run, score

SHARE = 1 / 3
RESAMPLES = 300
MORE = "more"


def adaptive_answer(run: Path) -> dict[str, Any]:
    """The advice of a finished full grid, and that of an adaptive sweep of it within ``SHARE`` of its pictures.

    Returns:
        ``full`` and ``part``: [checkpoint, weight] or None; ``pictures`` drawn ``of``; ``same`` when the weights are
        within .1 of one checkpoint; ``tied`` when the full grid declares the part's advice a tie with its own;
        ``less_a_seed`` the same two for the full grid without its last seed.
    """
    plan, data = load_run(run)
    whole = _standing(data)
    try:
        drawn = _sweep(plan, data)
    except ConfigError as error:
        return {"error": str(error)}
    part = _advice(_standing(part_of(data, drawn)))
    same, tied = _agrees(whole, part)
    seeds = data.cells["seed"]
    less = _agrees(whole, _advice(_standing(subset(data, (seeds != seeds.max()).to_numpy()))))
    return {
        "full": _advice(whole), "part": part, "pictures": len(drawn), "of": len(plan), "same": same, "tied": tied,
        "less_a_seed": {"same": less[0], "tied": less[1]},
    }  # fmt: skip


def more_pictures(
    host: StandaloneHost, loras: Sequence[Path], history: Path, folder: Path, weights: str, prompts: int, seeds: int
) -> Scorecard:
    """The grid over the same ``weights`` with more ``prompts`` and ``seeds``, in the folder `MORE`."""
    grid = RunFolder(folder / "score")
    return score(
        _Remembering(host, grid, grid.read_plan()),
        ScoreRequest(
            loras,
            data=folder / "references",
            weights=weights,
            prompts=prompts,
            seeds=seeds,
            preset="quick",
            batch_size=BATCH,
        ),
        folder / MORE,
        histories={lora.stem: str(history) for lora in loras},
    )


class _Remembering(StandaloneHost):
    """The host, but pictures that the grid holds are read: they would come out the same."""

    def __init__(self, host: StandaloneHost, grid: RunFolder, plan: Plan) -> None:
        self.__dict__.update(host.__dict__)
        self._drawn = {
            (cell.request, cell.lora.name if cell.lora else "", cell.weight): grid.image_path(cell)
            for cell in plan.cells()
        }

    def generate(
        self, requests: Sequence[ImageRequest], sampling: Sampling, lora: LoraUse | None = None
    ) -> list[Drawn]:
        name, weight = ("", 0.0) if lora is None else (lora.path.stem, lora.weight)
        known = {r: self._drawn[r, name, weight] for r in requests if (r, name, weight) in self._drawn}
        missing = [r for r in requests if r not in known]
        fresh = dict(zip(missing, super().generate(missing, sampling, lora), strict=True)) if missing else {}
        return [_read(known[r]) if r in known else fresh[r] for r in requests]


def _read(path: Path) -> Drawn:
    with Image.open(path) as image:
        return Drawn(image.convert("RGB"), str(image.info.get("parameters", "")))


def _agrees(whole: Standing, part: tuple[str, float] | None) -> tuple[bool, bool]:
    """Whether an advice is the full grid's, and whether it is that or a tie with it."""
    full = _advice(whole)
    same = full == part or (
        full is not None and part is not None and full[0] == part[0] and abs(full[1] - part[1]) <= WEIGHT_OFF
    )
    ties = [whole.grid.conditions[i] for i in (whole.first, *whole.tied) if i is not None]
    return bool(same), bool(same) or part in [(c.checkpoint, c.weight) for c in ties]


def part_of(data: RunData, plan: Plan) -> RunData:
    """The pictures of a full run that ``plan`` has drawn."""
    wanted = {(cell.lora.name if cell.lora else "", cell.weight, cell.prompt.id, cell.seed) for cell in plan.cells()}
    cells = data.cells
    names = np.where(cells["weight"] == 0, "", cells["checkpoint"].fillna(""))
    keys = zip(names, cells["weight"], cells["prompt_id"], cells["seed"], strict=True)
    keep = np.array([(str(a), float(b), str(c), int(d)) in wanted for a, b, c, d in keys])
    return subset(data, keep)


def _sweep(full: Plan, data: RunData) -> Plan:
    plan = with_budget(full, int(SHARE * len(full)))
    while True:
        seen = part_of(data, plan)
        found = next_round(plan, seen, measure(seen, resamples=RESAMPLES))
        if isinstance(found, Stop):
            return plan
        plan = replace(plan, rounds=(*plan.rounds, found))


def _standing(data: RunData) -> Standing:
    return standing(data, measure(data, resamples=RESAMPLES))


def _advice(now: Standing) -> tuple[str, float] | None:
    if now.chosen is None:
        return None
    where = now.grid.conditions[now.chosen]
    return where.checkpoint, where.weight
