"""Is the verdict true? LoRAs with planted faults, the scorecard's answer, and what the attribute reader sees.

    python -m benchmarks validity [--each 1] [--kinds good,noisy] [--out DIR] [--resume]

Each LoRA is trained on the shipped tiny model, scored as a user would, and read by a classifier of true
drawings that the product never uses. ``--resume`` goes on in a folder: what is finished is used, and two
processes may share it. Writes ``results.csv``, ``results.json`` and ``validity.md`` into the folder.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._planted import (
    KINDS,
    STRONG,
    Case,
    cases,
    reference_pairs,
    regularisation_pairs,
    settings,
    train_config,
    training_pairs,
    write_dataset,
)
from benchmarks._validity_adaptive import MORE, adaptive_answer, more_pictures
from benchmarks._validity_coverage import covered, draw_pool
from benchmarks._validity_tables import write_tables
from benchmarks._validity_truth import in_question, read_fresh, read_truth
from lora_eval.errors import LoraEvalError, RunError
from lora_eval.files import make_folder, read_json, write_json
from lora_eval.host.standalone import StandaloneHost
from lora_eval.lora.files import load_lora, save_lora
from lora_eval.report.card import plain
from lora_eval.scorecard.data import Scorecard
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.grid import OPEN_ROLES
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.scoring import report, score
from lora_eval.training.loop import train
from tools.tiny_world.drawings import SUBJECTS
from tools.tiny_world.reader import Reader


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks validity")
    found.add_argument("--each", type=int, default=1, help="LoRAs of each kind")
    found.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    found.add_argument("--out", type=Path, default=Path("outputs/validity"))
    found.add_argument("--resume", action="store_true", help="use what is finished in --out")
    found.add_argument("--concepts", default=",".join(SUBJECTS), help="subjects to go round")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--checkpoints", type=int, default=2)
    found.add_argument("--weights", default="0-1.2 [7]")
    found.add_argument("--prompts", type=int, default=10, help="from the top of the tiny suite")
    found.add_argument("--seeds", type=int, default=4)
    found.add_argument("--steps", type=int, help="steps of a good LoRA; default: the recipe's")
    found.add_argument("--pool-prompts", type=int, default=48, help="fresh prompts for the truth of intervals; 0: none")
    found.add_argument("--pool-seeds", type=int, default=12)
    found.add_argument("--more-prompts", type=int, default=20, help="of a grid with more pictures; 0: none")
    found.add_argument("--more-seeds", type=int, default=8)
    found.add_argument("--fresh-prompts", type=int, default=50, help="fresh prompts for the truth of advice; 0: none")
    found.add_argument(
        "--measure-again", action="store_true", help="measure the pictures of what is finished again, drawing nothing"
    )
    found.add_argument(
        "--seen-below",
        type=int,
        help="tables also part LoRAs of lower seeds, which rules were made by, from the others",
    )
    found.add_argument("--table-only", action="store_true", help="make the tables of what is finished")
    return found


def main(argv: list[str]) -> int:
    """Run what is missing, write the tables; 0 when every case asked for is finished."""
    options = parser().parse_args(argv)
    kinds = [name for name in options.kinds.split(",") if name]
    if unknown := [name for name in kinds if name not in KINDS]:
        print(f"unknown kind {unknown[0]}; kinds are {', '.join(KINDS)}", file=sys.stderr)
        return 2
    concepts = [name for name in options.concepts.split(",") if name]
    if not concepts or not set(concepts) <= set(SUBJECTS):
        print(f"unknown concept in {options.concepts!r}; concepts are {', '.join(SUBJECTS)}", file=sys.stderr)
        return 2
    out = options.out
    if not (options.resume or options.table_only or options.measure_again) and any(out.glob("*/result.json")):
        print(f"{out} holds results; add --resume to use them or choose another folder", file=sys.stderr)
        return 2
    asked = cases(kinds, options.each, options.seed, concepts)
    if options.measure_again:
        asked = [case for case in asked if (out / case.name / "result.json").exists()]
    failed = 0
    if not options.table_only:
        reader = Reader.load()
        host = StandaloneHost(output_folder=out)
        for number, case in enumerate(asked, 1):
            began = time.monotonic()
            try:
                result = run_case(host, reader, case, options)
            except LoraEvalError as error:
                print(f"[{number}/{len(asked)}] {case.name}: {error}", file=sys.stderr, flush=True)
                failed += 1
                continue
            seconds = time.monotonic() - began
            print(f"[{number}/{len(asked)}] {case.name} ({seconds:.0f} s): {result['verdict']}", flush=True)
    results = [read_json(path) for path in sorted(out.glob("*/result.json"))]
    if results:
        command = "python -m benchmarks validity " + " ".join(
            f"--{name} {value}" if not isinstance(value, str) else f'--{name} "{value}"'
            for name, value in (
                ("each", options.each),
                ("checkpoints", options.checkpoints),
                ("weights", options.weights),
                ("prompts", options.prompts),
                ("seeds", options.seeds),
                ("pool-prompts", options.pool_prompts),
                ("pool-seeds", options.pool_seeds),
                ("more-prompts", options.more_prompts),
                ("more-seeds", options.more_seeds),
                ("fresh-prompts", options.fresh_prompts),
                *([("seen-below", options.seen_below)] if options.seen_below is not None else []),
            )
        )
        print(write_tables(out, results, command, options.seen_below))
    return 1 if failed else 0


def run_case(host: StandaloneHost, reader: Reader, case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Train, score and read one LoRA; the stored result when it is finished.

    Raises:
        LoraEvalError: another process works on it, or it was made with other settings.
    """
    folder = make_folder(options.out / case.name)
    asked = plain(
        {
            **settings(case),
            **{k: getattr(options, k) for k in ("checkpoints", "weights", "prompts", "seeds", "steps")},
        }
    )
    with RunFolder(folder).lock():
        path = folder / "result.json"
        if path.exists():
            result = dict(read_json(path))
            if result["settings"] != asked:
                raise RunError(f"{path} was made with other settings; choose another folder")
            again = _answer(report(folder / "score")) if options.measure_again else {}
        else:
            loras, history = _trained(host, case, folder, options)
            card = score(
                host,
                ScoreRequest(
                    loras,
                    data=folder / "references",
                    weights=options.weights,
                    prompts=options.prompts,
                    seeds=options.seeds,
                    preset="quick",
                    batch_size=8,
                ),
                folder / "score",
                histories={lora.stem: str(history) for lora in loras},
            )
            result, again = {"settings": asked}, _answer(card)
        if again:
            result.update(again)
            result["truth"] = read_truth(reader, RunFolder(folder / "score"), case.concept)
            result["adaptive"] = adaptive_answer(folder / "score")
            if MORE in result:
                result[MORE] = _of_more(reader, case, folder, report(folder / MORE))
            result["pictures"] = _triggered(RunFolder(folder / "score"))
        missing = _draw_truth(host, reader, case, folder, result, options) if not options.measure_again else False
        pool = (folder / "pool" / "summary.csv").exists()
        if pool and (again or missing):
            result["coverage"] = covered(folder, case.seed)
        result.setdefault("coverage", [])
        if again or missing:
            write_json(path, plain(result))
        return dict(plain(result))


