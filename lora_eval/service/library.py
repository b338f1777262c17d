"""What is on disk: LoRAs, training runs, scored runs, and the card that the WebUI keeps beside a LoRA."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError, LoraFileError, RunError
from lora_eval.files import atomic_path, file_sha256, read_json, write_json

RUNS = "lora-eval"
SCORED = ("plan.json", "table.json")
"""Of these a scored run has one: what was drawn, or the table that was measured."""
_CHECKPOINT = re.compile(r"(.+)-(\d{6,})")
_SAMPLE = re.compile(r".+-(\d{6,})-(\d{2,})\.png")


@dataclass(frozen=True)
class Sample:
    """A test picture of a training run. ``number`` is that of its prompt."""

    step: int
    number: int
    path: Path


def run_roots(output_folder: Path) -> list[Path]:
    """Folders that hold run folders: the host's output folder and, unless it is that itself, its ``lora-eval``."""
    return [output_folder] if output_folder.name == RUNS else [output_folder / RUNS, output_folder]


def _folders(output_folder: Path, *marks: str) -> list[Path]:
    """Folders of runs that hold one of the files ``marks``, the one changed last first."""
    found: dict[Path, float] = {}
    for root in run_roots(output_folder):
        if root.is_dir():
            for folder in root.iterdir():
                for mark in marks:
                    try:
                        found[folder] = (folder / mark).stat().st_mtime
                    except OSError:
                        continue
    return sorted(found, key=lambda folder: -found[folder])


def training_runs(output_folder: Path) -> list[Path]:
    """Folders of training runs, the latest first."""
    return _folders(output_folder, "history.csv")


def scored_runs(output_folder: Path) -> list[Path]:
    """Folders of scorecard runs, finished or not, drawn or measured from a table, the latest first."""
    return _folders(output_folder, *SCORED)


def checkpoints(run: Path) -> list[Path]:
    """LoRA files of a training run by step, the finished one last."""
    steps, rest = [], []
    for path in run.glob("*.safetensors"):
        match = _CHECKPOINT.fullmatch(path.stem)
        if match:
            steps.append((int(match[2]), path))
        else:
            rest.append(path)
    return [path for _, path in sorted(steps)] + sorted(rest)


def loras(lora_folder: Path, output_folder: Path) -> dict[str, Path]:
    """LoRA files by the label a person picks them by: those of the LoRA folder, then checkpoints of runs.

    A finished LoRA that lies in both places is listed once, from the LoRA folder.
    """
    found: dict[str, Path] = {}
    for path in _safetensors(lora_folder):
        found[path.relative_to(lora_folder).with_suffix("").as_posix()] = path
    known = {path.name for path in found.values()}
    for run in training_runs(output_folder):
        for path in checkpoints(run):
            if path.name not in known:
                found[f"{run.name} / {path.stem}"] = path
    return found


def _safetensors(folder: Path) -> list[Path]:
    """Files below ``folder``, links to folders followed, hidden and staged ones left out."""
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "lora_eval_staged")))
        found += [Path(root) / name for name in sorted(names) if name.endswith(".safetensors") and name[0] != "."]
    return found


def samples(run: Path) -> list[Sample]:
    """Test pictures of a run by step and prompt."""
    found = []
    for path in (run / "samples").glob("*.png"):
        match = _SAMPLE.fullmatch(path.name)
        if match:
            found.append(Sample(int(match[1]), int(match[2]), path))
    return sorted(found, key=lambda one: (one.step, one.number))


def last_images(run: Path, count: int) -> list[Path]:
    """The pictures that a scorecard run drew last, the newest first."""
    with_times = []
    for path in (run / "images").glob("*.png"):
        try:
            with_times.append((path.stat().st_mtime, path))
        except OSError:
            continue
    return [path for _, path in sorted(with_times, reverse=True)[:count]]


def read_scorecard(run: Path) -> dict[str, Any] | None:
    """``scorecard.json`` of a run, None while there is none. Raises RunError when it is broken."""
    path = run / "scorecard.json"
    if not path.is_file():
        return None
    card = read_json(path)
    if not isinstance(card, dict) or not isinstance(card.get("dimensions"), dict):
        raise RunError(f"{path} is not a scorecard; measure the run again with `lora-eval report {run}`")
    return card


