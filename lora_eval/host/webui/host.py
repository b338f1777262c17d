"""What A1111 and Forge share: the queue, progress, and drawing through ``process_images``.

Facts about the hosts that the code leans on are in the adapters' docstrings with the host's file and function. The
host's own modules are imported inside functions: this package imports without a WebUI.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_eval.errors import HostError, Interrupted, LoraEvalError, LoraFileError
from lora_eval.host.current import current_settings
from lora_eval.host.protocol import (
    BorrowedModel,
    Drawn,
    HostInfo,
    ImageRequest,
    Job,
    LoraUse,
    ModelInfo,
    Sampling,
)
from lora_eval.host.webui.draw import txt2img
from lora_eval.host.webui.parts import WebuiParts
from lora_eval.host.webui.queue import QueueLock, WebuiJob, reload_watch
from lora_eval.host.webui.staging import Staging, fits_tag
from lora_eval.lora.adapter_match import LoraFit

if TYPE_CHECKING:
    from PIL import Image


_PACKAGES = ("torch", "numpy", "pillow", "gradio", "open_clip_torch", "transformers", "safetensors")


def networks() -> Any:
    """The module of the host's built-in Lora extension, which both hosts call ``networks``."""
    module = sys.modules.get("networks")
    if module is None or not hasattr(module, "loaded_networks"):
        raise HostError("the WebUI's built-in Lora extension is off; enable it under Extensions and restart")
    return module


