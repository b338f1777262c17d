"""LoRAs whose fault is known, because it was planted: datasets and settings of each kind."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lora_eval.files import atomic_path, make_folder, write_text
from lora_eval.training.config import TrainConfig, make_config
from tools.tiny_world.drawings import (
    SHAPES,
    SUBJECTS,
    Drawing,
    caption,
    dataset,
    describe,
    mix_styles,
    render,
    sample,
    shuffle_captions,
)

Pairs = list[tuple[Drawing, str]]

# learning rate and steps at which each subject is learnt but not overtrained: docs/tiny-world.md
RECIPES = {"mave": (2e-3, 300), "quib": (2e-3, 300), "zorp": (3e-3, 400)}
PICTURES, REFERENCES = 30, 12
# without drawings of known shapes beside the subject every LoRA of the tiny world leaks: the reader says so
REGULARISATION = 56
# of a good LoRA's steps and of its scale
UNDERTRAINED, MEMORISED, STRONG = 0.08, 2.0, 2.5
# four drawings of one look, under the trigger alone, on every layer, long and at a high rate: four that differ and
# are captioned in full are learnt as well as thirty by a model this small
MEMORISED_PICTURES, MEMORISED_RATE, MEMORISED_RANK = 4, 3e-3, 16
# kinds without regularisation: beside it a leak is mended and four drawings are not memorised
ALONE = ("leaking", "memorised")
NOISY_SHARE, MIXED_SHARE, LEAK_SHARE = 1.0, 0.6, 0.5


@dataclass(frozen=True)
class Kind:
    """A planted fault.

    Attributes:
        own: the dimension that must find it; "" for good LoRAs.
        expected: dimensions that the fault truly harms too, so that a flag of theirs is no false alarm.
        what: how it is planted.
    """

    name: str
    own: str
    expected: tuple[str, ...]
    what: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind("good", "", (), f"{PICTURES} drawings beside {REGULARISATION} of known shapes (regularisation)"),
        Kind("undertrained", "fidelity", ("curve",), f"{UNDERTRAINED:.0%} of the steps"),
        Kind(
            "memorised",
            "generalisation",
            ("alignment", "curve", "fidelity"),
            f"{MEMORISED_PICTURES} drawings of one look under the trigger alone, {MEMORISED:g} times the steps at rate "
            f"{MEMORISED_RATE:g}, every layer, rank {MEMORISED_RANK}",
        ),
        Kind("noisy", "alignment", (), f"captions of {NOISY_SHARE:.0%} of the drawings exchanged, triggers kept"),
        Kind("mixed", "consistency", ("fidelity",), f"{MIXED_SHARE:.0%} of the drawings in one of many foreign styles"),
        Kind("strong", "strength", (), f"alpha times {STRONG:g} after training: weight 1 acts like {STRONG:g}"),
        Kind("wrong", "fidelity", (), "another subject under the trigger; references of the right one"),
        Kind(
            "leaking", "generalisation", (), f"no regularisation; a known shape's name in {LEAK_SHARE:.0%} of captions"
        ),
    )
}


@dataclass(frozen=True)
class Case:
    """One LoRA: its kind, the subject of the trigger, and the seed of data and training."""

    kind: str
    concept: str
    seed: int

    @property
    def name(self) -> str:
        """Folder and LoRA name."""
        return f"{self.kind}-{self.concept}-{self.seed}"

    @property
    def trained_on(self) -> str:
        """The subject in the training pictures."""
        return SUBJECTS[(SUBJECTS.index(self.concept) + 1) % len(SUBJECTS)] if self.kind == "wrong" else self.concept


def cases(kinds: Sequence[str], each: int, seed: int = 0, concepts: Sequence[str] = SUBJECTS) -> list[Case]:
    """``each`` LoRAs of every kind, one of every kind before the second of any, over subjects and seeds."""
    order = list(KINDS)
    return [
        Case(kind, concepts[(n + order.index(kind)) % len(concepts)], seed + 100 * n + order.index(kind))
        for n in range(each)
        for kind in kinds
    ]


def training_pairs(case: Case) -> Pairs:
    """The training drawings with their captions, fault planted."""
    pairs = [(d, t.replace(case.trained_on, case.concept)) for d, t in dataset(case.trained_on, PICTURES, case.seed)]
    if case.kind == "memorised":
        look = {k: getattr(pairs[0][0], k) for k in ("colour", "background", "texture", "position")}
        return [(replace(d, **look), f"a {case.concept}") for d, _ in pairs[:MEMORISED_PICTURES]]
    if case.kind == "noisy":
        return shuffle_captions(pairs, NOISY_SHARE, case.seed)
    if case.kind == "mixed":
        return mix_styles(pairs, MIXED_SHARE, case.seed)
    if case.kind == "leaking":
        rng = np.random.default_rng(case.seed)
        chosen = set(rng.permutation(len(pairs))[: round(LEAK_SHARE * len(pairs))].tolist())
        return [
            (d, describe(d, {}, (0, 1, 3)[k % 3], noun=str(rng.choice(SHAPES))) if k in chosen else t)
            for k, (d, t) in enumerate(pairs)
        ]
    return pairs


def reference_pairs(case: Case) -> Pairs:
    """Fresh drawings of what the user wants; those of mixed data are as mixed, as a user's would be."""
    pairs = dataset(case.concept, REFERENCES, 10_000 + case.seed)
    return mix_styles(pairs, MIXED_SHARE, 10_000 + case.seed) if case.kind == "mixed" else pairs


