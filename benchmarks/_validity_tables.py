"""Tables of the validity bench: results of single LoRAs in, rates and AUC out."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks._planted import KINDS
from benchmarks._validity_advice import Result, checkpoint_lost, on_fresh, weight_off
from benchmarks._validity_advice_tables import (
    ADVICE,
    adaptive,
    advice_cells,
    against_the_reader,
    by_more,
    with_more_pictures,
)
from benchmarks._validity_rows import mean, number, of, of_kind, rate, table
from lora_eval.files import write_json, write_text
from lora_eval.scorecard.dimensions.registry import NAMES as DIMENSIONS
from lora_eval.statistics.intervals import wilson

FLAGS = ("weak", "poor")
_RANK = {"good": 0, "weak": 1, "poor": 2}
# by the reader: shares from which a concept shows, by which something is lost, at which seeds disagree (0 to 1)
SHOWS, LOST, DISAGREE = 0.8, 0.1, 0.2


def auc(good: Sequence[float], faulty: Sequence[float]) -> float:
    """Probability that a faulty one is worse than a good one, ties half (Mann-Whitney U over n m); NaN when empty."""
    if not len(good) or not len(faulty):
        return float("nan")
    a, b = np.asarray(good, dtype=float)[:, None], np.asarray(faulty, dtype=float)[None]
    return float(((b > a) + 0.5 * (b == a)).mean())


def badness(dimension: dict[str, Any]) -> float | None:
    """Worse is larger: the verdict first, then the score inside the verdict; None when not measured."""
    if dimension["verdict"] not in _RANK or dimension["score"] is None:
        return None
    return _RANK[dimension["verdict"]] + 1.0 - float(dimension["score"])


def flagged(result: Result, dimension: str) -> bool | None:
    """Whether the dimension calls the LoRA weak or poor; None when not measured."""
    verdict = result["dimensions"][dimension]["verdict"]
    return verdict in FLAGS if verdict in _RANK else None


def at_full_weight(result: Result) -> dict[str, Any]:
    """What the reader saw of the last checkpoint at the weight nearest 1."""
    last = [t for t in result["truth"] if t["checkpoint"]]
    step = max(t["step"] or 0 for t in last)
    return min((t for t in last if (t["step"] or 0) == step), key=lambda t: (abs(t["weight"] - 1.0), t["weight"]))


# -- tables ------------------------------------------------------------------------------------


def separation(results: list[Result]) -> list[dict[str, Any]]:
    """Per fault: its dimension, AUC against good, how often it is flagged, how often good ones are by the same."""
    good = of_kind(results, "good")
    rows = []
    for kind in KINDS.values():
        mine = of_kind(results, kind.name)
        if not mine or not kind.own:
            continue
        bad = [b for r in mine if (b := badness(r["dimensions"][kind.own])) is not None]
        fine = [b for r in good if (b := badness(r["dimensions"][kind.own])) is not None]
        found, known = rate(flagged(r, kind.own) for r in mine)
        false, of_good = rate(flagged(r, kind.own) for r in good)
        rows.append(
            {
                "fault": kind.name,
                "dimension": kind.own,
                "n": len(mine),
                "auc": auc(fine, bad),
                "flagged": found,
                "measured": known,
                "good_flagged": false,
                "good": of_good,
                "no_weight": sum(r["weight"] is None for r in mine),
            }
        )
    return rows


def foreign(results: list[Result]) -> list[dict[str, Any]]:
    """Per dimension: how often it flags LoRAs whose fault is another's and that the reader finds unharmed in it."""
    rows = []
    for dimension in DIMENSIONS:
        strangers = [k.name for k in KINDS.values() if k.own and dimension not in (k.own, *k.expected)]
        mine = [r for name in strangers for r in of_kind(results, name)]
        found, known = rate(flagged(r, dimension) for r in mine if not harmed(r, dimension))
        rows.append(
            {
                "dimension": dimension,
                "flagged": found,
                "measured": known,
                "harmed": rate(flagged(r, dimension) for r in mine if harmed(r, dimension)),
            }
        )
    return rows


