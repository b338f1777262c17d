"""Draw the pictures of a plan that are not in the run folder yet."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from lora_eval.errors import HostError, LoraFileError, RunError
from lora_eval.files import file_sha256
from lora_eval.host.protocol import Drawn, Host, Job
from lora_eval.lora.adapter_match import LoraFit
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.plan.checkpoints import PlannedLora
from lora_eval.scorecard.plan.plan import Cell, Plan
from lora_eval.scorecard.plan.ranges import format_number

# pictures that may wait to be written: some seconds of a disk that is slower than the model
WAITING = 64


@dataclass
class DrawResult:
    """What drawing came to.

    Attributes:
        drawn: pictures drawn now.
        kept: pictures found finished.
        without_effect: checkpoints whose every picture at their largest weight equals weight 0, by
            name, with the number of layers the host says it patches.
    """

    drawn: int = 0
    kept: int = 0
    without_effect: dict[str, int] = field(default_factory=dict)


def draw(host: Host, plan: Plan, folder: RunFolder, job: Job, batch_size: int | None = None) -> DrawResult:
    """Draw what is missing, batch by batch, checking that each LoRA really took.

    A batch of which any picture is missing is drawn whole and only the missing ones are written, so an
    interrupted run ends with the bytes of an undisturbed one.

    Args:
        job: ``total`` should be ``len(plan)``; it is checked before every batch.
        batch_size: None takes the plan's.

    Raises:
        HostError: another model is loaded, or a LoRA left a picture untouched that the host did not
            confirm to patch.
        LoraFileError: a LoRA file is missing, has changed, or does not fit the model.
        Interrupted: the user stopped it; finished pictures stay.
        RunError: a picture cannot be written.
    """
    result = DrawResult()
    batches = list(plan.batches(batch_size))
    missing = [[cell for cell in batch if not folder.finished(cell)] for batch in batches]
    result.kept = len(plan) - sum(map(len, missing))
    job.resume_from(result.kept)
    layers: dict[str, int] = {}
    if any(missing):
        _check_model(host, plan)
        notes: dict[str, list[str]] = {}
        for planned in plan.loras:
            _check_file(planned)
            fit = _check_lora(host, planned)
            layers[planned.name] = fit.layers
            if fit.notes:
                notes[planned.name] = list(fit.notes)
        if notes:
            folder.write_lora_notes(notes)
    current: PlannedLora | None = None
    with _Writer(folder) as writer:
        for batch, wanted in zip(batches, missing, strict=True):
            job.check()
            lora = batch[0].lora
            if wanted:
                _check_model(host, plan)
                if lora is not None and lora != current:
                    _check_file(lora)
                current = lora
                job.say(_line(batch))
                for cell, drawn in zip(batch, _generate(host, plan, batch), strict=True):
                    if cell in wanted:
                        writer.save(cell, drawn)
                result.drawn += len(wanted)
                job.advance(len(wanted))
    for name in unchanged(plan, folder):
        # where nothing was drawn in this call the host was not asked yet
        lora = next(planned for planned in plan.loras if planned.name == name)
        result.without_effect[name] = layers.get(name) or _check_lora(host, lora).layers
    return result


class _Writer:
    """Writes pictures while the next are drawn: a PNG of 512 px takes longer than a tenth of a fast model's second.

    Encoding and the disk leave Python to others. Leaving the block waits for all that was handed in, whatever ended
    it, so what was drawn is there after an interrupt too.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1, "lora-eval-pictures")
        self._waiting: deque[Future[None]] = deque()

    def save(self, cell: Cell, drawn: Drawn) -> None:
        """Hand in a picture. Raises RunError when an earlier one could not be written."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= WAITING):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._folder.save_image, cell, drawn))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            for written in self._waiting:
                written.result()


def unchanged(plan: Plan, folder: RunFolder) -> list[str]:
    """Names of the checkpoints whose every picture at the largest weight equals weight 0 pixel by pixel."""
    return [lora.name for lora in plan.loras if _same_as_base(plan, folder, lora)]


def _generate(host: Host, plan: Plan, batch: list[Cell]) -> list[Drawn]:
    pictures = host.generate([cell.request for cell in batch], plan.sampling, plan.lora_use(batch[0]))
    if len(pictures) != len(batch):
        raise HostError(f"{host.info().name} returned {len(pictures)} pictures for {len(batch)}; run it again")
    size = (plan.sampling.width, plan.sampling.height)
    for cell, drawn in zip(batch, pictures, strict=True):
        if drawn.image.size != size:
            raise HostError(
                f"{host.info().name} drew {cell.id} in {drawn.image.size[0]}x{drawn.image.size[1]} instead of "
                f"{size[0]}x{size[1]}; switch off its upscaling and give a size the model can draw"
            )
    return pictures


def _check_model(host: Host, plan: Plan) -> None:
    model = host.model()
    if (model.name, model.sha256) != (plan.model["name"], plan.model["sha256"]):
        raise HostError(
            f"the loaded model is {model.name}, this run draws with {plan.model['name']}; "
            "load that again and run the same command, finished pictures are kept"
        )


def _check_file(lora: PlannedLora) -> None:
    path = Path(lora.path)
    if not path.is_file():
        raise LoraFileError(f"{path} is gone; put it back and run the same command, finished pictures are kept")
    if file_sha256(path) != lora.sha256:
        raise LoraFileError(f"{path} changed since this run began; start a new run folder for the new file")


def _check_lora(host: Host, lora: PlannedLora) -> LoraFit:
    fit = host.check_lora(Path(lora.path))
    if fit.layers < 1:
        raise HostError(f"{lora.path} matches no layer of {host.model().name}; is it for another model family?")
    return fit


def _same_as_base(plan: Plan, folder: RunFolder, lora: PlannedLora) -> bool:
    """Whether the largest weight left every picture as weight 0 drew it.

    One differing picture settles it, so a LoRA that works costs two file reads.
    """
    mine = [cell for cell in plan.cells() if cell.lora == lora]
    weight = max((cell.weight for cell in mine), key=abs)
    for cell in (cell for cell in mine if cell.weight == weight):
        with_lora = _pixels(folder, cell)
        without = _pixels(folder, Cell(None, 0.0, cell.prompt, cell.seed))
        if with_lora.shape != without.shape or not np.array_equal(with_lora, without):
            return False
    return True


def _pixels(folder: RunFolder, cell: Cell) -> np.ndarray:
    path = folder.image_path(cell)
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise RunError(f"{path} cannot be read ({error}); delete it and run the same command") from None


def _line(batch: list[Cell]) -> str:
    cell = batch[0]
    name = f"{cell.lora.name} at {format_number(cell.weight)}" if cell.lora else "without LoRA"
    return f"drawing {name}: {cell.prompt.id}, seed {cell.seed}"
