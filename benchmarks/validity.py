"""Is the verdict true? LoRAs with planted faults, the scorecard's answer, and what the attribute reader sees.

    python -m benchmarks validity [--each 1] [--kinds good,noisy] [--out DIR] [--resume]

Each LoRA is trained on the shipped tiny model, scored as a user would, and read by a classifier of true
drawings that the product never uses. ``--resume`` goes on in a folder: what is finished is used, and two
processes may share it. Writes ``results.csv``, ``results.json`` and ``validity.md`` into the folder.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
from benchmarks._validity_adaptive import adaptive_answer
from benchmarks._validity_tables import write_tables
from lora_eval.errors import LoraEvalError, RunError
from lora_eval.files import make_folder, read_json, write_json, write_text
from lora_eval.host.standalone import StandaloneHost
from lora_eval.lora.files import load_lora, save_lora
from lora_eval.report.card import plain
from lora_eval.scorecard.data import Scorecard
from lora_eval.scorecard.grid import CORE_ROLES
from lora_eval.scorecard.plan import Cell, Plan
from lora_eval.scorecard.run import report, score
from lora_eval.scorecard.store import RunFolder
from lora_eval.training.loop import train
from tools.tiny_world.drawings import BACKGROUNDS, COLOURS, SHAPES, SUBJECTS, TEXTURES
from tools.tiny_world.reader import Reader

TRIGGERED = ("plain", "fidelity", "challenge", "composition")
COVERAGE_FIRST_SEED = 1001
PLACES = ("on the left", "in the center", "on the right")
# the rank depends on how many prompts a suite has; the others, and the score that has leak among its parts, speak of
# the one prompt without the trigger that was drawn (see statistics.py)
NOT_COMPARABLE = (
    ("alignment", "retrieval_rank"),
    ("generalisation", "leak"),
    ("generalisation", "unrelated_drift"),
    ("generalisation", "score"),
)


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
    found.add_argument(
        "--coverage-prompts", type=int, default=32, help="fresh prompts that stand for the truth of intervals; 0: none"
    )
    found.add_argument(
        "--measure-again", action="store_true", help="measure the pictures of what is finished again, drawing nothing"
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
                ("coverage-prompts", options.coverage_prompts),
            )
        )
        print(write_tables(out, results, command))
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
            if options.measure_again:
                result.update(_answer(report(folder / "score")))
                result["adaptive"] = adaptive_answer(folder / "score")
                result["pictures"] = _triggered(RunFolder(folder / "score"))
                result["truth"] = read_truth(reader, RunFolder(folder / "score"), case.concept)
                if result["coverage"]:
                    report(folder / "coverage", resamples=200)
                    result["coverage"] = _compare(folder)
                write_json(path, plain(result))
            return result
        loras, history = _trained(host, case, folder, options)
        card = score(
            host,
            loras,
            folder / "score",
            data=folder / "references",
            weights=options.weights,
            prompts=options.prompts,
            seeds=options.seeds,
            preset="quick",
            histories={lora.stem: str(history) for lora in loras},
            batch_size=8,
        )
        result = {
            "settings": asked,
            **_answer(card),
            "truth": read_truth(reader, RunFolder(folder / "score"), case.concept),
            "adaptive": adaptive_answer(folder / "score"),
            "pictures": _triggered(RunFolder(folder / "score")),
            "coverage": [],
        }
        if case.kind == "good" and options.coverage_prompts:
            result["coverage"] = coverage(host, case, loras[-1], history, folder, options)
        write_json(path, plain(result))
        return dict(plain(result))


def _triggered(run: RunFolder) -> int:
    """Pictures with the trigger at each checkpoint and weight."""
    plan = run.read_plan()
    return len(plan.seeds) * sum(prompt.role in TRIGGERED for prompt in plan.prompts)


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


def read_truth(reader: Reader, folder: RunFolder, concept: str) -> list[dict[str, Any]]:
    """What the reader sees, per checkpoint and weight.

    Returns:
        Entries ``checkpoint, step, weight, concept`` (mean probability of the concept with the trigger),
        ``accuracy`` (share read as the concept; ``core`` and ``challenge`` on the prompts of these roles alone),
        ``disagree`` (how much seeds of one prompt differ in being read as the concept, 0 to 1),
        ``attributes`` (share of colours, backgrounds, textures and
        places as asked), ``quality`` (mean of concept x attributes, picture by picture), ``leak``
        (share read as the concept without the trigger), ``plain style`` (share in no foreign style).
    """
    plan = folder.read_plan()
    classes = reader.classes
    result = []
    for group in plan.groups():
        with_trigger = [cell for cell in group if cell.prompt.role in TRIGGERED]
        without = [cell for cell in group if cell.prompt.role == "unrelated"]
        seen = _read(reader, folder, with_trigger)
        probability = seen["shape"][:, classes["shape"].index(concept)]
        named = seen["shape"].argmax(axis=1) == classes["shape"].index(concept)
        right = np.array([_right(classes, seen, k, cell.prompt.text) for k, cell in enumerate(with_trigger)])
        foreign = _read(reader, folder, without)["shape"] if without else None
        lora = group[0].lora
        core = np.array([cell.prompt.role in CORE_ROLES for cell in with_trigger])
        prompts = np.array([cell.prompt.id for cell in with_trigger])
        shares = np.array([named[prompts == name].mean() for name in dict.fromkeys(prompts.tolist())])
        result.append(
            {
                "checkpoint": lora.name if lora else "",
                "step": lora.step if lora else None,
                "weight": group[0].weight,
                "concept": float(probability.mean()),
                "accuracy": float(named.mean()),
                "core": float(named[core].mean()),
                "challenge": float(named[~core].mean()),
                "disagree": float((4 * shares * (1 - shares)).mean()),
                "attributes": float(right.mean()),
                "quality": float((probability * right).mean()),
                "leak": None if foreign is None else float(
                    (foreign.argmax(axis=1) == classes["shape"].index(concept)).mean()
                ),
                "plain_style": float((seen["style"].argmax(axis=1) == 0).mean()),
            }
        )  # fmt: skip
    return result


def _read(reader: Reader, folder: RunFolder, cells: list[Cell]) -> dict[str, np.ndarray]:
    images = []
    for cell in cells:
        with Image.open(folder.image_path(cell)) as image:
            images.append(image.convert("RGB"))
    return reader.read(images)


def asked_for(prompt: str) -> dict[str, str]:
    """Attribute values that a prompt of the tiny world names."""
    head, _, ground = prompt.partition(",")
    words = re.findall(r"[a-z]+", head)
    found = {
        "colour": next((w for w in words if w in COLOURS), ""),
        "texture": next((w for w in words if w in TEXTURES), ""),
        "position": next((w for w in words if w in ("left", "center", "right")), ""),
        "background": next((w for w in re.findall(r"[a-z]+", ground) if w in BACKGROUNDS), ""),
        "shape": next((w for w in words if w in SHAPES), ""),
    }
    return {name: value for name, value in found.items() if value}


def _right(classes: dict[str, tuple[str, ...]], seen: dict[str, np.ndarray], row: int, prompt: str) -> float:
    hits = [classes[n][int(seen[n][row].argmax())] == value for n, value in asked_for(prompt).items() if n != "shape"]
    return float(np.mean(hits))


def coverage(
    host: StandaloneHost, case: Case, lora: Path, history: Path, folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Whether intervals of the run hold what many fresh prompts and seeds give, at the weight nearest 1.

    The many have an error of their own, so the share of intervals that hold their value is a little too low.
    """
    weight = _weight_nearest_1(RunFolder(folder / "score"))
    suite = folder / "coverage.yaml"
    write_text(suite, fresh_suite(case.seed, options.coverage_prompts))
    score(
        host,
        [lora],
        folder / "coverage",
        data=folder / "references",
        weights=[weight],
        suite=suite,
        kind="object",
        seeds=list(range(COVERAGE_FIRST_SEED, COVERAGE_FIRST_SEED + options.seeds)),
        preset="quick",
        histories={lora.stem: str(history)},
        batch_size=8,
        resamples=200,
    )
    return _compare(folder)


