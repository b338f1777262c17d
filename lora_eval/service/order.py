"""What a scorecard run is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class ScoreOrder:
    """What a scorecard run is asked for; None means "chosen by the program".

    Attributes:
        loras: LoRA files, one or several checkpoints.
        data: folder of reference pictures.
        out: run folder; the same again goes on where it stopped.
        weights: range as in the X/Y/Z plot. suite: shipped name or file.
        seeds, prompts: how many, or which; prompts are counted from 1.
        preset, kind, trigger, class_word, encoder: see ``scorecard.planning.make_plan``.
        sampling: names of the WebUI's txt2img: sampler, scheduler, steps, cfg_scale, width, height, clip_skip.
        axes: what spans the map of the pictures, see ``scorecard.plan.AXES``.
        budget, minutes: the most pictures, or the most time, of an adaptive run; ``preset`` "adaptive" without
            them takes a third of the grid.
        batch_size: pictures drawn at once. It and ``encoder`` are those of the program's settings when None.
    """

    loras: list[Path]
    data: Path | None = None
    out: Path | None = None
    weights: str | None = None
    seeds: int | list[int] | None = None
    prompts: int | list[int] | None = None
    suite: str | None = None
    preset: str = "standard"
    kind: str | None = None
    trigger: str | None = None
    class_word: str | None = None
    encoder: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    axes: tuple[str, str] | None = None
    budget: int | None = None
    minutes: float | None = None
