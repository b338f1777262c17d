"""What the tabs and the REST routes start: the same functions for both."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_eval.errors import ConfigError, HostError, Interrupted, RunError
from lora_eval.host.current import current_settings
from lora_eval.host.protocol import Host, Job
from lora_eval.i18n.language import speak
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.jobs import Handle, JobQueue
from lora_eval.service.library import run_roots

if TYPE_CHECKING:
    from lora_eval.dataset.captioning import CaptionOrder
    from lora_eval.training.config import TrainConfig

HostGetter = Callable[[], Host]
COMPARISONS = "comparisons"
COMPARED = ("compare.html", "compare.csv", "compare.json")
TERMS = "CLIP terms"
"""The captioner that every host has: terms that the scorecard's encoder is sure of."""


class _Followed:
    """A host whose jobs a :class:`Handle` follows; everything else is the host's own."""

    def __init__(self, host: Host, handle: Handle) -> None:
        self._host, self._handle = host, handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def job(self, title: str, total: int) -> AbstractContextManager[Job]:
        """The host's job, followed from its start to its end."""
        return self._handle.job(self._host.job(title, total))


def submit_train(queue: JobQueue, host: HostGetter, config: TrainConfig, resume: bool = False) -> str:
    """Put a training run in line; returns the job's id. Raises ConfigError at once for a config that cannot run."""
    config.require()

    def run(handle: Handle) -> dict[str, Any]:
        from lora_eval.training.loop import train
        from lora_eval.training.watch import load_watcher

        handle.say("starting")
        model = _model(handle, host())
        encoder = load_watcher(host(), config, current_settings().encoder, handle.say)
        # stopped before its first step it left nothing to go on with
        kept = handle.result.get("folder") if handle.again else None
        result = train(cast(Host, _Followed(host(), handle)), config, None, Path(kept) if kept else resume, encoder)
        handle.result = {**as_json(result), "model": model}
        if result.stopped == "interrupted":
            raise Interrupted(result.message)
        if result.stopped == "diverged":
            raise RunError(result.message)
        return handle.result

    return queue.submit("train", config.run_name(), run, resumable=True)


def submit_score(queue: JobQueue, host: HostGetter, asked: ScoreRequest) -> str:
    """Put a scorecard run in line; returns the job's id. Raises HostError when no LoRA is named."""
    if not asked.loras:
        raise HostError("no LoRA is chosen; name at least one")
    names = ", ".join(path.stem for path in asked.loras[:3]) + (", ..." if len(asked.loras) > 3 else "")

    def run(handle: Handle) -> dict[str, Any]:
        from lora_eval.service import estimate
        from lora_eval.service.scoring import score

        handle.say("starting")
        holder, settings = host(), current_settings()
        model = _model(handle, holder)
        each = estimate.seconds_each(holder.output_folder, asked) if asked.minutes is not None else None
        request = estimate.settled(asked, each, estimate.is_tiny(holder))
        # minutes are counted in pictures once: the speed may be another when the run is continued
        request = replace(
            request,
            budget=handle.result.get("budget", request.budget),
            batch_size=request.batch_size or settings.batch_size,
            encoder=request.encoder or settings.encoder,
        )
        known = handle.result.get("folder")
        out = Path(known) if known else request.out or new_score_folder(holder.output_folder, request.loras)
        # known from the start, so that an interrupted run can be found and continued
        handle.result = {"folder": str(out), "run": out.name, "model": model}
        if request.budget is not None:
            handle.result["budget"] = request.budget
        with speak(settings.language):
            card = score(cast(Host, _Followed(holder, handle)), request, out)
        found = {"verdict": card.verdict, "recommended": {"checkpoint": card.checkpoint, "weight": card.weight}}
        return {**handle.result, **found}

    return queue.submit("score", names, run, resumable=True)


