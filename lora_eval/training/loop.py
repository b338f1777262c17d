"""Training: from a config to checkpoints and a history, on the host's own model."""

from __future__ import annotations

import contextlib
from contextlib import ExitStack
from pathlib import Path

import torch

from lora_eval.encoders.protocol import Encoder
from lora_eval.files import hold
from lora_eval.host.protocol import Host, Job, ModelInfo
from lora_eval.training.config import TrainConfig, load_config
from lora_eval.training.memory import free_memory, is_out_of_memory, keep_smaller, next_smaller
from lora_eval.training.prepare import check_model, read_items
from lora_eval.training.result import TrainResult
from lora_eval.training.run import RunPaths, check_space, last_run, new_run
from lora_eval.training.session import Session

__all__ = ["TrainResult", "train"]


def train(
    host: Host,
    config: TrainConfig,
    job: Job | None = None,
    resume: bool | Path = False,
    encoder: Encoder | None = None,
) -> TrainResult:
    """Train a LoRA on the host's model.

    Args:
        host: who holds Stable Diffusion.
        config: the settings.
        job: an exclusive job already begun; None asks the host for one.
        resume: go on with the latest unfinished run of this config, or with that of a run folder, instead of starting
            a new one.
        encoder: image and text encoder (:func:`lora_eval.encoders.registry.load_encoder`); with it the test pictures of
            ``sample_prompts`` are measured into ``samples.csv``.

    Returns:
        What was written. An interrupt after the first update is not an exception: checkpoint and resume state are
        saved and ``stopped`` says so.

    Raises:
        ConfigError, DatasetError, HostError, LoraFileError, RunError: one line each; nothing of the model is changed.
        Interrupted: stopped before the first update; nothing was trained.
    """
    config.require()
    info = host.model()
    check_model(config, info)
    _, items, _ = read_items(config)
    if isinstance(resume, Path):
        paths = RunPaths(resume, resume.name)
    else:
        paths = last_run(config, host) if resume else new_run(config, host)
    if resume:
        config = keep_smaller(config, load_config(paths.config))
    try:
        with hold(paths.lock, paths.folder, tidy=True):
            return _train(host, config, paths, info, job, bool(resume), sum(item.repeats for item in items), encoder)
    # also KeyboardInterrupt and an interpreter that ends: whatever it was, it goes on upward and leaves no empty folder
    except BaseException:
        with contextlib.suppress(OSError):
            paths.folder.rmdir()  # only when nothing was written into it
        raise


def _train(
    host: Host,
    config: TrainConfig,
    paths: RunPaths,
    info: ModelInfo,
    job: Job | None,
    resume: bool,
    shown: int,
    encoder: Encoder | None,
) -> TrainResult:
    # before the model is touched: an unwritable folder must not cost the encoding of a thousand pictures
    check_space(paths, config, 0, 0, [host.lora_folder] if config.publish else [])
    with ExitStack() as stack:
        if job is None:
            batches = -(-shown // config.batch_size)
            steps = -(-config.epochs * batches // config.gradient_accumulation)
            total = min(steps, config.max_steps or steps)
            job = stack.enter_context(host.job(f"Training {paths.name}", total))
        notes: list[str] = []
        while True:
            try:
                result = _borrow_and_run(host, config, paths, info, job, resume, notes, encoder)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                config = next_smaller(config, paths, resume, notes, error)
            # here, not in the handler: the exception's frames hold the tensors that did not fit
            free_memory()
            job.resume_from(0)
        if result.published is not None:
            host.refresh_loras()
    return result


def _borrow_and_run(
    host: Host,
    config: TrainConfig,
    paths: RunPaths,
    info: ModelInfo,
    job: Job,
    resume: bool,
    notes: list[str],
    encoder: Encoder | None,
) -> TrainResult:
    with ExitStack() as stack:
        borrowed = stack.enter_context(host.borrow_model())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.backends.cudnn.is_available():
            stack.enter_context(torch.backends.cudnn.flags(benchmark=False, deterministic=True))
        run = Session(host, config, paths, info, borrowed, job, encoder)
        run.notes += notes
        try:
            return run.go(resume)
        finally:
            run.close()
