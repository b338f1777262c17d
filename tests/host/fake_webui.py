"""Stand-ins for the few modules of a WebUI that ``host/webui.py`` touches, for CI alone.

They copy what was seen on the real ones: a lock that is not re-entrant, interrupted pictures that come back
unfinished, LoRA found by the stem of the file, missing ones skipped without an error. What counts is seen in
``tests/live`` on real WebUIs.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lora_eval.errors import HostError, LoraFileError
from lora_eval.host.borrow import WebuiLoan
from lora_eval.host.protocol import Conditioning, ModelInfo
from lora_eval.host.webui.host import WebuiHost
from lora_eval.lora.adapter_match import LoraFit


class State:
    """``modules.shared_state.State`` as far as jobs go."""

    job, job_no, job_count, sampling_step, sampling_steps = "", 0, 0, 0, 0
    textinfo: str | None = None
    time_start = 0.0
    interrupted = stopping_generation = skipped = False

    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, job: str) -> None:
        self.begun.append(job)
        self.job, self.job_no, self.job_count = job, 0, -1
        self.interrupted = self.stopping_generation = self.skipped = False

    def end(self) -> None:
        self.job, self.job_count = "", 0

    def interrupt(self) -> None:
        self.interrupted = True

    def request_restart(self) -> None:
        self.interrupt()


class Lock:
    """``modules.fifo_lock.FIFOLock`` as far as we look into it: a lock that a thread takes once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending_threads: list[object] = []
        self.acquire, self.release, self.locked = self._lock.acquire, self._lock.release, self._lock.locked

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Processing:
    """``StableDiffusionProcessingTxt2Img``: keeps what it was given."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    def close(self) -> None:
        """Nothing to close."""


class FakeWebui:
    """The modules' insides, to look at and to break.

    Attributes:
        calls: one :class:`Processing` for each ``process_images``.
        on_draw: called in the middle of every ``process_images``, for example to press Interrupt.
        files: stem -> path, what the Lora extension finds; ``loaded``: networks of the last picture.
        comments: what ``Processed.comments`` says. lose: pictures that go missing.
    """

    def __init__(self, root: Path) -> None:
        self.lora_dir = root / "models" / "Lora"
        self.lora_dir.mkdir(parents=True)
        self.state = State()
        self.options: dict[str, Any] = {
            "show_progress_type": "Approx NN",
            "CLIP_stop_at_last_layers": 2,
            "token_merging_ratio": 0.0,
            "sd_lora": "None",
        }
        self.calls: list[Processing] = []
        self.on_draw: Callable[[int], None] = lambda call: None
        self.loaded: list[Any] = []
        self.available: dict[str, Any] = {}
        self.comments = ""
        self.lose = 0
        self.error: Exception | None = None
        self.lock = Lock()
        self.checkpoint = "models/a.safetensors"
        self.listed = 0
        self.cards_dropped = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put the modules into ``sys.modules`` until the test is over."""
        options = self.options
        opts = SimpleNamespace(data=options, show_progress_type=options["show_progress_type"])
        shared = SimpleNamespace(
            state=self.state,
            opts=opts,
            sd_model=object(),
            device="cpu",
            cmd_opts=SimpleNamespace(lora_dir=self.lora_dir),
        )
        parts = {
            "shared": shared,
            "call_queue": SimpleNamespace(queue_lock=self.lock),
            "processing": SimpleNamespace(
                StableDiffusionProcessingTxt2Img=Processing,
                process_images=self.process_images,
            ),
            # the second page is that of an extension written before listings were cached
            "ui_extra_networks": SimpleNamespace(
                extra_pages=[SimpleNamespace(lister=SimpleNamespace(reset=self.drop_cards)), SimpleNamespace()]
            ),
            "sd_samplers": SimpleNamespace(all_samplers=[SimpleNamespace(name="Euler"), SimpleNamespace(name="DDIM")]),
        }
        package = ModuleType("modules")
        patch.setitem(sys.modules, "modules", package)
        for name, part in parts.items():
            module = ModuleType(f"modules.{name}")
            module.__dict__.update(part.__dict__)
            patch.setitem(sys.modules, f"modules.{name}", module)
            setattr(package, name, module)
        networks = ModuleType("networks")
        networks.__dict__.update(
            loaded_networks=self.loaded,
            available_networks=self.available,
            update_available_networks_by_names=self.find,
            list_available_networks=self.list_all,
        )
        patch.setitem(sys.modules, "networks", networks)

    def find(self, names: list[str]) -> None:
        for path in sorted(self.lora_dir.rglob("*.safetensors")):
            if path.stem in names:
                self.available[path.stem] = SimpleNamespace(filename=str(path))

    def list_all(self) -> None:
        self.listed += 1
        self.available.clear()

    def drop_cards(self) -> None:
        self.cards_dropped += 1

    def process_images(self, p: Processing) -> Any:
        self.calls.append(p)
        assert self.lock.locked(), "drawn without the queue"
        self.on_draw(len(self.calls))
        if self.error is not None:
            raise self.error
        words = [word for word in p.prompt[0].split() if word.startswith("<lora:")]
        self.loaded.clear()
        for word in words:
            name, weight = word.strip("<>").split(":")[1:]
            if name in self.available:
                net = SimpleNamespace(name=name, weight=float(weight), path=self.available[name].filename)
                self.loaded.append(net)
        pictures = [picture(prompt, seed) for prompt, seed in zip(p.prompt, p.seed, strict=True)]
        self.state.job_no += 1
        pictures = pictures[: len(pictures) - self.lose]
        shown = [" ".join(word for word in prompt.split() if not word.startswith("<lora:")) for prompt in p.prompt]
        texts = [f"{prompt}\nSteps: {p.steps}, Seed: {seed}" for prompt, seed in zip(shown, p.seed, strict=True)]
        return SimpleNamespace(images=pictures, infotexts=texts, index_of_first_image=0, comments=self.comments)