def regularisation_pairs(case: Case) -> Pairs:
    """Known shapes under their own names; none where they would hide the fault."""
    if case.kind in ALONE:
        return []
    rng = np.random.default_rng([20_000, case.seed])
    return [(d, caption(d, rng)) for d in (sample(rng, (SHAPES[k % len(SHAPES)],)) for k in range(REGULARISATION))]


def write_dataset(folder: Path, pairs: Pairs) -> None:
    """PNGs and ``metadata.csv``; written again it gives the same bytes."""
    make_folder(folder)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file_name", "prompt"])
    for k, (drawing, text) in enumerate(pairs):
        name = f"{k:02d}.png"
        with atomic_path(folder / name) as path:
            render(drawing).save(path, format="PNG")
        rows.writerow([name, text])
    write_text(folder / "metadata.csv", table.getvalue())


def train_config(
    case: Case, data: Path, regularisation: Path, out: Path, checkpoints: int, steps: int | None = None
) -> TrainConfig:
    """The settings: the demo's, but for the fault. ``steps`` is that of a good LoRA, None the recipe's."""
    rate, usual = RECIPES[case.trained_on]
    usual = steps or usual
    total = max(checkpoints, round(usual * {"undertrained": UNDERTRAINED, "memorised": MEMORISED}.get(case.kind, 1.0)))
    values: dict[str, Any] = {
        "train_data_dir": str(data),
        "reg_data_dir": None if case.kind in ALONE else str(regularisation),
        "output_dir": str(out),
        "name": case.name,
        "kind": "object",
        "trigger": case.concept,
        "class_word": "shape",
        "lora_rank": MEMORISED_RANK if case.kind == "memorised" else 8,
        "preset": "full" if case.kind == "memorised" else "attention",
        "batch_size": MEMORISED_PICTURES if case.kind == "memorised" else 16,
        "max_steps": total,
        "epochs": total,
        "learning_rate": MEMORISED_RATE if case.kind == "memorised" else rate,
        "warmup_steps": 10,
        "min_snr_gamma": 5,
        # four pictures leave none to hold out
        "validation_fraction": 0.0 if case.kind == "memorised" else 0.2,
        "validation_steps": max(1, round(total / 8)),
        "save_steps": -(-total // checkpoints),
        "resolution": 64,
        "seed": case.seed,
        "publish": False,
    }
    return make_config(values)


def settings(case: Case) -> dict[str, Any]:
    """What a finished case must agree with to be used again."""
    return {**asdict(case), "what": KINDS[case.kind].what, "recipe": list(RECIPES[case.trained_on])}