def _model(handle: Handle, host: Host) -> str:
    """The model's name; a job that is gone on with waits for the one that it began with."""
    name = host.model().name
    begun = str(handle.result.setdefault("model", name))
    if begun != name:
        handle.paused = f"{name} is loaded, but this run began with {begun}; load {begun} and press Resume"
        raise Interrupted(handle.paused)
    return name


def compare_runs(output: Path, runs: Sequence[Path], at: Sequence[str] = ()) -> Path:
    """Set finished runs side by side; the folder, below ``output``, of the comparison's page and tables.

    Args:
        at: ``NAME:WEIGHT`` in place of a run's recommendation.

    Raises:
        ConfigError: fewer than two runs.
        RunError: runs that cannot be compared; one line with the mend.
    """
    from lora_eval.report.comparison import write_comparison
    from lora_eval.scorecard.comparison.compare import compare

    if len(runs) < 2:
        raise ConfigError("two runs are needed for a comparison; choose another one")
    names = "+".join(slug(run.name)[:40] for run in runs)
    folder = run_roots(output)[0] / COMPARISONS / names[:150]
    with speak(current_settings().language):
        return write_comparison(folder, compare(runs, at)).parent


def new_score_folder(output: Path, loras: Sequence[Path]) -> Path:
    """A run folder that is not there yet, named after the first LoRA."""
    base = f"{slug(loras[0].stem)}-scorecard"
    numbers = (output / (base if number == 1 else f"{base}-{number}") for number in range(1, 10_000))
    return next(folder for folder in numbers if not folder.exists())


def slug(text: str) -> str:
    """``text`` as a part of a path."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "lora"


def captioners(host: Host) -> list[str]:
    """Names of what can caption a folder on this host: its own interrogators and the terms of the image encoder."""
    return [*host.interrogators(), TERMS]


def submit_caption(
    queue: JobQueue, host: HostGetter, folder: Path, order: CaptionOrder, by: str = TERMS, metadata: Path | None = None
) -> str:
    """Put captions for a folder's pictures in line; returns the job's id.

    Args:
        by: one of :func:`captioners`.

    The job's result has ``data``, ``changed`` (how many captions), ``failed`` and ``notes`` (one line each).

    Raises:
        ConfigError: nothing of that name captions here.
    """
    if by not in (known := captioners(host())):
        raise ConfigError(f"nothing called {by!r} captions here; choose one of {', '.join(known)}")

    def run(handle: Handle) -> dict[str, Any]:
        from lora_eval.dataset.captioning import caption_folder

        handle.say("starting")
        holder = host()
        with handle.job(holder.job(f"Captions of {folder.name}", 1)) as job:

            def show(done: int, total: int) -> None:
                job.total = total
                job.advance(done - job.done, f"caption {done}/{total}")
                job.check()

            found = caption_folder(
                folder,
                order,
                metadata=metadata,
                captioner=None if by == TERMS else holder.interrogators()[by],
                progress=show,
                say=handle.say,
            )
        return {
            "data": str(folder),
            "changed": len(found.changes),
            "failed": found.failed,
            "notes": found.notes,
        }

    return queue.submit("caption", folder.name, run)


def check_folder(
    data: Path,
    metadata: Path | None = None,
    trigger: str | None = None,
    resolution: tuple[int, int] | int | None = None,
    class_word: str | None = None,
) -> dict[str, Any]:
    """The dataset check as JSON: counts and findings, errors first."""
    from lora_eval.dataset.check import check
    from lora_eval.dataset.folder import scan

    dataset = scan(data, metadata)
    found = check(dataset, trigger=trigger, resolution=resolution, class_word=class_word)
    return {
        "pictures": len(dataset),
        "errors": sum(finding.severity == "error" for finding in found),
        "findings": [asdict(finding) for finding in found],
    }


def as_json(value: Any) -> Any:
    """Dataclasses, paths and tuples as JSON has them."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_json(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [as_json(one) for one in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return str(value)
