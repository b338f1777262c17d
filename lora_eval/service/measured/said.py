"""What the pictures themselves say: it fills what a row leaves open, and contradicts what a row has wrong.

A picture of a WebUI or of ComfyUI carries prompt, seed, settings and LoRAs. A table that says otherwise is wrong in
one of the two places; which one, only its owner knows, so the row is refused and both are named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_eval.dataset.images import open_picture
from lora_eval.errors import RunError
from lora_eval.reading import xyz_grid
from lora_eval.reading.generation import Generation, LoraUse, read_generation
from lora_eval.service.measured.rows import Listing, PictureRow, without_step

TAG = re.compile(r"\s*<(?:lora|lyco|hypernet):[^>]*>\s*", re.IGNORECASE)
NEEDED = ("prompt", "seed", "weight")
# half of the last digit of a weight written with two decimals
_WEIGHT_STEP = 0.005
# A seam between two cells of a grid against the columns or rows beside it: mean difference of neighbouring pixels.
# Inside one picture the ratio is near 1; between two pictures it is that of unrelated pixels, 3 and more.
_SEAM = 1.5


@dataclass(frozen=True)
class Known:
    """The rows with everything that is known of them, and notes for the report."""

    rows: list[PictureRow]
    notes: dict[str, str]


def complete(listing: Listing, lora: str = "", believe_table: bool = False) -> Known:
    """Fill the rows from what their pictures say.

    Args:
        lora: the LoRA that is judged, where pictures were drawn with several.
        believe_table: whether what the pictures say is left unread.

    Raises:
        RunError: a file in two rows, a row that its picture contradicts, a grid that cannot be cut, or something that
            is needed and that neither says.
    """
    _refuse_twice(listing.rows)
    for row in listing.rows:
        if row.values.get("seed") == "-1":
            # the WebUI's word for any seed: which one it was, only the picture knows
            del row.values["seed"]
    if believe_table:
        _require(listing.rows, {})
        return Known(listing.rows, {})
    notes: dict[str, str] = {}
    said = [read_generation(row.path) for row in listing.rows]
    rows, generations = _cut(listing, said, notes)
    judged = _judged_lora(rows, generations, lora, notes)
    read: Counter[str] = Counter()
    unread: dict[str, str] = {}
    for row, one, use in zip(rows, generations, judged, strict=True):
        if one is None:
            continue
        found = _as_columns(one, use)
        _contradict(row, one.program, found)
        for name, value in found.items():
            if value and not row.values.get(name):
                row.values[name] = value
                read[name] += 1
        unread.update({f"{row.where}|{name}": reason for name, reason in one.unread.items()})
    _require(rows, unread)
    programs = sorted({one.program for one in generations if one is not None})
    if read:
        columns = ", ".join(f"{name} ({read[name]})" for name in read)
        notes["pictures"] = f"read from the pictures themselves ({', '.join(programs)}): {columns}"
    notes.update(_mixed(rows, generations))
    return Known(rows, notes)


def _refuse_twice(rows: Sequence[PictureRow]) -> None:
    seen: dict[Path, str] = {}
    for row in rows:
        if row.path in seen:
            raise RunError(f"{row.where}: {row.path.name} is the picture of {seen[row.path]} too; remove one of them")
        seen[row.path] = row.where


def _require(rows: Sequence[PictureRow], unread: Mapping[str, str]) -> None:
    for row in rows:
        missing = [name for name in NEEDED if not row.values.get(name)]
        if missing:
            reasons = {unread.get(f"{row.where}|{'loras' if name == 'weight' else name}", "") for name in missing}
            why = "; ".join(sorted(reasons - {""}))
            raise RunError(
                f"{row.where}: no {' and '.join(missing)} ({why or 'its picture does not say it'}); "
                f"write a table with the columns image, {', '.join(missing)}"
            )


# -- grids ---------------------------------------------------------------------------------------------


def _cut(
    listing: Listing, said: Sequence[Generation | None], notes: dict[str, str]
) -> tuple[list[PictureRow], list[Generation | None]]:
    """Rows and what their pictures say, a plot's cells in its place; other grids are left out of a folder."""
    rows: list[PictureRow] = []
    found: list[Generation | None] = []
    left: list[str] = []
    cut = 0
    for row, one in zip(listing.rows, said, strict=True):
        try:
            cells = [] if one is None else _cells_of(row.path, one)
        except xyz_grid.GridError as reason:
            if listing.listed:
                raise RunError(f"{row.where} is a grid of pictures: {reason}; measure its single pictures") from None
            left.append(f"{row.where} ({reason})")
            continue
        if not cells:
            rows.append(row)
            found.append(one)
            continue
        cut += len(cells)
        for cell in cells:
            rows.append(row.cell(cell.place, cell.box))
            found.append(cell.generation)
    if cut:
        notes["grids"] = f"{cut} pictures were cut from X/Y/Z plots; JPEG plots blur their edges"
    if left:
        notes["grids_left_out"] = f"{len(left)} grids were left out: {', '.join(left[:3])}"
    if not rows:
        raise RunError(f"{listing.name} holds only grids that cannot be cut: {left[0]}; measure single pictures")
    return rows, found


def _cells_of(path: Path, said: Generation) -> list[xyz_grid.Cell]:
    """The cells of a grid; none where the file is one picture. Raises GridError."""
    if said.size is None:
        return []
    picture = open_picture(path)
    if said.size == picture.size:
        return []
    if xyz_grid.is_plot(said):
        return xyz_grid.cells(said, picture.size)
    across, down = picture.size[0] / said.size[0], picture.size[1] / said.size[1]
    whole = across == int(across) and down == int(down) and across * down > 1
    if whole and _seams(np.asarray(picture.convert("L"), np.float32), said.size):
        raise xyz_grid.GridError(
            f"it is {picture.size[0]}x{picture.size[1]} and its text says {said.size[0]}x{said.size[1]}"
        )
    return []


