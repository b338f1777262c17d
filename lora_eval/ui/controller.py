"""What the tabs ask for, as plain functions and values: a test can make the same journey without a page.

Long work goes through the job queue; everything here answers at once. State that must outlive a page or Reload UI is
in the queue and on disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError, LoraEvalError, RunError
from lora_eval.host.protocol import Host
from lora_eval.scorecard.plan.presets import ADAPTIVE, NAMES
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service import estimate, library, submit, training_pictures
from lora_eval.service.estimate import Estimate
from lora_eval.service.jobs import ENDED, RUNNING, JobQueue, JobState
from lora_eval.service.submit import HostGetter
from lora_eval.service.training_pictures import Checked
from lora_eval.training.config import TrainConfig, dump_config, make_config, to_dict
from lora_eval.training.templates import load_template
from lora_eval.ui.views import Finished, Proposal, ScoreView, TrainView, stamp_of

LIVE_IMAGES = 12


class Controller:
    """Where both tabs place their orders.

    Args:
        host: called when a host is needed, not before.
        queue: where jobs wait.
    """

    def __init__(self, host: HostGetter, queue: JobQueue) -> None:
        self._host = host
        self.queue = queue
        self._configs: dict[str, TrainConfig] = {}

    def host(self) -> Host:
        """The host. Raises HostError."""
        return self._host()

    # -- training ----------------------------------------------------------------------------------

    def template(self, kind: str, low_vram: bool) -> dict[str, Any]:
        """Settings of a shipped template."""
        return to_dict(load_template(f"{kind}_low_vram" if low_vram else kind))

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """A checked config. Raises ConfigError."""
        return make_config(values)

    def to_yaml(self, values: Mapping[str, Any]) -> str:
        """Settings as the text of a training config. Raises ConfigError."""
        return dump_config(make_config(values))

    def from_yaml(self, text: str) -> dict[str, Any]:
        """The text of a training config as settings, every one filled in. Raises ConfigError."""
        from lora_eval.reading.yaml_text import YamlError, parse

        try:
            values = parse(text) or {}
        except YamlError as error:
            where = f" in line {error.line}" if error.line else ""
            raise ConfigError(f"this is not YAML{where}; write `key: value` lines") from None
        if not isinstance(values, dict):
            raise ConfigError("this is not a list of `key: value` lines; see the templates")
        return to_dict(make_config(values))

    def check(
        self, folder: str, metadata: str | None, trigger: str, resolution: Any, class_word: str | None = None
    ) -> Checked:
        """Look at every picture of a training folder; without a resolution, as the model's own. Raises DatasetError."""
        training_pictures.folder_path(folder)
        side = TrainConfig(resolution=resolution).resolution
        if side is None:
            try:
                side = self.host().native_size()
            except LoraEvalError:
                side = None
        return training_pictures.check(folder, metadata, trigger, side, class_word)

    def save_captions(self, folder: str, metadata: str | None, captions: Mapping[str, str]) -> int:
        """See :func:`lora_eval.service.training_pictures.save_captions`."""
        return training_pictures.save_captions(folder, metadata, captions)

    def set_aside(self, folder: str, metadata: str | None, name: str) -> Path:
        """See :func:`lora_eval.service.training_pictures.set_aside`."""
        return training_pictures.set_aside(folder, metadata, name)

    def add_trigger(self, folder: str, metadata: str | None, trigger: str) -> int:
        """See :func:`lora_eval.service.training_pictures.add_trigger`."""
        return training_pictures.add_trigger(folder, metadata, trigger)

    def captioners(self) -> list[str]:
        """What can caption pictures here."""
        try:
            return submit.captioners(self.host())
        except LoraEvalError:
            return [submit.TERMS]

    def caption(
        self, folder: str, metadata: str | None, by: str, trigger: str = "", class_word: str = "", anew: bool = False
    ) -> str:
        """Put captions for pictures without one (``anew``: for all) in line; the job's id. Raises LoraEvalError."""
        from lora_eval.dataset.captioning import CaptionOrder
        from lora_eval.host.current import current_settings

        dataset = training_pictures.read(folder, metadata)
        order = CaptionOrder(trigger.strip(), class_word.strip(), overwrite=anew, encoder=current_settings().encoder)
        table = training_pictures.table_path(metadata)
        return submit.submit_caption(self.queue, self._host, dataset.root, order, by, table)

    def captioning(self) -> JobState | None:
        """The captioning that runs, or the last one."""
        return _latest(self.queue.list("caption"))

    def presets(self) -> list[str]:
        """Names of the kept settings."""
        from lora_eval.training.presets import preset_names

        try:
            return preset_names(self._presets())
        except LoraEvalError:
            return []

    def save_preset(self, name: str, values: Mapping[str, Any]) -> Path:
        """Keep settings under a name, without what belongs to one dataset. Raises ConfigError, RunError."""
        from lora_eval.training.presets import save_preset

        return save_preset(self._presets(), name, make_config(values))

    def load_preset(self, name: str) -> dict[str, Any]:
        """The kept settings of that name. Raises ConfigError."""
        from lora_eval.training.presets import load_preset

        return load_preset(self._presets(), name)

    def from_file(self, path: Path | str) -> tuple[dict[str, Any], list[str]]:
        """Settings of a YAML of ours or a TOML of kohya's, and what could not be taken over. Raises ConfigError."""
        from lora_eval.training.presets import read_settings

        values, notes = read_settings(path)
        make_config(values)
        return values, notes

    def _presets(self) -> Path:
        return self.host().output_folder / "presets"

    def train(self, values: Mapping[str, Any], resume: bool = False) -> str:
        """Put a training run in line; the job's id. Raises LoraEvalError for settings that cannot run."""
        config = make_config(values)
        config.require()
        if not Path(config.train_data_dir).expanduser().is_dir():
            raise ConfigError(f"{config.train_data_dir} is no folder; give the folder with the training pictures")
        job = submit.submit_train(self.queue, self._host, config, resume)
        self._configs[job] = config
        return job

    def training(self, shown: str = "") -> TrainView:
        """The run of that folder, or the latest: the running job's, else the last job's, else the last on disk."""
        job = _latest(self.queue.list("train"))
        if shown:
            folder: Path | None = Path(shown)
            job = job if job is not None and self._train_folder(job) == folder else None
        elif job is not None:
            folder = self._train_folder(job)
        else:
            folder = next(iter(self._runs(library.training_runs)), None)
        stamp = () if folder is None else stamp_of(folder, ("history.csv", "samples", "run.json"))
        running = job is not None and job.status == RUNNING
        return TrainView(job, folder, stamp, self._waiting() if running else 0)

    def _waiting(self) -> int:
        try:
            return self._host().waiting()
        except LoraEvalError:
            return 0

    def previews(self, job: JobState | None) -> int:
        """Test pictures that each step of a job's training will have; 0 where that is not known."""
        config = self._configs.get(job.id) if job is not None else None
        return 0 if config is None else len(config.sample_prompts) * config.samples_per_prompt

    def _train_folder(self, job: JobState) -> Path | None:
        if job.result.get("folder"):
            return Path(job.result["folder"])
        config = self._configs.get(job.id)
        if job.started is None:
            return None
        if config is None:
            found = library.newest((run / "config.yaml" for run in self._runs(library.training_runs)), job.started - 1)
            return None if found is None else found.parent
        base = config.run_name()
        roots = library.run_roots(self.host().output_folder)
        if config.output_dir:
            given = Path(config.output_dir).expanduser()
            roots = [given, given.parent]
        candidates = [
            path for root in roots for path in root.glob("*/config.yaml") if path.parent.name.startswith(base)
        ]
        found = library.newest(candidates, job.started - 1)
        return None if found is None else found.parent

    def _runs(self, which: Any) -> list[Path]:
        try:
            return list(which(self.host().output_folder))
        except LoraEvalError:
            return []

    def training_runs(self) -> list[Path]:
        """Training runs on disk, the latest first."""
        return self._runs(library.training_runs)

    # -- scorecards --------------------------------------------------------------------------------

    def loras(self) -> dict[str, Path]:
        """LoRA files by label."""
        host = self.host()
        return library.loras(host.lora_folder, host.output_folder)

    def samplers(self) -> list[str]:
        """Names of the host's samplers; none while there is no host."""
        try:
            return list(self.host().samplers())
        except LoraEvalError:
            return []

    def propose(self, run: Path) -> Proposal:
        """All checkpoints of a training run, with the kind it was trained as. Raises RunError without any."""
        files = library.checkpoints(run)
        by_name = {
            path.name: label
            for label, path in self.loras().items()
            if path.parent == run or path.name in {file.name for file in files}
        }
        labels = [by_name[path.name] for path in files if path.name in by_name]
        if not labels:
            raise RunError(f"{run} has no checkpoint yet; lower save_steps or wait for the end")
        kind = ""
        config = run / "config.yaml"
        if config.is_file():
            from lora_eval.training.config import read_yaml

            kind = str(read_yaml(config).get("kind") or "")
        return Proposal(labels, kind)

    def estimate(self, request: ScoreRequest) -> Estimate:
        """Number of pictures and the time they take. Raises ConfigError for a range that cannot be read."""
        each, tiny = self._speed(request)
        return estimate.estimate(request, each, tiny)

    def estimates(self, request: ScoreRequest) -> dict[str, Estimate]:
        """Preset -> what it would draw of the rest of the request; the budget counts for "adaptive" alone."""
        each, tiny = self._speed(request)
        found = {}
        for name in NAMES:
            given = replace(request, preset=name)
            if name != ADAPTIVE:
                given = replace(given, budget=None, minutes=None)
            found[name] = estimate.estimate(given, each, tiny)
        return found

    def _speed(self, request: ScoreRequest) -> tuple[float | None, bool]:
        try:
            host = self.host()
        except LoraEvalError:
            return None, False
        return estimate.seconds_each(host.output_folder, request), estimate.is_tiny(host)

    def score(self, request: ScoreRequest) -> str:
        """Put a scorecard run in line; the job's id. Raises LoraEvalError."""
        self.estimate(request)
        return submit.submit_score(self.queue, self._host, request)

    def scoring(self, shown: str = "") -> ScoreView:
        """The run of that folder, or the latest, as for training."""
        job = _latest(self.queue.list("score"))
        if shown:
            folder: Path | None = Path(shown)
            job = job if job is not None and job.result.get("folder") == shown else None
        elif job is not None:
            folder = Path(job.result["folder"]) if job.result.get("folder") else None
        else:
            folder = next(iter(self.scored_runs()), None)
        return ScoreView(
            job, folder, () if folder is None else stamp_of(folder, ("scorecard.json", "images", "report.html"))
        )

    def scored_runs(self) -> list[Path]:
        """Scorecard runs on disk, the latest first."""
        return self._runs(library.scored_runs)

    def history(self, most: int = 50) -> list[Finished]:
        """The runs on disk with what came out, the latest first."""
        found = []
        for folder in self.scored_runs()[:most]:
            try:
                card = library.read_scorecard(folder) or {}
            except LoraEvalError as error:
                card = {"verdict": str(error)}
            best = card.get("recommended") or {}
            files = [folder / name for name in (*library.SCORED, "scorecard.json")]
            changed = max(file.stat().st_mtime for file in files if file.is_file())
            when = datetime.fromtimestamp(changed).strftime("%Y-%m-%d %H:%M")
            found.append(
                Finished(folder, when, str(card.get("verdict") or ""), best.get("checkpoint"), best.get("weight"))
            )
        return found

    def compare(self, runs: Sequence[Path], at: str = "") -> Path:
        """Set finished runs side by side; the folder with the comparison's page and tables.

        Args:
            at: ``NAME:WEIGHT`` in place of a run's recommendation, one a line or after a comma.

        Raises:
            LoraEvalError: fewer than two runs, or runs that cannot be compared; one line.
        """
        parts = [part.strip() for part in re.split(r"[\n,]", at) if part.strip()]
        return submit.compare_runs(self.host().output_folder, runs, parts)

    def downloads(self, run: Path) -> list[Path]:
        """The finished reports of a run."""
        names = ("report.html", "cells.csv", "summary.csv", "scorecard.json")
        done = (run / "scorecard.json").is_file()
        return [run / name for name in names if done and (run / name).is_file()]

    def use_weight(self, run: Path, checkpoint: str, weight: float | str) -> Path:
        """Put checkpoint and weight to use: into the LoRA folder, its card written, the host's list refreshed.

        Returns the card's path. Raises LoraEvalError.
        """
        from lora_eval.files import read_json

        try:
            number = float(weight)
        except ValueError:
            raise ConfigError(f"weight is {weight!r}; write a number from 0 to 2") from None
        if not (run / "plan.json").is_file() and any((run / name).is_file() for name in library.SCORED):
            raise RunError(f"the run {run.name} was measured from a table; its LoRA's file is not known here")
        plan = read_json(run / "plan.json")
        found = next((lora for lora in plan.get("loras", ()) if lora.get("name") == checkpoint), None)
        if found is None:
            names = ", ".join(lora.get("name", "") for lora in plan.get("loras", ()))
            raise RunError(f"the run {run.name} has no LoRA {checkpoint!r}; it has {names}")
        host = self.host()
        lora = library.publish(Path(found["path"]), host.lora_folder)
        card = library.write_card(lora, number, str(plan.get("trigger") or ""))
        host.refresh_loras()
        return card

    # -- both --------------------------------------------------------------------------------------

    def interrupt(self, id: str = "", kind: str = "") -> bool:
        """Stop a job, or without an id the running one of a kind. False: there was nothing to stop."""
        if not id:
            running = next((job for job in self.queue.list(kind or None) if job.status == RUNNING), None)
            if running is None:
                return False
            id = running.id
        return self.queue.interrupt(id)

    def resume(self, id: str) -> bool:
        """Go on with a job that was paused, interrupted or failed. False: it cannot go on."""
        return self.queue.resume(id)

    def waiting(self) -> list[JobState]:
        """Jobs that run or wait, in their order."""
        return [job for job in self.queue.list() if job.status not in ENDED][::-1]


def _latest(jobs: list[JobState]) -> JobState | None:
    """Of jobs, newest first: the running one, else the one begun last, else the one that waits.

    A job that was taken out of the queue before it began has nothing to show.
    """
    running = [job for job in jobs if job.status == RUNNING]
    begun = sorted((job for job in jobs if job.started is not None), key=lambda job: -(job.started or 0.0))
    waiting = [job for job in jobs if job.status not in ENDED]
    return next(iter([*running, *begun, *waiting]), None)