def fresh_suite(seed: int, prompts: int) -> str:
    """A suite of ``prompts`` with the trigger, roles and attributes as in the tiny suite, and an eighth without."""
    rng = np.random.default_rng([30_000, seed])
    pick = lambda options: str(rng.choice(list(options)))  # noqa: E731
    rows: list[dict[str, Any]] = []
    for k in range(prompts):
        role = ("plain", "composition", "fidelity", "challenge")[k % 4]
        colour, ground, place = pick(COLOURS), pick(BACKGROUNDS), pick(PLACES)
        texture = "plain" if role == "fidelity" else pick(t for t in TEXTURES if t != "plain")
        row: dict[str, Any] = {"id": f"{role}-{k}", "role": role}
        row["text"] = (
            f"a {colour} [trigger], {ground} background"
            if role == "plain"
            else f"a {texture} {colour} [trigger] {place}, {ground} background"
        )
        if role in ("composition", "challenge"):
            named = (
                ("texture", texture, TEXTURES), ("colour", colour, COLOURS), ("position", place, PLACES),
                ("background", ground, BACKGROUNDS),
            )  # fmt: skip
            row["elements"] = [
                {"name": name, "swap": value, "foils": [v for v in options if v != value][:4]}
                for name, value, options in named
            ]
        rows.append(row)
    for k in range(prompts // 8):
        text = f"a {pick(TEXTURES)} {pick(COLOURS)} {pick(SHAPES)} {pick(PLACES)}, {pick(BACKGROUNDS)} background"
        rows.append({"id": f"other-{k}", "role": "unrelated", "text": text})
    # JSON is YAML
    return json.dumps({"name": "fresh", "kind": "object", "class_word": "shape", "prompts": rows}, indent=1)


def _weight_nearest_1(run: RunFolder) -> float:
    return min((w for w in run.read_plan().weights if w > 0), key=lambda w: (abs(w - 1.0), w))


def _compare(folder: Path) -> list[dict[str, Any]]:
    """Every interval of the run at the last checkpoint, with what the fresh pictures give."""
    import pandas as pd

    few, many = RunFolder(folder / "score"), RunFolder(folder / "coverage")
    weight, lora = _weight_nearest_1(few), Path(many.read_plan().loras[0].path)
    keys = ["dimension", "measure"]
    tables = []
    for run in (few, many):
        table = pd.read_csv(run.summary_file)
        name = _checkpoint_name(run.read_plan(), lora)
        table = table[(table["checkpoint"] == name) & np.isclose(table["weight"], weight)]
        tables.append(table.dropna(subset=["value"]).set_index(keys))
    found = []
    for key, row in tables[0].iterrows():
        if key in NOT_COMPARABLE or key not in tables[1].index:
            continue
        if not np.isfinite(row["ci_low"]) or not np.isfinite(row["ci_high"]):
            continue
        truth = float(tables[1].loc[key, "value"])
        found.append(
            {
                "dimension": key[0],
                "measure": key[1],
                "ci_low": float(row["ci_low"]),
                "ci_high": float(row["ci_high"]),
                "truth": truth,
                "holds": bool(row["ci_low"] - 1e-9 <= truth <= row["ci_high"] + 1e-9),
            }
        )
    return found


def _checkpoint_name(plan: Plan, lora: Path) -> str:
    return next(x.name for x in plan.loras if Path(x.path).stem == lora.stem)
