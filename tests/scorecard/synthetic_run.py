"""Runs whose truth is known: features built from a prompt part, a concept part and seed noise, with planted faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lora_eval.scorecard.data import Element, Pictures, Prompt, RunData
from lora_eval.scorecard.features.pixels import STYLE_NAMES

WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
ROLES = (
    "plain", "plain", "fidelity", "fidelity", "challenge", "challenge", "composition", "composition",
    "negative", "unrelated", "unrelated",
)  # fmt: skip
D = 96
# the first six of pixels.STYLE_NAMES, so that a measure that asks for one by name finds it
STYLES = list(STYLE_NAMES[:6])
PIXELS = ["clipped", "saturation", "high_band", "sharpness", "blur", "noise"]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def saturating(weight: float) -> float:
    """How much of the concept a good LoRA brings: even, full at weight 1, no more after."""
    return float(np.sign(weight) * min(abs(weight), 1.0) ** 0.9)


def make_run(
    fault: str = "good",
    rng_seed: int = 0,
    weights: tuple[float, ...] = WEIGHTS,
    seeds: int = 4,
    roles: tuple[str, ...] = ROLES,
    checkpoints: dict[str, tuple[int | None, float]] | None = None,
    kind: str = "object",
    references: int = 12,
    training: int = 20,
    noise: float = 0.35,
    histories: dict[str, Path] | None = None,
    reference_pixels: bool = False,
) -> RunData:
    """A run; ``checkpoints``: name -> (step, how much of the concept it learnt)."""
    rng = np.random.default_rng(rng_seed)
    checkpoints = checkpoints or {"zorp-300": (300, 1.0)}
    basis = np.linalg.qr(rng.normal(size=(D, D)))[0]
    common, concept, second, artefact = basis[0], basis[1], basis[2], basis[3]
    content = basis[4 : 4 + len(roles)]
    free = basis[30:]

    def random_part(size: float) -> np.ndarray:
        return size * (rng.normal(size=len(free)) / np.sqrt(len(free))) @ free

    def picture(
        p: int, amount: float, seed_part: np.ndarray, listens: float = 1.0, target: np.ndarray = concept
    ) -> np.ndarray:
        return unit(common + 0.7 * listens * content[p] + 0.8 * amount * target + seed_part)

    def real(i: int) -> np.ndarray:
        # a mixed training set shows two things, and so do the pictures that were held out of it
        return unit(common + 0.8 * (second if fault == "mixed" and i % 2 else concept) + random_part(0.45))

    references_at = [real(i) for i in range(references)]
    training_at = [real(i) for i in range(training)]
    thumbs_of_training = rng.random((training, 16, 16)).astype(np.float32)
    prompts, texts = {}, {}
    for p, role in enumerate(roles):
        name = f"{role}-{p}"
        # the negative prompt is the twin of the composition prompt two before it
        q = p - 1 if role == "negative" and p and roles[p - 1] == "composition" else p
        text = f"prompt {q}"
        texts[text] = unit(0.3 * common + 0.9 * content[q]).astype(np.float32)
        elements: tuple[Element, ...] = ()
        if role in ("challenge", "composition"):
            foil = np.roll(content, 1, axis=0)[p]
            texts[f"foil {p}"] = unit(0.3 * common + 0.9 * foil).astype(np.float32)
            elements = (Element("place", text, (f"foil {p}",)),)
        concept_text = ""
        if role == "negative":
            concept_text = "a hat"
            texts[concept_text] = unit(0.3 * common + 0.9 * basis[20]).astype(np.float32)
        prompts[name] = Prompt(name, role, text, text, "hat" if role == "negative" else "", concept_text, elements)
    names = list(prompts)
    seed_parts = {(p, s): random_part(noise) for p in range(len(roles)) for s in range(seeds)}
    hats = {(p, s): 0.4 + 0.1 * rng.normal() for p in range(len(roles)) for s in range(seeds)}
    base_style = {p: rng.normal(size=len(STYLES)) for p in range(len(roles))}
    base_pixel = {p: rng.normal(size=len(PIXELS)) * 0.5 for p in range(len(roles))}
    rows, features, thumbs, styles, pixels = [], [], [], [], []
    for checkpoint, (step, learnt) in [("", (None, 0.0)), *checkpoints.items()]:
        for weight in weights:
            if (weight == 0) != (checkpoint == ""):
                continue
            gain = learnt * saturating(weight)
            for p, role in enumerate(roles):
                for s in range(seeds):
                    amount, listens, target = gain, 1.0, concept
                    part = seed_parts[p, s] + random_part(0.10 * (weight > 0))
                    if role == "unrelated":
                        amount = 0.9 * gain if fault == "leak" else 0.05 * gain
                    if role in ("challenge", "composition"):
                        amount *= 0.15 if fault == "narrow" else 0.9
                    if fault == "no effect":
                        amount, part = 0.0, seed_parts[p, s] + random_part(0.005 * (weight > 0))
                    if fault == "misaligned":
                        listens = 1.0 - 0.8 * saturating(weight)
                    if fault == "mixed" and s % 2:
                        target = second
                    if fault == "inconsistent" and weight > 0:
                        amount, part = 0.1 * gain, part + random_part(1.2 * weight)
                    if fault == "wrong concept":
                        target = second
                    if fault == "undertrained":
                        amount *= 0.12
                    if fault == "collapse" and weight > 0:
                        part = part * (1 - 0.95 * saturating(weight))
                    q = p - 1 if role == "negative" and p and roles[p - 1] == "composition" else p
                    feature = picture(q, amount, part, listens, target)
                    hat = hats[q, s] * (0.3 if role == "negative" else 1.0) if roles[q] == "composition" else 0.0
                    feature = unit(feature + 0.5 * hat * basis[20])
                    thumb = rng.random((16, 16))
                    style = (
                        base_style[p]
                        + 0.5 * rng.normal(size=len(STYLES))
                        + weight * learnt * np.linspace(-1, 1, len(STYLES))
                    )
                    pixel = base_pixel[p] + 0.3 * rng.normal(size=len(PIXELS))
                    if fault == "distortion" and weight > 0.9:
                        pixel[:4] += 8.0 * (weight - 0.8)
                        feature = unit(feature + 0.25 * (weight - 0.8) * artefact)
                    if fault == "fried" and weight > 0.3:
                        pixel[:4] += 12.0 * (weight - 0.1)
                    if fault == "saturated style":
                        pixel[1:4] += 3.0 * saturating(weight)
                    if fault == "drift" and weight > 0 and (p, s) == (2, 1):
                        style = style + 9.0
                        feature = unit(feature + 1.2 * artefact)
                    if fault == "copies" and weight >= 0.6 and role != "unrelated" and s < 2:
                        i = (p * seeds + s) % training
                        feature = unit(training_at[i] + random_part(0.03))
                        thumb = np.clip(thumbs_of_training[i] + 0.02 * rng.normal(size=(16, 16)), 0, 1)
                    rows.append({
                        "run": "r", "lora": checkpoint, "checkpoint": checkpoint,
                        "step": step if checkpoint else np.nan,
                        "weight": weight, "prompt_id": names[p], "role": role, "seed": s + 1,
                        "image": f"{checkpoint or 'base'}-{weight:g}-{names[p]}-{s + 1}.png",
                    })  # fmt: skip
                    features.append(feature)
                    thumbs.append(thumb)
                    styles.append(style)
                    pixels.append(pixel)

    learnt_pixels = (3.0 if fault == "saturated style" else 0.0) * np.array([0, 1, 1, 1, 0, 0])

    def pictures(at: list[np.ndarray], prefix: str, held_out: bool, small: np.ndarray | None = None) -> Pictures:
        n = len(at)
        return Pictures(
            [f"{prefix}{i}.png" for i in range(n)], np.array(at, dtype=np.float32).reshape(n, D),
            (rng.random((n, 16, 16)) if small is None else small).astype(np.float32),
            (np.linspace(-1, 1, len(STYLES)) + 0.8 * rng.normal(size=(n, len(STYLES)))).astype(np.float32), held_out,
            (learnt_pixels + 0.5 * rng.normal(size=(n, len(PIXELS)))).astype(np.float32) if reference_pixels else None,
        )  # fmt: skip

    return RunData(
        cells=pd.DataFrame(rows), prompts=prompts, kind=kind, features=np.array(features, dtype=np.float32),
        thumbs=np.array(thumbs, dtype=np.float32), styles=np.array(styles, dtype=np.float32), style_names=STYLES,
        pixels=np.array(pixels, dtype=np.float32), pixel_names=PIXELS, texts=texts,
        references=pictures(references_at, "held", True) if references else None,
        training=pictures(training_at, "train", False, thumbs_of_training) if training else None,
        histories=histories or {}, encoder="synthetic",
    )  # fmt: skip


def kept(data: RunData, keep: np.ndarray) -> RunData:
    """The pictures of a run where ``keep`` (N,) is true."""
    return replace(
        data,
        cells=data.cells[keep].reset_index(drop=True),
        features=data.features[keep], thumbs=data.thumbs[keep], styles=data.styles[keep], pixels=data.pixels[keep],
    )  # fmt: skip