def _seams(grey: np.ndarray, cell: tuple[int, int]) -> bool:
    """Whether neighbouring pixels differ more where cells would meet than beside it; flat pictures count as such."""
    ratios = []
    for axis, step in ((1, cell[0]), (0, cell[1])):
        change = np.abs(np.diff(grey, axis=axis)).mean(axis=1 - axis)
        for at in range(step, grey.shape[axis], step):
            beside = np.concatenate([change[max(at - 9, 0) : at - 1], change[at : at + 8]]).mean()
            ratios.append(change[at - 1] / beside if beside > 0 else np.inf)
    return bool(np.median(ratios) >= _SEAM)


# -- LoRAs ---------------------------------------------------------------------------------------------


def _judged_lora(
    rows: Sequence[PictureRow], said: Sequence[Generation | None], lora: str, notes: dict[str, str]
) -> list[LoraUse | None]:
    """Each row's use of the LoRA that is judged; weight 0 where it was drawn without, None where it is not known.

    Pictures may have been drawn with several: one that is in all of them at one weight (a LoRA for detail, say) is no
    subject. Checkpoints of one training are several names of which each picture has one.
    """
    uses = [None if one is None else one.loras for one in said]
    known = [use for use in uses if use is not None]
    names = {one.name for use in known for one in use}
    if lora:
        chosen = {name for name in names if name == lora or without_step(name) == lora}
        if names and not chosen:
            raise RunError(f"no picture was drawn with the LoRA {lora}; drawn with {', '.join(sorted(names))}")
    else:
        companions = {
            one.name for one in (known[0] if known else ()) if len(names) > 1 and all(one in use for use in known)
        }
        chosen = names - companions or names
        if companions and chosen != names:
            notes["companions"] = f"every picture was drawn with {', '.join(sorted(companions))} as well"
    if not chosen and known and not any(row.values.get("weight") for row in rows):
        raise RunError("no picture says that it was drawn with a LoRA; write a table with the columns image, weight")
    found: list[LoraUse | None] = []
    for row, use in zip(rows, uses, strict=True):
        if use is None:
            found.append(None)
            continue
        mine = [one for one in use if one.name in chosen and one.weight != 0] or [
            one for one in use if one.name in chosen
        ]
        if len(mine) > 1:
            label = row.values.get("checkpoint") or row.values.get("lora") or ""
            mine = [one for one in mine if label and one.name == label]
            if len(mine) != 1:
                raise RunError(
                    f"{row.where}: drawn with {', '.join(one.name for one in use)}; "
                    "name the one that is judged with --lora, or write the columns checkpoint and weight"
                )
        found.append(mine[0] if mine else LoraUse("", 0.0))
    return found


# -- columns -------------------------------------------------------------------------------------------


def _as_columns(said: Generation, use: LoraUse | None) -> dict[str, str]:
    """A picture's own words as the columns of a table, "" where it says nothing."""
    found = {
        "prompt": _plain(said.prompt or ""),
        "negative_prompt": (said.negative_prompt or "").strip(),
        "seed": "" if said.seed is None else str(said.seed),
        "steps": "" if said.steps is None else str(said.steps),
        "cfg": "" if said.cfg is None else f"{said.cfg:g}",
        "sampler": said.sampler or "",
    }
    if use is not None:
        found["weight"] = f"{use.weight:g}"
        found["checkpoint"] = use.name if use.weight else ""
    return found


def _plain(prompt: str) -> str:
    """A prompt without LoRA tags, with single blanks."""
    return re.sub(r"\s+", " ", TAG.sub(" ", prompt)).strip(" ,")


def _contradict(row: PictureRow, program: str, said: Mapping[str, str]) -> None:
    """Raise RunError where the row and its picture differ. ``sampler`` is spelled differently by every program."""
    for name in ("seed", "weight", "prompt", "negative_prompt", "steps", "cfg"):
        mine, theirs = row.values.get(name, ""), said.get(name, "")
        if not mine or (not theirs and name != "negative_prompt") or name not in said:
            continue
        if not _same(name, mine, theirs):
            raise RunError(
                f'{row.where}: the table says {name.replace("_", " ")} "{_short(mine)}", the picture itself '
                f'({program}) "{_short(theirs)}"; mend the row, leave the cell empty to take the picture\'s, '
                "or believe the table alone with --believe-table"
            )


def _same(name: str, mine: str, theirs: str) -> bool:
    if name in ("prompt", "negative_prompt"):
        return _plain(mine) == _plain(theirs)
    try:
        if name == "seed":
            return int(mine) == int(theirs)
        # what is not a number is no contradiction here: the row is refused for it, in its own words
        return not abs(float(mine) - float(theirs)) > (_WEIGHT_STEP if name == "weight" else 0.05)
    except ValueError:
        return True


def _written(value: str) -> str:
    """A number as it is written shortest; other text as it is."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _mixed(rows: Sequence[PictureRow], said: Sequence[Generation | None]) -> dict[str, str]:
    """A note for each setting in which the pictures differ though the scorecard compares them as alike."""
    notes = {}
    models = sorted({one.model for one in said if one is not None and one.model})
    held: dict[str, list[str]] = {"base_model": models}
    for name in ("sampler", "steps", "cfg"):
        held[name] = sorted({_written(row.values[name]) for row in rows if row.values.get(name)})
    for name, values in held.items():
        if len(values) > 1:
            notes[name] = (
                f"pictures were drawn with {len(values)} values of {name} ({', '.join(values[:4])}): "
                "differences between them are not of the LoRA alone"
            )
    return notes