def _draw_truth(
    host: StandaloneHost, reader: Reader, case: Case, folder: Path, result: dict[str, Any], options: argparse.Namespace
) -> bool:
    """Draw what the truth of advice and of intervals needs and is not there; whether anything was."""
    loras, history = _trained(host, case, folder, options)
    drawn = False
    if options.more_prompts and MORE not in result:
        card = more_pictures(host, loras, history, folder, options.weights, options.more_prompts, options.more_seeds)
        result[MORE] = _of_more(reader, case, folder, card)
        drawn = True
    if options.fresh_prompts:
        # what another advice was drawn for stays useful
        count = options.fresh_prompts * options.seeds
        there = [e for e in result.get("fresh", []) if len(e["named"]) == count]
        known = {(e["checkpoint"], e["weight"]) for e in there}
        advices = [result, {**result, **result.get(MORE, {})}]
        wanted = dict.fromkeys(use for one in advices if one["checkpoint"] for use in in_question(loras, one))
        uses = [(lora, weight) for lora, weight in wanted if (lora.stem, weight) not in known]
        if uses:
            seen = read_fresh(host, reader, uses, case.concept, case.seed, options.fresh_prompts, options.seeds)
            result["fresh"] = there + seen
            drawn = True
    if case.kind == "good" and options.pool_prompts and not (folder / "pool" / "summary.csv").exists():
        draw_pool(host, loras[-1], history, folder, case.seed, options.pool_prompts, options.pool_seeds)
        drawn = True
    return drawn


