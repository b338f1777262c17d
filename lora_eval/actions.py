"""What the tabs and the REST routes start: the same functions for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_eval.errors import HostError, Interrupted, RunError
from lora_eval.host.protocol import Host
from lora_eval.jobs import Handle, JobQueue

if TYPE_CHECKING:
    from lora_eval.training.config import TrainConfig

HostGetter = Callable[[], Host]


@dataclass
class ScoreOrder:
    """What a scorecard run is asked for; None means "chosen by the program".

    Attributes:
        loras: LoRA files, one or several checkpoints.
        data: folder of reference pictures.
        out: run folder; the same again goes on where it stopped.
        weights: range as in the X/Y/Z plot. seeds, prompts: how many. suite: shipped name or file.
        preset, kind, trigger, class_word, encoder: see ``scorecard.plan.make_plan``.
        sampling: names of the WebUI's txt2img: sampler, scheduler, steps, cfg_scale, width, height, clip_skip.
        batch_size: pictures drawn at once.
    """

    loras: list[Path]
    data: Path | None = None
    out: Path | None = None
    weights: str | None = None
    seeds: int | None = None
    prompts: int | None = None
    suite: str | None = None
    preset: str = "standard"
    kind: str | None = None
    trigger: str | None = None
    class_word: str | None = None
    encoder: str = "auto"
    sampling: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None


def submit_train(queue: JobQueue, host: HostGetter, config: TrainConfig, resume: bool = False) -> str:
    """Put a training run in line; returns the job's id. Raises ConfigError at once for a config that cannot run."""
    config.require()

    def run(handle: Handle) -> dict[str, Any]:
        from lora_eval.training.loop import train

        handle.say("starting")
        holder = host()
        with handle.job(holder.job(f"training {config.run_name()}", 1)) as job:
            result = train(holder, config, job=job, resume=resume)
        handle.result = as_json(result)
        if result.stopped == "interrupted":
            raise Interrupted(result.message)
        if result.stopped == "diverged":
            raise RunError(result.message)
        return handle.result

    return queue.submit("train", config.run_name(), run)


def submit_score(queue: JobQueue, host: HostGetter, order: ScoreOrder) -> str:
    """Put a scorecard run in line; returns the job's id."""
    if not order.loras:
        raise HostError("no LoRA is chosen; name at least one")
    names = ", ".join(path.stem for path in order.loras[:3]) + (", ..." if len(order.loras) > 3 else "")

    def run(handle: Handle) -> dict[str, Any]:
        from lora_eval.scorecard.run import score

        handle.say("starting")
        holder = host()
        with handle.job(holder.job(f"scorecard of {names}", 1)) as job:
            return as_json(score(holder, order, job))

    return queue.submit("score", names, run)


def check_folder(
    data: Path, metadata: Path | None = None, trigger: str | None = None, resolution: int | None = None
) -> dict[str, Any]:
    """The dataset check as JSON: counts and findings, errors first."""
    from lora_eval.dataset.check import check
    from lora_eval.dataset.folder import scan

    dataset = scan(data, metadata)
    found = check(dataset, trigger=trigger, resolution=resolution)
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
