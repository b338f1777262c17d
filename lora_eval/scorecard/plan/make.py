"""A plan made of what was asked for; the rest comes from the preset, the LoRA's metadata and the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError
from lora_eval.host.protocol import Host, ModelInfo, Sampling
from lora_eval.host.shipped import is_shipped_model
from lora_eval.scorecard.data import KINDS, Prompt
from lora_eval.scorecard.plan.checkpoints import read_loras, slug
from lora_eval.scorecard.plan.plan import DEFAULT_AXES, DEFAULT_BATCH, Plan, check_axes
from lora_eval.scorecard.plan.ranges import parse_range
from lora_eval.scorecard.plan.suites import load_suite

FIRST_SEED = 1


@dataclass(frozen=True)
class Preset:
    """How much is drawn. ``prompts`` counts from the top of the suite."""

    prompts: int
    seeds: int
    weights: str

    def images(self, checkpoints: int = 1, prompts: int | None = None) -> int:
        """Number of pictures for so many checkpoints; weight 0 is drawn once for all."""
        weights = parse_range(self.weights)
        pairs = (self.prompts if prompts is None else min(prompts, self.prompts)) * self.seeds
        return pairs * (1 + checkpoints * sum(weight != 0 for weight in weights))


PRESETS = {
    "quick": Preset(prompts=6, seeds=4, weights="0-1.2 [5]"),
    "standard": Preset(prompts=12, seeds=5, weights="0-1.2 [7]"),
    "thorough": Preset(prompts=20, seeds=8, weights="0-1.4 [8]"),
}


def make_plan(
    host: Host,
    loras: Sequence[Path | str],
    *,
    kind: str | None = None,
    suite: str | Path | None = None,
    preset: str = "standard",
    weights: str | Sequence[float] | None = None,
    seeds: int | Sequence[int] | None = None,
    prompts: int | Sequence[int] | None = None,
    trigger: str | None = None,
    class_word: str | None = None,
    sampling: Sampling | None = None,
    batch_size: int | None = None,
    axes: Sequence[str] | None = None,
    encoder: str = "auto",
    references: dict[str, Any] | None = None,
    histories: dict[str, str] | None = None,
) -> Plan:
    """Fill in what was not said, from the preset, the LoRA's metadata and the host.

    Args:
        loras: the checkpoints, in any order; they are drawn by step, then name.
        weights: range syntax or numbers; 0 is added where missing.
        seeds: how many (from ``FIRST_SEED``) or which.
        prompts: how many of the suite's, or which, counted from 1; None is the preset's number, a user's own
            suite whole.
        axes: two of AXES, across and down, for the map of the pictures; they change nothing that is drawn.

    Raises:
        ConfigError: kind, preset, weights, seeds, prompts, axes or suite cannot be used.
        LoraFileError: a LoRA is missing or no safetensors file, or two share a name.
    """
    if preset not in PRESETS:
        raise ConfigError(f'preset "{preset}" is none of {", ".join(PRESETS)}')
    chosen = PRESETS[preset]
    planned, metadata = read_loras(loras)
    model = host.model()
    kind = kind or metadata.get("lora_eval_kind") or "character"
    if kind not in KINDS:
        raise ConfigError(f'kind "{kind}" is none of {", ".join(KINDS)}')
    if trigger is None:
        trigger = metadata.get("lora_eval_trigger") or metadata.get("modelspec.trigger_phrase", "")
    class_word = metadata.get("lora_eval_class_word", "") if class_word is None else class_word
    tiny = is_shipped_model(model)
    suite_name = suite or (("tiny-style" if kind == "style" else "tiny") if tiny else kind)
    if prompts is None and not (suite is not None and Path(str(suite)).suffix):
        prompts = chosen.prompts
    if sampling is None:
        sampling = default_sampling(host)
    plan = Plan(
        run="",
        host=host.info(),
        model=_model_json(model),
        loras=planned,
        weights=_weights(chosen.weights if weights is None else weights),
        prompts=_prompts(suite_name, trigger, class_word, prompts),
        seeds=_seeds(chosen.seeds if seeds is None else seeds),
        sampling=sampling,
        kind=kind,
        suite=str(suite_name),
        preset=preset,
        trigger=trigger,
        class_word=class_word,
        batch_size=batch_size or DEFAULT_BATCH,
        encoder=encoder,
        references=dict(references or {}),
        histories=dict(histories or {}),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        axes=check_axes(DEFAULT_AXES if axes is None else axes),
    )
    return replace(plan, run=f"{slug(planned[-1].series)}-{plan.fingerprint[:8]}")


def default_sampling(host: Host) -> Sampling:
    """The host's size for its model, and the settings that the model draws well with."""
    width, height = host.native_size()
    # the tiny model was tuned at CFG 4; at 7 it over-saturates before any LoRA does
    return Sampling(width=width, height=height, cfg_scale=4.0 if is_shipped_model(host.model()) else 7.0)


def _weights(asked: str | Sequence[float]) -> tuple[float, ...]:
    values = parse_range(asked, "weights") if isinstance(asked, str) else [float(value) for value in asked]
    for value in values:
        if not -10 <= value <= 10:
            raise ConfigError(f"weight {value:g} is out of range; weights lie between -10 and 10")
        if float(f"{value:g}") != value:
            raise ConfigError(f"weight {value!r} has too many digits for the prompt's tag; round it to {value:.4g}")
    found = tuple(sorted({0.0, *values}))
    if found == (0.0,):
        raise ConfigError('weights hold nothing but 0; add at least one, for example "0-1.2 [7]"')
    return found


def _seeds(asked: int | Sequence[int]) -> tuple[int, ...]:
    values = tuple(range(FIRST_SEED, FIRST_SEED + asked)) if isinstance(asked, int) else tuple(dict.fromkeys(asked))
    if not values:
        raise ConfigError("no seeds; ask for at least 1, better 4 or more")
    for value in values:
        if not 0 <= value < 2**32:
            raise ConfigError(f"seed {value} is out of range; seeds lie between 0 and 4294967295")
    return values


def _prompts(suite: str | Path, trigger: str, class_word: str, asked: int | Sequence[int] | None) -> tuple[Prompt, ...]:
    if asked is None or isinstance(asked, int):
        return tuple(load_suite(suite, trigger, class_word, asked))
    found = load_suite(suite, trigger, class_word)
    for place in asked:
        if not 1 <= place <= len(found):
            raise ConfigError(f"prompt {place} is not in the suite {suite}; it has prompts 1 to {len(found)}")
    if not asked:
        raise ConfigError("no prompts; ask for at least 1")
    return tuple(found[place - 1] for place in dict.fromkeys(asked))


def _model_json(model: ModelInfo) -> dict[str, str]:
    return {
        "name": model.name,
        "sha256": model.sha256,
        "family": model.family,
        "prediction": model.prediction,
        "path": str(model.path or ""),
    }