def _of_more(reader: Reader, case: Case, folder: Path, card: Scorecard) -> dict[str, Any]:
    """What the grid of more pictures says, under the names that the grid's own result has."""
    run = RunFolder(folder / MORE)
    return {
        "checkpoint": card.checkpoint,
        "weight": card.weight,
        "truth": read_truth(reader, run, case.concept),
        "adaptive": adaptive_answer(folder / MORE),
        "pictures": _triggered(run),
    }


def _triggered(run: RunFolder) -> int:
    """Pictures with the trigger at each checkpoint and weight."""
    plan = run.read_plan()
    return len(plan.seeds) * sum(prompt.role in OPEN_ROLES for prompt in plan.prompts)


def _answer(card: Scorecard) -> dict[str, Any]:
    found = {
        "verdict": card.verdict,
        "checkpoint": card.checkpoint,
        "weight": card.weight,
        "gates": card.gates,
        "advice": [{"dimension": a.dimension, "seen": a.seen, "change": a.change} for a in card.advice],
        "curve": (card.dimensions["curve"].evidence.get("curve") or {}).get("whole_run"),
        "dimensions": {
            name: {"score": d.score, "verdict": d.verdict, "reason": d.reason} for name, d in card.dimensions.items()
        },
    }
    return dict(plain(found))


def _trained(host: StandaloneHost, case: Case, folder: Path, options: argparse.Namespace) -> tuple[list[Path], Path]:
    marker, run = folder / "train.json", folder / "train"
    if not marker.exists():
        shutil.rmtree(run, ignore_errors=True)  # a training that was cut short; a minute's work
        write_dataset(folder / "data", training_pairs(case))
        write_dataset(folder / "references", reference_pairs(case))
        if pairs := regularisation_pairs(case):
            write_dataset(folder / "regularisation", pairs)
        config = train_config(case, folder / "data", folder / "regularisation", run, options.checkpoints, options.steps)
        result = train(host, config)
        if result.stopped not in ("finished", "diverged"):
            raise RunError(f"{case.name}: training ended {result.stopped}; start again with --resume")
        paths = [path for _, path in result.checkpoints]
        if case.kind == "strong":
            paths = [_stronger(path) for path in paths]
        write_json(marker, {"loras": [str(p.resolve()) for p in paths], "history": str(result.history.resolve())})
    found = read_json(marker)
    return [Path(p) for p in found["loras"]], Path(found["history"])


def _stronger(path: Path) -> Path:
    """A copy beside it whose weight 1 is the original's weight STRONG."""
    lora = load_lora(path)
    tensors = {name: t * STRONG if name.endswith(".alpha") else t for name, t in lora.tensors.items()}
    name, step = re.sub(r"-\d+$", "", path.stem), re.search(r"-\d+$", path.stem)
    copy = path.with_name(f"{name}-x{STRONG:g}".replace(".", "_") + (step.group() if step else "") + path.suffix)
    save_lora(copy, tensors, {k: v for k, v in lora.metadata.items() if k != "ss_network_alpha"})
    return copy