def harmed(result: Result, dimension: str) -> bool:
    """Whether the reader sees harm in what the dimension judges, whatever fault was planted.

    Looked at as the dimension does: at the advised weight and, where it speaks of everyday weights, at the one
    nearest 1 of the same checkpoint.
    """
    checkpoint = result["checkpoint"] or at_full_weight(result)["checkpoint"]
    mine = [t for t in result["truth"] if t["checkpoint"] == checkpoint]
    full = min(mine, key=lambda t: (abs(t["weight"] - 1.0), t["weight"]))
    here = next((t for t in mine if t["weight"] == result["weight"]), full)
    base = next(t for t in result["truth"] if not t["checkpoint"])
    best = max(t["accuracy"] for t in mine)
    if dimension == "fidelity":
        return bool(here["core"] < SHOWS)
    if dimension == "consistency":
        return any(t["disagree"] > DISAGREE or t["plain_style"] < SHOWS for t in (here, full)) or (
            full["attributes"] < base["attributes"] - LOST
        )
    if dimension == "generalisation":
        return any((t["leak"] or 0.0) > LOST or t["challenge"] < t["core"] - LOST for t in (here, full))
    if dimension == "alignment":
        return any(t["attributes"] < base["attributes"] - LOST for t in (here, full))
    if dimension == "strength":
        return bool(full["attributes"] < base["attributes"] - LOST or full["accuracy"] < best - LOST)
    # curve: more training would have helped, or what there was taught nothing
    return bool(best < SHOWS or at_full_weight(result)["accuracy"] > full["accuracy"] + LOST)


def flat_row(result: Result) -> dict[str, Any]:
    """One line of ``results.csv``."""
    full = at_full_weight(result)
    row: dict[str, Any] = {k: result["settings"][k] for k in ("kind", "concept", "seed")}
    row.update(checkpoint=result["checkpoint"], weight=result["weight"])
    for name in DIMENSIONS:
        row[name], row[f"{name}_score"] = (result["dimensions"][name][k] for k in ("verdict", "score"))
    row.update({f"read_{k}": full[k] for k in ("concept", "accuracy", "attributes", "quality", "leak", "plain_style")})
    row.update(
        weight_off=None if (fresh := on_fresh(result)) is None else fresh.weight_off,
        quality_lost=None if fresh is None else fresh.quality_lost,
        checkpoint_lost=None if fresh is None else fresh.checkpoint_lost,
        weight_off_on_grid=weight_off(result),
        checkpoint_lost_on_grid=checkpoint_lost(result),
        intervals=sum(c["samples"] for c in result["coverage"]),
        intervals_hold=sum(c["held"] for c in result["coverage"]),
        verdict=result["verdict"],
    )
    return row


def write_tables(out: Path, results: list[Result], command: str, seen_below: int | None = None) -> str:
    """Write ``results.csv``, ``results.json`` and ``validity.md`` into ``out``; returns the Markdown."""
    order = list(KINDS)
    results = sorted(results, key=lambda r: (order.index(r["settings"]["kind"]), r["settings"]["seed"]))
    table = pd.DataFrame([flat_row(r) for r in results])
    write_text(out / "results.csv", table.round(4).to_csv(index=False, lineterminator="\n"))
    write_json(out / "results.json", results)
    text = markdown(results, command, seen_below)
    write_text(out / "validity.md", text)
    return text


def markdown(results: list[Result], command: str, seen_below: int | None = None) -> str:
    """The tables as Markdown; with ``seen_below`` LoRAs of lower and of higher seeds are told apart too."""
    kinds = [name for name in KINDS if of_kind(results, name)]
    parts = [
        f"`{command}`",
        f"{len(results)} LoRAs; {_machine()}.",
        "How well each fault is told from good LoRAs by its own dimension (weak or poor counts as flagged):",
        table(
            ("fault", "dimension", "n", "AUC", "flagged", "good flagged by it", "no usable weight"),
            [
                (r["fault"], r["dimension"], r["n"], number(r["auc"]), f"{r['flagged']} of {r['measured']}",
                 f"{r['good_flagged']} of {r['good']}", r["no_weight"])
                for r in separation(results)
            ],
        ),
        "Flags by kind and dimension; **bold** is the fault's own, *slanted* a dimension that the fault harms too:",
        table(("kind", "n", *DIMENSIONS), [_flag_row(results, kind) for kind in kinds]),
        "Foreign flags: LoRAs with another dimension's fault, parted by whether the reader sees this one harmed:",
        table(
            ("dimension", "unharmed and flagged", "share", "95 % interval", "harmed and flagged"),
            [_foreign_row(r) for r in foreign(results)],
        ),
        *against_the_reader(results),
        *with_more_pictures(results),
        "What the reader saw at the weight nearest 1 of the last checkpoint (means): was the fault planted?",
        table(
            ("kind", "read as concept", "attributes as asked", "concept without trigger", "in no foreign style"),
            [_truth_row(results, kind) for kind in kinds],
        ),
    ]  # fmt: skip
    read = [(r["settings"]["kind"], r["curve"]) for r in results if r.get("curve")]
    if read:
        right = sum(
            (state == "still falling") == (kind == "undertrained") for kind, state in read if kind != "memorised"
        )
        known = sum(kind != "memorised" for kind, _ in read)
        states = sorted({state for kind, state in read if kind == "memorised"})
        parts.append(
            f"Loss histories: the undertrained are read as still falling, and no others but the memorised, in {right} "
            f"of {known}" + (f"; memorised ones read {', '.join(states)}." if states else ".")
        )
    parts += adaptive(results)
    if seen_below is not None:
        parts += [
            f"LoRAs with seeds below {seen_below} and the others. Own: flagged by the dimension of their fault. "
            "Foreign: flagged by another, and unharmed by the reader:",
            table(
                ("seeds", "n", "own", "good without any flag", "lowest AUC", "foreign", *ADVICE,
                 "more pictures: weight within 0.1", "checkpoint within 2 points", "a third of the grid's: tied",
                 "of more pictures: tied"),
                [
                    _split_row(f"below {seen_below}", [r for r in results if r["settings"]["seed"] < seen_below]),
                    _split_row(f"from {seen_below}", [r for r in results if r["settings"]["seed"] >= seen_below]),
                ],
            ),
        ]  # fmt: skip
    covered = [c for r in results for c in r["coverage"]]
    if covered:
        parts += [
            "95 % intervals of scorecards of good LoRAs at the weight nearest 1 that hold the truth (samples of a pool "
            "of fresh prompts and seeds):",
            table(("measure", "pools", "hold", "share"), _coverage_rows(covered)),
        ]
    return "\n\n".join(parts) + "\n"


