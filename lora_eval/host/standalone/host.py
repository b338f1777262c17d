"""Stable Diffusion without a WebUI: diffusers behind the host protocol.

Used by the command line, the standalone tabs and the tests. Prompts are plain text here: there is no
emphasis syntax, parentheses are characters (:mod:`lora_eval.host.standalone.text`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import lora_eval
from lora_eval.errors import HostError
from lora_eval.host.protocol import (
    BorrowedModel,
    Drawn,
    Host,
    HostInfo,
    ImageRequest,
    Job,
    LoraUse,
    ModelInfo,
    Sampling,
)
from lora_eval.host.shipped import TINY_MODEL
from lora_eval.log import logger
from lora_eval.lora.adapter_match import LoraFit
from lora_eval.reading.infotext import write_infotext

if TYPE_CHECKING:
    from lora_eval.host.standalone.lora import LoadedLora, LoraShelf
    from lora_eval.host.standalone.model import LoadedModel
    from lora_eval.host.standalone.text import TextCache

_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")


def default_model() -> Path:
    """The trained tiny Stable Diffusion that the package ships."""
    return TINY_MODEL


class StandaloneHost(Host):
    """diffusers as a host. The checkpoint is loaded when it is first needed.

    Args:
        model: folder in diffusers layout or single ``.safetensors`` checkpoint of SD1, SD2 or SDXL;
            None takes the shipped tiny model.
        device: ``auto`` (cuda, else mps, else cpu), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto`` (fp16 on CUDA, else fp32), ``fp32``, ``fp16`` or ``bf16``.
        output_folder: where run folders go; ``outputs`` in the working directory by default.
        lora_folder: where finished LoRAs go; ``loras`` in the output folder by default.
        progress: called with the running job whenever its state changes.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        output_folder: Path | str | None = None,
        lora_folder: Path | str | None = None,
        progress: Callable[[Job], None] | None = None,
    ) -> None:
        self._path = default_model() if model is None else Path(model)
        self._device, self._dtype = device, dtype
        self._output_folder = Path("outputs") if output_folder is None else Path(output_folder)
        self._lora_folder = self._output_folder / "loras" if lora_folder is None else Path(lora_folder)
        self._progress = progress
        self._loaded: LoadedModel | None = None
        self._texts: TextCache | None = None
        self._shelf: LoraShelf | None = None
        self._model_lock = threading.RLock()
        self._job_lock = threading.Lock()
        self._job: Job | None = None
        self._job_thread: int | None = None
        self._on_loan = False

    # -- identity ---------------------------------------------------------------------------------

    def info(self) -> HostInfo:
        from lora_eval.host.standalone.model import pick_device

        packages = {}
        for name in _PACKAGES:
            try:
                packages[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return HostInfo("standalone", lora_eval.__version__, str(pick_device(self._device)), packages)

    def model(self) -> ModelInfo:
        return self._load().info

    @property
    def shipped_model(self) -> bool:
        """Whether it draws with the shipped tiny model; known before that is loaded."""
        return self._path.resolve() == default_model().resolve()

    @property
    def lora_folder(self) -> Path:
        return self._lora_folder

    @property
    def output_folder(self) -> Path:
        return self._output_folder

    def samplers(self) -> list[str]:
        from lora_eval.host.standalone.sampling import sampler_names

        return sampler_names()

    def native_size(self) -> tuple[int, int]:
        """(width, height) in pixels the checkpoint was made for: the UNet's own sample size."""
        size = self._load().unet.config.sample_size
        if not size:
            return super().native_size()
        height, width = (size, size) if isinstance(size, int) else size
        return int(width) * 8, int(height) * 8

    def _load(self) -> LoadedModel:
        from lora_eval.host.standalone.lora import LoraShelf
        from lora_eval.host.standalone.model import load_model, pick_device, pick_dtype
        from lora_eval.host.standalone.text import TextCache

        with self._model_lock:
            if self._loaded is None:
                device = pick_device(self._device)
                self._loaded = load_model(self._path, device, pick_dtype(self._dtype, device))
                self._texts = TextCache(self._loaded)
                self._shelf = LoraShelf(self._loaded)
            return self._loaded

    def _forget(self) -> None:
        """Load the checkpoint anew when it is next needed."""
        self._loaded = self._texts = self._shelf = None

    # -- drawing ----------------------------------------------------------------------------------

    def generate(
        self, requests: Sequence[ImageRequest], sampling: Sampling, lora: LoraUse | None = None
    ) -> list[Drawn]:
        import torch

        from lora_eval.host.standalone.sampling import check_sampling

        check_sampling(sampling)
        with self._model_lock:
            if self._on_loan:
                raise HostError("the model is on loan for training; draw with the borrowed model, or wait for its end")
            if not requests:
                return []
            self._load()
            assert self._shelf is not None
            with ExitStack() as stack:
                # the file is read outside inference mode: its tensors outlive this call
                used = None if lora is None or not lora.weight else self._shelf.get(Path(lora.path))
                stack.enter_context(torch.inference_mode())
                if used is not None and lora is not None:
                    stack.enter_context(used.applied(lora.weight))
                return self._draw(requests, sampling, lora if used is not None else None, used)

    def _draw(
        self, requests: Sequence[ImageRequest], sampling: Sampling, lora: LoraUse | None, used: LoadedLora | None
    ) -> list[Drawn]:
        from lora_eval.host.standalone.sampling import decode, sample
        from lora_eval.host.standalone.text import conditioning

        model, texts = self._load(), self._texts
        assert texts is not None
        texts.variant = (
            (used.content, lora.weight) if used is not None and lora is not None and used.changes_text else None
        )
        drawn: list[Drawn | None] = [None] * len(requests)
        try:
            # padding to the longest prompt of the batch would change the others: one group a length
            groups: dict[tuple[int, int], list[int]] = {}
            for index, request in enumerate(requests):
                lengths = texts.chunks(request.prompt), texts.chunks(request.negative_prompt)
                groups.setdefault(lengths, []).append(index)
            for (chunks, negative_chunks), members in groups.items():
                chosen = [requests[index] for index in members]
                skip = sampling.clip_skip
                positive = [texts.get(one.prompt, chunks, skip) for one in chosen]
                negative = [texts.get(one.negative_prompt, negative_chunks, skip, negative=True) for one in chosen]
                latents = sample(
                    model,
                    [one.seed for one in chosen],
                    conditioning(positive, sampling.width, sampling.height),
                    conditioning(negative, sampling.width, sampling.height),
                    sampling,
                    self._check,
                )
                for index, picture in zip(members, decode(model, latents), strict=True):
                    drawn[index] = Drawn(picture, self._infotext(model, requests[index], sampling, lora, used))
        finally:
            texts.variant = None
        return [one for one in drawn if one is not None]

    def _check(self) -> None:
        # only the thread that runs the job is stopped by it
        if self._job is not None and self._job_thread == threading.get_ident():
            self._job.check()

    def _infotext(
        self,
        model: LoadedModel,
        request: ImageRequest,
        sampling: Sampling,
        lora: LoraUse | None,
        used: LoadedLora | None,
    ) -> str:
        prompt = request.prompt if lora is None else f"{request.prompt} {lora.tag}"
        return write_infotext(
            prompt,
            request.negative_prompt,
            {
                "Steps": sampling.steps,
                "Sampler": sampling.sampler,
                "Schedule type": sampling.scheduler,
                "CFG scale": f"{sampling.cfg_scale:g}",
                "Seed": request.seed,
                "Size": f"{sampling.width}x{sampling.height}",
                "Model hash": model.info.sha256[:10] or None,
                "Model": model.info.name,
                "Clip skip": sampling.clip_skip if sampling.clip_skip > 1 else None,
                "Lora hashes": None if lora is None or used is None else f"{lora.path.stem}: {used.short_hash}",
                "Version": f"lora-eval {lora_eval.__version__}",
            },
        )

    def check_lora(self, path: Path) -> LoraFit:
        with self._model_lock:
            self._load()
            assert self._shelf is not None
            return self._shelf.get(Path(path)).fit

    def refresh_loras(self) -> None:
        """Nothing to do: a LoRA is given by its path, and a changed file is noticed."""

    # -- jobs and loans ---------------------------------------------------------------------------

    @contextmanager
    def job(self, title: str, total: int) -> Iterator[Job]:
        """One at a time: a second thread waits here until the running job has ended."""
        if self._job_thread == threading.get_ident():
            raise HostError(
                f"job {title!r} cannot start inside job {self._job.title if self._job else ''!r}; end that first"
            )
        with self._job_lock:
            job = _StandaloneJob(title, total, self._progress)
            self._job, self._job_thread = job, threading.get_ident()
            logger.info("%s: started", title)
            try:
                job.report()
                yield job
            finally:
                self._job, self._job_thread = None, None
                logger.info("%s: ended after %.1f s, %d of %d done", title, job.seconds, job.done, job.total)

    def interrupt(self) -> bool:
        """Ask the running job to stop, from any thread. Returns whether there was one."""
        job = self._job
        if job is not None:
            job.interrupt()
        return job is not None

    @contextmanager
    def borrow_model(self) -> Iterator[BorrowedModel]:
        """See the protocol. When the borrower wrote into the model's tensors the checkpoint is read anew."""
        from lora_eval.host.restore import RandomState
        from lora_eval.host.standalone.borrow import ModuleState, StandaloneModel

        with self._model_lock:
            if self._on_loan:
                raise HostError("the model is on loan already; end that loan first")
            model, texts = self._load(), self._texts
            assert texts is not None
            random_state = RandomState()
            states = [ModuleState(name, module) for name, module in model.modules().items()]
            schedule = dict(model.schedule)
            borrowed = StandaloneModel(
                model, texts, lambda requests, sampling: self._draw(requests, sampling, None, None)
            )
            known = texts.keys()
            self._on_loan = True
            try:
                for module in model.modules().values():
                    module.eval().requires_grad_(False)
                yield borrowed
            finally:
                self._on_loan = False
                borrowed.close()
                # captions of a training set would otherwise stay in the device's memory
                texts.keep_only(known)
                written = [name for state in states for name in state.restore()]
                model.schedule = schedule
                random_state.restore()
                if written:
                    logger.warning(
                        "training wrote into %d tensors of the model (%s, ...); it is read anew from %s",
                        len(written),
                        written[0],
                        self._path,
                    )
                    self._forget()


class _StandaloneJob(Job):
    """A job that tells its progress to a function."""

    def __init__(self, title: str, total: int, progress: Callable[[Job], None] | None) -> None:
        super().__init__(title, total)
        self._tell = progress

    def report(self) -> None:
        if self._tell is not None:
            self._tell(self)
