"""Losses in the progress lines of a console log: tqdm bars with the loss behind them."""

from __future__ import annotations

import re
from pathlib import Path

from lora_eval.errors import RunError
from lora_eval.training.parts import LossHistory, Record, make_history
from lora_eval.training.trainers import BAR_AVERAGES, BAR_LOSSES

_BAR = re.compile(r"(\d+)/(\d+) \[([^\]\[]*)")
_VALUE = re.compile(
    r"(?<![\w/])([A-Za-z_][\w/]*(?: [A-Za-z_]+)?)\s*[=:]\s*([-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|nan|inf))"
)


def read_console(path: Path, text: str) -> LossHistory:
    """Read ``steps: 10%|..| 100/1000 [.., avr_loss=0.123]`` and its kin; of two losses the average is taken.

    Raises:
        RunError: no progress line holds a loss.
    """
    found: dict[str, list[tuple[str, int, int, float]]] = {}
    for line in text.replace("\r", "\n").split("\n"):
        for bar in _BAR.finditer(line):
            title = line[: bar.start()].split("%|")[0].rstrip("0123456789 ").rstrip(":").strip().lower()
            for name, value in _VALUE.findall(bar[3]):
                found.setdefault(name.lower(), []).append((title, int(bar[1]), int(bar[2]), float(value)))
    name = next((n for n in (*BAR_AVERAGES, *BAR_LOSSES) if n in found), None)
    if name is None:
        raise RunError(f"{path} is neither a history.csv, an event file nor a log with loss= in its progress lines")
    rows, averaged = found[name], name in BAR_AVERAGES
    totals = {total for _, _, total, _ in rows}
    # OneTrainer's bar is called "step", others name the epoch; kohya's "steps" counts the whole run
    by_epoch = all(title == "step" or "epoch" in title for title, *_ in rows) and len(totals) == 1
    records = [Record(float(step), value) for _, step, _, value in rows]
    source = "progress lines" + (" (running average)" if averaged else "")
    history = make_history([path], records, source, averaged, max(totals) if by_epoch else None)
    left = [
        f"{other} ({len(found[other])})" for other in (*BAR_AVERAGES, *BAR_LOSSES) if other in found and other != name
    ]
    if left:
        history.notes.append(f"{name} was read; left out: {', '.join(left)}")
    return history
