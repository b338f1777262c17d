"""A plan made from a request; what was not requested comes from the preset, the LoRA's metadata and the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from lora_eval.errors import ConfigError
from lora_eval.host.protocol import Host, ModelInfo, Sampling
from lora_eval.host.shipped import is_shipped_model
from lora_eval.scorecard.data import KINDS, Prompt
from lora_eval.scorecard.plan.checkpoints import read_loras, slug
from lora_eval.scorecard.plan.plan import DEFAULT_AXES, DEFAULT_BATCH, Plan, check_axes
from lora_eval.scorecard.plan.presets import PRESETS
from lora_eval.scorecard.plan.ranges import parse_range
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.scorecard.plan.suites import load_suite

FIRST_SEED = 1


def make_plan(host: Host, request: ScoreRequest) -> Plan:
    """Fill in what was not requested, from the preset, the LoRA's metadata and the host.

    The checkpoints may be listed in any order; they are drawn by step, then name. Weight 0 is added where it is
    missing. Seeds that are given as a number begin at ``FIRST_SEED``. A number of prompts counts from the top of the
    suite; None is the preset's number, or the whole of a user's own suite.

    Args:
        host: who draws; its model and native size are asked.
        request: what is requested; ``data``, ``out``, ``encoder``, ``budget`` and ``minutes`` are not part of a plan.

    Raises:
        ConfigError: kind, preset, weights, seeds, prompts, axes or suite cannot be used.
        LoraFileError: a LoRA is missing or no safetensors file, or two share a name.
    """
    if request.preset not in PRESETS:
        raise ConfigError(f'preset "{request.preset}" is none of {", ".join(PRESETS)}')
    chosen = PRESETS[request.preset]
    planned, metadata = read_loras(request.loras)
    model = host.model()
    kind = request.kind or metadata.get("lora_eval_kind") or "character"
    if kind not in KINDS:
        raise ConfigError(f'kind "{kind}" is none of {", ".join(KINDS)}')
    trigger, class_word = request.trigger, request.class_word
    if trigger is None:
        trigger = metadata.get("lora_eval_trigger") or metadata.get("modelspec.trigger_phrase", "")
    class_word = metadata.get("lora_eval_class_word", "") if class_word is None else class_word
    tiny = is_shipped_model(model)
    suite_name = request.suite or (("tiny-style" if kind == "style" else "tiny") if tiny else kind)
    prompts = request.prompts
    if prompts is None and not (request.suite is not None and Path(str(request.suite)).suffix):
        prompts = chosen.prompts
    plan = Plan(
        run="",
        host=host.info(),
        model=_model_json(model),
        loras=planned,
        weights=_weights(chosen.weights if request.weights is None else request.weights),
        prompts=_prompts(suite_name, trigger, class_word, prompts),
        seeds=_seeds(chosen.seeds if request.seeds is None else request.seeds),
        sampling=request.sampling(default_sampling(host)),
        kind=kind,
        suite=str(suite_name),
        preset=request.preset,
        trigger=trigger,
        class_word=class_word,
        batch_size=request.batch_size or DEFAULT_BATCH,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        axes=check_axes(DEFAULT_AXES if request.axes is None else request.axes),
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
