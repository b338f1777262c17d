"""When a run ends before its last step: what diverges, and what no longer gets better."""

from __future__ import annotations

import math

from lora_eval.training.config import TrainConfig
from lora_eval.training.resume import Progress
from lora_eval.training.step import StepResult
from lora_eval.training.watch import Decline

FAR_ABOVE = 3.0
FAR_STEPS = 20
SKIPS = 20


class Diverged(Exception):
    """The loss or the gradient is not a number, or far above the start for long."""


class Early(Exception):
    """Validation loss or test pictures have not got better for as long as the config allows."""


class Stopping:
    """Looks at every result of a run and raises when it should go no further.

    Args:
        config: ``early_stop`` and ``sample_early_stop``.
        progress: counted on here, so that a resumed run stops where an undisturbed one does.
    """

    def __init__(self, config: TrainConfig, progress: Progress) -> None:
        self._config, self._progress = config, progress
        self._skipped = 0

    def update(self, step: int, result: StepResult) -> None:
        """After an update. Raises Diverged."""
        if not result.applied and math.isfinite(result.loss):
            self._skipped += 1
            if self._skipped < SKIPS:
                return
            raise Diverged(f"gradients overflowed in {SKIPS} steps in a row up to step {step}")
        self._skipped = 0
        if not result.finite:
            what = "loss" if not math.isfinite(result.loss) else "gradient"
            raise Diverged(f"the {what} is {result.loss if what == 'loss' else result.grad_norm} at step {step}")
        progress = self._progress
        progress.high = progress.high + 1 if result.loss_debiased > FAR_ABOVE else 0
        if progress.high >= FAR_STEPS:
            raise Diverged(
                f"the loss is over {FAR_ABOVE:g} times that before training since step {step - FAR_STEPS + 1}"
            )

    def validation(self, step: int, loss: float) -> None:
        """After a validation. Raises Early."""
        progress = self._progress
        best = progress.best
        if best is None or loss < best[1]:
            progress.best, progress.stale = (step, loss), 0
            return
        progress.stale += 1
        if self._config.early_stop and progress.stale >= self._config.early_stop:
            raise Early(
                f"stopped at step {step}: the validation loss has not improved since step {best[0]} "
                f"({progress.stale} validations)"
            )

    def pictures(self, step: int, found: Decline | None) -> None:
        """After test pictures were measured. Raises Early."""
        limit = self._config.sample_early_stop
        if found is not None and limit and found.count >= limit:
            raise Early(f"stopped at step {step}: {found.line()}")
