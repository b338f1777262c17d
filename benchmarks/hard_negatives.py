"""Do hard negatives lower the leak at equal fidelity? Pairs of LoRAs, with and without, judged by the attribute reader.

    python -m benchmarks hard_negatives [--concept quib] [--steps 150] [--seeds 5] [--weight 0.3] [--out DIR]

Both LoRAs of a pair share seed, pictures and settings. Leak: the reader's mean probability of the concept on prompts
that name another shape and no trigger; the negatives of the training hold no shape's name, they are the training
captions without their trigger. A folder given with --out keeps what is finished and may be shared by two processes.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._planted import PICTURES, RECIPES, write_dataset
from benchmarks.concept import BATCH, prompts
from lora_eval.files import make_folder, read_json, write_json
from lora_eval.host.protocol import ImageRequest, LoraUse
from lora_eval.host.standalone import StandaloneHost
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.plan.make import default_sampling
from lora_eval.training.config import TrainConfig, make_config
from lora_eval.training.loop import train
from tools.tiny_world.drawings import SHAPES, SUBJECTS, dataset
from tools.tiny_world.reader import Reader

SEED = 5000
ARMS = ("without", "with")


def main(argv: list[str]) -> int:
    """Print the table; 0 when over all seeds the leak is down by 30 % and fidelity within 3 %."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks hard_negatives")
    parser.add_argument("--concept", choices=SUBJECTS, default="quib")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--weight", type=float, default=0.3)
    parser.add_argument("--start", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--pictures", type=int, default=49, help="drawn for each kind of prompt")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        out = make_folder(options.out or Path(temporary))
        reader = Reader.load()
        rows: list[dict[str, Any]] = []
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            pair = {arm: run(out, reader, arm, seed, options) for arm in ARMS}
            rows.append(pair)
            print(f"seed {seed}: " + "; ".join(f"{arm} {_short(one)}" for arm, one in pair.items()), flush=True)
    return 0 if show(rows) else 1


def run(out: Path, reader: Reader, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and read one LoRA; the stored result when it is finished. Raises RunError when another process has it."""
    weight = options.weight if arm == "with" else 0.0
    steps = options.steps
    about = {"concept": options.concept, "seed": seed, "weight": weight, "steps": steps, "pictures": options.pictures}
    if weight:
        about["start"] = options.start
    folder = make_folder(out / "-".join(f"{key}_{value}" for key, value in about.items()))
    with RunFolder(folder).lock():
        path = folder / "result.json"
        if path.exists():
            return dict(read_json(path))
        host = StandaloneHost(output_folder=folder)
        write_dataset(folder / "data", dataset(options.concept, PICTURES, seed))
        config = settings(options.concept, seed, steps, folder)
        result = train(host, replace(config, hard_negative_weight=weight, hard_negative_start=options.start))
        found = {"stopped": result.stopped, **read(host, reader, result.lora, options.concept, options.pictures)}
        write_json(path, {**about, **found})
        return {**about, **found}


def settings(concept: str, seed: int, steps: int, folder: Path) -> TrainConfig:
    """The recipe of docs/tiny-world.md: no regularisation pictures, every caption with the trigger."""
    return make_config(
        {
            "train_data_dir": str(folder / "data"),
            "output_dir": str(folder / "train"),
            "name": f"{concept}-{seed}",
            "kind": "object",
            "trigger": concept,
            "class_word": "shape",
            "lora_rank": 8,
            "batch_size": 16,
            "max_steps": steps,
            "epochs": steps,
            "learning_rate": RECIPES[concept][0],
            "warmup_steps": 10,
            "min_snr_gamma": 5,
            "validation_fraction": 0.0,
            "validation_steps": steps,
            "save_steps": 0,
            "resolution": 64,
            "seed": seed,
            "publish": False,
        }
    )


def read(host: StandaloneHost, reader: Reader, lora: Path, concept: str, count: int) -> dict[str, float]:
    """What the reader sees at weight 1.

    Returns:
        ``fidelity``, ``leak``, ``near``: mean probability of the concept on prompts with the trigger, naming another
        shape, and with the class word; ``kept``: share of the other shapes that are read as themselves;
        ``attributes``: share of colours, backgrounds and places as asked with the trigger.
    """
    classes = reader.classes
    column = classes["shape"].index(concept)
    own = prompts(concept, count)
    other = [prompts(shape, count)[k] for k, shape in enumerate((SHAPES * count)[:count])]
    near = prompts("shape", count)
    seen = [_drawn(host, reader, lora, [text for text, _ in asked]) for asked in (own, other, near)]
    right = [
        classes[name][int(seen[0][name][k].argmax())] == asked[name]
        for k, (_, asked) in enumerate(own)
        for name in ("colour", "background", "position")
    ]
    named = [classes["shape"][int(row.argmax())] for row in seen[1]["shape"]]
    return {
        "fidelity": float(seen[0]["shape"][:, column].mean()),
        "attributes": float(np.mean(right)),
        "leak": float(seen[1]["shape"][:, column].mean()),
        "kept": float(np.mean([name == asked["shape"] for name, (_, asked) in zip(named, other, strict=True)])),
        "near": float(seen[2]["shape"][:, column].mean()),
    }


def _drawn(host: StandaloneHost, reader: Reader, lora: Path, texts: list[str]) -> dict[str, np.ndarray]:
    images = []
    for start in range(0, len(texts), BATCH):
        batch = [ImageRequest(text, SEED + start + k) for k, text in enumerate(texts[start : start + BATCH])]
        images += [one.image for one in host.generate(batch, default_sampling(host), LoraUse(lora, 1.0))]
    return reader.read(images)


def _short(one: dict[str, Any]) -> str:
    return f"fidelity {one['fidelity']:.3f}, leak {one['leak']:.3f}"


def show(pairs: list[dict[str, Any]]) -> bool:
    """Print the table of all pairs and what they say together. Returns whether leak and fidelity are as wanted."""
    names = ("fidelity", "attributes", "leak", "kept", "near")
    print("\n| seed | " + " | ".join(f"{name}, without | with" for name in names) + " |")
    print("|" + "---|" * (1 + 2 * len(names)))
    for pair in pairs:
        cells = [f"{pair[arm][name]:.3f}" for name in names for arm in ARMS]
        print(f"| {pair['with']['seed']} | " + " | ".join(cells) + " |")
    means = {name: {arm: float(np.mean([p[arm][name] for p in pairs])) for arm in ARMS} for name in names}
    print("| mean | " + " | ".join(f"{means[name][arm]:.3f}" for name in names for arm in ARMS) + " |\n")
    down = 1 - means["leak"]["with"] / max(means["leak"]["without"], 1e-9)
    change = means["fidelity"]["with"] / max(means["fidelity"]["without"], 1e-9) - 1
    print(f"leak {-down:+.0%}, fidelity {change:+.1%} (n = {len(pairs)} pairs)")
    return down >= 0.30 and abs(change) <= 0.03
