"""What a run leaves on disk: checkpoints, the state to resume from, its record, and the published LoRA."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from lora_eval.errors import Interrupted, LoraFileError, RunError
from lora_eval.files import atomic_path
from lora_eval.log import logger
from lora_eval.lora.files import save_lora
from lora_eval.lora.layers import LoraNetwork
from lora_eval.training.optim import Averaged, Ema
from lora_eval.training.order import Order
from lora_eval.training.records import RunFacts, checkpoint_metadata, write_record
from lora_eval.training.result import TrainResult
from lora_eval.training.resume import Progress, save_state


class Keeper:
    """Writes what a run leaves, however it ends.

    Args:
        run: what stays the same over the run.
        network, optimizer, ema, scaler: what is trained and how.
        order: tells the epoch of a step.
        progress: the updates done.
        notes: go into the result; may grow until then.
    """

    def __init__(
        self,
        run: RunFacts,
        network: LoraNetwork,
        optimizer: torch.optim.Optimizer,
        ema: Ema | None,
        scaler: Any,
        order: Order,
        progress: Progress,
        notes: list[str],
    ) -> None:
        self._run, self._network, self._optimizer = run, network, optimizer
        self._ema, self._scaler, self._order = ema, scaler, order
        self._progress, self._notes = progress, notes

    def checkpoint(self, step: int) -> None:
        """A checkpoint and the state of the same step. Raises RunError, LoraFileError."""
        self._save(self._run.paths.checkpoint(step), step)
        self._save_state()

    def interrupted(self) -> TrainResult:
        """Somebody stopped it. Raises Interrupted when nothing has been trained yet."""
        step = self._progress.step
        if step == 0:
            raise Interrupted(f"Training {self._run.paths.name}: stopped before the first step")
        self.checkpoint(step)
        message = f"stopped at step {step} of {self._run.total}; resume goes on from there"
        return self._result(self._run.paths.checkpoint(step), "interrupted", message)

    def diverged(self, reason: str) -> TrainResult:
        """The last good checkpoint stays. Raises RunError when there is none."""
        kept = self._run.paths.checkpoints()
        mend = "lower learning_rate (a tenth is a good start) or add warmup_steps"
        if not kept:
            raise RunError(f"training diverged: {reason}; nothing was saved before, {mend}")
        step, path = kept[-1]
        message = f"training diverged: {reason}; the checkpoint of step {step} is kept; {mend}"
        return self._result(path, "diverged", message)

    def finished(self, stopped: str, message: str) -> TrainResult:
        """The end, planned or early: the LoRA under its own name, and in the host's LoRA folder where wanted."""
        paths, step = self._run.paths, self._progress.step
        # a finished run that was made longer: both WebUIs remember LoRAs by name, so the name is not given again
        earlier = paths.finished_step()
        final = paths.final if earlier in (None, step) else paths.checkpoint(step)
        try:
            self._save(final, step)
        except LoraFileError as error:
            # finite in fp32, too large for the file's dtype
            return self.diverged(str(error))
        self._save_state()
        published = None
        folder = self._run.host.lora_folder
        if self._run.config.publish and folder.resolve() != paths.folder.resolve():
            published = folder / final.name
            with atomic_path(published) as temporary:
                shutil.copyfile(final, temporary)
        return self._result(final, stopped, message, published)

    def _save(self, path: Path, step: int) -> None:
        epoch = self._order.batch(max(step * self._run.config.gradient_accumulation - 1, 0)).epoch + 1
        metadata = checkpoint_metadata(self._run, path.stem, step, epoch)
        with Averaged(self._ema):
            save_lora(path, self._network.state_dict(), metadata, self._run.config.save_dtype)

    def _save_state(self) -> None:
        scaler = self._scaler.state_dict() or None
        run = self._run
        save_state(run.paths.state, self._progress, run.config, self._network, self._optimizer, self._ema, scaler)

    def _result(self, lora: Path, stopped: str, message: str, published: Path | None = None) -> TrainResult:
        paths = self._run.paths
        checkpoints = paths.checkpoints()
        finished = paths.finished_step()
        if finished is not None:
            checkpoints = sorted([*checkpoints, (finished, paths.final)])
        result = TrainResult(
            paths.folder,
            lora,
            checkpoints,
            paths.history,
            stopped,
            message,
            self._progress.step,
            self._run.total,
            published,
            self._progress.best,
            self._notes,
        )
        write_record(self._run, result)
        logger.info("%s: %s (%s)", paths.name, stopped, message)
        return result
