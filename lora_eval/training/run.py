"""The run folder of a training job: names, places, and what is checked before the first step."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_eval.errors import LoraFileError, RunError
from lora_eval.files import is_held, make_folder, read_json, write_error, write_json
from lora_eval.host.protocol import Host
from lora_eval.lora.files import inspect_lora
from lora_eval.training.config import TrainConfig

RUNS = "lora-eval"
_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class RunPaths:
    """Where everything of a run lies. ``name`` is unique, because both WebUIs remember LoRAs by file name."""

    folder: Path
    name: str

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here."""
        return self.folder / ".lock"

    @property
    def record(self) -> Path:
        """``run.json``: host, model, versions, counts, how it ended."""
        return self.folder / "run.json"

    @property
    def references(self) -> Path:
        """``references.json``: training and held-out pictures."""
        return self.folder / "references.json"

    @property
    def state(self) -> Path:
        return self.folder / "state" / "state.safetensors"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def measured(self) -> Path:
        """``samples.csv``: the test pictures, measured."""
        return self.folder / "samples.csv"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def final(self) -> Path:
        """The finished LoRA."""
        return self.folder / f"{self.name}.safetensors"

    def finished_step(self) -> int | None:
        """Steps of the finished LoRA that is there; None when there is none, or it cannot be read."""
        try:
            return int(inspect_lora(self.final).metadata["ss_steps"])
        except (LoraFileError, KeyError, ValueError):
            return None

    def checkpoint(self, step: int) -> Path:
        """A checkpoint's file."""
        return self.folder / f"{self.name}-{step:06d}.safetensors"

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, path) of the checkpoints that are there, by step; the finished LoRA is not among them."""
        pattern = re.compile(re.escape(self.name) + r"-(\d{6,})\.safetensors")
        found = ((pattern.fullmatch(path.name), path) for path in self.folder.glob("*.safetensors"))
        return sorted((int(match[1]), path) for match, path in found if match)


def runs_folder(host: Host) -> Path:
    """Where runs without an output_dir go: ``<outputs>/lora-eval``."""
    folder = host.output_folder
    return folder if folder.name == RUNS else folder / RUNS


def cache_folder(host: Host) -> Path:
    """Where encodings are kept between runs."""
    return runs_folder(host) / "cache"


def new_run(config: TrainConfig, host: Host) -> RunPaths:
    """A folder and name that no earlier run has: the config's own, else with ``-2``, ``-3``, ... behind.

    With ``output_dir`` the run lies in that folder itself when its last part is the LoRA's name (so the source
    article's ``output_dir: ./output/my_style_lora`` gives ``my_style_lora.safetensors`` and ``logs`` there), else in
    a folder of the LoRA's name inside it.
    """
    base = config.run_name()
    for number in range(1, 10_000):
        name = base if number == 1 else f"{base}-{number}"
        paths = RunPaths(_place(config, host, base, name), name)
        taken = config.publish and (host.lora_folder / f"{name}.safetensors").exists()
        if not taken and not _used(paths):
            return paths
    raise RunError(f"there are 9,999 runs named {base}; choose another name")


def last_run(config: TrainConfig, host: Host) -> RunPaths:
    """The latest run of this config that can be resumed. Raises RunError when there is none."""
    base = config.run_name()
    found = None
    for number in range(1, 10_000):
        name = base if number == 1 else f"{base}-{number}"
        paths = RunPaths(_place(config, host, base, name), name)
        if paths.state.is_file():
            found = paths
        elif not paths.folder.exists() and number > 1:
            break
    if found is None:
        raise RunError(f"nothing to resume in {_place(config, host, base, base)}; start it without resume")
    return found


def _place(config: TrainConfig, host: Host, base: str, name: str) -> Path:
    if config.output_dir is None:
        return runs_folder(host) / name
    given = Path(config.output_dir).expanduser()
    return given.parent / name if given.resolve().name == base else given / name


def _used(paths: RunPaths) -> bool:
    if not paths.folder.is_dir():
        return paths.folder.exists() and paths.folder.name != paths.name
    if paths.state.exists() or any(paths.folder.glob("*.safetensors")) or is_held(paths.lock):
        return True
    # a run that was stopped before its first step has a header and row 0 at most: its place is free again
    with contextlib.suppress(OSError):
        return len(paths.history.read_text(encoding="utf-8").splitlines()) > 2
    return False


def check_space(
    paths: RunPaths,
    config: TrainConfig,
    parameters: int,
    steps: int,
    extra: Sequence[Path] = (),
    epochs: float = 0.0,
) -> None:
    """Make sure that the run can be written before it starts.

    Args:
        parameters: trainable numbers of the LoRA.
        steps: all steps of the run.
        extra: other folders that will be written to.
        epochs: all epochs of the run.

    Raises:
        RunError: a folder cannot be written, or the disk lacks room for the checkpoints and the resume state.
    """
    for folder in (paths.folder, *extra):
        make_folder(folder)
        probe = folder / f".write-test-{os.getpid()}"
        try:
            probe.write_bytes(b"\0")
            probe.unlink()
        except OSError as error:
            raise write_error(folder, error) from error
    saves = 1 + (steps // config.save_steps if config.save_steps else 0)
    saves += int(epochs // config.save_epochs) if config.save_epochs else 0
    # parameters, two moments and an average in fp32, twice while the new state replaces the old
    needed = parameters * (_BYTES[config.save_dtype] * saves + 4 * 4 * 2) + 20_000_000
    free = shutil.disk_usage(paths.folder).free
    if free < needed:
        raise RunError(
            f"{paths.folder} has {free / 1e6:.0f} MB free, the run needs about {needed / 1e6:.0f} MB for {saves} "
            "checkpoint(s); free some space or raise save_steps"
        )


def write_references(paths: RunPaths, training: Sequence[dict[str, Any]], held_out: Sequence[dict[str, Any]]) -> None:
    """Write which pictures were trained on and which were held out: ``{"path", "caption", "sha256"}`` each."""
    write_json(paths.references, {"training": list(training), "held_out": list(held_out)})


def run_places(lora: Path, roots: Sequence[Path] = ()) -> list[Path]:
    """Where the run that made a LoRA may lie: beside the file, then under each of ``roots`` by the file's name.

    A name that ends in a number is first taken whole (``style-20260131`` by its date), then as a checkpoint's, whose
    step is no part of its run's name.
    """
    names = dict.fromkeys([lora.stem, re.sub(r"-\d{6,}$", "", lora.stem)])
    return [lora.parent, *(root / sub / name for name in names for root in roots for sub in ("", RUNS))]


def read_references(lora: Path, roots: Sequence[Path] = ()) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """(training, held-out) pictures of the run that made a LoRA, None when its run folder is not found.

    ``roots``: where runs lie, for example the host's output folder; see :func:`run_places`.
    """
    for folder in run_places(Path(lora), roots):
        path = folder / "references.json"
        if path.is_file():
            value = read_json(path)
            if not isinstance(value, dict) or not all(isinstance(value.get(k), list) for k in ("training", "held_out")):
                raise RunError(f"{path} is not a list of references; restore it or name the pictures yourself")
            return value["training"], value["held_out"]
    return None
