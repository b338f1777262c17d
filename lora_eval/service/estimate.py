"""What a scorecard run will draw, before it is started: number of pictures, time, and the budget of an adaptive one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lora_eval.errors import ConfigError
from lora_eval.scorecard.data import KINDS
from lora_eval.scorecard.decision.adaptive import COARSE
from lora_eval.scorecard.plan.make import PRESETS
from lora_eval.scorecard.plan.plan import check_axes
from lora_eval.scorecard.plan.ranges import parse_range
from lora_eval.service import library

if TYPE_CHECKING:
    from lora_eval.host.protocol import Host
    from lora_eval.service.order import ScoreOrder

ADAPTIVE = "adaptive"
NAMES = (*PRESETS, ADAPTIVE)
# an adaptive run chooses from this preset's grid, by default at most this share of it
GRID = "thorough"
SHARE = 3
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


def grid_preset(name: str) -> str:
    """The preset whose grid a run of this name draws from. Raises ConfigError for an unknown one."""
    if name == ADAPTIVE:
        return GRID
    if name not in PRESETS:
        raise ConfigError(f'preset "{name}" is none of {", ".join(NAMES)}')
    return name


def estimate(order: ScoreOrder, each: float | None, tiny: bool = False) -> Estimate:
    """Pictures and time of an order.

    Args:
        order: what is asked for.
        each: seconds that one picture takes, None while that is not known.
        tiny: whether the model is the shipped one, which has prompts of its own.

    Raises:
        ConfigError: a range cannot be read, or the budget cannot be kept; one line.
    """
    full, least = _sizes(order, tiny)
    most = _budget(order, full, least, each)
    if most is None:
        return Estimate(full, None if each is None else each * full)
    if most < least:
        raise ConfigError(
            f"a budget of {most} pictures is too small: the first round needs {least}; "
            "raise it, or take fewer checkpoints or prompts"
        )
    images = min(most, full)
    return Estimate(images, None if each is None else each * images, full)


def settled(order: ScoreOrder, each: float | None, tiny: bool = False) -> ScoreOrder:
    """The order with preset and budget as :func:`lora_eval.service.scoring.score` takes them. Raises ConfigError."""
    most = _budget(order, *_sizes(order, tiny), each)
    return replace(order, preset=grid_preset(order.preset), budget=most, minutes=None)


def seconds_each(output_folder: Path, order: ScoreOrder) -> float | None:
    """Seconds that a picture of the order takes on this machine, from the latest run; None without one."""
    given = order.sampling
    pixels = given["width"] * given["height"] if given.get("width") and given.get("height") else None
    return library.seconds_per_image(output_folder, given.get("steps"), pixels)


def _budget(order: ScoreOrder, full: int, least: int, each: float | None) -> int | None:
    """The most pictures that an order may draw of a grid of ``full``; None: all of it."""
    if order.budget is not None and order.minutes is not None:
        raise ConfigError("the budget is given in pictures and in minutes; give one of the two")
    if order.minutes is not None:
        if not 0 < order.minutes <= 100_000:
            raise ConfigError(f"a budget of {order.minutes:g} minutes cannot be kept; give more than 0")
        if each is None:
            raise ConfigError(
                "minutes cannot be counted in pictures until a first run on this machine; give pictures instead"
            )
        return int(order.minutes * 60 / each)
    if order.budget is not None:
        if order.budget < 1:
            raise ConfigError(f"a budget of {order.budget} pictures cannot be kept; give at least 1")
        return order.budget
    return max(full // SHARE, least) if order.preset == ADAPTIVE else None


def parse_axes(text: str | None) -> tuple[str, str] | None:
    """``weight, checkpoint`` as two axes; None for nothing. Raises ConfigError."""
    if text is None or not text.strip():
        return None
    return check_axes([part.strip() for part in text.split(",")])


def is_tiny(host: Host) -> bool:
    """Whether the host draws with the shipped model; only the standalone host does."""
    return getattr(host, "shipped_model", False) is True


def _sizes(order: ScoreOrder, tiny: bool) -> tuple[int, int]:
    """Pictures of the whole grid, and of an adaptive run's first round."""
    preset = PRESETS[grid_preset(order.preset)]
    weights = {weight for weight in parse_range(order.weights or preset.weights, "weights") if weight != 0}
    if order.seeds is None:
        seeds = preset.seeds
    else:
        seeds = order.seeds if isinstance(order.seeds, int) else len(set(order.seeds))
    prompts, loras = _prompts(order, preset.prompts, tiny), max(1, len(order.loras))
    # with one seed, which is what a small budget begins with
    first = prompts * (1 + loras * min(COARSE, len(weights)))
    return prompts * seeds * (1 + loras * len(weights)), first


def _prompts(order: ScoreOrder, preset: int, tiny: bool) -> int:
    if order.prompts is not None and not isinstance(order.prompts, int):
        return len(set(order.prompts))
    own = bool(order.suite and Path(order.suite).suffix)
    wanted = order.prompts if order.prompts is not None else None if own else preset
    kind = order.kind or (_kind(order.loras[-1]) if order.loras else DEFAULT_KIND)
    name = order.suite or (("tiny-style" if kind == "style" else "tiny") if tiny else kind)
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
