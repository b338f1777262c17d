"""Rows of pictures as the run's cells: prompts with their roles, and the table that the dimensions measure."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from lora_eval.dataset.images import open_picture
from lora_eval.errors import DatasetError, RunError
from lora_eval.files import atomic_path, make_folder
from lora_eval.scorecard.data import ROLES, Prompt
from lora_eval.scorecard.plan.suites import clip_text
from lora_eval.scorecard.tables import CELL_COLUMNS
from lora_eval.service.measured.rows import PictureRow, without_step
from lora_eval.service.measured.said import TAG

CUT_FOLDER = "cut"


def prompts_of(rows: Sequence[PictureRow], trigger: str, class_word: str) -> dict[str, Prompt]:
    """One Prompt for each prompt id; fills in ``prompt_id`` and ``role`` of the rows.

    Raises:
        RunError: no prompt beside its tags, an unknown role, or one id for two prompts.
    """
    ids: dict[tuple[str, str, str], str] = {}
    prompts: dict[str, Prompt] = {}
    for row in rows:
        values = row.values
        text = TAG.sub(" ", values.get("prompt", "")).strip(" ,")
        negative, role = values.get("negative_prompt", ""), values.get("role", "")
        if not text:
            raise RunError(f"{row.where}: no prompt; write what was drawn")
        if role and role not in ROLES:
            raise RunError(f'{row.where}: role "{role}" is none of {", ".join(ROLES)}')
        named = bool(trigger) and re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text) is not None
        role = role or ("unrelated" if trigger and not named else "plain")
        key = (values.get("prompt_id", ""), text, negative)
        name = values.get("prompt_id", "") or ids.setdefault(key, f"p{len(ids) + 1:02d}")
        asked = clip_text(text, trigger, class_word)
        prompt = Prompt(name, role, text, asked, negative, negative if role == "negative" else "")
        earlier = prompts.setdefault(name, prompt)
        if (earlier.text, earlier.negative) != (prompt.text, prompt.negative):
            raise RunError(f'{row.where}: prompt_id "{name}" had another prompt before; give each prompt its own id')
        values["prompt_id"], values["role"], values["prompt"] = name, earlier.role, text
    return prompts


def write_cut(rows: Sequence[PictureRow], out: Path) -> list[Path]:
    """The file of each row: cells of a grid are written into ``out/cut`` as PNG, other pictures stay where they are."""
    paths = []
    opened: tuple[Path, Image.Image] | None = None
    for row in rows:
        if row.box is None:
            paths.append(row.path)
            continue
        place = re.sub(r"[^\w]+", "-", row.where.rpartition("cell ")[2])
        target = make_folder(out / CUT_FOLDER) / f"{row.path.stem}-{place}.png"
        # the cells of a plot follow one another: each plot is decoded once
        if opened is None or opened[0] != row.path:
            opened = row.path, open_picture(row.path)
        with atomic_path(target) as temporary:
            opened[1].crop(row.box).save(temporary, format="PNG")
        paths.append(target.resolve())
    return paths


def cells_of(rows: Sequence[PictureRow], paths: Sequence[Path], out: Path, run: str) -> pd.DataFrame:
    """The cells table, row by row. Raises RunError for a value that is not of its kind, and a broken picture."""
    found = []
    for row, path in zip(rows, paths, strict=True):
        said = row.values
        try:
            width, height = open_picture(path).size
        except DatasetError as error:
            raise RunError(f"{row.where}: {error}") from None
        weight = _real(row, "weight")
        base = weight == 0
        label = said.get("checkpoint") or said.get("lora") or "LoRA"
        values = {
            "run": run,
            "lora": "" if base else said.get("lora") or without_step(label),
            "checkpoint": "" if base else label,
            "step": None if base or not said.get("step") else _whole(row, "step"),
            "weight": weight,
            "prompt_id": said["prompt_id"],
            "role": said["role"],
            "prompt": said["prompt"],
            "negative_prompt": said.get("negative_prompt", ""),
            "seed": _whole(row, "seed"),
            "sampler": said.get("sampler", ""),
            "steps": _whole(row, "steps") if said.get("steps") else None,
            "cfg": _real(row, "cfg") if said.get("cfg") else None,
            "width": width,
            "height": height,
            "image": _relative(path, out),
        }
        found.append([values[column] for column in CELL_COLUMNS])
    table = pd.DataFrame(found, columns=list(CELL_COLUMNS))
    # pandas would make floats of seeds that no 64-bit integer type holds together
    table["seed"] = pd.Series([row[CELL_COLUMNS.index("seed")] for row in found], dtype=object)
    return table


def _real(row: PictureRow, name: str) -> float:
    text = row.values.get(name, "")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value or value in (float("inf"), float("-inf")):
        raise RunError(
            f'{row.where}: {name} "{text}" is not a number; write for example {"1" if name == "seed" else "0.8"}'
        )
    return value


def _whole(row: PictureRow, name: str) -> int:
    """A whole number to its last digit: seeds go to 2**64 - 1, which no float holds."""
    text = row.values.get(name, "").strip()
    if re.fullmatch(r"[+-]?\d{1,20}", text):
        value = int(text)
    else:
        # a spreadsheet's 42.0 or 1e3; above 2**53 it has lost digits
        real = _real(row, name)
        value = int(real)
        if real != value or abs(real) >= 2**53:
            raise RunError(f'{row.where}: {name} "{text}" is not a whole number with all its digits; write them out')
    if not -(2**63) <= value < 2**64:
        raise RunError(f'{row.where}: {name} "{text}" is out of range; the largest is {2**64 - 1}')
    return value


def _relative(path: Path, out: Path) -> str:
    try:
        return Path(os.path.relpath(path, out.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()
