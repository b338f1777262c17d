"""Score pictures that were drawn elsewhere: an X/Y/Z plot's cells, ComfyUI's output, any table of images."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import lora_eval
from lora_eval.dataset.images import open_picture
from lora_eval.encoders.embed import resolve_encoder
from lora_eval.errors import ConfigError, DatasetError, RunError
from lora_eval.files import make_folder, read_json, write_json
from lora_eval.report.results import write_results
from lora_eval.scorecard.data import KINDS, ROLES, Prompt, Scorecard
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.draw.store import TABLE_FILE, RunFolder
from lora_eval.scorecard.features.cache import AnyEncoder, FeatureCache
from lora_eval.scorecard.features.collect import EncoderSource, Material, build_data, measured_with, picture_source
from lora_eval.scorecard.features.references import References, find_references
from lora_eval.scorecard.plan.checkpoints import slug
from lora_eval.scorecard.plan.suites import clip_text
from lora_eval.scorecard.tables import CELL_COLUMNS, read_text

NEEDED = ("image", "prompt", "seed", "weight")
_TAG = re.compile(r"\s*<(?:lora|lyco|hypernet):[^>]*>\s*", re.IGNORECASE)


@dataclass(frozen=True)
class MeasureRequest:
    """What is known of pictures drawn elsewhere, beside their table.

    Attributes:
        data: folder of reference pictures.
        kind: one of KINDS.
        trigger: the LoRA's trigger in the prompts; ``class_word`` replaces it in what CLIP is given.
        histories: checkpoint or LoRA name -> loss history.
    """

    data: Path | str | None = None
    kind: str = "object"
    trigger: str = ""
    class_word: str = ""
    histories: dict[str, str] = field(default_factory=dict)


def measure_table(
    table: Path | str,
    out: Path | str,
    request: MeasureRequest | None = None,
    *,
    encoder: str | AnyEncoder = "auto",
    resamples: int = 1000,
) -> Scorecard:
    """Measure the pictures of a table and write the reports into ``out``.

    Args:
        table: CSV with ``image, prompt, seed, weight`` and, where known, ``checkpoint, lora, step, role,
            prompt_id, negative_prompt, sampler, steps, cfg``. Relative images are relative to the table.
        request: references, kind, trigger and histories; None: none of them.

    Raises:
        RunError: a row that cannot be used; the line names table, row and mend.
        ConfigError: unknown kind or encoder.
    """
    request = request or MeasureRequest()
    data, kind, trigger, class_word = request.data, request.kind, request.trigger, request.class_word
    histories = request.histories
    if kind not in KINDS:
        raise ConfigError(f'kind "{kind}" is none of {", ".join(KINDS)}')
    table = Path(table)
    folder = RunFolder(out)
    if folder.plan_file.exists():
        raise RunError(f"{folder.root} holds a run that was drawn here; choose another folder")
    rows = read_table(table)
    prompts = _prompts(table, rows, trigger.strip(), class_word)
    cells, paths = _cells(table, rows, folder.root)
    make_folder(folder.root)
    with folder.lock():
        found = find_references(data, []) if data else References(notes={"references": _NO_DATA})
        given = resolve_encoder(encoder) if isinstance(encoder, str) else encoder
        source = EncoderSource(given)
        write_json(
            folder.root / TABLE_FILE,
            {
                "table": str(table.resolve()),
                "data": str(Path(data).resolve()) if data else None,
                "kind": kind,
                "trigger": trigger,
                "class_word": class_word,
                "encoder": given if isinstance(given, str) else given.id,
                "histories": histories or {},
                # whether another run's likeness may be compared with this one's
                "references": [path.name for path in found.pictures],
            },
        )
        sizes = Counter(zip(cells["width"], cells["height"], strict=True))
        cache = FeatureCache(folder, source.id, source.load)
        run_data, shown = build_data(
            cache,
            Material(
                cells,
                [picture_source(path) for path in paths],
                prompts=prompts,
                kind=kind,
                size=min(sizes, key=lambda size: (-sizes[size], size)),
                references=found,
                histories={name: Path(path) for name, path in (histories or {}).items()},
                notes=dict(found.notes),
            ),
        )
        if len(sizes) > 1:
            run_data.notes["sizes"] = (
                f"pictures of {len(sizes)} sizes: sharpness and noise are not comparable between them"
            )
        origin: dict[str, Any] = {
            "run": cells["run"].iloc[0],
            "program": f"lora-eval {lora_eval.__version__}",
            "table": table.name,
            "images": len(cells),
            "weights": sorted(set(cells["weight"])),
            "trigger": trigger,
            **measured_with(run_data),
        }
        return write_results(folder, run_data, measure(run_data, resamples=resamples), shown, origin)


_NO_DATA = "no reference pictures; name a folder of pictures of the concept with --data"


def measure_again(root: Path, encoder: AnyEncoder | None, resamples: int) -> Scorecard:
    """:func:`measure_table` with the settings of the folder's last time."""
    settings = read_json(root / TABLE_FILE)
    try:
        table, named = settings.pop("table"), settings.pop("encoder")
        settings.pop("references", None)
        request = MeasureRequest(**{**settings, "histories": settings.get("histories") or {}})
        return measure_table(table, root, request, encoder=encoder or named, resamples=resamples)
    except (KeyError, TypeError, AttributeError):
        raise RunError(f"{root / TABLE_FILE} is incomplete; measure the table again into a new folder") from None


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of the table with lower-case column names, ``row`` being the line of the file.

    Raises:
        RunError: missing, not UTF-8, no rows, or a needed column is not there.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RunError(f"{path} is missing; give a CSV with the columns {', '.join(NEEDED)}") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is not UTF-8 text; save it as a UTF-8 CSV") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    reader = csv.DictReader(text.splitlines(keepends=True))
    names = [str(name or "").strip().lower() for name in (reader.fieldnames or [])]
    for name in NEEDED:
        if name not in names:
            raise RunError(f'{path} has no column "{name}"; the first line must name {", ".join(NEEDED)}')
    reader.fieldnames = names
    rows = []
    try:
        for raw in reader:
            row = {key: read_text(value).strip() for key, value in raw.items() if key and isinstance(value, str)}
            if any(row.values()):
                rows.append({**row, "row": str(reader.line_num)})
    except csv.Error as error:
        raise RunError(f"{path}, line {reader.line_num}: {error}; save it again as a UTF-8 CSV") from None
    if not rows:
        raise RunError(f"{path} has no rows; add one for each picture")
    return rows


