"""The adaptive sweep: what each round draws, when it stops, and that a part of the grid gives the grid's advice."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_eval.errors import ConfigError, Interrupted, RunError
from lora_eval.host.protocol import HostInfo, Sampling
from lora_eval.scorecard.data import RunData
from lora_eval.scorecard.decision.adaptive import Stop, account, next_round, with_budget
from lora_eval.scorecard.decision.standing import standing
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.plan.checkpoints import PlannedLora
from lora_eval.scorecard.plan.plan import Part, Plan, Round
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.scoring import report, score
from tests.fakes_scorecard import FakeEncoder, FakeHost, small_score, tree_hashes
from tests.scorecard.synthetic_run import kept, make_run

CHECKPOINTS = {"zorp-100": (100, 0.45), "zorp-200": (200, 0.8), "zorp-300": (300, 1.0)}


def plan_of(data: RunData) -> Plan:
    """The full plan whose pictures ``data`` holds."""
    cells = data.cells
    drawn = cells[cells["weight"] != 0]
    loras = [PlannedLora("zorp", name, f"{name}.safetensors", "0" * 64, int(step))
             for name, step in drawn[["checkpoint", "step"]].drop_duplicates().itertuples(index=False)]  # fmt: skip
    prompts = [data.prompts[name] for name in dict.fromkeys(cells["prompt_id"])]
    return Plan(
        run="zorp-00000000",
        host=HostInfo("standalone", "0", "cpu"),
        model={"name": "m", "sha256": "", "family": "sd1", "prediction": "epsilon", "path": ""},
        loras=tuple(loras),
        weights=tuple(sorted(set(cells["weight"]))),
        prompts=tuple(prompts),
        seeds=tuple(sorted(set(cells["seed"]))),
        sampling=Sampling(),
    )


def part_of(data: RunData, plan: Plan) -> RunData:
    """The pictures of ``data`` that an adaptive plan has drawn."""
    wanted = {(cell.lora.name if cell.lora else "", cell.weight, cell.prompt.id, cell.seed) for cell in plan.cells()}
    names = np.where(data.cells["weight"] == 0, "", data.cells["checkpoint"].fillna(""))
    keys = zip(names, data.cells["weight"], data.cells["prompt_id"], data.cells["seed"], strict=True)
    keep = np.array([(str(a), float(b), str(c), int(d)) in wanted for a, b, c, d in keys])
    assert keep.sum() == len(wanted)
    return kept(data, keep)


def sweep(data: RunData, plan: Plan) -> tuple[Plan, Stop]:
    """All rounds, on pictures that are there already."""
    for _ in range(50):
        seen = part_of(data, plan)
        found = next_round(plan, seen, measure(seen, resamples=300))
        if isinstance(found, Stop):
            return plan, found
        plan = replace(plan, rounds=(*plan.rounds, found))
    raise AssertionError("it does not end")


def advice(data: RunData) -> tuple[str, float, float] | None:
    """(checkpoint, weight, its gain) that is advised."""
    now = standing(data, measure(data, resamples=300))
    if now.chosen is None:
        return None
    where = now.grid.conditions[now.chosen]
    return where.checkpoint, where.weight, float(now.draws.estimate[now.chosen])


def test_the_first_round_is_coarse_and_fits_the_budget() -> None:
    plan = plan_of(make_run(seeds=8, checkpoints=CHECKPOINTS))
    asked = with_budget(plan, 440)
    parts = asked.rounds[0].parts
    assert [(p.lora, p.weight) for p in parts[:4]] == [("", 0.0), *(("zorp-100", w) for w in (0.4, 0.8, 1.2))]
    assert all(p.seeds == plan.seeds[:2] for p in parts)
    assert len(asked) == len(asked.cells()) == len(plan.prompts) * 2 * (1 + 3 * 3)
    assert asked.full_size == len(plan)
    # two seeds only where half of the budget is left for what they ask
    least = with_budget(plan, 439)
    assert [(p.lora, p.weight, p.seeds) for p in least.rounds[0].parts] == [
        (p.lora, p.weight, plan.seeds[:1]) for p in parts
    ]
    with pytest.raises(ConfigError, match=f"needs {len(least)} pictures"):
        with_budget(plan, len(least) - 1)


@pytest.mark.parametrize("budget", [115, 250, 440, 5000])
def test_rounds_only_append_inside_the_grid_and_the_budget(budget: int) -> None:
    data = make_run(seeds=6, checkpoints=CHECKPOINTS, rng_seed=3)
    full = plan_of(data)
    plan, stop = sweep(data, with_budget(full, budget))
    ids = [cell.id for cell in plan.cells()]
    assert len(ids) == len(set(ids)) == len(plan) <= budget
    assert set(ids) <= {cell.id for cell in full.cells()}
    # every picture has its twin without the LoRA, drawn before it
    seen = set()
    for cell in plan.cells():
        if cell.lora is None:
            seen.add((cell.prompt.id, cell.seed))
        assert (cell.prompt.id, cell.seed) in seen
    told = account(plan, stop)
    assert sum(one["images"] for one in told["rounds"]) == len(plan) and told["full_grid"] == len(full)
    assert plan == Plan.from_json(plan.to_json())


def test_seeds_go_where_intervals_overlap_and_not_to_what_lost() -> None:
    data = make_run(seeds=8, checkpoints={"zorp-100": (100, 0.2), "zorp-300": (300, 1.0)}, rng_seed=1)
    plan, _ = sweep(data, with_budget(plan_of(data), 10_000))
    seeds: dict[tuple[str, float], int] = {}
    for part in (p for one in plan.rounds for p in one.parts):
        seeds[(part.lora, part.weight)] = seeds.get((part.lora, part.weight), 0) + len(part.seeds)
    assert {n for (name, w), n in seeds.items() if name == "zorp-100"} == {2}
    assert len(plan) < len(plan_of(data)) / 2


def seeds_of(plan: Plan) -> dict[tuple[str, float], int]:
    """Number of seeds of each condition."""
    found: dict[tuple[str, float], int] = {}
    for part in (p for one in plan.rounds for p in one.parts):
        found[part.lora, part.weight] = found.get((part.lora, part.weight), 0) + len(part.seeds)
    return found


@pytest.mark.parametrize("budget", [250, 440, 700, 1100, 5000])
def test_rivals_are_brought_to_the_same_number_of_seeds(budget: int) -> None:
    """What is left of a budget is not spent on the leading one alone: it would be held against poorer means."""
    data = make_run(seeds=8, checkpoints=CHECKPOINTS, rng_seed=5, noise=0.8)
    plan, stop = sweep(data, with_budget(plan_of(data), budget))
    rounds = [n for n, one in enumerate(plan.rounds) if one.why.startswith("seeds")]
    assert rounds or stop.reason == "the budget is used up"
    for n in rounds:
        after = seeds_of(replace(plan, rounds=plan.rounds[: n + 1]))
        more = [(p.lora, p.weight) for p in plan.rounds[n].parts if p.lora]
        assert len({after[use] for use in more}) == 1 and after["", 0.0] >= after[more[0]]
        # alone only beside one that has as many already
        assert len(more) > 1 or sum(count >= after[more[0]] for use, count in after.items() if use[0]) > 1


def begun(data: RunData, seeds: dict[tuple[str, float], int]) -> tuple[Plan, Round | Stop]:
    """An adaptive plan that has drawn so many seeds of each condition, and what comes next."""
    full = plan_of(data)
    parts = tuple(Part(name, weight, full.seeds[:count]) for (name, weight), count in seeds.items())
    plan = replace(full, budget=5000, rounds=(Round(parts, "drawn"),))
    seen = part_of(data, plan)
    return plan, next_round(plan, seen, measure(seen, resamples=300))


def test_a_rival_with_fewer_seeds_catches_up_first() -> None:
    data = make_run(seeds=8, weights=(0.0, 1.0), noise=0.8, checkpoints={"z-100": (100, 0.99), "z-200": (200, 1.0)})
    plan, more = begun(data, {("", 0.0): 4, ("z-100", 1.0): 2, ("z-200", 1.0): 4})
    assert isinstance(more, Round) and more.parts == (Part("z-100", 1.0, plan.seeds[2:4]),)
    plan, more = begun(data, {("", 0.0): 4, ("z-100", 1.0): 3, ("z-200", 1.0): 4})
    assert isinstance(more, Round) and {(p.lora, p.seeds) for p in more.parts} == {
        ("", plan.seeds[4:6]), ("z-100", plan.seeds[3:6]), ("z-200", plan.seeds[4:6])
    }  # fmt: skip


def test_of_checkpoints_that_are_not_advised_the_best_weight_speaks_for_all() -> None:
    # 1 and 1.2 bring the same
    data = make_run(seeds=8, weights=(0.0, 1.0, 1.2), noise=0.8, checkpoints={"z-100": (100, 1.0), "z-200": (200, 1.0)})
    every = {(name, weight): 2 for name in ("z-100", "z-200") for weight in (1.0, 1.2)}
    plan, more = begun(data, {("", 0.0): 2, **every})
    found = advice(part_of(data, plan))
    assert isinstance(more, Round) and found is not None and more.parts[0].lora == ""
    names = [part.lora for part in more.parts[1:]]
    assert names.count(found[0]) == 2 and len(names) == 3


def test_one_that_may_be_no_better_than_the_base_model_gets_seeds_though_nothing_rivals_it() -> None:
    sure = make_run(seeds=8, weights=(0.0, 1.0))
    plan, stop = sweep(sure, with_budget(plan_of(sure), 5000))
    assert seeds_of(plan)["zorp-300", 1.0] == 2 and stop.reason == "one weight is surely the best"
    # on four prompts of nine it is the base model that shows the concept
    turned = sure.cells["prompt_id"].isin(["plain-0", "plain-1", "fidelity-2", "challenge-4"]).to_numpy()
    base = (sure.cells["weight"] == 0).to_numpy()
    features = sure.features.copy()
    features[turned & base] = sure.features[turned & ~base]
    features[turned & ~base] = sure.features[turned & base]
    data = replace(sure, features=features)
    plan, stop = sweep(data, with_budget(plan_of(data), 5000))
    assert seeds_of(plan)["zorp-300", 1.0] == 8 and stop.reason == "every seed is drawn"


def test_where_nothing_can_be_used_it_says_so() -> None:
    data = make_run(fault="no effect", seeds=4)
    plan, stop = sweep(data, with_budget(plan_of(data), 5000))
    assert stop.reason == "no weight is usable" and set(seeds_of(plan).values()) == {2}


def test_what_is_advised_has_two_seeds_where_the_budget_allows_it() -> None:
    data = make_run(seeds=4, weights=(0.0, 0.5, 1.0))
    whole = plan_of(data)
    # a first round of one seed, and a seed more for weight 0 and the leading one
    budget = len(whole.prompts) * (3 + 2)
    plan, _ = sweep(data, with_budget(whole, budget))
    found = advice(part_of(data, plan))
    assert found is not None and seeds_of(plan)[found[:2]] == 2 and len(plan.rounds[0].parts[0].seeds) == 1


def test_a_stop_says_what_more_pictures_would_buy() -> None:
    data = make_run(seeds=4, rng_seed=2)
    asked = with_budget(plan_of(data), 88)
    plan, stop = sweep(data, asked)
    assert stop.reason == "the budget is used up" and len(plan) <= 88
    assert "±" in stop.more


def agreement(count: int, **options: Any) -> tuple[float, float]:
    """(share of runs with the full grid's advice, share of its pictures drawn)."""
    same, drawn = [], []
    for seed in range(count):
        data = make_run(rng_seed=seed, checkpoints=CHECKPOINTS, **options)
        full = plan_of(data)
        plan, _ = sweep(data, with_budget(full, len(full) // 3))
        a, b = advice(data), advice(part_of(data, plan))
        same.append(a == b if a is None or b is None else a[0] == b[0] and abs(a[1] - b[1]) <= 0.1 + 1e-9)
        drawn.append(len(plan) / len(full))
    return float(np.mean(same)), float(np.max(drawn))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["good", "distortion"])
def test_a_third_of_the_pictures_gives_the_advice_of_all(fault: str) -> None:
    share, drawn = agreement(20, fault=fault, seeds=8)
    assert drawn <= 1 / 3 and share >= 0.9


# -- a whole run ----------------------------------------------------------------------------------

SWEEP: dict[str, Any] = {"weights": "0-1.2 [7]", "seeds": 4, "budget": 80}


def test_an_adaptive_run_is_resumed_and_reported_to_the_same_bytes(tmp_path: Path) -> None:
    host, card = small_score(tmp_path, tmp_path / "whole", **SWEEP)
    told = card.provenance["adaptive"]
    plan = RunFolder(tmp_path / "whole").read_plan()
    # a batch has one weight, so nothing but what the rounds name is drawn, and once
    assert host.drawn == told["images"] == len(plan) <= 80 < told["full_grid"] == plan.full_size == 156
    assert len(plan.rounds) == len(told["rounds"]) >= 2

    out = tmp_path / "broken"
    for calls in (2, 9, 12):
        host = FakeHost(tmp_path, interrupt_after=calls)
        with contextlib.suppress(Interrupted):
            score(
                host,
                ScoreRequest(
                    sorted(tmp_path.glob("*.safetensors")),
                    data=tmp_path / "data",
                    suite="tiny",
                    prompts=3,
                    batch_size=4,
                    **SWEEP,
                ),
                out,
                encoder=FakeEncoder(),
                resamples=100,
            )
    small_score(tmp_path, out, **SWEEP)
    assert RunFolder(out).read_plan().rounds == plan.rounds
    for name in ("cells.csv", "summary.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    before = tree_hashes(out)
    report(out, FakeEncoder(), resamples=100)
    assert {name: before[name] for name in ("cells.csv", "summary.csv", "plan.json")} == {
        name: tree_hashes(out)[name] for name in ("cells.csv", "summary.csv", "plan.json")
    }


def test_a_folder_holds_a_whole_grid_or_an_adaptive_run(tmp_path: Path) -> None:
    small_score(tmp_path, tmp_path / "run", **SWEEP)
    with pytest.raises(RunError, match=r"budget \"80\" is now \"none\""):
        small_score(tmp_path, tmp_path / "run", **{**SWEEP, "budget": None})
    # again, nothing is drawn
    host, _ = small_score(tmp_path, tmp_path / "run", **SWEEP)
    assert host.drawn == 0