def _flag_row(results: list[Result], name: str) -> list[Any]:
    kind, mine = KINDS[name], of_kind(results, name)
    cells = []
    for dimension in DIMENSIONS:
        found, known = rate(flagged(r, dimension) for r in mine)
        text = f"{found} of {known}" if known else "not measured"
        mark = "**" if dimension == kind.own else "*" if dimension in kind.expected else ""
        cells.append(f"{mark}{text}{mark}")
    return [name, len(mine), *cells]


def _foreign_row(row: dict[str, Any]) -> list[Any]:
    if not row["measured"]:
        return [row["dimension"], "0 of 0", "", "", f"{row['harmed'][0]} of {row['harmed'][1]}"]
    low, high = wilson(row["flagged"], row["measured"])
    share = row["flagged"] / row["measured"]
    return [
        row["dimension"], f"{row['flagged']} of {row['measured']}", f"{share:.0%}", f"{low:.0%} to {high:.0%}",
        f"{row['harmed'][0]} of {row['harmed'][1]}",
    ]  # fmt: skip


def _split_row(name: str, results: list[Result]) -> list[Any]:
    faults, strangers = separation(results), foreign(results)
    good = of_kind(results, "good")
    clean = sum(not any(flagged(r, d) for d in DIMENSIONS) for r in good)
    swept = by_more(results)
    more = advice_cells(swept)
    thirds = [
        of(one.get("tied") for one in found)
        for found in ([r.get("adaptive", {}) for r in results], [r["adaptive"] for r in swept])
    ]
    worst = max(strangers, key=lambda r: r["flagged"] / max(1, r["measured"]))
    total = [sum(r[key] for r in strangers) for key in ("flagged", "measured")]
    return [
        name, len(results), f"{sum(f['flagged'] for f in faults)} of {sum(f['measured'] for f in faults)}",
        f"{clean} of {len(good)}", number(min((f["auc"] for f in faults), default=float("nan"))),
        f"{total[0]} of {total[1]}; most: {worst['dimension']} {worst['flagged']} of {worst['measured']}",
        *advice_cells(results), more[0], more[2], *thirds,
    ]  # fmt: skip


def _truth_row(results: list[Result], name: str) -> list[Any]:
    seen = [at_full_weight(r) for r in of_kind(results, name)]
    means = [mean([s[k] for s in seen]) for k in ("accuracy", "attributes", "leak", "plain_style")]
    return [name, *(number(m) for m in means)]


def _coverage_rows(covered: list[dict[str, Any]]) -> list[list[Any]]:
    """Per measure and over all: intervals that hold the truth, of how many, and over how many LoRAs."""
    rows = []
    for key in (*dict.fromkeys((c["dimension"], c["measure"]) for c in covered), ("all", "")):
        mine = [c for c in covered if key in ((c["dimension"], c["measure"]), ("all", ""))]
        held, total = sum(c["held"] for c in mine), sum(c["samples"] for c in mine)
        rows.append([" ".join(key).strip(), len(mine), f"{held} of {total}", f"{held / total:.1%}"])
    return rows


def _machine() -> str:
    threads = torch.get_num_threads()
    return f"{platform.system()} {platform.machine()}, no GPU, {threads} thread(s), torch {torch.__version__}"