def _prompts(table: Path, rows: list[dict[str, str]], trigger: str, class_word: str) -> dict[str, Prompt]:
    """One Prompt for each prompt id; fills in ``prompt_id`` and ``role`` of the rows."""
    ids: dict[tuple[str, str, str], str] = {}
    prompts: dict[str, Prompt] = {}
    for row in rows:
        text = _TAG.sub(" ", row.get("prompt", "")).strip(" ,")
        negative, role = row.get("negative_prompt", ""), row.get("role", "")
        if not text:
            raise RunError(f"{table}, line {row['row']}: no prompt; write what was drawn")
        if role and role not in ROLES:
            raise RunError(f'{table}, line {row["row"]}: role "{role}" is none of {", ".join(ROLES)}')
        named = bool(trigger) and re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text) is not None
        role = role or ("unrelated" if trigger and not named else "plain")
        key = (row.get("prompt_id", ""), text, negative)
        name = row.get("prompt_id", "") or ids.setdefault(key, f"p{len(ids) + 1:02d}")
        asked = clip_text(text, trigger, class_word)
        prompt = Prompt(name, role, text, asked, negative, negative if role == "negative" else "")
        earlier = prompts.setdefault(name, prompt)
        if (earlier.text, earlier.negative) != (prompt.text, prompt.negative):
            raise RunError(
                f'{table}, line {row["row"]}: prompt_id "{name}" had another prompt before; give each prompt its own id'
            )
        row["prompt_id"], row["role"], row["prompt"] = name, earlier.role, text
    return prompts


def _cells(table: Path, rows: list[dict[str, str]], out: Path) -> tuple[pd.DataFrame, list[Path]]:
    """The cells table and the pictures' paths, row by row."""
    run = f"{slug(table.stem)}-{hashlib.sha256(table.read_bytes()).hexdigest()[:8]}"
    found, paths = [], []
    for row in rows:
        where = f"{table}, line {row['row']}"
        name = row.get("image", "").replace("\\", "/") if os.name != "nt" else row.get("image", "")
        if not name:
            raise RunError(f"{where}: no image; write the picture's path")
        path = (table.parent / name).resolve()
        if not path.is_file():
            raise RunError(f"{where}: {name} is not there; paths are relative to the table's folder")
        try:
            width, height = open_picture(path).size
        except DatasetError as error:
            raise RunError(f"{where}: {error}") from None
        weight = _number(where, "weight", row.get("weight", ""))
        base = weight == 0
        label = row.get("checkpoint") or row.get("lora") or "LoRA"
        step = row.get("step", "")
        values = {
            "run": run,
            "lora": "" if base else row.get("lora") or re.sub(r"[-_](?:step)?\d+$", "", label),
            "checkpoint": "" if base else label,
            "step": None if base or not step else int(_number(where, "step", step)),
            "weight": weight,
            "prompt_id": row["prompt_id"],
            "role": row["role"],
            "prompt": row["prompt"],
            "negative_prompt": row.get("negative_prompt", ""),
            "seed": int(_number(where, "seed", row.get("seed", ""))),
            "sampler": row.get("sampler", ""),
            "steps": int(_number(where, "steps", row["steps"])) if row.get("steps") else None,
            "cfg": _number(where, "cfg", row["cfg"]) if row.get("cfg") else None,
            "width": width,
            "height": height,
            "image": _relative(path, out),
        }
        found.append([values[column] for column in CELL_COLUMNS])
        paths.append(path)
    return pd.DataFrame(found, columns=list(CELL_COLUMNS)), paths


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value or value in (float("inf"), float("-inf")):
        raise RunError(
            f'{where}: {name} "{text}" is not a number; write for example {"1" if name == "seed" else "0.8"}'
        )
    return value


def _relative(path: Path, out: Path) -> str:
    try:
        return Path(os.path.relpath(path, out.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()