def picture(prompt: str, seed: int) -> Image.Image:
    """A picture of prompt and seed alone."""
    digest = hashlib.sha256(f"{prompt.strip()}|{seed}".encode()).digest()
    return Image.fromarray(np.frombuffer(digest[:27], dtype=np.uint8).reshape(3, 3, 3))


class FakeHost(WebuiHost):
    """The shared half of the adapters over :class:`FakeWebui`."""

    name = "fake"

    def __init__(self, webui: FakeWebui) -> None:
        super().__init__()
        self.webui = webui
        self.forgotten = 0
        self.loans: list[FakeLoan] = []
        self.layers = 3

    def _loaded(self) -> Any:
        return self.webui.checkpoint

    def _load(self) -> Any:
        return self.webui.checkpoint

    def _describe(self, model: Any) -> ModelInfo:
        return ModelInfo(Path(model).stem, "", "sd1", "epsilon", Path(model))

    def _identity(self) -> tuple[str, ...]:
        return (self.webui.checkpoint, "vae")

    def _chunks(self, text: str) -> int:
        return max(1, -(-len(text.split()) // 75))

    def _forget_loras(self) -> None:
        self.forgotten += 1

    def _fit(self, path: Path) -> LoraFit:
        if path.read_bytes() == b"broken":
            raise LoraFileError(f"{path} is broken")
        return LoraFit(self.layers)

    def _check_applied(self, path: Path, name: str, weight: float, layers: int) -> None:
        net = next((net for net in self.webui.loaded if net.name == name), None)
        if net is None:
            raise HostError(f"LoRA {name} was not loaded")
        assert (net.weight, Path(net.path).read_bytes(), layers) == (weight, path.read_bytes(), self.layers)

    def _pinned(self) -> Any:
        return nullcontext()

    def _refuse(self, model: Any) -> None:
        if Path(model).stem == "fp8":
            raise HostError("training cannot work on FP8 weights; switch them off")

    @contextmanager
    def _lend(self, model: Any, info: ModelInfo) -> Iterator[Any]:
        loan = FakeLoan(
            self.preview, model, info, torch.nn.Identity(), torch.ones(4), torch.device("cpu"), torch.float32
        )
        self.loans.append(loan)
        yield loan


class FakeLoan(WebuiLoan):
    """The shared half of the loans; nothing of it computes."""

    def _back_on_device(self) -> None:
        """There is one device."""

    def encode_text(self, prompts: Sequence[str], width: int, height: int) -> Conditioning:
        return Conditioning(torch.zeros(len(prompts), 1, 1))

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        self._staged()
        return pixels

    def denoise(self, noisy: torch.Tensor, timesteps: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        return noisy
