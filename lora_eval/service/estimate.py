"""What a scorecard run will draw, before it is started: number of pictures, time, and the budget of an adaptive one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lora_eval.errors import ConfigError
from lora_eval.scorecard.data import KINDS
from lora_eval.scorecard.decision.adaptive import COARSE
from lora_eval.scorecard.plan.presets import ADAPTIVE, PRESETS, grid_preset
from lora_eval.scorecard.plan.ranges import parse_range
from lora_eval.service import library

if TYPE_CHECKING:
    from lora_eval.host.protocol import Host
    from lora_eval.scorecard.plan.request import ScoreRequest

SHARE = 3
"""An adaptive run draws at most one picture in so many of its grid, unless a budget is given."""
DEFAULT_KIND = "character"


@dataclass(frozen=True)
class Estimate:
    """What a run will draw at most.

    Attributes:
        images: number of pictures.
        seconds: the time they take; None: no run on this machine tells the speed yet.
        of: size of the whole grid where only a part of it is drawn.
    """

    images: int
    seconds: float | None = None
    of: int | None = None


def estimate(request: ScoreRequest, each: float | None, tiny: bool = False) -> Estimate:
    """Pictures and time of an request.

    Args:
        request: what is requested.
        each: seconds that one picture takes, None while that is not known.
        tiny: whether the model is the shipped one, which has prompts of its own.

    Raises:
        ConfigError: a range cannot be read, or the budget cannot be kept; one line.
    """
    full, least = _sizes(request, tiny)
    most = _budget(request, full, least, each)
    if most is None:
        return Estimate(full, None if each is None else each * full)
    if most < least:
        raise ConfigError(
            f"a budget of {most} pictures is too small: the first round needs {least}; "
            "raise it, or take fewer checkpoints or prompts"
        )
    images = min(most, full)
    return Estimate(images, None if each is None else each * images, full)


def settled(request: ScoreRequest, each: float | None, tiny: bool = False) -> ScoreRequest:
    """The request with preset and budget as :func:`lora_eval.service.scoring.score` takes them. Raises ConfigError."""
    most = _budget(request, *_sizes(request, tiny), each)
    return replace(request, preset=grid_preset(request.preset), budget=most, minutes=None)


def seconds_each(output_folder: Path, request: ScoreRequest) -> float | None:
    """Seconds that a picture of the request takes on this machine, from the latest run; None without one."""
    pixels = request.width * request.height if request.width and request.height else None
    return library.seconds_per_image(output_folder, request.steps, pixels)


def _budget(request: ScoreRequest, full: int, least: int, each: float | None) -> int | None:
    """The most pictures that a request may draw of a grid of ``full``; None: all of it."""
    if request.budget is not None and request.minutes is not None:
        raise ConfigError("the budget is given in pictures and in minutes; give one of the two")
    if request.minutes is not None:
        if not 0 < request.minutes <= 100_000:
            raise ConfigError(f"a budget of {request.minutes:g} minutes cannot be kept; give more than 0")
        if each is None:
            raise ConfigError(
                "minutes cannot be counted in pictures until a first run on this machine; give pictures instead"
            )
        return int(request.minutes * 60 / each)
    if request.budget is not None:
        if request.budget < 1:
            raise ConfigError(f"a budget of {request.budget} pictures cannot be kept; give at least 1")
        return request.budget
    return max(full // SHARE, least) if request.preset == ADAPTIVE else None


def is_tiny(host: Host) -> bool:
    """Whether the host draws with the shipped model; only the standalone host does."""
    return getattr(host, "shipped_model", False) is True


def _sizes(request: ScoreRequest, tiny: bool) -> tuple[int, int]:
    """Pictures of the whole grid, and of an adaptive run's first round."""
    preset = PRESETS[grid_preset(request.preset)]
    weights = {weight for weight in _weights(request.weights or preset.weights) if weight != 0}
    if request.seeds is None:
        seeds = preset.seeds
    else:
        seeds = request.seeds if isinstance(request.seeds, int) else len(set(request.seeds))
    prompts, loras = _prompts(request, preset.prompts, tiny), max(1, len(request.loras))
    # with one seed, which is what a small budget begins with
    first = prompts * (1 + loras * min(COARSE, len(weights)))
    return prompts * seeds * (1 + loras * len(weights)), first


def _weights(given: str | Sequence[float]) -> list[float]:
    return parse_range(given, "weights") if isinstance(given, str) else list(given)


def _prompts(request: ScoreRequest, preset: int, tiny: bool) -> int:
    if request.prompts is not None and not isinstance(request.prompts, int):
        return len(set(request.prompts))
    own = bool(request.suite and Path(request.suite).suffix)
    wanted = request.prompts if request.prompts is not None else None if own else preset
    kind = request.kind or (_kind(request.loras[-1]) if request.loras else DEFAULT_KIND)
    name = request.suite or (("tiny-style" if kind == "style" else "tiny") if tiny else kind)
    there = _suite_size(name, Path(name).stat().st_mtime_ns if own and Path(name).is_file() else 0)
    return there if wanted is None else min(there, wanted)


def _kind(lora: Path) -> str:
    """What the LoRA's training said that it should learn; the plan asks the last of several."""
    try:
        return _read_kind(str(lora), lora.stat().st_mtime_ns)
    except OSError:
        return DEFAULT_KIND


@lru_cache(maxsize=256)
def _read_kind(path: str, changed: int) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            found = (file.metadata() or {}).get("lora_eval_kind", "")
    except (SafetensorError, OSError, ValueError):
        return DEFAULT_KIND
    return found if found in KINDS else DEFAULT_KIND


@lru_cache(maxsize=64)
def _suite_size(name: str, changed: int) -> int:
    """Prompts of a suite; ``changed`` makes of an edited file another one."""
    from lora_eval.scorecard.plan.suites import read_suite

    return len(read_suite(name).rows)