class WebuiHost(WebuiParts):
    """A Stable Diffusion WebUI from the inside. Subclasses know how it holds its model."""

    name = "webui"

    def __init__(self) -> None:
        self._lock = QueueLock()
        reload_watch.guard(self._lock)
        self._job: WebuiJob | None = None
        self._worker: int | None = None
        self._run_model: tuple[str, ...] | None = None
        self._staging: Staging | None = None
        self._known: dict[tuple[str, int, int, str], LoraFit] = {}

    # -- who and where ----------------------------------------------------------------------------

    def info(self) -> HostInfo:
        from modules import launch_utils, shared

        found = {}
        for package in _PACKAGES:
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        commit = launch_utils.commit_hash()
        version = launch_utils.git_tag() + ("" if commit == "<none>" else f" ({commit[:8]})")
        return HostInfo(self.name, version, str(shared.device), found)

    def model(self) -> ModelInfo:
        self._check_same_model()
        model = self._loaded()
        if model is None:
            if self._lock.held and not self._lock.mine:
                raise HostError("another checkpoint was chosen; it is loaded when the running job is over")
            with self._turn("loading the checkpoint"):
                model = self._load()
        if self._run_model is None and self._job is not None:
            self._run_model = self._identity()
        return self._describe(model)

    @property
    def lora_folder(self) -> Path:
        from modules import shared

        return Path(shared.cmd_opts.lora_dir).absolute()

    @property
    def output_folder(self) -> Path:
        from modules import paths_internal

        chosen = current_settings().output
        return chosen if chosen is not None else Path(paths_internal.default_output_dir).absolute() / "lora-eval"

    def samplers(self) -> list[str]:
        from modules import sd_samplers

        return [sampler.name for sampler in sd_samplers.all_samplers]

    def native_size(self) -> tuple[int, int]:
        """(width, height) in pixels the checkpoint was made for, or what the settings say instead. Raises HostError."""
        side = current_settings().size
        if side == 0:
            return super().native_size()
        # REST sets an option to any number, whatever its slider allows
        if side % 8 or not 64 <= side <= 2048:
            raise HostError(
                f"the picture size in the settings is {side}; choose 0 or a multiple of 8 from 64 to 2048 there"
            )
        return side, side

    def interrogators(self) -> dict[str, Callable[[Image.Image], str]]:
        from lora_eval.host.webui.interrogate import INTERROGATORS

        def in_turn(ask: Callable[[Image.Image], str]) -> Callable[[Image.Image], str]:
            def say(picture: Image.Image) -> str:
                with self._turn("LoRA Eval"):
                    return ask(picture)

            return say

        return {name: in_turn(ask) for name, ask in INTERROGATORS.items()}

    def refresh_loras(self) -> None:
        networks().list_available_networks()
        # the cards' directory listings are cached apart from the list (modules/ui_extra_networks.py, ``lister``); a
        # file or card written since stays unseen until they are dropped. Older WebUIs cache none
        pages = getattr(sys.modules.get("modules.ui_extra_networks"), "extra_pages", ())
        for lister in (getattr(page, "lister", None) for page in list(pages)):
            if lister is not None:
                lister.reset()

    @property
    def staging(self) -> Staging:
        """The LoRA files staged in the host's folder."""
        if self._staging is None:
            self._staging = Staging(self.lora_folder)
        return self._staging

    def _current(self) -> Any:
        """The model in memory. Called with the queue held, after :meth:`_load`."""
        model = self._loaded()
        if model is None:
            raise HostError("the checkpoint changed meanwhile; run it again")
        return model

    def waiting(self) -> int:
        return self._lock.waiting

    # -- jobs and progress ------------------------------------------------------------------------

    @contextmanager
    def job(self, title: str, total: int) -> Iterator[Job]:
        """Work in the host's progress bar. The host's queue is taken batch by batch, or by a borrow as a whole."""
        if self._job is not None:
            raise HostError(f"{title!r} cannot start while {self._job.title!r} runs; wait for it or interrupt it")
        self._job, self._run_model = WebuiJob(self, title, total), None
        self._worker = threading.get_ident()
        try:
            yield self._job
        finally:
            self._job, self._worker, self._run_model = None, None, None
            if self._staging is not None and self._staging.clear():
                self.refresh_loras()

    @contextmanager
    def _turn(self, title: str) -> Iterator[None]:
        """The host's queue is ours and its progress bar shows the job."""
        if self._lock.mine:
            yield
            return
        from modules import shared

        with self._lock:
            shared.state.begin(job=title if self._job is None else self._job.title)
            try:
                if self._job is not None:
                    self.show(self._job)
                yield
            finally:
                if self._job is not None and self.stop_asked(self._job):
                    self._job._stop = True
                shared.state.end()
                # end() leaves them set, and whoever draws next without begin() would get no pictures
                shared.state.interrupted = shared.state.stopping_generation = shared.state.skipped = False

    def show(self, job: Job) -> None:
        """Mirror a job into the host's progress bar, if the queue is ours."""
        if not self._lock.mine:
            return
        from modules import shared

        state = shared.state
        state.job_count, state.job_no = job.total, job.done
        state.sampling_step = state.sampling_steps = 0
        state.textinfo = job.text or job.title
        if job.eta is not None and 0 < job.done < job.total:
            # the host computes its ETA as elapsed / progress - elapsed; give it the elapsed time that yields ours
            state.time_start = time.time() - job.eta * job.done / (job.total - job.done)

    def stop_asked(self, job: Job) -> bool:
        """Whether the host's Interrupt was pressed while the queue was ours."""
        if job is not self._job or not self._lock.held:
            return False
        from modules import shared

        return reload_watch.stopped(shared.state)

    def stop_batch(self, job: Job) -> None:
        """Press the host's Interrupt for the batch that this job is drawing."""
        if job is self._job and self._lock.held:
            from modules import shared

            shared.state.interrupt()

    # -- drawing ----------------------------------------------------------------------------------

    def generate(
        self, requests: Sequence[ImageRequest], sampling: Sampling, lora: LoraUse | None = None
    ) -> list[Drawn]:
        if not requests:
            return []
        self._check_sampler(sampling.sampler)
        with self._turn("LoRA Eval"), self._same_model():
            self._describe(self._load())
            if self._run_model is None and self._job is not None:
                self._run_model = self._identity()
            use, fit = (None, LoraFit(0)) if lora is None else self._prepare(lora)
            try:
                drawn = self._in_equal_chunks(requests, sampling, use, fit.misfits)
                if use is not None and lora is not None:
                    self._check_applied(use.path, use.path.stem, use.weight, fit.layers)
                elif not any("<lora:" in r.prompt for r in requests) and networks().loaded_networks:
                    names = ", ".join(net.name for net in networks().loaded_networks)
                    raise HostError(f"LoRA {names} is on in pictures that should show the base model; turn it off")
                return drawn
            finally:
                if self._job is None and self._staging is not None and self._staging.clear():
                    self.refresh_loras()

    def _check_sampler(self, name: str) -> None:
        known = self.samplers()
        if name not in known:
            raise HostError(f"unknown sampler {name!r}; this WebUI has {', '.join(known)}")

    def switched(self, job: Job) -> str:
        """Why a loan must not go on. A sweep looks at each batch instead: what it only measures needs no model."""
        return self._switch() if job is self._job and self._lock.mine else ""

    def _switch(self) -> str:
        """How what is chosen now differs from what the job began with, and the mend; "" where it does not."""
        begun = self._run_model
        if begun is None or (now := self._identity()) == begun:
            return ""
        was, new = (Path(names[0]).name for names in (begun, now))
        if was == new:
            return "the VAE or precision was switched in mid-run; what is done is kept, set it back and press Resume"
        return f"the checkpoint was switched to {new} in mid-run; what is done is kept, load {was} and press Resume"

    def _check_same_model(self) -> None:
        if self._job is None or self._worker != threading.get_ident():
            return
        if why := self._switch():
            self._job.pause(why)
            raise Interrupted(why)

    @contextmanager
    def _same_model(self) -> Iterator[None]:
        """A switch before or meanwhile pauses the job, whatever else it makes go wrong."""
        self._check_same_model()
        try:
            yield
        except LoraEvalError:
            self._check_same_model()
            raise
        self._check_same_model()

    def preview(self, requests: Sequence[ImageRequest], sampling: Sampling) -> list[Drawn]:
        """Draw with the borrowed model as it is now; random generators stay as they are."""
        import torch

        from lora_eval.host.restore import kept_random

        self._check_sampler(sampling.sampler)
        with kept_random(), torch.no_grad(), self._pinned():
            return self._in_equal_chunks(requests, sampling, None) if requests else []

    def _in_equal_chunks(
        self, requests: Sequence[ImageRequest], sampling: Sampling, use: LoraUse | None, misfits: int = 0
    ) -> list[Drawn]:
        """Hosts pad the prompts of a batch to one length, which would change the shorter ones: so cut by length."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, request in enumerate(requests):
            key = (self._chunks(request.prompt), self._chunks(request.negative_prompt))
            groups.setdefault(key, []).append(index)
        drawn: dict[int, Drawn] = {}
        for indices in groups.values():
            if self._job is not None:
                self._job.check()
            some = [requests[i] for i in indices]
            drawn.update(zip(indices, txt2img(some, sampling, use, self._shown, misfits), strict=True))
        return [drawn[index] for index in range(len(requests))]

    def _shown(self) -> None:
        if self._job is not None:
            self.show(self._job)

    # -- training ---------------------------------------------------------------------------------

    @contextmanager
    def borrow_model(self) -> Iterator[BorrowedModel]:
        import torch

        with self._turn("LoRA training"):
            model = self._load()
            info = self._describe(model)
            self._refuse(model)
            if self._run_model is None and self._job is not None:
                self._run_model = self._identity()
            with self._lend(model, info) as loan:
                try:
                    with torch.enable_grad():
                        yield loan
                finally:
                    loan.close()

    # -- LoRA files -------------------------------------------------------------------------------

    def check_lora(self, path: Path) -> LoraFit:
        with self._turn("checking a LoRA"), self._same_model():
            self._load()
            return self._checked(Path(path))[0]

    def _checked(self, path: Path) -> tuple[LoraFit, bool]:
        """(how it fits, whether this file was new here). Read once for each content and checkpoint."""
        try:
            status = os.stat(path)
        except OSError:
            raise LoraFileError(f"{path} is missing; was it moved or deleted?") from None
        key = (str(path), status.st_mtime_ns, status.st_size, "\n".join(self._identity()))
        new = key not in self._known
        if new:
            self._known[key] = self._fit(path)
        return self._known[key], new

    def _prepare(self, lora: LoraUse) -> tuple[LoraUse, LoraFit]:
        """The LoRA under a name that the host resolves to this very file and content, and how it fits."""
        fit, new = self._checked(lora.path)
        if new:
            # another content may have been drawn under this name before; hosts cache by name and never look again
            self._forget_loras()
        if fits_tag(lora.path.stem) and self._resolves(lora.path):
            return lora, fit
        staged = self.staging.stage(lora.path)
        if not self._resolves(staged):
            raise HostError(f"the WebUI does not find {staged}; is its LoRA folder {self.lora_folder}?")
        return LoraUse(staged, lora.weight), fit

    def _resolves(self, path: Path) -> bool:
        if self.lora_folder.resolve() not in path.resolve().parents and not path.is_relative_to(self.lora_folder):
            return False
        module = networks()
        module.update_available_networks_by_names([path.stem])
        entry = module.available_networks.get(path.stem)
        return entry is not None and os.path.samefile(entry.filename, path)
