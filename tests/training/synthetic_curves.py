"""Loss curves of known kind with the noise of a diffusion loss.

A batch averages the loss at random timesteps, which runs over two orders of magnitude: one step is
log-normal about its level with a standard deviation of .3 to .6 of it, without correlation. Validation
on fixed pictures, noise and timesteps has an error of a few thousandths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = ("converged", "still falling", "flat", "oscillating", "diverged", "overfit", "too short")


@dataclass(frozen=True)
class Curve:
    kind: str
    step: np.ndarray
    loss: np.ndarray
    val_step: np.ndarray
    val_loss: np.ndarray


def make_curve(kind: str, rng: np.random.Generator, validated: bool) -> Curve:
    """One curve; overfit exists only with validation, since the training loss alone cannot show it."""
    n = int(rng.integers(800, 3000))
    step = np.arange(1, n + 1)
    t = step / n
    start = rng.uniform(0.08, 0.2)
    depth = rng.uniform(0.25, 0.6)
    noise = rng.uniform(0.3, 0.6)
    tau = rng.uniform(0.03, 0.12)
    level = np.ones(n)
    val = np.ones(n)
    if kind == "converged":
        level = val = 1 - depth * (1 - np.exp(-t / tau))
    elif kind == "still falling":
        slow = rng.uniform(0.8, 4.0)
        level = val = 1 - rng.uniform(0.4, 0.65) * (1 - np.exp(-t / slow)) / (1 - np.exp(-1 / slow))
    elif kind == "flat":
        level = val = 1 + 0.005 * rng.normal() * t
    elif kind == "oscillating":
        level = 1 - 0.5 * depth * (1 - np.exp(-t / tau))
        waves = rng.uniform(8, 40)
        swing = rng.uniform(0.4, 0.8) * np.clip(t / 0.3, 0, 1)
        level = level * np.exp(swing * np.sin(2 * np.pi * waves * t + rng.uniform(0, 6)))
        val = level
    elif kind == "diverged":
        turn = rng.uniform(0.4, 0.75)
        level = 1 - depth * (1 - np.exp(-t / tau))
        level = val = level * np.exp(rng.uniform(1.2, 3.0) * np.clip((t - turn) / (1 - turn), 0, 1))
    elif kind == "overfit":
        level = 1 - 0.7 * depth * (1 - np.exp(-t / tau)) - 0.35 * depth * t
        turn = rng.uniform(0.25, 0.55)
        val = 1 - 0.6 * depth * (1 - np.exp(-t / (turn / 3))) + rng.uniform(0.15, 0.4) * np.clip(t - turn, 0, 1)
    elif kind == "too short":
        n = int(rng.integers(3, 28))
        step, level, val = step[:n], level[:n], val[:n]
    sigma = np.sqrt(np.log1p(noise**2))
    loss = start * level * np.exp(sigma * rng.normal(size=n) - sigma**2 / 2)
    if not validated:
        return Curve(kind, step, loss, np.zeros(0), np.zeros(0))
    count = int(rng.integers(2, 4)) if kind == "too short" else int(rng.integers(12, 40))
    at = np.unique(np.linspace(0, n, count + 1).astype(int))
    clean = np.concatenate([[1.0], val])[at]
    # noise of a fixed-noise validation: small, and the same pictures make it smooth
    return Curve(kind, step, loss, at, start * clean * (1 + rng.uniform(0.001, 0.004) * rng.normal(size=len(at))))
