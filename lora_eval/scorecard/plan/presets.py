"""How much a scorecard draws: the presets by name."""

from __future__ import annotations

from dataclasses import dataclass

from lora_eval.errors import ConfigError
from lora_eval.scorecard.plan.ranges import parse_range


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

ADAPTIVE = "adaptive"
GRID = "thorough"
"""The preset from whose grid an adaptive run chooses."""
NAMES = (*PRESETS, ADAPTIVE)


def grid_preset(name: str) -> str:
    """The preset whose grid a run of this name draws from. Raises ConfigError for an unknown one."""
    if name == ADAPTIVE:
        return GRID
    if name not in PRESETS:
        raise ConfigError(f'preset "{name}" is none of {", ".join(NAMES)}')
    return name