def seconds_per_image(output_folder: Path, steps: int | None = None, pixels: int | None = None) -> float | None:
    """Speed of the latest scorecard run on this machine, from the times of its files; None without one.

    Pauses (gaps over ten times the middle gap) are left out. Scaled by sampling steps and by pixels where given.
    """
    for run in scored_runs(output_folder):
        times = sorted(path.stat().st_mtime for path in (run / "images").glob("*.png"))
        if len(times) < 8:
            continue
        gaps = [b - a for a, b in itertools.pairwise(times)]
        # pictures of one batch are written together: only the waits between batches have a length
        waits = sorted(gap for gap in gaps if gap > 0.05) or [sum(gaps) / len(gaps)]
        limit = 10 * waits[len(waits) // 2]
        kept = [gap for gap in gaps if gap <= limit]
        if not kept or sum(kept) <= 0:
            continue
        seconds = sum(kept) / len(kept)
        try:
            sampling = read_json(run / "plan.json").get("sampling", {})
        except (RunError, AttributeError):
            # a broken run tells no speed, and must not keep the tab from being shown
            continue
        if steps and sampling.get("steps"):
            seconds *= steps / sampling["steps"]
        if pixels and sampling.get("width") and sampling.get("height"):
            seconds *= pixels / (sampling["width"] * sampling["height"])
        return float(seconds)
    return None


# -- the LoRA's card ---------------------------------------------------------------------------------


def publish(lora: Path, lora_folder: Path) -> Path:
    """The LoRA's path inside the LoRA folder, copied there when it is not yet.

    Raises:
        LoraFileError: the file is missing, or another LoRA of its name lies there.
        RunError: it cannot be copied.
    """
    lora, folder = lora.resolve(), lora_folder.resolve()
    if not lora.is_file():
        raise LoraFileError(f"{lora} is missing; refresh the list and choose again")
    if folder in lora.parents:
        return lora
    target = folder / lora.name
    if target.exists():
        if file_sha256(target) != file_sha256(lora):
            raise LoraFileError(f"{target} is another LoRA of that name; rename one of the two")
        return target
    with atomic_path(target) as temporary:
        shutil.copyfile(lora, temporary)
    return target


def write_card(lora: Path, weight: float, trigger: str = "") -> Path:
    """Set "preferred weight" in the JSON beside a LoRA; every other key stays. Returns the JSON's path.

    The trigger becomes the "activation text" where that is empty. The keys are those of the WebUI's built-in Lora
    extension (``ui_edit_user_metadata.py``).

    Raises:
        ConfigError: the weight is not a number the card can hold.
        RunError: the card there is broken, or cannot be written.
    """
    if not 0 <= weight <= 2:
        raise ConfigError(f"weight {weight:g} is out of range; a card holds 0 to 2")
    path = lora.with_suffix(".json")
    card: Any = {}
    if path.is_file():
        try:
            card = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}); correct or delete it") from None
        if not isinstance(card, dict):
            raise RunError(f"{path} is not a card of the WebUI; rename it")
    card["preferred weight"] = round(float(weight), 4)
    if trigger and not str(card.get("activation text") or "").strip():
        card["activation text"] = trigger
    write_json(path, card)
    return path


def newest(paths: Iterable[Path], since: float) -> Path | None:
    """The path changed last, if that was not before ``since`` (seconds since the epoch)."""
    best: tuple[float, Path] | None = None
    for path in paths:
        try:
            changed = path.stat().st_mtime
        except OSError:
            continue
        if changed >= since and (best is None or changed > best[0]):
            best = (changed, path)
    return None if best is None else best[1]


def checkpoint_number(path: Path) -> int | None:
    """The number that a checkpoint goes by: the one at the end of its name, else the steps of its metadata."""
    from safetensors import SafetensorError, safe_open

    match = re.search(r"(\d+)$", path.stem)
    if match and len(match[1]) >= 4:
        return int(match[1])
    try:
        with safe_open(str(path), framework="np") as file:
            steps = (file.metadata() or {}).get("ss_steps", "")
    except (SafetensorError, OSError, ValueError):
        return None
    return int(steps) if steps.isdigit() else None


def pick_checkpoints(loras: Sequence[Path], numbers: Sequence[int]) -> list[Path]:
    """The LoRAs that have these numbers, in the order of the numbers. Raises ConfigError for one that none has."""
    by_number = {number: path for path in loras if (number := checkpoint_number(path)) is not None}
    found = []
    for number in dict.fromkeys(numbers):
        if number not in by_number:
            there = ", ".join(map(str, sorted(by_number))) or "none with a number"
            raise ConfigError(f"no chosen LoRA is checkpoint {number}; there are {there}")
        found.append(by_number[number])
    return found
