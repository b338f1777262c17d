"""Loss curves of known kind, of many shapes, and the word that each is given: a confusion matrix.

    python -m benchmarks curves --count 1400

The generator is made for this benchmark alone: it shares no code with the tests' and varies what real logs vary in
(amplitude, period and growth of swings, step noise, number and spacing of validations, resumes, single NaN). Limits of
``training/unrest.py`` were chosen on seeds below 10 000; the figures are of seeds from 10 000 on.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_eval.training.curve import diagnose

KINDS = ("converged", "still falling", "flat", "oscillating", "diverged", "overfit")
FIRST_SEED = 10_000


@dataclass(frozen=True)
class Curve:
    """``kind`` is what it is; ``how`` says which variety of it; the rest is what :func:`diagnose` is given."""

    kind: str
    how: str
    step: np.ndarray
    loss: np.ndarray
    val_step: np.ndarray
    val_loss: np.ndarray


def make(kind: str, seed: int) -> Curve:
    """One curve of this kind."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    n = int(rng.choice([300, 600, 1200, 2400, 5000]))
    t = np.arange(1, n + 1) / n
    noise = float(rng.choice([0.05, 0.2, 0.4, 0.6]))
    # an overfit cannot be seen without a validation, nor a swing of the validation alone
    validated = kind == "overfit" or rng.random() < 0.6
    level, val, how = _shape(kind, t, rng, validated, noise)
    start = 10 ** rng.uniform(-2, -0.3)
    sigma = np.sqrt(np.log1p(noise**2))
    loss = start * level * np.exp(sigma * rng.normal(size=n) - sigma**2 / 2)
    step = np.arange(1, n + 1, dtype=float)
    if rng.random() < 0.2:
        # a resume: a stretch of steps that was not logged
        gap = int(rng.integers(n // 4, n // 2))
        kept = np.ones(n, dtype=bool)
        kept[gap : gap + n // 30] = False
        step, loss = step[kept], loss[kept]
    if rng.random() < 0.2:
        loss[rng.choice(len(loss) - 5, int(rng.integers(1, 4)), replace=False)] = np.nan
    if not validated:
        return Curve(kind, how, step, loss, np.zeros(0), np.zeros(0))
    count = int(rng.choice([12, 16, 24, 40, 80])) if "validation" not in how else int(how.split()[-1])
    places = np.linspace(0, n - 1, count + 1)
    if rng.random() < 0.25:
        # unevenly spaced, as saved by hand
        places[1:-1] += rng.uniform(-0.3, 0.3, count - 1) * (n - 1) / count
    at = np.unique(np.clip(places, 0, n - 1).astype(int))
    clean = val[at].copy()
    clean[0] = 1.0 if "validation" not in how else clean[0]
    quiet = float(rng.choice([0.002, 0.005, 0.01]))
    val_step = np.where(at == 0, 0, at + 1).astype(float)
    return Curve(kind, how, step, loss, val_step, start * clean * np.exp(quiet * rng.normal(size=len(at))))


def _shape(
    kind: str, t: np.ndarray, rng: np.random.Generator, validated: bool, noise: float
) -> tuple[np.ndarray, np.ndarray, str]:
    """(level of the training loss, of the validation loss, variety)."""
    depth, tau = rng.uniform(0.25, 0.6), rng.uniform(0.03, 0.12)
    falling = 1 - depth * (1 - np.exp(-t / tau))
    if kind == "converged":
        return falling, falling, "exponential"
    if kind == "still falling":
        slow = rng.uniform(0.8, 4.0)
        level = 1 - rng.uniform(0.4, 0.65) * (1 - np.exp(-t / slow)) / (1 - np.exp(-1 / slow))
        return level, level, "slow exponential"
    if kind == "flat":
        level = np.ones_like(t)
        return level, level, "level"
    if kind == "diverged":
        turn = rng.uniform(0.4, 0.75)
        level = falling * np.exp(rng.uniform(1.2, 3.0) * np.clip((t - turn) / (1 - turn), 0, 1))
        return level, level, "rises after a turn"
    if kind == "overfit":
        turn = rng.uniform(0.25, 0.55)
        train = 1 - 0.7 * depth * (1 - np.exp(-t / tau)) - 0.35 * depth * t
        val = 1 - 0.6 * depth * (1 - np.exp(-t / (turn / 3))) + rng.uniform(0.15, 0.4) * np.clip(t - turn, 0, 1)
        return train, val, "turns"
    base = np.ones_like(t) if rng.random() < 0.4 else 1 - 0.5 * depth * (1 - np.exp(-t / tau))
    grows = rng.choice(["even", "growing", "fading"])
    envelope = {"even": np.ones_like(t), "growing": 0.4 + 0.6 * t, "fading": 1 - 0.6 * t}[str(grows)]
    if validated and rng.random() < 0.6:
        # a period must be met by more than two validations, or nobody could see it
        count = int(rng.choice([16, 24, 40, 80]))
        periods = rng.uniform(4, min(14.0, count / 2.6))
        swing = rng.uniform(0.1, 0.4) * envelope
        val = base * np.exp(swing * np.sin(2 * np.pi * periods * t + rng.uniform(0, 6)))
        return base, val, f"{grows} validation {count}"
    # relative to the noise of a step and to their number: what a third of the steps' errors allows to see
    least = max(0.15, 8.0 * noise / np.sqrt(len(t)))
    swing = rng.uniform(least, 3 * least) * envelope
    periods = rng.uniform(4, len(t) / 6)
    wave = np.sin(2 * np.pi * periods * t + rng.uniform(0, 6))
    if rng.random() < 0.3:
        wave = np.sign(wave) * np.abs(wave) ** 0.3
    level = base * np.exp(swing * wave)
    return level, base, f"{grows} training"


def word(curve: Curve) -> str:
    """What the product calls it."""
    if not len(curve.val_step):
        return diagnose(curve.step, curve.loss).state
    return diagnose(curve.step, curve.loss, curve.val_loss, val_step=curve.val_step).state


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks curves", description=__doc__)
    parser.add_argument("--count", type=int, default=1400, help="curves in all")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(argv)
    each = -(-asked.count // len(KINDS))
    found: Counter[tuple[str, str]] = Counter()
    missed: Counter[tuple[str, str, str]] = Counter()
    for kind in KINDS:
        for seed in range(asked.first_seed, asked.first_seed + each):
            curve = make(kind, seed)
            said = word(curve)
            found[kind, said] += 1
            if said != kind:
                missed[kind, curve.how, said] += 1
    words = [*KINDS, "too short"]
    print("| is \\ called | " + " | ".join(words) + " | right |")
    print("|---" * (len(words) + 2) + "|")
    for kind in KINDS:
        row = [found[kind, word_] for word_ in words]
        print(f"| {kind} | " + " | ".join(str(value or "") for value in row) + f" | {found[kind, kind] / each:.1%} |")
    print(f"{each * len(KINDS)} curves, seeds {asked.first_seed} to {asked.first_seed + each - 1}")
    for (kind, how, said), count in missed.most_common(12):
        print(f"  {kind} ({how}) called {said}: {count}")
    if asked.out:
        asked.out.write_text(json.dumps([[*key, value] for key, value in found.items()], indent=1), encoding="utf-8")
    return 0 if all(found[kind, kind] >= 0.95 * each for kind in KINDS) else 1
