"""What a run draws: everything needed to draw it again.

A plan is made once, stored as ``plan.json`` and never drifts: a run folder holds the pictures of one
plan. ``Plan.cells()`` lists the pictures in the order of drawing, which is the order of ``cells.csv``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError, LoraFileError, RunError
from lora_eval.files import file_sha256
from lora_eval.host.protocol import Host, HostInfo, ImageRequest, LoraUse, ModelInfo, Sampling
from lora_eval.scorecard.data import KINDS, Element, Prompt
from lora_eval.scorecard.ranges import format_number, parse_range
from lora_eval.scorecard.suites import load_suite

SCHEMA = 1
TINY_MODEL = Path(__file__).resolve().parent.parent / "assets" / "tiny-sd"
DEFAULT_BATCH = 4


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
FIRST_SEED = 1
# what spans a map of the pictures: the first across, the second down
AXES = ("weight", "checkpoint", "prompt", "seed")
DEFAULT_AXES = ("weight", "checkpoint")


@dataclass(frozen=True)
class PlannedLora:
    """One checkpoint of a LoRA.

    Attributes:
        series: the LoRA that it is a checkpoint of: the name without its step.
        name: the file's stem: what users write in ``<lora:name:weight>``.
        path, sha256: the file and the SHA-256 of its bytes.
        step: optimiser steps, None where neither metadata nor name tell.
    """

    series: str
    name: str
    path: str
    sha256: str
    step: int | None = None

    @property
    def key(self) -> str:
        """File-name-safe and unique by content."""
        return f"{slug(self.name)}-{self.sha256[:6]}"


@dataclass(frozen=True)
class Cell:
    """One picture. ``lora`` None: the base model, weight 0."""

    lora: PlannedLora | None
    weight: float
    prompt: Prompt
    seed: int

    @property
    def id(self) -> str:
        """Stable and file-name-safe: LoRA, weight, prompt, seed."""
        name = self.lora.key if self.lora else "base"
        return f"{name}_w{format_number(self.weight)}_{self.prompt.id}_s{self.seed}"

    @property
    def image(self) -> str:
        """Path of the picture inside the run folder, with forward slashes."""
        return f"images/{self.id}.png"

    @property
    def request(self) -> ImageRequest:
        """What the host is asked for."""
        return ImageRequest(self.prompt.text, self.seed, self.prompt.negative)


@dataclass(frozen=True)
class Part:
    """Pictures of all prompts that an adaptive round adds: LoRA by name ("" at weight 0), weight, seeds."""

    lora: str
    weight: float
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Round:
    """What an adaptive sweep draws before it looks again, and ``why``."""

    parts: tuple[Part, ...]
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """See the module. Fields after ``sampling`` matter to measuring alone and may change later.

    ``budget``: None draws every weight with every seed. A number of pictures makes the sweep adaptive:
    ``weights`` and ``seeds`` are then what may be drawn, and ``rounds`` what is. Rounds are only ever
    appended, each after the pictures of those before it are there, so that a resumed run takes the same way.
    """

    run: str
    host: HostInfo
    model: dict[str, str]
    loras: tuple[PlannedLora, ...]
    weights: tuple[float, ...]
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    sampling: Sampling
    kind: str = "character"
    suite: str = ""
    preset: str = ""
    trigger: str = ""
    class_word: str = ""
    batch_size: int = DEFAULT_BATCH
    encoder: str = "auto"
    references: dict[str, Any] = field(default_factory=dict)
    histories: dict[str, str] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA
    budget: int | None = None
    rounds: tuple[Round, ...] = ()
    axes: tuple[str, str] = DEFAULT_AXES

    def cells(self) -> list[Cell]:
        """Every picture in drawing order: weight 0 once for all, then checkpoint, weight, prompt, seed."""
        return [cell for group in self.groups() for cell in group]

    def groups(self) -> Iterator[list[Cell]]:
        """Cells that share LoRA and weight, in drawing order."""
        if self.budget is not None:
            by_name = {lora.name: lora for lora in self.loras}
            for part in (part for one in self.rounds for part in one.parts):
                lora_of = by_name[part.lora] if part.weight else None
                yield [Cell(lora_of, part.weight, prompt, seed) for prompt in self.prompts for seed in part.seeds]
            return
        yield [Cell(None, 0.0, prompt, seed) for prompt in self.prompts for seed in self.seeds]
        for lora in self.loras:
            for weight in self.weights:
                if weight != 0:
                    yield [Cell(lora, weight, prompt, seed) for prompt in self.prompts for seed in self.seeds]

    def batches(self, size: int | None = None) -> Iterator[list[Cell]]:
        """The groups cut into batches. The cut does not depend on what is drawn already:

        a batch drawn again after a kill has the company it had, so its pictures are the same bytes.
        """
        size = max(1, size or self.batch_size)
        for group in self.groups():
            for start in range(0, len(group), size):
                yield group[start : start + size]

    def __len__(self) -> int:
        if self.budget is not None:
            return len(self.prompts) * sum(len(part.seeds) for one in self.rounds for part in one.parts)
        return self.full_size

    @property
    def full_size(self) -> int:
        """Pictures of the full grid."""
        return len(self.prompts) * len(self.seeds) * (1 + len(self.loras) * sum(w != 0 for w in self.weights))

    def lora_use(self, cell: Cell) -> LoraUse | None:
        """How the host is told to apply the cell's LoRA; None at weight 0."""
        return None if cell.lora is None else LoraUse(Path(cell.lora.path), cell.weight)

    def to_json(self) -> dict[str, Any]:
        """JSON-safe and complete."""
        raw = asdict(self)
        return {"schema": raw.pop("schema"), **raw}

    @classmethod
    def from_json(cls, raw: Any, where: str = "plan.json") -> Plan:
        """Inverse of :meth:`to_json`. Raises RunError for another schema or a broken table."""
        if not isinstance(raw, dict) or not isinstance(raw.get("schema"), int):
            raise RunError(f"{where} is not a plan of this program; give the folder of a scorecard run")
        if raw["schema"] != SCHEMA:
            raise RunError(
                f"{where} has schema {raw['schema']}, this version reads {SCHEMA}; "
                "use the version that wrote it or a new folder"
            )
        try:
            return cls(
                **{
                    **raw,
                    "host": HostInfo(**raw["host"]),
                    "loras": tuple(PlannedLora(**lora) for lora in raw["loras"]),
                    "weights": tuple(map(float, raw["weights"])),
                    "prompts": tuple(_prompt(prompt) for prompt in raw["prompts"]),
                    "seeds": tuple(map(int, raw["seeds"])),
                    "sampling": Sampling(**raw["sampling"]),
                    "rounds": tuple(_round(one) for one in raw.get("rounds", ())),
                    "axes": check_axes(raw.get("axes", DEFAULT_AXES)),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{where} is incomplete ({error}); restore it or start a new run folder") from None

    @property
    def fingerprint(self) -> str:
        """Hex digest of what decides the pictures: the same for the same pictures in any folder, at any time."""
        parts: list[Any] = [self.host.name, self.model["name"], self.model["sha256"], [lora.key for lora in self.loras]]
        drawn = [(prompt.id, prompt.text, prompt.negative) for prompt in self.prompts]
        parts += [self.weights, drawn, self.seeds, asdict(self.sampling)]
        if self.budget is not None:
            parts.append(self.budget)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def differences(self, asked: Plan) -> list[str]:
        """What ``asked`` would draw otherwise, one line each; empty when the pictures are the same."""
        found: list[str] = []

        def differ(what: str, mine: Any, other: Any) -> None:
            if mine != other:
                found.append(f"{what} {_short(mine)} is now {_short(other)}")

        differ("host", self.host.name, asked.host.name)
        differ("model", self.model["name"], asked.model["name"])
        if self.model["name"] == asked.model["name"] and self.model["sha256"] != asked.model["sha256"]:
            found.append(f"model {self.model['name']} is another file now (sha256 differs)")
        mine, other = {x.name: x.sha256 for x in self.loras}, {x.name: x.sha256 for x in asked.loras}
        differ("LoRAs", list(mine), list(other))
        found += [f"LoRA {n} is another file now (sha256 differs)" for n in mine if n in other and mine[n] != other[n]]
        differ("weights", [format_number(w) for w in self.weights], [format_number(w) for w in asked.weights])
        differ("seeds", list(self.seeds), list(asked.seeds))
        differ("budget", self.budget or "none", asked.budget or "none")
        differ("prompts", [p.id for p in self.prompts], [p.id for p in asked.prompts])
        if [p.id for p in self.prompts] == [p.id for p in asked.prompts]:
            for mine_prompt, other_prompt in zip(self.prompts, asked.prompts, strict=True):
                drawn, wanted = (mine_prompt.text, mine_prompt.negative), (other_prompt.text, other_prompt.negative)
                differ(f"prompt {mine_prompt.id}", drawn, wanted)
        for item in fields(Sampling):
            differ(item.name, getattr(self.sampling, item.name), getattr(asked.sampling, item.name))
        return found

    def agreed(self, asked: Plan, where: Path) -> Plan:
        """This stored plan, with what matters to measuring taken from ``asked``.

        Raises:
            RunError: ``asked`` would draw other pictures; names the first difference.
        """
        found = self.differences(asked)
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise RunError(f"{where} holds another run: {found[0]}{more}; choose another folder or ask for the same")
        taken = ("kind", "prompts", "class_word", "encoder", "references", "histories", "loras", "axes")
        return replace(self, **{name: getattr(asked, name) for name in taken})


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


def is_shipped_model(model: ModelInfo) -> bool:
    """Whether the model is the shipped tiny Stable Diffusion."""
    return model.path is not None and Path(model.path).resolve() == TINY_MODEL.resolve()


def read_loras(paths: Sequence[Path | str]) -> tuple[tuple[PlannedLora, ...], dict[str, str]]:
    """The checkpoints by step, then name, and the metadata of the last one.

    Raises:
        LoraFileError: none given, missing, not safetensors, or two files of one name.
    """
    if not paths:
        raise LoraFileError("no LoRA was given; name at least one .safetensors file")
    found: list[tuple[PlannedLora, dict[str, str]]] = []
    for path in dict.fromkeys(Path(path).resolve() for path in paths):
        metadata = _metadata(path)
        step = _step(path.stem, metadata)
        series = re.sub(r"[-_](?:step)?\d+$", "", path.stem)
        found.append((PlannedLora(series, path.stem, str(path), file_sha256(path), step), metadata))
    by_name: dict[str, PlannedLora] = {}
    for lora, _ in found:
        earlier = by_name.setdefault(lora.name, lora)
        if earlier is not lora:
            # both WebUIs cache LoRAs by name: the second would be drawn with the first one's tensors
            raise LoraFileError(f"{lora.path} and {earlier.path} share the name {lora.name}; rename one of them")
    found.sort(key=lambda pair: (pair[0].step is None, pair[0].step or 0, pair[0].name))
    return tuple(lora for lora, _ in found), found[-1][1]


def slug(text: str, length: int = 48) -> str:
    """Letters, digits, ``-`` and ``.`` only; other characters become ``-``."""
    return (
        re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:length] or "x" + hashlib.sha256(text.encode()).hexdigest()[:6]
    )


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LoraFileError(f"{path} is missing; give the path of a .safetensors file")
    try:
        with safe_open(str(path), framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise LoraFileError(f"{path} is not a safetensors file ({error}); only safetensors is loaded") from None


def _step(stem: str, metadata: dict[str, str]) -> int | None:
    if metadata.get("ss_steps", "").isdigit():
        return int(metadata["ss_steps"])
    # sd-scripts writes "-step00000500"; a bare "-000010" is an epoch there, not a step
    match = re.search(r"step[-_]?0*(\d+)$", stem, re.IGNORECASE)
    return int(match.group(1)) if match else None


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


def check_axes(asked: Sequence[str]) -> tuple[str, str]:
    """Two different ones of AXES, across and down. Raises ConfigError."""
    found = tuple(map(str, asked))
    if len(found) != 2 or found[0] == found[1] or not set(found) <= set(AXES):
        raise ConfigError(f'axes "{", ".join(found)}" cannot be drawn; name two different ones of {", ".join(AXES)}')
    return found


def _model_json(model: ModelInfo) -> dict[str, str]:
    return {
        "name": model.name,
        "sha256": model.sha256,
        "family": model.family,
        "prediction": model.prediction,
        "path": str(model.path or ""),
    }


def _prompt(raw: dict[str, Any]) -> Prompt:
    elements = tuple(Element(e["name"], e["text"], tuple(e["foils"])) for e in raw.get("elements", ()))
    return Prompt(**{**raw, "elements": elements})


def _round(raw: dict[str, Any]) -> Round:
    parts = tuple(Part(p["lora"], float(p["weight"]), tuple(map(int, p["seeds"]))) for p in raw["parts"])
    return Round(parts, str(raw.get("why", "")))


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f'"{text if len(text) <= 60 else text[:57] + "..."}"'
