"""How long measuring and deciding take, and what they hold: ``python benchmarks/measuring.py [CELLS...]``.

Features of the size of a ViT-B-32 (512 numbers) and 64 px thumbs; everything is made up, nothing is drawn.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import pandas as pd

from lora_eval.scorecard.data import Pictures, Prompt, RunData
from lora_eval.scorecard.decision.decide import decide
from lora_eval.scorecard.dimensions.measure import measure

DIMENSION, THUMB, WEIGHTS, PROMPTS, SEEDS = 512, 64, 8, 12, 10
ROLES = ("plain", "fidelity", "challenge", "composition", "unrelated", "negative")


def make(cells: int, rng: np.random.Generator) -> RunData:
    """A run of about so many cells: 8 weights x 12 prompts x 10 seeds a checkpoint."""
    checkpoints = max(1, round((cells - PROMPTS * SEEDS) / (WEIGHTS * PROMPTS * SEEDS)))
    conditions = [("", None, 0.0)] + [
        (f"c-{i:06d}", i, float(w)) for i in range(checkpoints) for w in np.linspace(0.2, 1.6, WEIGHTS).round(2)
    ]
    prompts = {f"p{i}": Prompt(f"p{i}", ROLES[i % len(ROLES)], f"prompt {i}", f"prompt {i}") for i in range(PROMPTS)}
    rows = [
        (name, step, weight, prompt, seed, f"{name}-{weight}-{prompt}-{seed}.png")
        for name, step, weight in conditions
        for prompt in prompts
        for seed in range(SEEDS)
    ]
    table = pd.DataFrame(rows, columns=["checkpoint", "step", "weight", "prompt_id", "seed", "image"])

    def unit(n: int, towards: np.ndarray) -> np.ndarray:
        x = rng.normal(size=(n, DIMENSION)) / np.sqrt(DIMENSION) + towards
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    concept = rng.normal(size=DIMENSION) / np.sqrt(DIMENSION)
    amount = np.minimum(table["weight"].to_numpy(), 1.0)[:, None]

    def pictures(n: int, held_out: bool) -> Pictures:
        thumbs = rng.random((n, THUMB, THUMB), dtype=np.float32)
        return Pictures([f"{i}.png" for i in range(n)], unit(n, concept), thumbs, rng.normal(size=(n, 12)), held_out)

    n = len(table)
    return RunData(
        cells=table,
        prompts=prompts,
        kind="object",
        features=unit(n, amount * concept),
        thumbs=rng.random((n, THUMB, THUMB), dtype=np.float32),
        styles=rng.normal(size=(n, 12)).astype(np.float32),
        style_names=[f"s{i}" for i in range(12)],
        pixels=rng.normal(size=(n, 6)).astype(np.float32),
        pixel_names=[f"d{i}" for i in range(6)],
        texts={p.class_text: unit(1, concept)[0] for p in prompts.values()},
        references=pictures(12, True),
        training=pictures(100, False),
    )


def main(argv: list[str]) -> int:
    """Print one line per size: cells, seconds of wall and of processor, memory that measuring added."""
    for cells in [int(value) for value in argv] or [1000, 10_000]:
        data = make(cells, np.random.default_rng(0))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, processor = time.perf_counter(), time.process_time()
        decide(data, measure(data))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{len(data.cells)} cells: {wall:.1f} s ({processor:.1f} s of processor), "
            f"peak {peak / 2**20:.2f} GiB, {(peak - before) / 2**20:.2f} GiB of it measuring"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
