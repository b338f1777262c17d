"""What the attribute reader sees in the pictures of a run, and in fresh ones of each checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._validity_advice import WEIGHT_OFF, best_weights
from lora_eval.host.protocol import ImageRequest, LoraUse
from lora_eval.host.standalone import StandaloneHost
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.grid import CORE_ROLES, OPEN_ROLES
from lora_eval.scorecard.plan.make import default_sampling
from lora_eval.scorecard.plan.plan import Cell
from tools.tiny_world.drawings import BACKGROUNDS, COLOURS, SHAPES, TEXTURES
from tools.tiny_world.reader import Reader

PLACES = ("on the left", "in the center", "on the right")
FRESH_FIRST_SEED = 2001
# further below the best than the error of a quality by a grid's 32 pictures, about a tenth
PLATEAU = 0.15
BATCH = 32


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
        with_trigger = [cell for cell in group if cell.prompt.role in OPEN_ROLES]
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


Uses = list[tuple[Path, float]]


def in_question(loras: Sequence[Path], result: dict[str, Any]) -> Uses:
    """The weights of the advised checkpoint that may be its best, in steps of a tenth, and the others at their best.

    To know the quality of two weights to 2 points takes hundreds of pictures, where a grid has tens. Weights that the
    grid puts further than ``PLATEAU`` below the best are left out: that is far beyond its error. Between neighbours of
    the grid that are in question the weight half way is in question too: the best need not lie on the grid.
    """
    best = best_weights(result["truth"])
    mine = [t for t in result["truth"] if t["checkpoint"] == result["checkpoint"]]
    top = max(t["quality"] for t in mine)
    near = {t["weight"] for t in mine if t["quality"] >= top - PLATEAU} | {result["weight"], best[result["checkpoint"]]}
    grid = sorted(t["weight"] for t in mine)
    halves = {round((a + b) / 2, 4) for a, b in pairwise(grid) if {a, b} <= near and b - a > WEIGHT_OFF}
    return [
        (lora, weight)
        for lora in loras
        for weight in (sorted(near | halves) if lora.stem == result["checkpoint"] else [best[lora.stem]])
    ]


def read_fresh(
    host: StandaloneHost, reader: Reader, uses: Uses, concept: str, seed: int, prompts: int, seeds: int
) -> list[dict[str, Any]]:
    """Checkpoints at weights on prompts and seeds that the scorecard has not seen.

    The same pictures decide which weight of a grid is best and how good it is, so the best of several is
    flattered, and so few tell no 2 % apart. These are drawn for nothing but the comparison.

    Returns:
        Entries ``checkpoint, weight, named, right``: 0 or 1 for each picture read as the concept and its share of
        attributes as asked, in the same order for all.
    """
    asked = [row for row in fresh_prompts(seed, prompts) if row["role"] != "unrelated"]
    requests = [
        ImageRequest(row["text"].replace("[trigger]", concept), FRESH_FIRST_SEED + m)
        for row in asked
        for m in range(seeds)
    ]
    column = reader.classes["shape"].index(concept)
    result = []
    for lora, weight in uses:
        images = []
        for start in range(0, len(requests), BATCH):
            batch = requests[start : start + BATCH]
            images += [one.image for one in host.generate(batch, default_sampling(host), LoraUse(lora, weight))]
        seen = reader.read(images)
        result.append(
            {
                "checkpoint": lora.stem,
                "weight": weight,
                "named": (seen["shape"].argmax(axis=1) == column).astype(int).tolist(),
                "right": [
                    round(_right(reader.classes, seen, k, request.prompt), 4) for k, request in enumerate(requests)
                ],
            }
        )
    return result


def fresh_prompts(seed: int, prompts: int) -> list[dict[str, Any]]:
    """``prompts`` with the trigger, roles and attributes as in the tiny suite, and an eighth without."""
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
    return rows


def fresh_suite(seed: int, prompts: int) -> str:
    """The same as the text of a suite file: JSON, which is YAML."""
    rows = fresh_prompts(seed, prompts)
    return json.dumps({"name": "fresh", "kind": "object", "class_word": "shape", "prompts": rows}, indent=1)
