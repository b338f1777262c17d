"""What a run draws: everything needed to draw it again.

A plan is made once, stored as ``plan.json`` and never drifts: a run folder holds the pictures of one
plan. ``Plan.cells()`` lists the pictures in the order of drawing, which is the order of ``cells.csv``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError, RunError
from lora_eval.host.protocol import HostInfo, ImageRequest, LoraUse, Sampling
from lora_eval.scorecard.data import Element, Prompt
from lora_eval.scorecard.plan.checkpoints import PlannedLora
from lora_eval.scorecard.plan.ranges import format_number

SCHEMA = 1
DEFAULT_BATCH = 4
# what spans a map of the pictures: the first across, the second down
AXES = ("weight", "checkpoint", "prompt", "seed")
DEFAULT_AXES = ("weight", "checkpoint")


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
        """What the host is asked to apply; None at weight 0."""
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


def check_axes(asked: Sequence[str]) -> tuple[str, str]:
    """Two different ones of AXES, across and down. Raises ConfigError."""
    found = tuple(map(str, asked))
    if len(found) != 2 or found[0] == found[1] or not set(found) <= set(AXES):
        raise ConfigError(f'axes "{", ".join(found)}" cannot be drawn; name two different ones of {", ".join(AXES)}')
    return found


def _prompt(raw: dict[str, Any]) -> Prompt:
    elements = tuple(Element(e["name"], e["text"], tuple(e["foils"])) for e in raw.get("elements", ()))
    return Prompt(**{**raw, "elements": elements})


def _round(raw: dict[str, Any]) -> Round:
    parts = tuple(Part(p["lora"], float(p["weight"]), tuple(map(int, p["seeds"]))) for p in raw["parts"])
    return Round(parts, str(raw.get("why", "")))


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f'"{text if len(text) <= 60 else text[:57] + "..."}"'
